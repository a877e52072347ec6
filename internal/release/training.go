package release

import (
	"context"
	"fmt"
	"regexp"
	"time"

	"tarbert/internal/device"
	"tarbert/internal/plan"
	"tarbert/internal/qualify"
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

// triedTrainer is what qualify tries by the contract; nil where the reference
// trainer trains, which qualify looks into by itself.
func (r *run) triedTrainer() (*qualify.Trainer, error) {
	name, _ := r.spec.TrainerOf(r.plan.Train.Pool)
	if name == spec.TrainerReference {
		return nil, nil
	}
	pool, err := r.trainingPool(*r.plan.Train)
	if err != nil {
		return nil, err
	}
	t := &qualify.Trainer{
		Name: name, Pool: pool, Arithmetic: plan.Arithmetic(r.spec, pool.Name), Task: r.taskPrefix() + "-qualify",
		Limit: time.Duration(r.spec.Train.Supervise.FirstLimit), Plan: r.plan,
	}
	for _, n := range r.nodes {
		for _, d := range n.Devices {
			if d.Vendor == device.CPU {
				t.Memory = max(t.Memory, d.Memory)
			}
		}
	}
	return t, nil
}

// expected is the plan with the time that qualify found by measuring, where it did.
func (r *run) expected() *plan.Plan {
	if r.qualify == nil || r.qualify.Speed == nil || r.qualify.Speed.Time == nil {
		return r.plan
	}
	p := *r.plan
	p.Seconds = r.qualify.Speed.Time
	return &p
}

// trainingPool is a placement as the supervisor wants it, with what trains there.
func (r *run) trainingPool(p plan.Placement) (train.Pool, error) {
	name, command := r.spec.TrainerOf(p.Pool)
	return r.poolWith(p, name, command)
}

// poolWith is a placement with a trainer; command is that of spec.TrainerCommand.
func (r *run) poolWith(p plan.Placement, name string, command []string) (train.Pool, error) {
	argv := command
	if name != spec.TrainerCommand {
		var ok bool
		if argv, ok = r.Trainers[name]; !ok {
			return train.Pool{}, fmt.Errorf("no trainer is called %q; there are: %v, and %s", name, sortedKeys(r.Trainers), spec.TrainerCommand)
		}
	}
	ex, err := r.executorOf(p.Pool)
	if err != nil {
		return train.Pool{}, err
	}
	pool := train.Pool{Name: p.Pool, Argv: argv, Executor: ex, Devices: []device.Device{p.Device}}
	if pool.Program, err = programOf(name, command); err != nil {
		return train.Pool{}, err
	}
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
	o, b := r.otherOption(), r.spec.Train.Fallback
	if o == nil {
		return nil, nil
	}
	pool, err := r.trainingPool(*o.Placement)
	if err != nil {
		return nil, err
	}
	f := &train.Fallback{
		Pool: pool, Authorized: b.Authorized, Terms: terms(r.expected(), r.spec, *o), SameQueue: r.executorName(o.Pool) == r.executorName(r.plan.Train.Pool),
		Budgets: train.Budgets{
			CleanWithin: time.Duration(b.CleanWithin), CleanSteps: b.CleanSteps, Hangs: b.Hangs, Breaches: b.Breaches, Floor: b.ETTR, Window: time.Duration(b.Window),
		},
	}
	f.Judge, err = r.judge()
	return f, err
}

// otherOption is where the run may go on; nil where it may not.
func (r *run) otherOption() *plan.Option {
	if !r.spec.Train.Fallback.Set() {
		return nil
	}
	for i, o := range r.plan.Options {
		trains := o.Role == spec.Preferred || o.Role == spec.Fallback
		if trains && o.Rejected == "" && o.Placement != nil && o.Pool != r.plan.Train.Pool {
			return &r.plan.Options[i]
		}
	}
	return nil
}

// judge says in the reference pool what the fallback's gradients must be: by the
// trainer that a pool which does nothing else names, else by the reference
// trainer. nil is the pool that is left, where its trainer is that very one, or
// there is no reference pool.
func (r *run) judge() (*train.Pool, error) {
	if r.plan.Reference == nil {
		return nil, nil
	}
	name, command := spec.TrainerReference, []string(nil)
	for _, p := range r.spec.Pools {
		if p.Name == r.plan.Reference.Pool && p.Trainer != "" && !p.Trains() {
			name, command = r.spec.TrainerOf(p.Name)
		}
	}
	if left, _ := r.spec.TrainerOf(r.plan.Train.Pool); left == name && name == spec.TrainerReference {
		return nil, nil
	}
	pool, err := r.poolWith(*r.plan.Reference, name, command)
	return &pool, err
}

func (r *run) executorName(pool string) string {
	for _, p := range r.spec.Pools {
		if p.Name == pool {
			return p.Executor
		}
	}
	return ""
}
