package plan

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Request is what a plan of real pools is made from.
type Request struct {
	Clusters  []Cluster
	Recipes   []Workload
	Starts    []time.Time
	Policy    []Clause
	Deadline  time.Time // zero = none
	Preferred string    // cluster that is preferred, and by how much
	Worth     Hours
	Trace     Trace
	Histories int
	Seed      uint64
}

// Choice is one option: a pool, a recipe and a start date.
type Choice struct {
	Pool     string       `json:"pool"`
	Recipe   string       `json:"recipe"`
	Start    time.Time    `json:"start"`
	Layout   string       `json:"layout"`
	Devices  int          `json:"devices"`
	Rejected string       `json:"rejected,omitempty"` // with the number that broke it
	Chosen   bool         `json:"chosen"`
	Memory   Memory       `json:"memory"`
	Step     StepTime     `json:"step"`
	Run      *RunForecast `json:"run,omitempty"`
	// Finish is P10, P50, P90; zero where it never finishes.
	Finish  [3]time.Time `json:"finish,omitzero"`
	Cost    Range        `json:"cost,omitzero"` // 0 = price not known
	MWh     float64      `json:"mwh"`           // 0 = power not known
	Limit   string       `json:"limit"`         // what takes most of a step beside computing
	Unknown []string     `json:"unknown"`
	Waivers []string     `json:"waivers"`
}

// Options judges every pool × recipe × start. The first is the best: the
// earliest P90 finish, the preferred pool's counted so many hours earlier as it is worth.
func Options(r Request) ([]Choice, error) {
	if len(r.Clusters) == 0 || len(r.Recipes) == 0 || len(r.Starts) == 0 {
		return nil, fmt.Errorf("plan: %d pools, %d recipes, %d start dates: one of each is needed", len(r.Clusters), len(r.Recipes), len(r.Starts))
	}
	var out []Choice
	for _, c := range r.Clusters {
		if err := c.Check(); err != nil {
			return nil, err
		}
		for _, w := range r.Recipes {
			if err := w.Check(); err != nil {
				return nil, err
			}
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
	return at
}

// judge does all that does not depend on the date. A choice that cannot be has its reason.
func (r Request) judge(c Cluster, w Workload) (Choice, error) {
	o := Choice{Pool: c.Name, Recipe: w.Name, Unknown: c.vague()}
	reject := func(format string, args ...any) (Choice, error) {
		o.Rejected = fmt.Sprintf(format, args...)
		return o, nil
	}
	if _, can := c.Peak[w.DType]; !can {
		return reject("%s has no %s products (it has %s), and the recipe trains in %s", c.Device, w.DType, strings.Join(sortedKeys(c.Peak), ", "), w.DType)
	}
	w.Attention = c.Attention
	one := w.Layout.filled()
	one.DP = 1
	have := (c.Nodes - c.SpareNodes) * c.DevicesPerNode
	if one.Devices() > have {
		return reject("needs %d devices for one replica (%v), %s has %d beside spares", one.Devices(), one, c.Name, have)
	}
	// As many replicas as there are devices for, in equal shares of the batch; those left over are spares.
	for one.DP = have / one.Devices(); one.DP > 1; one.DP-- {
		if w.Batch%(one.DP*one.MicroBatch) == 0 && (one.DP*one.CP*one.TP)%one.EP == 0 {
			break
		}
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
	peak := c.Peak[c.PeakDType].Dense()
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
	hours := func(mfu float64) float64 {
		return w.Steps() * float64(work.Over(peak*Rate(mfu)*Rate(o.Devices)).Hours())
	}
	nodes := (o.Devices + c.DevicesPerNode - 1) / c.DevicesPerNode
	m := RunModel{
		Nodes: nodes, DevicesPerNode: c.DevicesPerNode, Work: Range{Low: hours(c.MFU.High), High: hours(c.MFU.Low)}, Hazard: c.Hazard, Save: c.Save,
		Restart: c.Restart, Spares: c.Nodes - nodes, RepairFactor: c.RepairFactor, Drift: c.Drift, NoConvergence: c.NoConvergence, Queue: c.Queue,
	}
	if o.Run, err = SimulateRun(m, r.Trace, Simulation{Histories: r.Histories, Seed: r.Seed}); err != nil {
		return o, fmt.Errorf("pool %s, recipe %s: %w", c.Name, w.Name, err)
	}
	all := float64(c.Nodes * c.DevicesPerNode)
	o.Cost = Range{Low: c.Price.Low * all * float64(o.Run.P10), High: c.Price.High * all * finite(o.Run.P90)}
	o.MWh = c.PowerWatts * all * finite(o.Run.P50) / 1e6
	return o, nil
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
	case o.Rejected != "" || r.Deadline.IsZero():
	case o.Finish[1].IsZero():
		o.Rejected = fmt.Sprintf("more than half of the histories do not finish (%.0f %%)", 100*o.Run.Never)
	case o.Finish[1].After(r.Deadline):
		o.Rejected = fmt.Sprintf("P50 finish %s is past the deadline of %s", day(o.Finish[1]), day(r.Deadline))
	}
	return o
}

// OptionsText is the options for people.
func OptionsText(choices []Choice) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "pool\trecipe\tstart\tdevices\tmemory\tstep\tP50\tP90\tETTR\tcost\tMWh\tverdict")
	for _, o := range choices {
		verdict := "possible"
		switch {
		case o.Rejected != "":
			verdict = "rejected: " + o.Rejected
		case o.Chosen:
			verdict = "chosen"
		}
		memory, step, ettr, cost, mwh := "–", "–", "–", "–", "–"
		if o.Memory.Total() > 0 {
			memory = o.Memory.Total().String()
		}
		p50, p90 := "–", "–"
		if o.Run != nil {
			step, ettr = o.Step.Total().String(), fmt.Sprintf("%.3f", o.Run.ETTR)
			p50, p90 = day(o.Finish[1]), day(o.Finish[2])
			if o.Cost.High > 0 {
				cost = Money(o.Cost.Low).String() + "–" + Money(o.Cost.High).String()
			}
			if o.MWh > 0 {
				mwh = grouped(int64(o.MWh))
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", o.Pool, o.Recipe, day(o.Start), o.Devices, memory, step, p50, p90, ettr, cost, mwh, verdict)
	}
	_ = w.Flush()
	said := map[string]bool{}
	for _, o := range choices {
		key := o.Pool + "/" + o.Recipe
		if said[key] {
			continue
		}
		said[key] = true
		if o.Run != nil {
			fmt.Fprintf(&b, "\n%s, %s: %s\n%s", o.Pool, o.Recipe, o.Layout, indent(o.Run.Text()))
			fmt.Fprintf(&b, "  step     %v computing, %v bubble, %v communication shown; mostly %s\n", o.Step.Compute, o.Step.Bubble, o.Step.Communication(), o.Limit)
			fmt.Fprintf(&b, "  memory   %v\n", o.Memory)
		} else {
			fmt.Fprintf(&b, "\n%s, %s\n", o.Pool, o.Recipe)
		}
		for _, u := range o.Unknown {
			fmt.Fprintf(&b, "  not known: %s\n", u)
		}
		for _, x := range o.Waivers {
			fmt.Fprintf(&b, "  waiver: %s\n", x)
		}
	}
	return trimLines(b.String())
}

func indent(s string) string {
	return "  " + strings.ReplaceAll(strings.TrimSuffix(s, "\n"), "\n", "\n  ") + "\n"
}
