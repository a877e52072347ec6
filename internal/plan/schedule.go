package plan

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// Calendar says when an activity gets on: machines always, people on working days.
type Calendar struct {
	// HoursPerDay is working hours of a working day; 0 = around the clock, every day.
	HoursPerDay float64        `json:"hours_per_day"`
	Weekend     []time.Weekday `json:"weekend"`
	Holidays    []time.Time    `json:"holidays"` // days, by their date in UTC
}

// after is when so many working hours from a moment on are done. A day's work
// is spread over the day: a schedule of weeks needs no clock.
func (c Calendar) after(from time.Time, work Hours) time.Time {
	if c.HoursPerDay == 0 {
		return from.Add(time.Duration(float64(work) * float64(time.Hour)))
	}
	left := float64(work)
	for day := 0; day < 20*366; day++ {
		begin := from
		end := from.UTC().Truncate(24 * time.Hour).Add(24 * time.Hour)
		from = end
		if slices.Contains(c.Weekend, begin.UTC().Weekday()) || c.holiday(begin) {
			continue
		}
		room := c.HoursPerDay * end.Sub(begin).Hours() / 24
		if left <= room {
			return begin.Add(time.Duration(left / c.HoursPerDay * 24 * float64(time.Hour)))
		}
		left -= room
	}
	return from
}

// Between is the working hours from a moment to another.
func (c Calendar) Between(from, to time.Time) Hours {
	if c.HoursPerDay == 0 || !to.After(from) {
		return max(0, hoursBetween(from, to))
	}
	var sum Hours
	for n := 0; from.Before(to) && n < 20*366; n++ {
		end := from.UTC().Truncate(24 * time.Hour).Add(24 * time.Hour)
		if end.After(to) {
			end = to
		}
		if !slices.Contains(c.Weekend, from.UTC().Weekday()) && !c.holiday(from) {
			sum += hoursBetween(from, end) * Hours(c.HoursPerDay/24)
		}
		from = end
	}
	return sum
}

func (c Calendar) holiday(t time.Time) bool {
	y, m, d := t.UTC().Date()
	return slices.ContainsFunc(c.Holidays, func(h time.Time) bool {
		hy, hm, hd := h.UTC().Date()
		return y == hy && m == hm && d == hd
	})
}

// Activity is one stage of the release on the schedule.
type Activity struct {
	Name  string   `json:"name"`
	After []string `json:"after"`
	// Duration is working hours, or Samples, or Amount at Rate per working hour.
	Duration Range    `json:"duration_hours"`
	Amount   float64  `json:"amount"` // of what is left, e.g. annotations
	Rate     Range    `json:"rate"`
	Samples  []Hours  `json:"-"` // a run's forecast
	Calendar Calendar `json:"calendar"`
	// Earliest is the day before which it cannot begin; zero = none.
	Earliest time.Time `json:"earliest,omitzero"`
}

// Bar is an activity's forecast.
type Bar struct {
	Name  string       `json:"name"`
	Begin time.Time    `json:"begin"` // P50
	End   [3]time.Time `json:"end"`   // P10, P50, P90
	// Critical is the share of histories in which it lies on the path that sets the date.
	Critical float64 `json:"critical"`
	// Gain is by how much the launch's median would come earlier if this took no time.
	Gain Hours `json:"gain"`
}

// Schedule is the whole release's forecast.
type Schedule struct {
	Bars    []Bar        `json:"bars"`
	Launch  [3]time.Time `json:"launch"` // P10, P50, P90; zero where more histories never finish
	Never   float64      `json:"never"`
	Holding string       `json:"holding"` // what is holding the date, in words
	// Convergence is the launch's P90 after an eighth, a quarter, half and all of
	// the histories, P90Error its standard error from ten batches.
	Convergence []Converging `json:"convergence"`
	P90Error    Hours        `json:"p90_error"`
	Histories   int          `json:"histories"`
}

// Converging is the launch's P90 after so many histories.
type Converging struct {
	Histories int       `json:"histories"`
	P90       time.Time `json:"p90"` // zero where more never finish
}

// converge looks at the launches in the order that they were drawn; zero = never.
func (s *Schedule) converge(launches []time.Time) {
	p90 := func(part []time.Time) time.Time {
		came := slices.DeleteFunc(slices.Clone(part), time.Time.IsZero)
		return threeOf(came, len(part)-len(came))[2]
	}
	for _, share := range []int{8, 4, 2, 1} {
		if n := len(launches) / share; n > 0 {
			s.Convergence = append(s.Convergence, Converging{n, p90(launches[:n])})
		}
	}
	const batches = 10
	size := len(launches) / batches
	if size < 10 {
		return
	}
	hours := make([]Hours, batches)
	var mean float64
	for b := range batches {
		at := p90(launches[b*size : (b+1)*size])
		if at.IsZero() {
			return
		}
		hours[b] = hoursBetween(launches[0], at)
		mean += float64(hours[b]) / batches
	}
	var squares float64
	for _, h := range hours {
		squares += (float64(h) - mean) * (float64(h) - mean) / (batches - 1)
	}
	s.P90Error = Hours(math.Sqrt(squares / batches))
}

// order sorts activities so that each comes after what it waits for.
func order(activities []Activity) ([]int, map[string]int, error) {
	at := map[string]int{}
	for i, a := range activities {
		if _, twice := at[a.Name]; twice || a.Name == "" {
			return nil, nil, fmt.Errorf("schedule: activities[%d]: name %q is empty or used twice", i, a.Name)
		}
		at[a.Name] = i
	}
	var sorted []int
	state := make([]int, len(activities))
	var visit func(i int) error
	visit = func(i int) error {
		if state[i] == 1 {
			return fmt.Errorf("schedule: %s waits for itself", activities[i].Name)
		}
		if state[i] == 2 {
			return nil
		}
		state[i] = 1
		for _, name := range activities[i].After {
			j, known := at[name]
			if !known {
				return fmt.Errorf("schedule: %s waits for %q, which is not there", activities[i].Name, name)
			}
			if err := visit(j); err != nil {
				return err
			}
		}
		state[i] = 2
		sorted = append(sorted, i)
		return nil
	}
	for i := range activities {
		if err := visit(i); err != nil {
			return nil, nil, err
		}
	}
	return sorted, at, nil
}

// draw is one history's length of an activity; infinite if it never ends.
func (a Activity) draw(rng *rand.Rand, i int) Hours {
	switch {
	case len(a.Samples) > 0:
		return a.Samples[i%len(a.Samples)]
	case a.Amount > 0:
		return Hours(a.Amount / a.Rate.At(rng.Float64()))
	}
	return Hours(a.Duration.At(rng.Float64()))
}

func (a Activity) check() error {
	errs := []error{a.Duration.check("schedule: "+a.Name+": duration_hours", false)}
	if a.Amount > 0 {
		errs = append(errs, a.Rate.check("schedule: "+a.Name+": rate", true))
	}
	if a.Amount < 0 || math.IsNaN(a.Amount) || math.IsInf(a.Amount, 0) || a.Calendar.HoursPerDay < 0 || a.Calendar.HoursPerDay > 24 || len(a.Calendar.Weekend) > 6 {
		errs = append(errs, fmt.Errorf("schedule: %s: amount %g, %g hours a day: cannot be", a.Name, a.Amount, a.Calendar.HoursPerDay))
	}
	return errors.Join(errs...)
}

// played is one history: begin and end of each activity, and which are critical.
type played struct {
	begin, end []time.Time
	critical   []bool
	launch     time.Time // zero if never
}

func play(activities []Activity, sorted []int, at map[string]int, start time.Time, lengths []Hours) played {
	n := len(activities)
	p := played{begin: make([]time.Time, n), end: make([]time.Time, n), critical: make([]bool, n)}
	cause := make([]int, n)
	last := -1
	for _, i := range sorted {
		a := activities[i]
		p.begin[i], cause[i] = start, -1
		for _, name := range a.After {
			if j := at[name]; p.end[j].After(p.begin[i]) {
				p.begin[i], cause[i] = p.end[j], j
			}
		}
		if a.Earliest.After(p.begin[i]) {
			p.begin[i], cause[i] = a.Earliest, -1
		}
		if math.IsInf(float64(lengths[i]), 1) {
			return played{}
		}
		p.end[i] = a.Calendar.after(p.begin[i], lengths[i])
		if last < 0 || p.end[i].After(p.end[last]) {
			last = i
		}
	}
	for i := last; i >= 0; i = cause[i] {
		p.critical[i] = true
	}
	p.launch = p.end[last]
	return p
}

// Forecast plays the whole release through many histories: each activity's
// end, the launch, and what is holding the date.
func Forecast(activities []Activity, start time.Time, histories int, seed uint64) (*Schedule, error) {
	if len(activities) == 0 || histories <= 0 {
		return nil, fmt.Errorf("schedule: %d activities, %d histories: must be positive", len(activities), histories)
	}
	sorted, at, err := order(activities)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, a := range activities {
		errs = append(errs, a.check())
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	pcg := rand.NewPCG(0, 0)
	rng := rand.New(pcg)
	n := len(activities)
	ends, begins := make([][]time.Time, n), make([][]time.Time, n)
	without := make([][]time.Time, n)
	critical := make([]float64, n)
	var launches []time.Time
	inOrder := make([]time.Time, histories)
	never := 0
	for h := range histories {
		pcg.Seed(seed, uint64(h))
		lengths := make([]Hours, n)
		for i, a := range activities {
			lengths[i] = a.draw(rng, h)
		}
		p := play(activities, sorted, at, start, lengths)
		if p.launch.IsZero() {
			never++
			continue
		}
		launches, inOrder[h] = append(launches, p.launch), p.launch
		for i := range n {
			begins[i], ends[i] = append(begins[i], p.begin[i]), append(ends[i], p.end[i])
			if p.critical[i] {
				critical[i]++
			}
			if h%10 == 0 { // a tenth is enough for a median
				kept := lengths[i]
				lengths[i] = 0
				without[i] = append(without[i], play(activities, sorted, at, start, lengths).launch)
				lengths[i] = kept
			}
		}
	}
	s := &Schedule{Histories: histories, Never: float64(never) / float64(histories)}
	if len(launches) == 0 {
		s.Holding = "no history finishes"
		return s, nil
	}
	s.converge(inOrder)
	s.Launch = threeOf(launches, never)
	for i, a := range activities {
		b := Bar{Name: a.Name, Begin: threeOf(begins[i], 0)[1], End: threeOf(ends[i], 0), Critical: critical[i] / float64(len(launches))}
		b.Gain = Hours(threeOf(launches, 0)[1].Sub(threeOf(without[i], 0)[1]).Hours())
		s.Bars = append(s.Bars, b)
	}
	s.hold()
	return s, nil
}

// threeOf is P10, P50 and P90 of moments of which so many more never came.
func threeOf(times []time.Time, never int) (three [3]time.Time) {
	if len(times) == 0 {
		return three
	}
	slices.SortFunc(times, time.Time.Compare)
	for k, q := range []float64{0.1, 0.5, 0.9} {
		if i := int(q * float64(len(times)+never-1)); i < len(times) {
			three[k] = times[i]
		}
	}
	return three
}

// hold names what is holding the date: what the launch gains most from.
func (s *Schedule) hold() {
	bars := slices.SortedStableFunc(slices.Values(s.Bars), func(a, b Bar) int { return compare(b.Gain, a.Gain) })
	most := bars[0]
	s.Holding = fmt.Sprintf("%s: on the path that sets the date in %.0f %% of histories; without it the launch would be %v earlier", most.Name, 100*most.Critical, most.Gain)
	for _, b := range bars[1:min(3, len(bars))] {
		if b.Gain > most.Gain/20 {
			s.Holding += fmt.Sprintf(", without %s %v", b.Name, b.Gain)
		}
	}
	if s.Never > 0 {
		s.Holding += fmt.Sprintf("; in %.0f %% of histories there is no launch at all", 100*s.Never)
	}
}
