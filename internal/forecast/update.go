package forecast

import (
	"fmt"
	"math"
	"slices"
	"time"

	"tarbert/internal/plan"
)

// Forecast is one update: what was foreseen, when, and from what.
type Forecast struct {
	At     time.Time `json:"at"`
	Plan   string    `json:"plan"`
	Pool   string    `json:"pool"`
	Recipe string    `json:"recipe"`
	// Events is how many lines of evidence it rests on, Basis the digest of plan and evidence.
	Events   int               `json:"events"`
	Basis    string            `json:"basis"`
	Schedule *plan.Schedule    `json:"schedule"`
	Run      *plan.RunForecast `json:"run"`     // what remains of the run
	Learned  []string          `json:"learned"` // by which numbers the evidence changed the plan
	Unknown  []string          `json:"unknown"` // what is not known, and widens the ranges
}

// Qualify puts what was measured on pools into the plan, before it is made.
func Qualify(p *plan.Project, events []Event, now time.Time) {
	for _, e := range upTo(events, now) {
		if e.Kind == Qualified {
			p.Measured(e.Pool, plan.Measurement{MFU: e.MFU, Hazard: e.Hazard})
		}
	}
}

// Update is the forecast at a moment, from the plan and the evidence until then.
func Update(p *plan.Project, o *plan.Outlook, events []Event, now time.Time) (*Forecast, error) {
	events = upTo(events, now)
	if err := Known(events, p); err != nil {
		return nil, err
	}
	s := look(events, p.RunStage())
	choice := o.On(s.pool)
	if choice == nil {
		return nil, fmt.Errorf("forecast of %s: %w: %s", p.Name, plan.ErrNoRun, o.Gate.Reason)
	}
	f := &Forecast{At: now, Plan: p.Name, Pool: choice.Pool, Recipe: choice.Recipe, Events: len(events), Unknown: slices.Clone(choice.Unknown)}
	run := p.RunStage()
	samples := choice.Run.Wall
	f.Run = choice.Run
	if began, running := s.began[run]; running && s.ended[run].IsZero() {
		m := f.remaining(*choice, s, began, now)
		var err error
		if f.Run, err = plan.SimulateRun(m, p.Faulting(), plan.Simulation{Histories: p.Histories, Seed: p.Seed}); err != nil {
			return nil, err
		}
		samples = f.Run.Wall
	}
	start := p.Begin()
	activities := p.Activities(samples)
	for i := range activities {
		a := &activities[i]
		if a.Name == run && a.Earliest.Before(choice.Start) {
			a.Earliest = choice.Start
		}
		f.bring(a, s, now)
		if began := s.began[a.Name]; !began.IsZero() && began.Before(start) {
			start = began
		}
	}
	var err error
	if f.Schedule, err = plan.Forecast(activities, start, p.Histories, p.Seed); err != nil {
		return nil, err
	}
	for i := range f.Schedule.Bars {
		if began, ok := s.began[f.Schedule.Bars[i].Name]; ok {
			f.Schedule.Bars[i].Begin = began
		}
	}
	return f, nil
}

// bring takes into account what has been done of an activity.
func (f *Forecast) bring(a *plan.Activity, s state, now time.Time) {
	if ended, ok := s.ended[a.Name]; ok {
		*a = plan.Activity{Name: a.Name, Earliest: ended}
		return
	}
	began, running := s.began[a.Name]
	counts := s.counts[a.Name]
	if !running && len(counts) > 0 {
		began, running = counts[0].At, true
	}
	if now.After(a.Earliest) {
		a.Earliest = now // what has not happened is still to come
	}
	if !running {
		return
	}
	a.After = nil
	switch {
	case len(a.Samples) > 0: // the run: what remains was simulated
	case a.Amount > 0:
		f.count(a, counts, began)
	default:
		done := a.Calendar.Between(began, now)
		left := plan.Range{Low: math.Max(0, a.Duration.Low-float64(done)), High: math.Max(0.1*a.Duration.High, a.Duration.High-float64(done))}
		if float64(done) > a.Duration.High {
			f.Learned = append(f.Learned, fmt.Sprintf("%s has taken %v of work, more than the %s h planned", a.Name, done, a.Duration))
		}
		a.Duration = left
	}
}

// count narrows an activity's rate by what was done a day.
func (f *Forecast) count(a *plan.Activity, counts []Event, began time.Time) {
	if len(counts) == 0 {
		return
	}
	last := counts[len(counts)-1]
	var rates []float64
	before, done := began, 0.0
	for _, c := range counts {
		if hours := a.Calendar.Between(before, c.At); hours > 0 {
			rates = append(rates, (c.Done-done)/float64(hours))
			before, done = c.At, c.Done
		}
	}
	if hours := a.Calendar.Between(began, last.At); hours > 0 && last.Done > 0 {
		seen := last.Done / float64(hours)
		narrowed, outside := a.Rate.Narrow(seen, deviation(rates, 0.05, 0.3), "as seen")
		f.learn(a.Name+": done an hour of work", a.Rate, narrowed, seen, len(rates), outside)
		a.Rate = narrowed
	}
	a.Amount = math.Max(0, a.Amount-last.Done)
	if a.Amount == 0 {
		*a = plan.Activity{Name: a.Name, Earliest: last.At}
	}
}

func (f *Forecast) learn(what string, before, after plan.Range, seen float64, n int, outside bool) {
	text := fmt.Sprintf("%s: %.4g seen (%d looks), planned %s, now taken as %s", what, seen, n, before, after)
	if outside {
		text += "; the plan's range did not hold it"
	}
	f.Learned = append(f.Learned, text)
}

// deviation is the standard error of the logarithm of a mean, at least least;
// with fewer than three looks, alone.
func deviation(x []float64, least, alone float64) float64 {
	n := float64(len(x))
	if n < 3 {
		return alone
	}
	var mean, squares float64
	for _, v := range x {
		mean += v / n
	}
	for _, v := range x {
		squares += (v - mean) * (v - mean) / (n - 1)
	}
	if mean <= 0 {
		return alone
	}
	return math.Max(least, math.Sqrt(squares/n)/mean)
}

// dispersion is the variance of fault counts over their mean, from the squared
// coefficient of variation of the times between faults in StepFun's trace
// (1.76): faults come in bursts, and so many say less than as many single ones.
const dispersion = 3.1

// remaining is the run from now on.
func (f *Forecast) remaining(c plan.Choice, s state, began, now time.Time) plan.RunModel {
	m := *c.Model
	left := 1.0
	if c.Steps > 0 {
		left = math.Max(0, 1-float64(s.step)/c.Steps)
	}
	if seen, n, dev := s.stepSeconds(); n > 0 {
		narrowed, outside := m.Work.Narrow(seen*c.Steps/3600, dev, "as seen")
		perStep := 3600 / c.Steps
		f.learn("seconds a step", m.Work.Times(perStep), narrowed.Times(perStep), seen, n, outside)
		m.Work = narrowed
	}
	observed := (now.Sub(began) - s.unseen(began, now)).Hours() * float64(m.Nodes*m.DevicesPerNode) / 1e6
	if observed > 0 {
		n := float64(s.interruptions) + 0.5
		narrowed, outside := m.Hazard.Narrow(n/observed, math.Sqrt(dispersion/n), "as seen")
		f.learn("interruptions per million device-hours", m.Hazard, narrowed, float64(s.interruptions)/observed, s.interruptions, outside)
		m.Hazard = narrowed
	}
	if x := s.sections["checkpoint"]; len(x) > 0 {
		narrowed, outside := m.Save.Narrow(mean(x), deviation(x, 0.02, 0.2), "as seen")
		f.learn("seconds that a save blocks", m.Save, narrowed, mean(x), len(x), outside)
		m.Save = narrowed
	}
	if x := s.sections["restart"]; len(x) > 0 {
		whole := plan.Range{Low: float64(m.Restart.At(0).Seconds()), High: float64(m.Restart.At(1).Seconds())}
		narrowed, outside := whole.Narrow(mean(x), deviation(x, 0.05, 0.5), "as seen")
		f.learn("seconds that a restart takes", whole, narrowed, mean(x), len(x), outside)
		m.Restart = plan.RestartCost{Detect: narrowed}
	}
	if u := s.unseen(began, now); u > 0 {
		f.Unknown = append(f.Unknown, fmt.Sprintf("%v of the run nobody could see: not counted for or against the pool", plan.Hours(u.Hours())))
	}
	m.Work = m.Work.Times(math.Max(left, 1e-6))
	m.NoConvergence = m.NoConvergence.Times(left) // what has converged so far no longer fails to
	m.Queue = plan.Range{}
	return m
}

func mean(x []float64) float64 {
	sum := 0.0
	for _, v := range x {
		sum += v
	}
	return sum / float64(len(x))
}
