package plan

import (
	"fmt"
	"math"
	"strings"
	"text/tabwriter"
	"time"
)

// Text is the schedule for people: a bar per activity, the launch, what holds it.
func (s *Schedule) Text() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	if len(s.Bars) == 0 {
		return s.Holding + "\n"
	}
	from, to := s.Bars[0].Begin, s.Bars[0].End[2]
	for _, bar := range s.Bars {
		if bar.Begin.Before(from) {
			from = bar.Begin
		}
		if bar.End[2].After(to) {
			to = bar.End[2]
		}
	}
	day := momentIn(from, to)
	fmt.Fprintln(w, "stage\tbegin\tP10\tP50\tP90\tcritical\t")
	for _, bar := range s.Bars {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%.0f %%\t%s\n", bar.Name, day(bar.Begin), day(bar.End[0]), day(bar.End[1]), day(bar.End[2]), 100*bar.Critical, drawBar(bar, from, to))
	}
	fmt.Fprintf(w, "launch\t\t%s\t%s\t%s\t\t\n", day(s.Launch[0]), day(s.Launch[1]), day(s.Launch[2]))
	_ = w.Flush()
	fmt.Fprintf(&b, "\nholding the date: %s\n", s.Holding)
	if n := len(s.Convergence); n > 0 && s.Histories >= 100 {
		b.WriteString("P90 converges: ")
		for i, c := range s.Convergence {
			if i > 0 {
				b.WriteString(", ")
			}
			fmt.Fprintf(&b, "%s after %s", day(c.P90), grouped(int64(c.Histories)))
		}
		if s.P90Error > 0 {
			fmt.Fprintf(&b, " histories (± %v)", s.P90Error)
		} else {
			b.WriteString(" histories")
		}
		b.WriteByte('\n')
	}
	return trimLines(b.String())
}

// momentIn writes moments as finely as a span needs: days, minutes or seconds.
func momentIn(from, to time.Time) func(time.Time) string {
	layout := time.DateOnly
	switch span := to.Sub(from); {
	case span < 2*time.Hour:
		layout = "15:04:05"
	case span < 72*time.Hour:
		layout = "2006-01-02 15:04"
	}
	return func(t time.Time) string {
		if t.IsZero() {
			return "never"
		}
		return t.UTC().Format(layout)
	}
}

func day(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2006-01-02")
}

// drawBar is 40 columns: ─ before P10, ▒ to P50, ░ to P90.
func drawBar(b Bar, from, to time.Time) string {
	const width = 40
	column := func(t time.Time) int {
		return int(math.Round(width * float64(t.Sub(from)) / math.Max(1, float64(to.Sub(from)))))
	}
	var out strings.Builder
	for i := range width {
		switch {
		case i < column(b.Begin):
			out.WriteByte(' ')
		case i < column(b.End[0]):
			out.WriteRune('█')
		case i < column(b.End[1]):
			out.WriteRune('▒')
		case i < column(b.End[2]):
			out.WriteRune('░')
		}
	}
	return strings.TrimRight(out.String(), " ")
}

// Text is the run's forecast for people.
func (f *RunForecast) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "finish   P10 %s, P50 %s, P90 %s", within(f.P10), within(f.P50), within(f.P90))
	if f.P90Error > 0 {
		fmt.Fprintf(&b, " (± %v from %s histories)", f.P90Error, grouped(int64(f.Histories)))
	}
	b.WriteByte('\n')
	if f.Never > 0 {
		fmt.Fprintf(&b, "never    %.1f %% of histories do not finish\n", 100*f.Never)
	}
	fmt.Fprintf(&b, "ETTR     %.3f on average, %.0f interruptions, a save every %v, %d spare nodes\n", f.ETTR, f.Interruptions, f.Interval, f.Spares)
	var parts []string
	for _, d := range f.Dominates {
		if d.Share >= 0.05 {
			parts = append(parts, fmt.Sprintf("%s %.0f %%", d.Name, 100*d.Share))
		}
	}
	fmt.Fprintf(&b, "spread   %s\n", strings.Join(parts, ", "))
	return b.String()
}

// within is a length of time that may be without end.
func within(h Hours) string {
	if math.IsInf(float64(h), 1) {
		return "never"
	}
	return h.String()
}
