package verify

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Smallest says what the run could have seen. Zero means that it could not
// say: no margin, or nothing within reach of so few prompts.
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

// smallest changes the measured candidate until the bets on these very prompts
// fail it: its divergences by a factor, its log-probabilities by a shift. So it
// is about faults that change all tokens in proportion; rarer ones are Share's.
func smallest(r *Report, ev *Evidence) Smallest {
	s := Smallest{Share: 1 - math.Pow(alpha, 1/float64(max(r.Prompts, 1)))}
	prompts, stats := ev.order(), ev.statistics()
	var parts []string
	say := func(format string, x float64) float64 {
		if x > 0 {
			parts = append(parts, fmt.Sprintf(format, x))
		}
		return x
	}
	for _, st := range stats {
		factor := func() float64 {
			return least(1e-3, 1e5, func(f float64) bool {
				return ev.wouldFail(st, len(stats), prompts, func(p *Prompt) { p.Candidate.KL = scaled(p.Candidate.KL, f) })
			})
		}
		switch {
		case st.name == "ratio" && r.Ratio != nil:
			s.Ratio = say("a mean KL from %.3g× the floor", r.Ratio.Value*factor())
		case st.name == "typical" && r.Typical != nil:
			s.Typical = say("a typical token from %.3g×", r.Typical.Value*factor())
		case st.name == "kl" && r.KL.Value > 0:
			s.KL = say("a mean KL from %.2g nats", r.KL.Value*factor())
		case st.name == "delta-nll":
			s.DeltaNLL = say("a shift of the mean NLL to %.2g nats", least(ev.Spec.Margin.DeltaNLL, 100*ev.Spec.Margin.DeltaNLL, func(to float64) bool {
				return ev.wouldFail(st, len(stats), prompts, func(p *Prompt) { p.Candidate.LogProb = shifted(p.Candidate.LogProb, r.DeltaNLL.Value-to) })
			}))
		}
	}
	if len(parts) > 0 {
		s.Text = strings.Join(parts, ", or ") + " would have failed; "
	}
	s.Text += fmt.Sprintf("a fault in fewer than %.1f %% of such prompts may not have been met", 100*s.Share)
	return s
}

// wouldFail says that one statistic's bets alone fail a changed candidate.
func (ev *Evidence) wouldFail(st statistic, of int, prompts []Prompt, change func(*Prompt)) bool {
	b, h := ev.newPairs([]statistic{st}), &history{margin: ev.Spec.Margin}
	for _, p := range prompts {
		change(&p)
		b[0].add(p, h)
		h.coarse(p)
	}
	return b[0].outside() >= float64(of)/ev.failLevel()
}

// least is the smallest x in [low, high], by bisection of its logarithm, for
// which fails holds; 0 = not even for high.
func least(low, high float64, fails func(x float64) bool) float64 {
	if !fails(high) {
		return 0
	}
	for range 24 {
		if mid := math.Sqrt(low * high); fails(mid) {
			high = mid
		} else {
			low = mid
		}
	}
	return high
}

func scaled(x []float64, by float64) []float64 {
	out := slices.Clone(x)
	for i := range out {
		out[i] *= by
	}
	return out
}

func shifted(x []float64, by float64) []float64 {
	out := slices.Clone(x)
	for i := range out {
		out[i] += by
	}
	return out
}
