package plan

import (
	"fmt"
	"math"
)

// Links is how fast devices talk, per device and direction.
type Links struct {
	Domain int       `json:"domain"` // devices within reach of the fast links: a node's, or a supernode's
	Inside Bandwidth `json:"inside"` // bytes/s within the domain
	Across Bandwidth `json:"across"` // bytes/s between domains
	// Overlap is the share of communication that hides behind computing.
	Overlap Range `json:"overlap"`
}

func (l Links) check() error {
	switch {
	case l.Domain <= 0:
		return fmt.Errorf("links: domain is %d: must be positive", l.Domain)
	case !(l.Inside > 0) || !(l.Across > 0):
		return fmt.Errorf("links: inside %g, across %g: must be positive", float64(l.Inside), float64(l.Across))
	case l.Overlap.High > 1:
		return fmt.Errorf("links: overlap %g is above 1", l.Overlap.High)
	}
	return l.Overlap.check("links: overlap", false)
}

// StepTime is one optimiser step's time by part; what communication does not hide.
type StepTime struct {
	Compute  Seconds `json:"compute"`
	Bubble   Seconds `json:"bubble"` // devices that wait for the pipeline to fill and drain
	Tensor   Seconds `json:"tensor"`
	Context  Seconds `json:"context"`
	Experts  Seconds `json:"experts"`
	Pipeline Seconds `json:"pipeline"`
	Data     Seconds `json:"data"`
}

// Communication is the exposed parts' sum.
func (t StepTime) Communication() Seconds {
	return t.Tensor + t.Context + t.Experts + t.Pipeline + t.Data
}

// Total is the whole step.
func (t StepTime) Total() Seconds { return t.Compute + t.Bubble + t.Communication() }

// Limit names what takes most of the step beside computing.
func (t StepTime) Limit() string {
	if t.Bubble > t.Communication() {
		return "pipeline bubble"
	}
	name, most := "computing", Seconds(0)
	for _, p := range []struct {
		name string
		t    Seconds
	}{{"tensor", t.Tensor}, {"context", t.Context}, {"expert", t.Experts}, {"pipeline", t.Pipeline}, {"data", t.Data}} {
		if p.t > most {
			name, most = p.name+" communication", p.t
		}
	}
	return name
}

// Workload is what is trained: a model, a recipe's numbers and a layout.
type Workload struct {
	Name     string     `json:"name"`
	Shape    ModelShape `json:"model"`
	DType    string     `json:"dtype"`    // of the products: "bfloat16", "float8"
	Sequence int        `json:"sequence"` // tokens
	Batch    int        `json:"batch"`    // sequences per step
	Tokens   float64    `json:"tokens"`   // in all
	MTP      bool       `json:"mtp"`
	Layout   Layout     `json:"layout"`
	Memory   Precision  `json:"precision"`
	// Optimizer is its name, for people: what it takes is in Memory.
	Optimizer string `json:"optimizer,omitempty"`
	// Search leaves the layout to be found: the one that fits with the shortest step.
	Search bool `json:"search,omitempty"`
	// Attention and Count say how the MFU that goes with it counts: "causal" or
	// "full", "model" (also what an empty Count is) or "hardware".
	Attention string `json:"attention"`
	Count     string `json:"count,omitempty"`
}

// Check says what is missing or contradicts itself.
func (w Workload) Check() error {
	if err := w.Shape.Check(); err != nil {
		return fmt.Errorf("recipe %s: %w", w.Name, err)
	}
	switch {
	case w.Sequence <= 0 || w.Batch <= 0 || !(w.Tokens > 0) || math.IsInf(w.Tokens, 0):
		return fmt.Errorf("recipe %s: sequence %d, batch %d, tokens %g: must be positive", w.Name, w.Sequence, w.Batch, w.Tokens)
	case w.DType == "":
		return fmt.Errorf("recipe %s: dtype is missing", w.Name)
	case !(w.Memory.Weights > 0) || !(w.Memory.Gradients > 0) || w.Memory.Optimizer < 0 || !(w.Memory.Activation > 0):
		return fmt.Errorf("recipe %s: precision %+v: bytes per parameter must be positive", w.Name, w.Memory)
	}
	l := w.Layout
	if l.DP == 0 { // as many replicas as the pool has room for: experts may be spread over them
		l.DP = max(1, l.EP)
	}
	if err := l.check(w.Shape); err != nil {
		return fmt.Errorf("recipe %s: %w", w.Name, err)
	}
	return nil
}

// FLOPs is one step's work in the workload's convention.
func (w Workload) FLOPs() (FLOPs, error) {
	each, err := WorkPerToken(w.Shape, float64(w.Sequence), Convention{Count: or(w.Count, "model"), Attention: w.Attention}, w.MTP)
	return each.Total() * FLOPs(w.Sequence*w.Batch), err
}

// Steps is how many optimiser steps the tokens make.
func (w Workload) Steps() float64 { return w.Tokens / float64(w.Sequence*w.Batch) }

// Step is the time of one optimiser step on devices of this rate (their peak
// times what products reach of it, communication apart), by layout and links.
// overlap is the share of communication that is hidden.
func Step(w Workload, rate Rate, links Links, overlap float64) (StepTime, error) {
	work, err := w.FLOPs()
	if err != nil {
		return StepTime{}, err
	}
	l := w.Layout.filled()
	micro := float64(w.Batch) / float64(l.DP*l.MicroBatch)
	if micro < 1 {
		return StepTime{}, fmt.Errorf("a batch of %d sequences leaves %.2g micro-batches at DP %d × %d", w.Batch, micro, l.DP, l.MicroBatch)
	}
	s, p := w.Shape, w.Memory
	tokens := float64(l.MicroBatch*w.Sequence) / float64(l.CP)
	layers := float64(s.Layers) / float64(l.PP)
	message := tokens * float64(s.Hidden) * p.Activation
	exposed := func(bytes float64, width, inner int) Seconds {
		if width < 2 {
			return 0
		}
		link := links.Across
		if width*inner <= links.Domain {
			link = links.Inside
		}
		return Bytes(bytes * float64(width-1) / float64(width) * (1 - overlap)).Over(link)
	}
	t := StepTime{Compute: work.Over(rate * Rate(l.Devices()))}
	t.Bubble = t.Compute * Seconds(float64(l.PP-1)/(micro*float64(l.Interleave)))
	// Each layer gathers and scatters its input twice, forward and backward: four all-reduces.
	t.Tensor = exposed(micro*layers*8*message, l.TP, 1)
	keys := tokens * float64(s.KVHeads*(s.QK+s.V)) / float64(l.TP) * p.Activation
	if s.KVLoraRank > 0 {
		keys = tokens * float64(s.KVLoraRank+s.QKRope) * p.Activation
	}
	t.Context = exposed(micro*layers*3*keys*float64(l.CP), l.CP, l.TP)
	// Dispatch and combine, forward and backward.
	moe := layers * float64(s.MoELayers) / float64(s.Layers)
	t.Experts = exposed(micro*moe*4*message*float64(s.ExpertsPerToken)/float64(l.TP), l.EP, 1)
	if l.PP > 1 {
		t.Pipeline = Bytes(micro * float64(l.Interleave) * 2 * message / float64(l.TP) * (1 - overlap)).Over(links.Across)
	}
	sh := shardOf(s, l)
	perParameter := p.Gradients + p.Weights
	if l.ZeRO == 3 {
		perParameter += 2 * p.Weights * micro
	}
	t.Data = exposed(perParameter*sh.dense, l.DP*l.CP, l.TP) + exposed(perParameter*sh.expert, int(sh.expertReplicas), l.EP)
	return t, nil
}

// KernelRate is the rate of products that makes a step reach the utilization
// that was measured, or stated, for this workload: what is left of it when
// bubble and communication are taken out. It fails where the links alone need
// more time than the utilization allows.
func KernelRate(w Workload, peak Rate, utilization float64, links Links, overlap float64) (Rate, error) {
	work, err := w.FLOPs()
	if err != nil {
		return 0, err
	}
	whole := work.Over(peak * Rate(utilization) * Rate(w.Layout.Devices()))
	at, err := Step(w, peak, links, overlap)
	if err != nil {
		return 0, err
	}
	left := whole - at.Communication()
	if left <= 0 {
		return 0, fmt.Errorf("communication alone takes %v of a step that an MFU of %.1f %% makes %v", at.Communication(), 100*utilization, whole)
	}
	share := at.Compute / (at.Compute + at.Bubble)
	rate := work.Over(1) / (left * share * Seconds(w.Layout.Devices()))
	if rate > Seconds(peak) {
		return 0, fmt.Errorf("beside %v of communication and %v of pipeline bubble an MFU of %.1f %% would need products at %v, above the peak of %v", at.Communication(), at.Bubble, 100*utilization, Rate(rate), peak)
	}
	return Rate(rate), nil
}
