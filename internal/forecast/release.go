package forecast

import (
	"fmt"
	"time"

	"tarbert/internal/plan"
)

// StageHistory is what the journal knows of one stage of a release.
type StageHistory struct {
	Name         string
	Began, Ended time.Time   // in this release; zero = not yet
	Past         []float64   // seconds that it took before, in any release of this home
	Planned      *plan.Range // seconds, where the plan has an estimate
}

// Span of a stage of which nothing is known, in seconds.
var nothingKnown = plan.Range{Low: 1, High: 600, Source: "assumed: no run of this stage is in the journal"}

// Release forecasts a release's stages, one after another, from their history.
func Release(stages []StageHistory, now time.Time, histories int, seed uint64) (*Forecast, error) {
	f := &Forecast{At: now}
	var activities []plan.Activity
	start, before := now, ""
	for _, s := range stages {
		seconds := nothingKnown
		switch {
		case len(s.Past) > 0:
			seconds = plan.Range{Low: s.Past[0], High: s.Past[0], Source: fmt.Sprintf("%d runs in the journal", len(s.Past))}
			for _, x := range s.Past {
				seconds.Low, seconds.High = min(seconds.Low, x), max(seconds.High, x)
			}
			// The next one may be quicker or slower than any so far, the less so the more there were.
			room := 1 + 1/float64(len(s.Past)+1)
			seconds.Low, seconds.High = seconds.Low/room, seconds.High*room
		case s.Planned != nil:
			seconds = *s.Planned
		}
		a := plan.Activity{Name: s.Name, Duration: seconds.Times(1.0 / 3600)}
		if before != "" {
			a.After = []string{before}
		}
		switch {
		case !s.Ended.IsZero():
			a = plan.Activity{Name: s.Name, Earliest: s.Ended}
			f.Events++
		case !s.Began.IsZero():
			gone := now.Sub(s.Began).Hours()
			a.Duration = plan.Range{Low: max(0, a.Duration.Low-gone), High: max(0.1*a.Duration.High, a.Duration.High-gone)}
			a.Earliest = now
			f.Events++
		default:
			a.Earliest = now
		}
		if len(s.Past) == 0 && s.Planned == nil && s.Ended.IsZero() {
			f.Unknown = append(f.Unknown, fmt.Sprintf("how long %s takes: taken as 1 s to 10 min, no run of it is in the journal", s.Name))
		}
		if !s.Began.IsZero() && s.Began.Before(start) {
			start = s.Began
		}
		before = s.Name
		activities = append(activities, a)
	}
	var err error
	if f.Schedule, err = plan.Forecast(activities, start, histories, seed); err != nil {
		return nil, err
	}
	for i, s := range stages {
		if !s.Began.IsZero() && i < len(f.Schedule.Bars) {
			f.Schedule.Bars[i].Begin = s.Began
		}
	}
	return f, nil
}
