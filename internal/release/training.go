package release

import (
	"context"
	"fmt"
	"regexp"
	"time"

	"tarbert/internal/device"
	"tarbert/internal/plan"
	"tarbert/internal/spec"
	"tarbert/internal/train"
)

// training is what the supervisor needs: pools, limits, budgets.
func (r *run) training() (train.Input, error) {
	t := r.spec.Train
	pool, err := r.trainingPool(*r.plan.Train)
	if err != nil {
		return train.Input{}, err
	}
	in := train.Input{
		Release: r.taskPrefix(), Recipe: r.recipe(), Dir: r.stageDir, Now: r.Now, Progress: r.Progress, Pool: pool,
		Limits: train.Limits{
			First: time.Duration(t.Supervise.FirstLimit), Unit: time.Duration(t.Supervise.UnitLimit), Floor: time.Duration(t.Supervise.HangFloor),
		},
		Adapt: t.Supervise.AdaptInterval,
	}
	if t.Supervise.LogPattern != "" {
		if in.LogPattern, err = regexp.Compile(t.Supervise.LogPattern); err != nil {
			return in, fmt.Errorf("train.supervise.log_pattern: %w", err)
		}
	}
	in.Fallback, err = r.fallback()
	return in, err
}

// trainingPool is a placement as the supervisor wants it.
func (r *run) trainingPool(p plan.Placement) (train.Pool, error) {
	argv, ok := r.Trainers[r.spec.Train.Trainer]
	if !ok {
		return train.Pool{}, fmt.Errorf("no trainer is called %q; there are: %v", r.spec.Train.Trainer, sortedKeys(r.Trainers))
	}
	ex, err := r.executorOf(p.Pool)
	if err != nil {
		return train.Pool{}, err
	}
	pool := train.Pool{Name: p.Pool, Argv: argv, Executor: ex, Devices: []device.Device{p.Device}}
	for _, s := range r.spec.Pools {
		if s.Name == p.Pool {
			pool.Price = s.Price
		}
	}
	for _, drv := range r.Devices {
		if drv.Vendor() != p.Device.Vendor {
			continue
		}
		pool.Visible = drv.Env
		pool.Sample = func(ctx context.Context, ids []string) ([]device.Sample, error) { return drv.Sample(ctx, ids) }
		if c, able := drv.(device.Classifier); able {
			pool.Remedy = c.Remedy
		}
	}
	return pool, nil
}

// fallback is the next pool that can train, with the budgets after which it is
// considered; nil where there is none, or no budget is set.
func (r *run) fallback() (*train.Fallback, error) {
	b := r.spec.Train.Fallback
	if !b.Set() {
		return nil, nil
	}
	for _, o := range r.plan.Options {
		training := o.Role == spec.Preferred || o.Role == spec.Fallback
		if !training || o.Rejected != "" || o.Placement == nil || o.Pool == r.plan.Train.Pool {
			continue
		}
		pool, err := r.trainingPool(*o.Placement)
		if err != nil {
			return nil, err
		}
		f := &train.Fallback{
			Pool: pool, Authorized: b.Authorized, Terms: r.terms(o, pool),
			Budgets: train.Budgets{
				CleanWithin: time.Duration(b.CleanWithin), CleanSteps: b.CleanSteps, Hangs: b.Hangs, Breaches: b.Breaches, Floor: b.ETTR, Window: time.Duration(b.Window),
			},
		}
		// The reference trainer judges, where it is what trains: it is this node's processors then.
		if reference, ok := r.Trainers["reference"]; ok && r.spec.Train.Trainer != "reference" && r.plan.Reference != nil {
			judge, err := r.trainingPool(*r.plan.Reference)
			if err != nil {
				return nil, err
			}
			judge.Argv = reference
			f.Judge = &judge
		}
		return f, nil
	}
	return nil, nil
}

// terms is what the decision needs of the plan. What the plan does not know of
// the other pool is a wide range, and says so.
func (r *run) terms(other plan.Option, pool train.Pool) plan.Terms {
	b := r.spec.Train.Fallback
	t := plan.Terms{
		Pool: r.plan.Train.Pool, Fallback: other.Pool, PreAuthorized: b.Authorized,
		Expected:   plan.Range{Low: 0.5, High: 1, Source: "nothing is known of the pool's interruptions"},
		Preference: plan.Hours(time.Duration(b.Preference).Hours()), DayWorth: plan.Money(b.DayWorth),
		Budget: plan.Budget{Floor: b.ETTR, Breaches: b.Breaches},
		Other: plan.Side{
			Rate:  plan.Range{Low: 0.3, High: 1, Source: "not measured"},
			Queue: plan.Range{Low: 0, High: 24, Source: "assumed"}, Migration: plan.Range{Low: 0.1, High: 4, Source: "assumed"},
			Price: plan.Money(pool.Price),
		},
	}
	if s := r.plan.Seconds; s != nil && r.plan.Steps > 0 {
		t.Step, t.Planned = s.P50/plan.Seconds(r.plan.Steps), s.P50.Hours()
		if o := other.Time; o != nil && o.P50 > 0 {
			ratio := float64(s.P50) / float64(o.P50)
			t.Other.Rate = plan.Range{Low: 0.5 * ratio, High: ratio, Source: "the plan's forecast for " + other.Pool}
		}
	}
	for _, p := range r.spec.Pools {
		if p.Name == t.Pool {
			t.Price = plan.Money(p.Price)
		}
	}
	return t
}
