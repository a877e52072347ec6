package verify

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Smallest says what the run could have seen. Zero means that it could not
// say: no margin, or an interval that reaches zero.
type Smallest struct {
	// Ratio, Typical and KL (nats): a candidate this far away would have failed.
	Ratio   float64 `json:"ratio,omitempty"`
	Typical float64 `json:"typical,omitempty"`
	KL      float64 `json:"kl,omitempty"`
	// DeltaNLL (nats): a mean shift this large would have failed.
	DeltaNLL float64 `json:"delta_nll,omitempty"`
	// Share of prompts: a fault that shows in this share of all such prompts
	// was met at least once, with 99 % probability.
	Share float64 `json:"share"`
	Text  string  `json:"text"`
}

// smallest scales the measured interval widths to the margin: an estimate e
// with lower bound l fails from margin·e/l on.
func smallest(r *Report, ev *Evidence) Smallest {
	m := ev.Spec.Margin
	s := Smallest{Share: 1 - math.Pow(alpha, 1/float64(max(r.Prompts, 1)))}
	var parts []string
	if r.Ratio != nil && m.Ratio > 0 && r.Ratio.Lower > 0 {
		s.Ratio = m.Ratio * r.Ratio.Value / r.Ratio.Lower
		parts = append(parts, fmt.Sprintf("a mean KL from %.3g× the floor", s.Ratio))
	}
	if r.Typical != nil && ev.Typical > 0 {
		s.Typical = ev.Typical * r.Typical.Value / r.Typical.Lower
		parts = append(parts, fmt.Sprintf("a typical token from %.3g×", s.Typical))
	}
	if m.KL > 0 && (r.KL.Lower > 0 || r.KL.Value == 0) {
		s.KL = m.KL
		if r.KL.Value > 0 {
			s.KL *= r.KL.Value / r.KL.Lower
		}
		parts = append(parts, fmt.Sprintf("a mean clipped KL from %.2g nats", s.KL))
	}
	if m.DeltaNLL > 0 {
		s.DeltaNLL = m.DeltaNLL + max(r.DeltaNLL.Upper-r.DeltaNLL.Value, r.DeltaNLL.Value-r.DeltaNLL.Lower)
		parts = append(parts, fmt.Sprintf("a shift of the mean NLL from %.2g nats", s.DeltaNLL))
	}
	if len(parts) > 0 {
		s.Text = strings.Join(parts, ", or ") + " would have failed; "
	}
	s.Text += fmt.Sprintf("a fault in fewer than %.1f %% of such prompts may not have been met", 100*s.Share)
	return s
}

// Divergence is one token on which the two part.
type Divergence struct {
	Prompt   int     `json:"prompt"`   // index in the evidence
	Position int     `json:"position"` // of the token in the prompt
	Token    int     `json:"token"`
	KL       float64 `json:"kl"`
	// LogProb of the token on each side.
	Reference float64 `json:"reference"`
	Candidate float64 `json:"candidate"`
}

// Worst is a prompt with a large mean divergence (not clipped).
type Worst struct {
	Prompt   int     `json:"prompt"`
	KL       float64 `json:"kl"`
	Floor    float64 `json:"floor"`
	Max      float64 `json:"max"`
	Position int     `json:"position"` // of the largest
}

// firstDivergence is the earliest position, over all prompts, at which the
// candidate is further off than the clip and ten times the floor there; of
// several, the one that is furthest off.
func firstDivergence(ev *Evidence) *Divergence {
	prompts, index := ev.canonical()
	var first *Divergence
	for i, p := range prompts {
		for t, kl := range p.Candidate.KL {
			at := p.From + t
			if first != nil && at > first.Position {
				break
			}
			if kl <= ev.Spec.Margin.Clip || (p.Floor != nil && kl <= 10*p.Floor.KL[t]) {
				continue
			}
			if first == nil || at < first.Position || kl > first.KL {
				first = &Divergence{index[i], at, p.Tokens[at], kl, p.LogProb[t], p.Candidate.LogProb[t]}
			}
		}
	}
	return first
}

func worst(ev *Evidence) []Worst {
	prompts, index := ev.canonical()
	all := make([]Worst, len(prompts))
	for i, p := range prompts {
		w := Worst{Prompt: index[i], KL: mean(p.Candidate.KL)}
		if p.Floor != nil {
			w.Floor = mean(p.Floor.KL)
		}
		for t, kl := range p.Candidate.KL {
			if kl > w.Max || w.Position == 0 {
				w.Max, w.Position = kl, p.From+t
			}
		}
		all[i] = w
	}
	slices.SortStableFunc(all, func(a, b Worst) int { return cmp.Compare(b.KL, a.KL) })
	return all[:min(5, len(all))]
}

// signature is the shape of the difference, each number relative to the floor
// where there is one.
type signature struct {
	floor        bool
	mean, median float64 // × the floor's; nats without a floor
	typical      float64 // × the floor's, token by token
	tail         float64 // p99/p50, × the floor's
	late         float64 // mean KL in prompts' last quarter over that at the first 8 judged positions, × the floor's
	slope        float64 // − 1
	deltaNLL     float64
	top1         float64
	raw          float64 // mean KL, not clipped, nats
}

func sign(r *Report, n numbers) signature {
	s := signature{slope: r.Slope - 1, deltaNLL: r.DeltaNLL.Value, top1: r.Top1.Value}
	for _, p := range n.prompts {
		s.raw += mean(p.Candidate.KL) / float64(len(n.prompts))
	}
	candidate := func(p Prompt) []float64 { return p.Candidate.KL }
	s.late = lateOverEarly(n, candidate)
	if r.Ratio == nil {
		s.mean, s.median = r.KL.Value, r.Quantiles.P50
		s.tail = (r.Quantiles.P99 + quantileResolution) / (r.Quantiles.P50 + quantileResolution)
		return s
	}
	s.floor, s.mean, s.typical, s.tail = true, r.Ratio.Value, r.Typical.Value, r.Tail.Value
	s.median = (r.Quantiles.P50 + quantileResolution) / (r.FloorQuantiles.P50 + quantileResolution)
	s.late /= lateOverEarly(n, func(p Prompt) []float64 { return p.Floor.KL })
	return s
}

func lateOverEarly(n numbers, of func(Prompt) []float64) float64 {
	var early, late []float64
	for _, p := range n.prompts {
		kl := of(p)
		early = append(early, kl[:min(8, len(kl))]...)
		late = append(late, kl[len(kl)*3/4:]...)
	}
	return (mean(late) + quantileResolution) / (mean(early) + quantileResolution)
}

func (s signature) String() string {
	tail := fmt.Sprintf("logit slope %+.4f, ΔNLL %+.2g, top-1 %.2f %%", s.slope, s.deltaNLL, 100*s.top1)
	if !s.floor {
		return fmt.Sprintf("mean %.3g nats, median %.3g nats, p99/p50 %.3g, late/early %.3g (no floor); %s", s.mean, s.median, s.tail, s.late, tail)
	}
	return fmt.Sprintf("mean %.3g×, typical %.3g×, median %.3g×, p99/p50 %.3g×, late/early %.3g× the floor's; %s",
		s.mean, s.typical, s.median, s.tail, s.late, tail)
}

// Cause is a guess from the signature: where to look first, not a finding.
type Cause struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// causes ranks what usually leaves such a signature, the most specific first.
// The limits are from faults planted in a toy mixture-of-experts model.
func (s signature) causes() []Cause {
	var out []Cause
	add := func(when bool, name, format string, args ...any) {
		if when {
			out = append(out, Cause{name, fmt.Sprintf(format, args...)})
		}
	}
	add(math.Abs(s.slope) > 0.02 && s.top1 > 0.99, "logits are scaled: temperature, processed log-probabilities, or the final norm",
		"slope %+.3f with the order kept", s.slope)
	add(s.raw > 1 || s.top1 < 0.5, "wrong weights as a whole: a norm, the head, a dtype read as another, layers or shards out of order",
		"mean KL %.2g nats, top-1 %.0f %%", s.raw, 100*s.top1)
	add(s.late > 5, "positions: RoPE base, scaling or interleaving, the attention mask, a context window", "late/early %.3g×", s.late)
	add(s.late < 0.1, "the start of the text: BOS missing or doubled, a system prompt, the template", "late/early %.3g×", s.late)
	add(s.floor && s.tail > 5, "few tokens are hit hard: one expert or block damaged or swapped, router ties, overflow",
		"tail %.3g×, median %.3g×", s.tail, s.median)
	add(s.floor && s.mean < 3 && math.Abs(s.deltaNLL) > 1e-3, "a penalty, a logit bias or banned tokens", "ΔNLL %+.2g at only %.3g× the floor", s.deltaNLL, s.mean)
	add(s.floor && s.median > 30 && s.deltaNLL > 0, "every token is off: 4-bit weights, a damaged layer, a stale checkpoint", "median %.3g×, ΔNLL %+.2g", s.median, s.deltaNLL)
	add(s.floor && s.median > 2 && s.median <= 30 && s.tail < 3, "noise everywhere alike: 8-bit quantisation", "median %.3g×, tail %.3g×", s.median, s.tail)
	return out
}
