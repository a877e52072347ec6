package verify

import (
	"fmt"
	"math"
	"strings"

	"tarbert/internal/gate"
)

// Sequential is the outcome of the sequential decision: prompts are taken one
// by one in a random order, and it may stop at any of them without losing its
// error rates.
type Sequential struct {
	Verdict gate.Verdict `json:"verdict"` // inconclusive: never decided
	After   int          `json:"after"`   // prompts, when it decided; else all
	Tokens  int          `json:"tokens"`
	Planned int          `json:"planned"`
	// Bets per statistic, in the order of the margins.
	Bets []Bet `json:"bets"`
	// Ratio is a confidence sequence of the mean clipped KL over the floor's:
	// it holds at every prompt at once. Lower 0, Upper 0 = not bounded yet.
	Ratio *Bounds `json:"ratio,omitempty"`
}

// Bet is one statistic's evidence, as e-values: Within against "outside the
// margin", Beyond against "inside".
type Bet struct {
	Name   string  `json:"name"`
	Within float64 `json:"within"`
	Beyond float64 `json:"beyond"`
}

// Bounds of a confidence sequence.
type Bounds struct {
	Lower float64 `json:"lower"`
	Upper float64 `json:"upper"`
}

// sequentialLevel is each error's rate in the sequential decision, and in the
// fixed-sample decision that follows when it did not stop: together alpha.
const sequentialLevel = alpha / 2

const (
	// typicalSpan and shiftSpan bound what one prompt can bet with: a prompt's
	// mean log ratio counts at most this far from the margin, its mean change
	// of the NLL at most this many margins.
	typicalSpan = 1.0
	shiftSpan   = 5.0
)

// statistic is a margin as a bounded number per prompt: at most 0 on average
// inside the margin, at least 0 outside, never beyond ±1.
type statistic struct {
	name string
	of   func(p Prompt, clip float64) float64
}

// reach is how many times the mean of the floor, multiplied by the ratio's
// margin, one token may count in the ratio's bets: what a bet can lose is what
// certainty costs, and a clip a thousand floors high would cost thousands of
// prompts. Heavier tokens are for kl, top-1 and tail.
const reach = 8.0

// floorSoFar keeps the ratio's clip, which is known before each prompt is.
type floorSoFar struct{ sum, n float64 }

func (f *floorSoFar) clip(ev *Evidence) float64 {
	c := ev.Spec.Margin.Clip
	if f.n > 0 && f.sum > 0 {
		c = min(c, max(reach*ev.Spec.Margin.Ratio*f.sum/f.n, quantileResolution))
	}
	return c
}

func (f *floorSoFar) add(p Prompt, clip float64) {
	if p.Floor != nil {
		f.sum, f.n = f.sum+mean(clipped(p.Floor.KL, clip)), f.n+1
	}
}

// statistics are those that the spec sets a margin for.
func (ev *Evidence) statistics() []statistic {
	m, clip := ev.Spec.Margin, ev.Spec.Margin.Clip
	var out []statistic
	if ev.Floor != nil && m.Ratio > 0 {
		out = append(out, statistic{"ratio", func(p Prompt, c float64) float64 { return ratioBet(p, m.Ratio, c) }})
	}
	if ev.Floor != nil && ev.Typical > 0 {
		out = append(out, statistic{"typical", func(p Prompt, _ float64) float64 {
			return bounded((meanLogRatio(p.Candidate.KL, p.Floor.KL) - math.Log(ev.Typical)) / typicalSpan)
		}})
	}
	if m.KL > 0 {
		scale := max(clip-m.KL, m.KL)
		out = append(out, statistic{"kl", func(p Prompt, _ float64) float64 {
			return bounded((mean(clipped(p.Candidate.KL, clip)) - m.KL) / scale)
		}})
	}
	if m.DeltaNLL > 0 {
		shift := func(p Prompt) float64 { return mean(p.LogProb) - mean(p.Candidate.LogProb) }
		out = append(out,
			statistic{"delta-nll above", func(p Prompt, _ float64) float64 { return bounded((shift(p) - m.DeltaNLL) / (shiftSpan * m.DeltaNLL)) }},
			statistic{"delta-nll below", func(p Prompt, _ float64) float64 { return bounded((-shift(p) - m.DeltaNLL) / (shiftSpan * m.DeltaNLL)) }})
	}
	if m.Top1 > 0 {
		scale := max(m.Top1, 1-m.Top1)
		out = append(out, statistic{"top-1", func(p Prompt, _ float64) float64 {
			return bounded((m.Top1 - agreement(p.Candidate.Same)) / scale)
		}})
	}
	return out
}

// ratioBet is the mean of min(KL, clip) − min(ρ·floor, clip), over the clip.
// Both are clipped at the same height, the floor after it is multiplied: at
// ρ itself a candidate that is the floor scaled by ρ has a mean of exactly 0,
// where clip(KL) − ρ·clip(floor) would be below 0 and let it pass.
func ratioBet(p Prompt, rho, clip float64) float64 {
	s := 0.0
	for i, kl := range p.Candidate.KL {
		s += min(kl, clip) - min(rho*p.Floor.KL[i], clip)
	}
	return bounded(s / (clip * float64(len(p.Candidate.KL))))
}

func bounded(x float64) float64 { return min(1, max(-1, x)) }

// decide walks over the prompts in the order they were asked in. It passes as
// soon as every statistic has shown that it is inside its margin (each at the
// full level: all must, so the weakest one's error is the whole error), and
// fails as soon as e-BH finds one outside.
func decide(ev *Evidence) *Sequential {
	s := &Sequential{Verdict: gate.Inconclusive, Planned: ev.Planned}
	stats := ev.statistics()
	within, beyond := make([]*wealth, len(stats)), make([]*wealth, len(stats))
	for i := range stats {
		within[i], beyond[i] = newWealth(1), newWealth(1)
	}
	var seen []Prompt
	var floor floorSoFar
	for _, whole := range ev.Prompts {
		if whole.From >= len(whole.Tokens) {
			continue
		}
		p := whole.judged()
		seen = append(seen, p)
		s.After, s.Tokens = s.After+1, s.Tokens+len(p.LogProb)
		c := floor.clip(ev)
		floor.add(p, ev.Spec.Margin.Clip)
		for i, st := range stats {
			x := st.of(p, c)
			within[i].add(-x)
			beyond[i].add(x)
		}
		if len(stats) == 0 || s.After < leastPrompts || s.Tokens < leastTokens {
			continue
		}
		if s.Verdict = verdictOf(within, beyond); s.Verdict != gate.Inconclusive {
			break
		}
	}
	for i, st := range stats {
		s.Bets = append(s.Bets, Bet{st.name, within[i].e(), beyond[i].e()})
	}
	if ev.Floor != nil {
		s.Ratio = ratioSequence(ev, seen)
	}
	return s
}

func verdictOf(within, beyond []*wealth) gate.Verdict {
	e := make([]float64, len(beyond))
	pass := true
	for i := range beyond {
		e[i] = beyond[i].e()
		pass = pass && within[i].e() >= 1/sequentialLevel
	}
	for _, rejected := range rejectedByEBH(e, sequentialLevel) {
		if rejected {
			return gate.Fail
		}
	}
	if pass {
		return gate.Pass
	}
	return gate.Inconclusive
}

// ratioSequence inverts the ratio's bets over a grid of ρ: those not rejected
// at any prompt so far are in it.
func ratioSequence(ev *Evidence, prompts []Prompt) *Bounds {
	const steps = 80
	b := &Bounds{}
	for i := range steps + 1 {
		rho := math.Exp(math.Log(0.05) + float64(i)/steps*math.Log(1000/0.05))
		above, below := newWealth(1), newWealth(1)
		ruledOutAbove, ruledOutBelow := false, false
		var floor floorSoFar
		for _, p := range prompts {
			x := ratioBet(p, rho, floor.clip(ev))
			floor.add(p, ev.Spec.Margin.Clip)
			above.add(x)  // evidence that the ratio is above rho
			below.add(-x) // … below
			ruledOutAbove = ruledOutAbove || below.e() >= 1/alpha
			ruledOutBelow = ruledOutBelow || above.e() >= 1/alpha
		}
		if ruledOutBelow {
			b.Lower = rho
		}
		if ruledOutAbove && b.Upper == 0 {
			b.Upper = rho
		}
	}
	return b
}

func (s *Sequential) check() gate.Check {
	c := gate.Check{Name: "sequential", Verdict: s.Verdict}
	var parts []string
	for _, b := range s.Bets {
		e := b.Within
		if s.Verdict == gate.Fail {
			e = b.Beyond
		}
		parts = append(parts, fmt.Sprintf("%s %.3g", b.Name, e))
	}
	what := map[gate.Verdict]string{gate.Pass: "inside", gate.Fail: "outside"}[s.Verdict]
	c.Detail = fmt.Sprintf("decided after %d of %d prompts; e-values of being %s the margin: %s", s.After, s.Planned, what, strings.Join(parts, ", "))
	return c
}
