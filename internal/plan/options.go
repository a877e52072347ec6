package plan

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"tarbert/internal/progress"
	"tarbert/internal/spec"
)

// Request is what a plan of real pools is made from.
type Request struct {
	Clusters  []Cluster
	Recipes   []Workload
	Starts    []time.Time
	Policy    []spec.Clause
	Deadline  time.Time // zero = none
	Money     Money     // most that the run may cost; 0 = no limit
	Preferred string    // cluster that is preferred, and how many hours later it may finish
	Worth     Hours
	DayWorth  Money // of finishing a day earlier; 0 = cost does not rank options
	Trace     Trace
	Histories int
	Seed      uint64
	Progress  progress.Func // may be nil
}

// Choice is one option: a pool, a recipe and a start date.
type Choice struct {
	Pool     string    `json:"pool"`
	Recipe   string    `json:"recipe"`
	Start    time.Time `json:"start"`
	Layout   string    `json:"layout"`
	Devices  int       `json:"devices"`
	Rejected string    `json:"rejected,omitempty"` // with the number that broke it
	Chosen   bool      `json:"chosen"`
	Count    string    `json:"convention"` // of FLOPs and MFU
	Memory   Memory    `json:"memory"`
	Step     StepTime  `json:"step"`
	Saves    *Saves    `json:"saves,omitempty"`
	// Model is what the run's histories were drawn from; Steps how many the whole run has.
	Model *RunModel    `json:"model,omitempty"`
	Steps float64      `json:"steps"`
	Price Range        `json:"price_per_hour"` // of all devices held
	Queue Range        `json:"queue_hours"`
	Run   *RunForecast `json:"run,omitempty"`
	// Finish is P10, P50, P90; zero where it never finishes.
	Finish  [3]time.Time `json:"finish,omitzero"`
	Cost    Range        `json:"cost,omitzero"` // 0 = price not known
	MWh     float64      `json:"mwh"`           // 0 = power not known
	Limit   string       `json:"limit"`         // what takes most of a step beside computing
	Note    string       `json:"note,omitempty"`
	Unknown []string     `json:"unknown"`
	Waivers []string     `json:"waivers"`
}

// Saves is the arithmetic of checkpoints: how often, and what is left of the time.
type Saves struct {
	Between Range   `json:"between_hours"` // of interruptions, mean
	Young   Seconds `json:"young_seconds"`
	Daly    Seconds `json:"daly_seconds"`
	ETTR    Range   `json:"ettr"` // exact for exponential interruptions, at the ends of the ranges
}

// saves is taken in the middle of the ranges, ETTR at their ends.
func (c Cluster) saves(devices int) *Saves {
	mean := func(q float64) Hours { return PerMillion(c.Hazard.At(q)).MeanTime(devices) }
	save := func(q float64) Hours { return Seconds(c.Save.At(q)).Hours() }
	tau := Daly(save(0.5), mean(0.5))
	return &Saves{
		Between: Range{Low: float64(mean(1)), High: float64(mean(0))}, Young: Young(save(0.5), mean(0.5)).Seconds(), Daly: tau.Seconds(),
		ETTR: Range{Low: ETTR(tau, save(1), c.Restart.At(1), mean(1)), High: ETTR(tau, save(0), c.Restart.At(0), mean(0))},
	}
}

// Options judges every pool × recipe × start. The first is the best: the
// earliest P90 finish, the preferred pool's counted so many hours earlier as it is worth.
func Options(r Request) ([]Choice, error) {
	if len(r.Clusters) == 0 || len(r.Recipes) == 0 || len(r.Starts) == 0 {
		return nil, fmt.Errorf("plan: %d pools, %d recipes, %d start dates: one of each is needed", len(r.Clusters), len(r.Recipes), len(r.Starts))
	}
	var out []Choice
	done, total := 0.0, float64(len(r.Clusters)*len(r.Recipes))
	for _, c := range r.Clusters {
		if err := c.Check(); err != nil {
			return nil, err
		}
		for _, w := range r.Recipes {
			if err := w.Check(); err != nil {
				return nil, err
			}
			if r.Progress != nil {
				r.Progress(progress.Update{Stage: "plan", Done: done, Total: total, Unit: "options", Note: w.Name + " on " + c.Name})
			}
			done++
			// The run does not depend on the date it starts.
			base, err := r.judge(c, w)
			if err != nil {
				return nil, err
			}
			for _, start := range r.Starts {
				out = append(out, r.date(base, c, start))
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Choice) int { return compare(r.rank(a), r.rank(b)) })
	if out[0].Rejected == "" {
		out[0].Chosen = true
	}
	return out, nil
}

func (r Request) rank(c Choice) Hours {
	if c.Rejected != "" {
		return Hours(math.Inf(1))
	}
	at := Hours(float64(c.Finish[2].Unix()) / 3600)
	if c.Finish[2].IsZero() {
		at = Hours(1e9) + Hours(float64(c.Finish[1].Unix())/3600)
	}
	if c.Pool == r.Preferred {
		at -= r.Worth
	}
	if r.DayWorth > 0 {
		at += Hours(24 * Money(c.Cost.High) / r.DayWorth)
	}
	return at
}

// judge does all that does not depend on the date. A choice that cannot be has its reason.
func (r Request) judge(c Cluster, w Workload) (Choice, error) {
	o := Choice{Pool: c.Name, Recipe: w.Name, Unknown: c.vague(w.DType), Count: c.convention(w).String()}
	reject := func(format string, args ...any) (Choice, error) {
		o.Rejected = fmt.Sprintf(format, args...)
		return o, nil
	}
	if _, can := c.Peak[w.DType]; !can {
		return reject("%s has no %s products (it has %s), and the recipe trains in %s", c.Device, w.DType, strings.Join(sortedKeys(c.Peak), ", "), w.DType)
	}
	w.Attention, w.Count = c.Attention, c.Count
	if w.Search {
		w.Layout = c.search(w)
	}
	one, enough := c.replicas(w)
	if !enough {
		return reject("needs %d devices for one replica (%v), %s has %d beside spares", one.Devices(), one, c.Name, c.usable())
	}
	if fewer := c.worthwhile(w, one); fewer.DP < one.DP {
		o.Note = fmt.Sprintf("%d of the %d devices are kept as spares: all of them together would be interrupted too often to be quicker", c.usable()-fewer.Devices(), c.usable())
		one = fewer
	}
	w.Layout = one
	o.Layout, o.Devices = one.String(), one.Devices()
	if err := one.check(w.Shape); err != nil {
		return reject("%v", err)
	}
	m, err := DeviceMemory(w.Shape, one, w.Sequence, w.Memory)
	if err != nil {
		return reject("%v", err)
	}
	room, reserve := Bytes(c.MemoryGiB*(1<<30)), Bytes(c.ReserveGiB*(1<<30))
	m.Reserve = reserve
	o.Memory = m
	if m.Total() > room {
		o.Rejected = fmt.Sprintf("needs %v of %v per device at %v", m.Total(), room, one)
		if f := fixes(w.Shape, one, w.Sequence, w.Memory, reserve, room); len(f) > 0 {
			o.Rejected += ": " + strings.Join(f[:min(3, len(f))], " or ")
		}
		return o, nil
	}
	return r.run(o, c, w)
}

// run adds time and cost.
func (r Request) run(o Choice, c Cluster, w Workload) (Choice, error) {
	peak := c.Peak[c.PeakDType].Dense(0.5)
	links := c.links()
	// What the links allow is part of the claim that a utilization is: where it fails in the middle, the option does.
	rate, err := KernelRate(w, peak, c.MFU.Mid(), links, links.Overlap.Mid())
	if err != nil {
		o.Rejected = err.Error()
		return o, nil
	}
	if o.Step, err = Step(w, rate, links, links.Overlap.Mid()); err != nil {
		o.Rejected = err.Error()
		return o, nil
	}
	o.Limit = o.Step.Limit()
	work, err := w.FLOPs()
	if err != nil {
		return o, err
	}
	hours := func(q float64) float64 {
		return w.Steps() * float64(work.Over(c.Peak[c.PeakDType].Dense(q)*Rate(c.MFU.At(q))*Rate(o.Devices)).Hours())
	}
	nodes := (o.Devices + c.DevicesPerNode - 1) / c.DevicesPerNode
	m := RunModel{
		Nodes: nodes, DevicesPerNode: c.DevicesPerNode, Work: Range{Low: hours(1), High: hours(0)}, Hazard: c.Hazard, Save: c.Save,
		Restart: c.Restart, Spares: c.Nodes - nodes, RepairFactor: c.RepairFactor, Drift: c.Drift, NoConvergence: c.NoConvergence, Queue: c.Queue,
	}
	all := float64(c.Nodes * c.DevicesPerNode)
	o.Saves, o.Model, o.Steps, o.Price, o.Queue = c.saves(o.Devices), &m, w.Steps(), c.Price.Times(all), c.Queue
	if best := Hours(m.Work.Low); r.tooLate(best) {
		o.Rejected = fmt.Sprintf("the steps alone take %v at the best speed assumed, and the deadline is %v after the first start", best, hoursBetween(slices.MinFunc(r.Starts, time.Time.Compare), r.Deadline))
		return o, nil
	}
	if o.Run, err = SimulateRun(m, r.Trace, Simulation{Histories: r.Histories, Seed: r.Seed}); err != nil {
		return o, fmt.Errorf("pool %s, recipe %s: %w", c.Name, w.Name, err)
	}
	o.Cost = Range{Low: c.Price.Low * all * float64(o.Run.P10), High: c.Price.High * all * finite(o.Run.P90)}
	o.MWh = c.PowerWatts * all * finite(o.Run.P50) / 1e6
	return o, nil
}

// tooLate says whether a run of at least so long misses the deadline from every start: it is not played then.
func (r Request) tooLate(least Hours) bool {
	return !r.Deadline.IsZero() && least > hoursBetween(slices.MinFunc(r.Starts, time.Time.Compare), r.Deadline)
}

func finite(h Hours) float64 {
	if math.IsInf(float64(h), 0) {
		return 0
	}
	return float64(h)
}

// date puts a judged option on the calendar and before the policy.
func (r Request) date(o Choice, c Cluster, start time.Time) Choice {
	o.Start = start
	end := start
	if o.Run != nil {
		for i, h := range []Hours{o.Run.P10, o.Run.P50, o.Run.P90} {
			if !math.IsInf(float64(h), 1) {
				o.Finish[i] = start.Add(time.Duration(float64(h) * float64(time.Hour)))
				end = o.Finish[i]
			}
		}
	}
	refusal, waivers := Allowed(r.Policy, "train", c.Vendor, c.Site, start, end)
	o.Waivers = waivers
	switch {
	case refusal != "":
		o.Rejected = refusal // before any other reason: it is the one that no layout changes
	case o.Rejected != "":
	case r.Money > 0 && o.Cost.Low > float64(r.Money):
		o.Rejected = fmt.Sprintf("costs %v at least (P10), the budget is %v", Money(o.Cost.Low), r.Money)
	case r.Deadline.IsZero():
	case o.Finish[1].IsZero():
		o.Rejected = fmt.Sprintf("more than half of the histories do not finish (%.0f %%)", 100*o.Run.Never)
	case o.Finish[1].After(r.Deadline):
		o.Rejected = fmt.Sprintf("P50 finish %s is past the deadline of %s", day(o.Finish[1]), day(r.Deadline))
	}
	return o
}

// usable is devices beside spares.
func (c Cluster) usable() int { return (c.Nodes - c.SpareNodes) * c.DevicesPerNode }

// convention is how the pool's MFU counts a recipe's work.
func (c Cluster) convention(w Workload) Convention {
	return Convention{Count: c.Count, Attention: c.Attention, WorkDType: w.DType, PeakDType: c.PeakDType}
}

// replicas fills the devices: as many replicas as there is room for, in equal
// shares of the batch. What is left over are spares. False = not even one fits.
func (c Cluster) replicas(w Workload) (Layout, bool) {
	one := w.Layout.filled()
	one.DP = 1
	if one.Devices() > c.usable() {
		return one, false
	}
	for one.DP = c.usable() / one.Devices(); one.DP > 1; one.DP-- {
		if w.Batch%(one.DP*one.MicroBatch) == 0 && (one.DP*one.CP*one.TP)%one.EP == 0 {
			break
		}
	}
	return one, true
}

// worthwhile halves the replicas as long as what the devices gain in speed they
// lose to interruptions, by the closed form in the middle of the ranges.
func (c Cluster) worthwhile(w Workload, l Layout) Layout {
	speed := func(l Layout) float64 {
		mean, save := PerMillion(c.Hazard.Mid()).MeanTime(l.Devices()), Seconds(c.Save.Mid()).Hours()
		return float64(l.Devices()) * ETTR(Daly(save, mean), save, c.Restart.At(0.5), mean)
	}
	for l.DP > 1 {
		half := l
		half.DP /= 2
		if half.check(w.Shape) != nil || w.Batch%(half.DP*max(1, half.MicroBatch)) != 0 || speed(half) < speed(l) {
			break
		}
		l = half
	}
	return l
}

// search finds the layout that fits with the shortest step; if none fits, the
// one that needs least memory, whose number the refusal then names.
func (c Cluster) search(w Workload) (best Layout) {
	room := Bytes((c.MemoryGiB - c.ReserveGiB) * (1 << 30))
	peak, links := c.Peak[c.PeakDType].Dense(0.5)*Rate(c.MFU.Mid()), c.links()
	shortest, smallest := Seconds(math.Inf(1)), Bytes(math.Inf(1))
	for _, l := range layouts(w.Shape, c.Links.Domain) {
		w.Layout = l
		l, enough := c.replicas(w)
		if !enough || l.check(w.Shape) != nil {
			continue
		}
		m, err := DeviceMemory(w.Shape, l, w.Sequence, w.Memory)
		if err != nil {
			continue
		}
		if m.Total() > room {
			if math.IsInf(float64(shortest), 1) && m.Total() < smallest {
				best, smallest = l, m.Total()
			}
			continue
		}
		w.Layout = l
		t, err := Step(w, peak, links, links.Overlap.Mid())
		if err != nil {
			continue
		}
		if l.Recompute == "full" { // the forward pass once more
			t.Compute += t.Compute / 3
		}
		if t.Total() < shortest {
			best, shortest = l, t.Total()
		}
	}
	return best
}

// layouts are the ones worth trying.
func layouts(s ModelShape, domain int) (out []Layout) {
	experts := []int{1}
	if s.MoELayers > 0 {
		experts = []int{1, 8, 16, 32, 64, 128}
	}
	for tp := 1; tp <= min(domain, 16); tp *= 2 {
		for _, pp := range []int{1, 2, 4, 8, 16, 32} {
			for _, ep := range experts {
				for _, cp := range []int{1, 2, 4, 8, 16} {
					for _, zero := range []int{1, 2, 3} {
						for _, recompute := range []string{"none", "selective", "full"} {
							out = append(out, Layout{TP: tp, PP: pp, EP: ep, CP: cp, ZeRO: zero, MicroBatch: 1, Recompute: recompute})
						}
					}
				}
			}
		}
	}
	return out
}
