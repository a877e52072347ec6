package plan

import (
	"math"

	"tarbert/internal/spec"
)

// Convention says what the FLOPs here count. It is printed beside them: MFU
// figures cannot be compared without it.
type Convention struct {
	Count     string `json:"count"`     // "model": no recomputation; "hardware": what the device executes
	Attention string `json:"attention"` // "causal": half the square; "full"
	WorkDType string `json:"work_dtype"`
	PeakDType string `json:"peak_dtype"` // of the rate that the work is divided by
	Sparse    bool   `json:"sparse"`     // whether that rate is of 2:4 sparse products
}

// String is "model FLOPs, causal attention, float32 work over a dense float32 rate".
func (c Convention) String() string {
	density := "dense"
	if c.Sparse {
		density = "sparse"
	}
	return c.Count + " FLOPs, " + c.Attention + " attention, " + c.WorkDType + " work over a " + density + " " + c.PeakDType + " rate"
}

// Stage is one part of training with its work.
type Stage struct {
	Name   string  `json:"name"` // "sft", "grpo"
	Steps  int     `json:"steps"`
	Tokens float64 `json:"tokens"` // that go forward and backward
	// Sampled is tokens that only go forward, one by one: prompts and answers of the rollout.
	Sampled float64 `json:"sampled"`
	Train   FLOPs   `json:"train_flops"`
	Rollout FLOPs   `json:"rollout_flops"`
}

// trainFLOPs is the work per token, forward and backward, in sequences of length s:
//
//	6·N_active + 3·L·s·n_heads·(d_qk + d_v)
//
// model FLOPs with causal attention (see design.md). A third of it is the forward pass.
func trainFLOPs(m ModelShape, p Parameters, s float64) FLOPs {
	return FLOPs(6*float64(p.Active) + 3*float64(m.Layers)*s*float64(m.Heads)*float64(m.QK+m.V))
}

// work counts the recipe's stages.
func work(t spec.Train, m ModelShape, p Parameters, tokens Tokens) []Stage {
	var stages []Stage
	if n := t.SFT.Steps; n > 0 {
		total := float64(n) * float64(t.SFT.Batch) * tokens.Example
		stages = append(stages, Stage{
			Name: "sft", Steps: n, Tokens: total,
			Train: FLOPs(total) * trainFLOPs(m, p, tokens.Example),
		})
	}
	if n := t.GRPO.Steps; n > 0 {
		answer := min(tokens.Completion, float64(t.GRPO.MaxTokens))
		length := tokens.Prompt + answer
		total := float64(n) * float64(t.GRPO.Prompts) * float64(t.GRPO.Samples) * length
		each := trainFLOPs(m, p, length)
		stages = append(stages, Stage{
			Name: "grpo", Steps: n, Tokens: total, Sampled: total,
			Train: FLOPs(total) * each, Rollout: FLOPs(total) * each / 3,
		})
	}
	return stages
}

// Efficiency is the share of a measured product rate that a kind of work
// reaches, as a range: log-uniform between Low and High.
type Efficiency struct {
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// at is a quantile of the efficiency.
func (e Efficiency) at(q float64) float64 {
	return e.Low * math.Pow(e.High/e.Low, q)
}

// Time is a forecast: the finish is as likely before P50 as after it, and after
// P90 one time in ten.
type Time struct {
	P10 Seconds `json:"p10"`
	P50 Seconds `json:"p50"`
	P90 Seconds `json:"p90"`
}

// String is "1 min 20 s (45 s to 2 min 30 s)".
func (t Time) String() string {
	return t.P50.String() + " (" + t.P10.String() + " to " + t.P90.String() + ")"
}

// forecast divides work by rate and efficiency. Its parts are fast or slow
// together (the same machine, the same model), so their quantiles add.
func forecast(stages []Stage, rate Rate, train, rollout Efficiency) Time {
	at := func(q float64) Seconds {
		var sum Seconds
		for _, s := range stages {
			sum += s.Train.Over(rate * Rate(train.at(1-q)))
			sum += s.Rollout.Over(rate * Rate(rollout.at(1-q)))
		}
		return sum
	}
	return Time{P10: at(0.1), P50: at(0.5), P90: at(0.9)}
}
