package plan

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"tarbert/internal/device"
	"tarbert/internal/gate"
	"tarbert/internal/progress"
)

// Outlook is the plan of a project: its work, every option, and the gate.
type Outlook struct {
	Name    string      `json:"name"`
	Models  []ModelWork `json:"models"`
	Choices []Choice    `json:"choices"` // the best first
	Notes   []string    `json:"notes"`   // about the inputs
	Gate    gate.Result `json:"gate"`
}

// ModelWork is a recipe's model in numbers.
type ModelWork struct {
	Recipe     string     `json:"recipe"`
	Type       string     `json:"model_type"`
	Parameters Parameters `json:"parameters"`
	Tokens     float64    `json:"tokens"`
	Sequence   int        `json:"sequence"`
	Batch      int        `json:"batch"`
	DType      string     `json:"dtype"`
	Optimizer  string     `json:"optimizer"`
	// Counts is the work of one token under each way of counting.
	Counts []CountedWork `json:"counts"`
	KV     Bytes         `json:"kv_bytes_per_token"` // of the cache in serving, at two bytes
}

// CountedWork is a token's work under one convention.
type CountedWork struct {
	Count     string    `json:"count"`
	Attention string    `json:"attention"`
	Work      TokenWork `json:"work"`
}

// Plan judges every option. found is the nodes that detection saw, for pools that ask for it.
func (p *Project) Plan(found Inventory, report progress.Func) (*Outlook, error) {
	out := &Outlook{Name: p.Name, Notes: p.notes}
	clusters, absent := p.detected(found)
	out.Notes = append(out.Notes, absent...)
	if len(clusters) == 0 {
		out.Gate = gate.Of(gate.Check{Name: "option", Verdict: gate.Fail, Detail: "no pool is there: " + strings.Join(absent, "; ")})
		return out, nil
	}
	r := Request{
		Clusters: clusters, Recipes: p.workloads, Starts: p.Starts, Policy: p.Policy, Deadline: p.Deadline, Money: p.Fallback.Money,
		Worth: p.Preference.Hours(), DayWorth: p.Preference.DayWorth, Trace: p.trace, Histories: p.Histories, Seed: p.Seed, Progress: report,
	}
	r.Preferred = p.preferred()
	var err error
	if out.Choices, err = Options(r); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, w := range p.workloads {
		if !seen[w.Name] {
			seen[w.Name] = true
			m, err := w.count()
			if err != nil {
				return nil, err
			}
			out.Models = append(out.Models, m)
		}
	}
	out.judge(r)
	return out, nil
}

// detected puts what was found into the clusters that ask for it. A pool of
// which nothing was found is left out, and said to be.
func (p *Project) detected(found Inventory) (clusters []Cluster, absent []string) {
	for i, c := range p.clusters {
		vendor := device.Vendor(p.Pools[i].Detect)
		if vendor == "" {
			clusters = append(clusters, c)
			continue
		}
		nodes, per, why := 0, 0, []string{}
		var memory int64
		for _, n := range found {
			healthy := 0
			for _, d := range n.Devices {
				if d.Vendor != vendor {
					continue
				}
				if d.Health != device.Healthy {
					why = append(why, fmt.Sprintf("%s on %s is %s", d.ID, n.Name, or(string(d.Health), "of unknown health")))
					continue
				}
				healthy++
				if memory == 0 || d.Memory > 0 && d.Memory < memory {
					memory = d.Memory
				}
			}
			if healthy > 0 {
				nodes++
				if per == 0 || healthy < per {
					per = healthy
				}
			}
			if reason, ok := n.Absent[vendor]; ok {
				why = append(why, fmt.Sprintf("%s: %s", n.Name, reason))
			}
		}
		if nodes == 0 {
			absent = append(absent, fmt.Sprintf("pool %s: no healthy %s device was found (%s)", c.Name, vendor, or(strings.Join(why, "; "), "no node answered")))
			continue
		}
		c.Nodes, c.DevicesPerNode, c.SpareNodes = nodes, per, 0
		if memory > 0 {
			c.MemoryGiB = float64(memory) / (1 << 30)
		}
		clusters = append(clusters, c)
		absent = append(absent, fmt.Sprintf("pool %s: %d nodes of %d devices detected; rates, links and hazard are the inventory file's", c.Name, nodes, per))
	}
	return clusters, absent
}

func (w Workload) count() (ModelWork, error) {
	m := ModelWork{
		Recipe: w.Name, Type: w.Shape.Type, Parameters: Params(w.Shape), Tokens: w.Tokens, Sequence: w.Sequence, Batch: w.Batch,
		DType: w.DType, Optimizer: w.Optimizer, KV: KVBytes(w.Shape, 2),
	}
	for _, count := range []string{"model", "hardware"} {
		for _, attention := range []string{"causal", "full"} {
			t, err := WorkPerToken(w.Shape, float64(w.Sequence), Convention{Count: count, Attention: attention}, w.MTP)
			if err != nil {
				return m, err
			}
			m.Counts = append(m.Counts, CountedWork{count, attention, t})
		}
	}
	return m, nil
}

// judge is the gate: an option is possible, and holds the deadline even if things go slowly.
func (o *Outlook) judge(r Request) {
	best := o.Choices[0]
	if best.Rejected != "" {
		o.Gate = gate.Of(gate.Check{Name: "option", Verdict: gate.Fail, Detail: fmt.Sprintf("all %d options are rejected; the first: %s, %s: %s", len(o.Choices), best.Pool, best.Recipe, best.Rejected)})
		return
	}
	option := gate.Check{Name: "option", Verdict: gate.Pass, Detail: fmt.Sprintf("%s on %s from %s", best.Recipe, best.Pool, day(best.Start))}
	finish := gate.Check{Name: "finish", Verdict: gate.Pass}
	switch {
	case best.Finish[2].IsZero():
		finish.Verdict = gate.Inconclusive
		finish.Detail = fmt.Sprintf("P50 %s, but more than one history in ten never finishes (%.0f %%)", day(best.Finish[1]), 100*best.Run.Never)
	case r.Deadline.IsZero():
		finish.Detail = fmt.Sprintf("P50 %s, P90 %s; no deadline is set", day(best.Finish[1]), day(best.Finish[2]))
	case best.Finish[2].After(r.Deadline):
		finish.Verdict = gate.Inconclusive
		finish.Detail = fmt.Sprintf("P50 %s is within %s, P90 %s is not", day(best.Finish[1]), day(r.Deadline), day(best.Finish[2]))
	default:
		finish.Detail = fmt.Sprintf("P90 %s ≤ %s", day(best.Finish[2]), day(r.Deadline))
	}
	o.Gate = gate.Of(option, finish)
}

// Chosen is the chosen option, nil if there is none.
func (o *Outlook) Chosen() *Choice {
	for i := range o.Choices {
		if o.Choices[i].Chosen {
			return &o.Choices[i]
		}
	}
	return nil
}

// Text is the outlook for people.
func (o *Outlook) Text() string {
	var b strings.Builder
	for _, m := range o.Models {
		m.text(&b)
	}
	b.WriteString(OptionsText(o.Choices))
	for _, n := range o.Notes {
		fmt.Fprintf(&b, "\nnote: %s", n)
	}
	fmt.Fprintf(&b, "\n%s  %s\n", strings.ToUpper(string(o.Gate.Verdict)), o.Gate.Reason)
	return b.String()
}

func (m ModelWork) text(b *strings.Builder) {
	fmt.Fprintf(b, "%s: %s, %s parameters", m.Recipe, or(m.Type, "sizes by hand"), grouped(m.Parameters.Total))
	if m.Parameters.MTP > 0 {
		fmt.Fprintf(b, " and %s of MTP", grouped(m.Parameters.MTP))
	}
	fmt.Fprintf(b, ", %s multiply a token\n", grouped(m.Parameters.Active))
	fmt.Fprintf(b, "  %s tokens in sequences of %s, %s a step; %s, %s; %v of cache a token in serving (2 bytes)\n",
		strings.TrimSpace(si(m.Tokens)), grouped(int64(m.Sequence)), grouped(int64(m.Batch)), m.DType, or(m.Optimizer, "optimiser by its bytes"), m.KV)
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "  FLOPs per token\tmatrices\tattention\tMTP\trecomputed\tin all")
	for _, c := range m.Counts {
		fmt.Fprintf(w, "  %s, %s attention\t%v\t%v\t%v\t%v\t%v\n", c.Count, c.Attention, c.Work.Matrices, c.Work.Attention, c.Work.MTP, c.Work.Recompute, c.Work.Total())
	}
	_ = w.Flush() // into a strings.Builder
	b.WriteByte('\n')
}
