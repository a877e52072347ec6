package forecast

import (
	"fmt"
	"math"
	"strings"
	"text/tabwriter"
	"time"
)

// Text is one forecast for people.
func (f *Forecast) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s on %s, as seen on %s from %d lines of evidence\n\n", f.Recipe, f.Pool, f.At.UTC().Format("2006-01-02 15:04"), f.Events)
	b.WriteString(f.Schedule.Text())
	for _, l := range f.Learned {
		fmt.Fprintf(&b, "learnt: %s\n", l)
	}
	for _, u := range f.Unknown {
		fmt.Fprintf(&b, "not known: %s\n", u)
	}
	return b.String()
}

// Same says whether two forecasts rest on the same plan and evidence.
func (f *Forecast) Same(other *Forecast) bool { return f.Basis == other.Basis }

// Score is how forecasts compare with what happened.
type Score struct {
	Bars       int     `json:"bars"`       // ends of stages forecast before they were known
	WithinP50  float64 `json:"within_p50"` // share that ended by P50; half is right
	WithinP90  float64 `json:"within_p90"` // nine in ten is right
	Inside     float64 `json:"inside"`     // between P10 and P90; eight in ten is right
	MeanMiss   float64 `json:"mean_miss_days"`
	LaunchedAt time.Time
}

// Judge scores the updates against the ends that the evidence now knows. A
// forecast made after a stage ended is none.
func Judge(updates []*Forecast, events []Event) Score {
	ended := look(events, "").ended
	var s Score
	for _, f := range updates {
		for _, bar := range f.Schedule.Bars {
			end, known := ended[bar.Name]
			if !known || !end.After(f.At) {
				continue
			}
			s.Bars++
			by := func(i int) bool { return !bar.End[i].IsZero() && !end.After(bar.End[i]) }
			if by(1) {
				s.WithinP50++
			}
			if by(2) || bar.End[2].IsZero() { // more than one in ten never: any end is within
				s.WithinP90++
				if !by(0) {
					s.Inside++
				}
			}
			s.MeanMiss += math.Abs(end.Sub(bar.End[1]).Hours()) / 24
		}
	}
	if n := float64(s.Bars); n > 0 {
		s.WithinP50, s.WithinP90, s.Inside, s.MeanMiss = s.WithinP50/n, s.WithinP90/n, s.Inside/n, s.MeanMiss/n
	}
	return s
}

// HistoryText draws how the launch was seen over time, and what that was worth.
func HistoryText(updates []*Forecast, events []Event) string {
	if len(updates) == 0 {
		return "no forecast has been made yet\n"
	}
	first, last := updates[0].Schedule.Launch[0], time.Time{}
	for _, f := range updates {
		for _, t := range f.Schedule.Launch {
			if t.IsZero() {
				continue
			}
			if first.IsZero() || t.Before(first) {
				first = t
			}
			if t.After(last) {
				last = t
			}
		}
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "seen on\tevidence\tlaunch P10\tP50\tP90\t\tholding the date")
	for _, f := range updates {
		l := f.Schedule.Launch
		holding, _, _ := strings.Cut(f.Schedule.Holding, ":")
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\n", day(f.At), f.Events, day(l[0]), day(l[1]), day(l[2]), span(l, first, last), holding)
	}
	_ = w.Flush() // into a strings.Builder
	if s := Judge(updates, events); s.Bars > 0 {
		fmt.Fprintf(&b, "\n%d ends of stages were forecast before they came: %.0f %% by P50, %.0f %% by P90, %.0f %% from P10 to P90; P50 was off by %.1f days on average\n",
			s.Bars, 100*s.WithinP50, 100*s.WithinP90, 100*s.Inside, s.MeanMiss)
	} else {
		b.WriteString("\nno stage has ended after it was forecast: nothing to score yet\n")
	}
	return b.String()
}

func day(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format(time.DateOnly)
}

// span is 36 columns: ├ P10, ● P50, ┤ P90.
func span(l [3]time.Time, first, last time.Time) string {
	const width = 36
	column := func(t time.Time) int {
		if t.IsZero() {
			return width - 1
		}
		return int(math.Round((width - 1) * float64(t.Sub(first)) / math.Max(1, float64(last.Sub(first)))))
	}
	cells := []rune(strings.Repeat(" ", width))
	for i := column(l[0]); i <= column(l[2]); i++ {
		cells[i] = '─'
	}
	cells[column(l[0])], cells[column(l[2])], cells[column(l[1])] = '├', '┤', '●'
	if l[2].IsZero() {
		cells[width-1] = '→'
	}
	return strings.TrimRight(string(cells), " ")
}
