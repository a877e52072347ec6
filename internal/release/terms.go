package release

import (
	"fmt"
	"time"

	"tarbert/internal/plan"
	"tarbert/internal/spec"
)

// interruptions is what nobody knows before a pool has worked: the share of the
// wall time that is left of it for kept steps.
const interruptions = 0.5

// terms is what the decision needs of the plan, before anything has run: speeds
// with the plan's own range, prices and budgets from the release file. What the
// plan does not know is a wide range whose source says so; what the run measures
// meanwhile takes its place (train's Fallback).
func terms(p *plan.Plan, s *spec.Release, other plan.Option) plan.Terms {
	b := s.Train.Fallback
	t := plan.Terms{
		Pool: p.Train.Pool, Fallback: other.Pool, PreAuthorized: b.Authorized,
		Expected:   plan.Range{Low: interruptions, High: 1, Source: "assumed: nothing is known of the pool's speed and interruptions"},
		Preference: plan.Hours(time.Duration(b.Preference).Hours()), DayWorth: plan.Money(b.DayWorth),
		Budget: plan.Budget{Floor: b.ETTR, Breaches: b.Breaches},
		Other: plan.Side{
			Rate:      plan.Range{Low: 0.3, High: 1, Source: "assumed: the plan has no rate of " + other.Pool},
			Queue:     plan.Range{Low: 0, High: 24, Source: "assumed: nobody has waited there yet"},
			Migration: plan.Range{Low: 0.1, High: 4, Source: "assumed: no save, load or step was measured yet"},
		},
	}
	if here := p.Seconds; here != nil && p.Steps > 0 && here.P50 > 0 {
		t.Step, t.Planned = here.P50/plan.Seconds(p.Steps), here.P50.Hours()
		t.Expected = perHour(here.P50, *here, t.Pool)
		if o := other.Time; o != nil && o.P10 > 0 {
			t.Other.Rate = perHour(here.P50, *o, other.Pool)
		}
	}
	for _, pool := range s.Pools {
		if pool.Name == t.Pool {
			t.Price = plan.Money(pool.Price)
		}
		if pool.Name == other.Pool {
			t.Other.Price = plan.Money(pool.Price)
		}
	}
	return t
}

// perHour is progress: work, in seconds at the planned speed here, per second of a pool's
// forecast: from the slow end with interruptions to the quick one without.
func perHour(work plan.Seconds, forecast plan.Time, pool string) plan.Range {
	return plan.Range{
		Low: interruptions * float64(work/forecast.P90), High: float64(work / forecast.P10),
		Source: fmt.Sprintf("the plan's forecast for %s (%v); that interruptions leave %g to 1 of it is assumed", pool, forecast, interruptions),
	}
}
