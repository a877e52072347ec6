package train

import (
	"fmt"
	"math"
	"slices"
)

// Replay is a stored batch's loss and gradients on one side.
type Replay struct {
	Batch    int                `json:"batch"`
	Loss     float64            `json:"loss"`
	GradNorm float64            `json:"grad_norm"`
	Tokens   int                `json:"tokens"`
	Layers   map[string]float64 `json:"layers"` // gradient norms
}

// Parity is how two sides' replays compare.
type Parity struct {
	// Passed, else Failed; neither is inconclusive, and not passed.
	Passed  bool     `json:"passed"`
	Failed  bool     `json:"failed"`
	Reasons []string `json:"reasons"`
	Judge   string   `json:"judge"`
	Other   string   `json:"other"`
	// LossGap is the mean relative gap; the ratios are of gradient norms, other over judge.
	LossGap   float64 `json:"loss_gap"`
	Least     float64 `json:"least_ratio"`
	Most      float64 `json:"most_ratio"`
	Worst     string  `json:"worst_layer"`
	Batches   int     `json:"batches"`
	JudgeSaid string  `json:"judge_evidence"` // its events file
	OtherSaid string  `json:"other_evidence"`
}

// Bounds are how far the sides of a replay may be apart.
type Bounds struct {
	Loss      float64 // mean relative gap
	Low, High float64 // of every layer's gradient norm, as a ratio
}

// Bounds by what the other side computes in: the loss gap that verl accepts on
// Ascend, and a band for every layer's gradient, since a loss within 1 % has hidden
// gradients 50 % off. Float32 need not be given that much; what is not known is.
func boundsOf(arithmetic string) Bounds {
	if arithmetic == "float32" {
		return Bounds{Loss: 0.001, Low: 0.99, High: 1.01}
	}
	return Bounds{Loss: 0.02, Low: 0.9, High: 1.1}
}

const (
	// A layer whose gradient is this small a part of the whole is compared by its
	// share of the whole: the ratio of two roundings says nothing.
	parityShare = 1e-6
)

// CompareReplays judges one side by the other, batch by batch, layer by layer.
// arithmetic is what the other side computes in; empty where nobody says.
func CompareReplays(judge, other []Replay, arithmetic string) Parity {
	bounds := boundsOf(arithmetic)
	p := Parity{Least: math.Inf(1), Most: math.Inf(-1), Batches: len(judge)}
	if len(judge) == 0 || len(judge) != len(other) {
		p.Reasons = append(p.Reasons, fmt.Sprintf("%d batches on one side, %d on the other: nothing to compare", len(judge), len(other)))
		p.Least, p.Most = 0, 0
		return p
	}
	for i, a := range judge {
		b := other[i]
		if a.Batch != b.Batch || a.Tokens != b.Tokens || len(a.Layers) == 0 {
			p.Reasons = append(p.Reasons, fmt.Sprintf("batch %d has %d tokens and %d layers on one side, batch %d %d tokens on the other: not the same batch", a.Batch, a.Tokens, len(a.Layers), b.Batch, b.Tokens))
			p.Least, p.Most = 0, 0
			return p
		}
		p.LossGap += math.Abs(b.Loss-a.Loss) / max(math.Abs(a.Loss), 1e-12) / float64(len(judge))
		for name, want := range a.Layers {
			got, there := b.Layers[name]
			if !there {
				p.Failed = true
				p.Reasons = append(p.Reasons, fmt.Sprintf("batch %d: no gradient of %s", b.Batch, name))
				continue
			}
			if want < parityShare*a.GradNorm && got < parityShare*a.GradNorm {
				continue
			}
			ratio := got / want
			if math.Abs(math.Log(ratio)) > math.Abs(math.Log(p.ratio())) || p.Worst == "" {
				p.Worst = name
			}
			p.Least, p.Most = min(p.Least, ratio), max(p.Most, ratio)
		}
	}
	if p.Worst == "" {
		p.Least, p.Most = 1, 1
	}
	if !(p.LossGap <= bounds.Loss) {
		p.Failed = true
		p.Reasons = append(p.Reasons, fmt.Sprintf("the losses differ by %.3g %% on average, %g %% are allowed", 100*p.LossGap, 100*bounds.Loss))
	}
	if !(p.Least >= bounds.Low && p.Most <= bounds.High) {
		p.Failed = true
		p.Reasons = append(p.Reasons, fmt.Sprintf("gradient norms by layer are %.4g to %.4g times the judge's, %g to %g are allowed; %s is farthest off", p.Least, p.Most, bounds.Low, bounds.High, p.Worst))
	}
	if !p.Failed {
		p.Passed = true
		p.Reasons = append(p.Reasons, fmt.Sprintf("%d batches: losses within %.3g %%, gradient norms of %d layers %.4g to %.4g times the judge's", p.Batches, 100*p.LossGap, len(judge[0].Layers), p.Least, p.Most))
	}
	slices.Sort(p.Reasons)
	return p
}

// ratio is the one farther from 1.
func (p Parity) ratio() float64 {
	if math.IsInf(p.Least, 0) {
		return 1
	}
	if math.Abs(math.Log(p.Least)) > math.Abs(math.Log(p.Most)) {
		return p.Least
	}
	return p.Most
}
