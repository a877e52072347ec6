package verify

import (
	"math"
	"slices"

	"tarbert/internal/spec"
)

// statistic is a claim about the candidate as one bounded number per prompt
// and direction: its mean, over prompts and given what came before, is at most
// 0 inside the margin and at least 0 outside. Everything that scales it is known
// before the prompt is, so that bets on it are fair.
//
// Where a number is clipped to be bounded, the clipped mean is what the claim is
// about; the comments say what that leaves out and who sees it instead.
type statistic struct {
	name string
	// gate: a pass needs proof that it is inside. The others are alarms: outside
	// fails, and nothing else follows.
	gate bool
	// of gives one number per direction, each in [−low, high].
	of         func(p Prompt, h *history) []float64
	directions int
	low, high  float64
}

const (
	// reach is how many times the mean of the floor, multiplied by the ratio's
	// margin, one token may count in the ratio's bets: what a bet can lose is what
	// certainty costs, and a clip a thousand floors high would cost thousands of
	// prompts. Heavier tokens are for kl, top-1, tail and surprise.
	reach = 8.0
	// A prompt's mean log ratio counts at most typicalSpan beyond the margin, a
	// change of the NLL at most nllSpan margins, of the slope at most shiftSpan, a
	// divergence or a disagreement at most levelSpan margins: Winsorised means.
	// A banned token changes the NLL of few prompts by much: nllSpan is larger.
	typicalSpan = 0.5
	nllSpan     = 8.0
	shiftSpan   = 4.0
	levelSpan   = 4.0
	// slopeMargin: honest eight-bit deployments stay below 0.003, scaled logits
	// begin at 0.02.
	slopeMargin = 0.01
	// contrastMargin is on log(late/early), or its negative.
	contrastMargin = math.Ln2
	contrastSpan   = 2.0
	// seenMargin, in nats, is half of the smallest penalty in use (0.05 of presence).
	seenMargin = 0.02
	// A gross token is off by a nat and four times anything the floor did;
	// grossRate of the tokens may be.
	grossKL    = 1.0
	grossFloor = 4.0
	grossRate  = 2e-5
)

// history is what is known before a prompt: of the floor, and nothing of the candidate.
type history struct {
	margin spec.Margin
	sum, n float64   // of the floor's prompts' clipped means
	floor  []float64 // the floor's tokens, sorted
}

func (h *history) add(p Prompt) {
	h.coarse(p)
	if p.Floor != nil {
		h.floor = merged(h.floor, p.Floor.KL)
	}
}

// coarse is add for statistics that need no quantiles.
func (h *history) coarse(p Prompt) {
	if p.Floor != nil {
		h.sum, h.n = h.sum+mean(clipped(p.Floor.KL, h.margin.Clip)), h.n+1
	}
}

// merged is sorted with more put in.
func merged(sorted, more []float64) []float64 {
	more = slices.Sorted(slices.Values(more))
	out := make([]float64, 0, len(sorted)+len(more))
	for len(sorted) > 0 && len(more) > 0 {
		if sorted[0] <= more[0] {
			out, sorted = append(out, sorted[0]), sorted[1:]
		} else {
			out, more = append(out, more[0]), more[1:]
		}
	}
	return append(append(out, sorted...), more...)
}

// clip of the ratio's bets.
func (h *history) clip() float64 {
	c := h.margin.Clip
	if h.n > 0 && h.sum > 0 {
		c = min(c, max(reach*h.margin.Ratio*h.sum/h.n, quantileResolution))
	}
	return c
}

// floored says that the floor is more than rounding on the wire: nothing is
// ever related to a floor of zero.
func (ev *Evidence) floored() bool {
	if ev.Floor == nil {
		return false
	}
	sum := 0.0
	for _, p := range ev.Prompts {
		if p.From < len(p.Tokens) {
			sum += mean(clipped(p.Floor.KL[p.From-1:], ev.Spec.Margin.Clip))
		}
	}
	return sum > floorResolution*float64(len(ev.Prompts))
}

// statistics are those that the evidence and its margins allow.
func (ev *Evidence) statistics() []statistic {
	out := ev.gates()
	if ev.floored() {
		if ev.Spec.Margin.Ratio > 0 {
			out = append(out, tailStatistic(ev.Spec.Margin.Ratio))
		}
		out = append(out, contrastStatistic(), seenStatistic())
	}
	return append(out, slopeStatistic(), surpriseStatistic())
}

// gates are the statistics with a margin in the spec.
func (ev *Evidence) gates() []statistic {
	m := ev.Spec.Margin
	var out []statistic
	if ev.floored() && m.Ratio > 0 {
		out = append(out, statistic{name: "ratio", gate: true, directions: 1, low: 1, high: 1,
			of: func(p Prompt, h *history) []float64 { return []float64{ratioBet(p, m.Ratio, h.clip())} }})
	}
	if ev.floored() && ev.Typical > 0 {
		out = append(out, statistic{name: "typical", gate: true, directions: 1, low: 1, high: 1,
			of: func(p Prompt, _ *history) []float64 {
				return []float64{bounded((meanLogRatio(p.Candidate.KL, p.Floor.KL) - math.Log(ev.Typical)) / typicalSpan)}
			}})
	}
	if m.KL > 0 {
		out = append(out, levelStatistic("kl", m.KL, func(p Prompt) float64 { return mean(clipped(p.Candidate.KL, m.Clip)) }))
	}
	if m.DeltaNLL > 0 {
		s := shiftStatistic("delta-nll", m.DeltaNLL, nllSpan, func(p Prompt) (float64, bool) { return mean(p.LogProb) - mean(p.Candidate.LogProb), true })
		s.gate = true
		out = append(out, s)
	}
	if m.Top1 > 0 && m.Top1 < 1 {
		out = append(out, levelStatistic("top-1", 1-m.Top1, func(p Prompt) float64 { return 1 - agreement(p.Candidate.Same) }))
	}
	return out
}

// levelStatistic: a number of at least 0 with a mean of at most margin. One
// prompt counts at most levelSpan margins.
func levelStatistic(name string, margin float64, of func(Prompt) float64) statistic {
	return statistic{name: name, gate: true, directions: 1, low: 1 / (levelSpan - 1), high: 1, of: func(p Prompt, _ *history) []float64 {
		return []float64{(min(of(p)/margin, levelSpan) - 1) / (levelSpan - 1)}
	}}
}

// shiftStatistic: a signed number with a mean within ±margin.
func shiftStatistic(name string, margin, span float64, of func(Prompt) (float64, bool)) statistic {
	return statistic{name: name, directions: 2, low: 1, high: 1, of: func(p Prompt, _ *history) []float64 {
		d, ok := of(p)
		if !ok {
			return []float64{0, 0}
		}
		d /= margin
		return []float64{bounded((d - 1) / span), bounded((-d - 1) / span)}
	}}
}

// ratioBet is the mean of min(KL, clip) − min(ρ·floor, clip), over the clip.
// Both are clipped at the same height, the floor after it is multiplied: at
// ρ itself a candidate that is the floor scaled by ρ has a mean of exactly 0,
// where clip(KL) − ρ·clip(floor) would be below 0 and let it pass. Inside means
// inside at every height used, as it is for a candidate that is stochastically
// no larger than ρ times the floor.
func ratioBet(p Prompt, rho, clip float64) float64 {
	s := 0.0
	for i, kl := range p.Candidate.KL {
		s += min(kl, clip) - min(rho*p.Floor.KL[i], clip)
	}
	return bounded(s / (clip * float64(len(p.Candidate.KL))))
}

// tailStatistic: does any token of the prompt lie beyond the ratio's margin
// times the floor's 99.9 % quantile so far, more often than one of the floor's
// own lies beyond that quantile? A rare expert's damage is in few tokens and in
// most prompts.
func tailStatistic(rho float64) statistic {
	return statistic{name: "tail", directions: 1, low: 1, high: 1, of: func(p Prompt, h *history) []float64 {
		if len(h.floor) == 0 {
			return []float64{0}
		}
		u := quantileAt(h.floor, 0.999) + quantileResolution
		return []float64{indicator(slices.Max(p.Candidate.KL) > rho*u) - indicator(slices.Max(p.Floor.KL) > u)}
	}}
}

// slopeStatistic: the regression of the centred log-probabilities, its floor's
// own departure from 1 taken off.
func slopeStatistic() statistic {
	return shiftStatistic("slope", slopeMargin, shiftSpan, func(p Prompt) (float64, bool) {
		if p.Candidate.SlopeXX == 0 {
			return 0, false
		}
		d := p.Candidate.SlopeXY/p.Candidate.SlopeXX - 1
		if p.Floor != nil && p.Floor.SlopeXX > 0 {
			d -= p.Floor.SlopeXY/p.Floor.SlopeXX - 1
		}
		return d, true
	})
}

// contrastStatistic: late tokens against early ones, relative to the floor.
func contrastStatistic() statistic {
	return statistic{name: "contrast", directions: 2, low: 1, high: 1, of: func(p Prompt, _ *history) []float64 {
		q := len(p.Candidate.KL) / 4
		if q == 0 {
			return []float64{0, 0}
		}
		c, f := p.Candidate.KL, p.Floor.KL
		d := meanLogRatio(c[len(c)-q:], f[len(f)-q:]) - meanLogRatio(c[:q], f[:q])
		return []float64{bounded((d - contrastMargin) / contrastSpan), bounded((-d - contrastMargin) / contrastSpan)}
	}}
}

// seenStatistic: tokens that the text already holds, against others, beyond
// what the prompt's slope explains and the floor's.
func seenStatistic() statistic {
	return shiftStatistic("seen", seenMargin, shiftSpan, func(p Prompt) (float64, bool) {
		if p.Candidate.SeenN == 0 || p.Floor.SeenN == 0 || p.Candidate.SlopeXX == 0 {
			return 0, false
		}
		slope := p.Candidate.SlopeXY/p.Candidate.SlopeXX - 1
		return (p.Candidate.Seen-slope*p.Candidate.SeenX)/float64(p.Candidate.SeenN) - p.Floor.Seen/float64(p.Floor.SeenN), true
	})
}

// surpriseStatistic: is any token of the prompt gross? At most grossRate of the
// tokens may be, so the chance for a prompt is at most that times its tokens
// (union bound); a bet that can lose so little wins hundreds of times its stake.
func surpriseStatistic() statistic {
	const longest = 512 // tokens; more count as this many, which only costs power
	low := grossRate * longest
	return statistic{name: "surprise", directions: 1, low: low, high: 1, of: func(p Prompt, h *history) []float64 {
		limit := grossKL
		if n := len(h.floor); n > 0 {
			limit = max(limit, grossFloor*h.floor[n-1])
		}
		if p.Floor != nil {
			limit = max(limit, grossFloor*slices.Max(p.Floor.KL))
		}
		kl := p.Candidate.KL
		return []float64{indicator(slices.Max(kl[:min(len(kl), longest)]) > limit) - grossRate*float64(min(len(kl), longest))}
	}}
}

func bounded(x float64) float64 { return min(1, max(-1, x)) }
