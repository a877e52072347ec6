package plan

import (
	"errors"
	"fmt"
	"math"
)

// ErrNoRun says that a plan has no option to attempt.
var ErrNoRun = errors.New("no option is possible")

// Terms is what Decide needs of this plan: the attempt on a pool ("" = the
// chosen one) and the best option elsewhere to fall back to.
func (o *Outlook) Terms(p *Project, pool string) (Terms, error) {
	here, there := o.attempt(pool)
	if here == nil {
		return Terms{}, fmt.Errorf("plan %s: pool %q: %w", o.Name, pool, ErrNoRun)
	}
	work := Hours(here.Model.Work.Mid())
	t := Terms{
		Pool: here.Pool, Step: Seconds(float64(work) * 3600 / here.Steps), Planned: here.Run.P50, Expected: here.progress(work),
		Price: Money(here.Price.Mid()), Preference: 0, DayWorth: p.Preference.DayWorth, PreAuthorized: p.Fallback.PreAuthorized, BringUp: Hours(24 * p.Fallback.BringUpDays),
		Budget: Budget{Money: p.Fallback.Money, Hedge: p.Fallback.Hedge, Floor: p.Fallback.Floor, Breaches: p.Fallback.Breaches},
	}
	if !p.Deadline.IsZero() {
		t.Budget.Deadline = max(0, hoursBetween(here.Start, p.Deadline))
	}
	if p.preferred() == here.Pool {
		t.Preference = p.Preference.Hours()
	}
	if there == nil {
		t.Other = Side{Refused: "the plan has no option on another pool", Rate: Known(0.01, "there is none")}
		for _, c := range o.Choices {
			if c.Pool != here.Pool {
				t.Other.Refused = c.Pool + ": " + c.Rejected
				break
			}
		}
		return t, nil
	}
	t.Fallback = there.Pool
	t.Other = Side{
		Rate: there.progress(work), Queue: there.Queue, Migration: p.Fallback.Migration, Price: Money(there.Price.Mid()), Failed: there.Run.Never,
	}
	return t, nil
}

// attempt is the option on a pool, and the best one elsewhere.
func (o *Outlook) attempt(pool string) (here, there *Choice) {
	for i := range o.Choices {
		c := &o.Choices[i]
		if c.Run == nil || c.Rejected != "" {
			continue
		}
		switch {
		case here == nil && (pool == "" || c.Pool == pool):
			here = c
		case there == nil && (pool != "" && c.Pool != pool || pool == "" && here != nil && c.Pool != here.Pool):
			there = c
		}
	}
	return here, there
}

// On is the best option on a pool, "" = the chosen one; nil if there is none.
func (o *Outlook) On(pool string) *Choice {
	here, _ := o.attempt(pool)
	return here
}

// progress is hours of work per wall hour that a run makes, from its slow to
// its quick histories. The work is in hours at the planned speed of the attempt.
func (c Choice) progress(work Hours) Range {
	slow := c.Run.P90
	if math.IsInf(float64(slow), 1) { // the tail that never finishes is counted as Failed
		slow = c.Run.P50 * c.Run.P50 / c.Run.P10
	}
	return Range{Low: float64(work / slow), High: float64(work / c.Run.P10), Source: "the plan's forecast for " + c.Pool}
}

func (p *Project) preferred() string {
	for i, pool := range p.Pools {
		if pool.Role == "preferred" {
			return p.clusters[i].Name
		}
	}
	return ""
}
