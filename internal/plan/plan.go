package plan

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"tarbert/internal/device"
	"tarbert/internal/gate"
	"tarbert/internal/spec"
)

// Inventory is the nodes at hand.
type Inventory []device.Node

// Measured is what was found out before planning.
type Measured struct {
	// GFLOPS is the float32 product rate of the node's processors in GFLOP/s,
	// measured now; 0 = not measured.
	GFLOPS float64    `json:"gflops"`
	Model  ModelShape `json:"model"`
	Tokens Tokens     `json:"tokens"`
	// At is the moment of the plan, for the policy.
	At time.Time `json:"at,omitzero"`
}

// Tokens is what the data look like.
type Tokens struct {
	Example    float64 `json:"example"`    // mean length of a training example, tokens
	Prompt     float64 `json:"prompt"`     // mean length of a problem's prompt, tokens
	Completion float64 `json:"completion"` // expected length of a sampled answer, tokens
}

// Placement is a pool and a device chosen for a role.
type Placement struct {
	Pool   string        `json:"pool"`
	Node   string        `json:"node"`
	Device device.Device `json:"device"`
}

// Option is one pool in one role.
type Option struct {
	Pool   string        `json:"pool"`
	Role   spec.Role     `json:"role"`
	Vendor device.Vendor `json:"vendor"`
	// Rejected is why it cannot be; empty if it can.
	Rejected string `json:"rejected,omitempty"`
	Chosen   bool   `json:"chosen"`
	// Placement is where it would run, if it can.
	Placement *Placement `json:"placement,omitempty"`
	// Waivers are the clauses of the policy that were lifted for it.
	Waivers []string `json:"waivers,omitempty"`
	// Time is the training's forecast; nil where the option does not train, or
	// nothing is known of its rate: Unknown says why then.
	Time    *Time  `json:"time,omitempty"`
	Unknown string `json:"unknown,omitempty"`
	// Speed is what Time rests on where no rate was measured.
	Speed *Speed `json:"speed,omitempty"`
}

// Plan is the decision with its arithmetic.
type Plan struct {
	// Train and Target are nil where no pool can; Reference also where none is asked for.
	Train     *Placement `json:"train"`
	Reference *Placement `json:"reference"`
	Target    *Placement `json:"target"`

	Model      ModelShape `json:"model"`
	Parameters Parameters `json:"parameters"`
	Convention Convention `json:"convention"`
	Stages     []Stage    `json:"stages"`

	// Steps, Tokens and FLOPs are sums over the stages.
	Steps  int     `json:"steps"`
	Tokens float64 `json:"tokens"`
	FLOPs  FLOPs   `json:"flops"`

	// Rate and the efficiencies are what Seconds is made of; Rate 0 = not measured.
	Rate              Rate       `json:"rate"`
	TrainEfficiency   Efficiency `json:"train_efficiency"`
	RolloutEfficiency Efficiency `json:"rollout_efficiency"`
	// Seconds is the chosen option's forecast; nil if unknown.
	Seconds  *Time   `json:"seconds"`
	Deadline Seconds `json:"deadline"`

	Options []Option    `json:"options"`
	Gate    gate.Result `json:"gate"`
}

// runsOn lists the vendors that a trainer, or the engine of this name, can use. A
// command's is not known: whoever wrote it for a pool answers for that.
var runsOn = map[string][]device.Vendor{spec.TrainerReference: {device.CPU}, spec.TrainerTorchrun: {device.NVIDIA, device.Ascend, device.CPU}}

// servingEngine is the engine that judges and serves.
const servingEngine = "reference"

// Make plans: every pool in every role it may play, the first one that can in
// the order preferred, fallback, and the arithmetic. It is pure: the same
// arguments give the same plan.
func Make(s *spec.Release, inv Inventory, m Measured) *Plan {
	p := &Plan{
		Model: m.Model, Parameters: Params(m.Model),
		Convention: Convention{Count: "model", Attention: "causal", WorkDType: s.Train.DType, PeakDType: "float32"},
		Rate:       Rate(m.GFLOPS * 1e9), Deadline: seconds(time.Duration(s.Plan.Deadline)),
		TrainEfficiency: trainEfficiency, RolloutEfficiency: rolloutEfficiency,
	}
	if !(m.GFLOPS > 0) || math.IsInf(m.GFLOPS, 0) {
		p.Rate = 0
	}
	p.Stages = work(s.Train, m.Model, p.Parameters, m.Tokens)
	for _, st := range p.Stages {
		p.Steps += st.Steps
		p.Tokens += st.Tokens
		p.FLOPs += st.Train + st.Rollout
	}
	for _, role := range []spec.Role{spec.Preferred, spec.Fallback, spec.Reference, spec.Target} {
		for _, pool := range s.Pools {
			if slices.Contains(pool.Roles, role) {
				p.Options = append(p.Options, p.option(s, inv, m, pool, role))
			}
		}
	}
	p.Train = p.choose(spec.Preferred, spec.Fallback)
	p.Reference = p.choose(spec.Reference)
	p.Target = p.choose(spec.Target)
	p.Gate = p.judge()
	return p
}

// option judges one pool in one role.
func (p *Plan) option(s *spec.Release, inv Inventory, m Measured, pool spec.Pool, role spec.Role) Option {
	o := Option{Pool: pool.Name, Role: role, Vendor: pool.Vendor}
	var refused string
	if refused, o.Waivers = permitted(s.Policy, pool, role, m.At); refused != "" {
		o.Rejected = refused
		return o
	}
	place, why := find(inv, pool.Vendor)
	if place == nil {
		o.Rejected = why
		return o
	}
	trains := role == spec.Preferred || role == spec.Fallback
	program, name := "engine", servingEngine
	if trains {
		program = "trainer"
		name, _ = s.TrainerOf(pool.Name)
	}
	if vendors, known := runsOn[name]; known && !slices.Contains(vendors, pool.Vendor) {
		o.Rejected = fmt.Sprintf("the %s %s runs on %s only, not on %s", name, program, list(vendors), pool.Vendor)
		return o
	}
	if trains {
		if need, has := p.trainingBytes(), Bytes(place.Device.Memory); has > 0 && need > has {
			o.Rejected = fmt.Sprintf("weights, gradients and moments take %v of the %v that %s has", need, has, place.Device.ID)
			return o
		}
		if o.late(p, s, pool, place.Device); o.Rejected != "" {
			return o
		}
	}
	place.Pool = pool.Name
	o.Placement = place
	return o
}

// late forecasts a training option, and rejects it if the deadline cannot be met:
// by a measured rate half of the time, by an assumed one at its best.
func (o *Option) late(p *Plan, s *spec.Release, pool spec.Pool, d device.Device) {
	if pool.Vendor == device.CPU {
		if o.Time = p.time(); o.Time != nil && o.Time.P50 > p.Deadline {
			o.Rejected = fmt.Sprintf("would take %v, and the deadline is %v", *o.Time, p.Deadline)
		}
		return
	}
	if o.Speed, o.Unknown = p.assume(s, pool, d); o.Speed == nil || p.FLOPs <= 0 {
		return
	}
	t := o.Speed.time(p.Stages)
	if o.Time = &t; t.P10 > p.Deadline {
		o.Rejected = fmt.Sprintf("would take %v at %v, and the deadline is %v", t, *o.Speed, p.Deadline)
	}
}

// trainingBytes is the least that training holds: weights, gradients and two
// moments in float32. Activations come on top and depend on the trainer.
func (p *Plan) trainingBytes() Bytes { return 16 * Bytes(p.Parameters.Total) }

// time is the forecast on processors, at their measured rate; nil where there is
// none or nothing to count.
func (p *Plan) time() *Time {
	if p.Rate == 0 || p.FLOPs <= 0 {
		return nil
	}
	t := forecast(p.Stages, p.Rate, p.TrainEfficiency, p.RolloutEfficiency)
	return &t
}

// find picks the first healthy device of a vendor, or says why there is none.
func find(inv Inventory, v device.Vendor) (*Placement, string) {
	var reasons []string
	for _, n := range inv {
		seen := 0
		for _, d := range n.Devices {
			if d.Vendor != v {
				continue
			}
			seen++
			if d.Health == device.Healthy {
				return &Placement{Node: n.Name, Device: d}, ""
			}
			reason := fmt.Sprintf("%s on %s is %s", d.ID, n.Name, d.Health)
			if d.Health == "" {
				reason = fmt.Sprintf("%s on %s says nothing of its health", d.ID, n.Name)
			}
			if d.Detail != "" {
				reason += " (" + d.Detail + ")"
			}
			reasons = append(reasons, reason)
		}
		if why, absent := n.Absent[v]; absent && seen == 0 {
			reasons = append(reasons, fmt.Sprintf("no %s device on %s: %s", v, n.Name, why))
		} else if seen == 0 {
			reasons = append(reasons, fmt.Sprintf("no %s device on %s", v, n.Name))
		}
	}
	if len(inv) == 0 {
		return nil, "the inventory is empty"
	}
	return nil, strings.Join(reasons, "; ")
}

// choose marks and returns the first option that can be, by order of the roles.
func (p *Plan) choose(roles ...spec.Role) *Placement {
	for _, role := range roles {
		for i := range p.Options {
			if o := &p.Options[i]; o.Role == role && o.Rejected == "" {
				o.Chosen = true
				if role == spec.Preferred || role == spec.Fallback {
					p.Seconds = o.Time
				}
				return o.Placement
			}
		}
	}
	return nil
}

// judge is the gate: a pool trains, a pool serves, and the deadline holds even if things go slowly.
func (p *Plan) judge() gate.Result {
	return gate.Of(
		p.chosen("training pool", p.Train, spec.Preferred, spec.Fallback),
		p.chosen("target pool", p.Target, spec.Target),
		p.meets(),
	)
}

func (p *Plan) chosen(name string, at *Placement, roles ...spec.Role) gate.Check {
	if at != nil {
		return gate.Check{Name: name, Verdict: gate.Pass, Detail: fmt.Sprintf("%s (%s on %s)", at.Pool, at.Device.Model, at.Node)}
	}
	var why []string
	for _, o := range p.Options {
		if slices.Contains(roles, o.Role) {
			why = append(why, fmt.Sprintf("%s: %s", o.Pool, o.Rejected))
		}
	}
	return gate.Check{Name: name, Verdict: gate.Fail, Detail: "no pool can: " + strings.Join(why, "; ")}
}

func (p *Plan) meets() gate.Check {
	c := gate.Check{Name: "deadline", Verdict: gate.Inconclusive}
	switch {
	case p.Train == nil:
		c.Detail = "no pool trains"
	case p.Seconds == nil && p.FLOPs <= 0:
		c.Detail = "the work is not known: no sizes of the model or of the data"
	case p.Seconds == nil:
		c.Detail = or(p.training().Unknown, fmt.Sprintf("no rate of %s was measured", p.Train.Pool))
	case p.Seconds.P90 <= p.Deadline:
		c.Verdict, c.Detail = gate.Pass, fmt.Sprintf("P90 %v ≤ %v", p.Seconds.P90, p.Deadline)
	case p.Seconds.P50 <= p.Deadline:
		c.Detail = fmt.Sprintf("P50 %v is within %v, P90 %v is not", p.Seconds.P50, p.Deadline, p.Seconds.P90)
	default: // of a measured rate, the option had been rejected
		c.Detail = fmt.Sprintf("P10 %v is within %v, P50 %v is not", p.Seconds.P10, p.Deadline, p.Seconds.P50)
	}
	if s := p.training().Speed; s != nil && p.Seconds != nil {
		c.Detail += fmt.Sprintf(", at a rate that was not measured: %v; qualify measures it", *s)
		if c.Verdict != gate.Pass {
			c.Detail += fmt.Sprintf("; if you know better, write it to pool %s in the release file: mfu: [0.2, 0.4]", p.Train.Pool)
		}
	}
	return c
}

// training is the option that was chosen to train.
func (p *Plan) training() Option {
	for _, o := range p.Options {
		if o.Chosen && (o.Role == spec.Preferred || o.Role == spec.Fallback) {
			return o
		}
	}
	return Option{}
}

func list(vendors []device.Vendor) string {
	var names []string
	for _, v := range vendors {
		names = append(names, string(v))
	}
	return strings.Join(names, ", ")
}
