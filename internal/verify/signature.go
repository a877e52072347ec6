package verify

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"tarbert/internal/gate"
)

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
	late         float64 // typical in the judged part's last quarter over that in its first
	first        float64 // typical at position 1, which sees one token and no attention to choose; 0 = no floor
	hit          float64 // share of tokens more than ten times their floor
	spared       float64 // share of tokens nearer than their floor: half, where nothing is wrong
	middle       float64 // median of the tokens' ratios to their floors
	seen         float64 // nats by which tokens already in the text moved more than others, beyond the floor's
	slope        float64 // − 1
	deltaNLL     float64
	top1         float64
	raw          float64 // mean KL, not clipped, nats
}

func sign(r *Report, ev *Evidence, n numbers) signature {
	s := signature{slope: r.Slope - 1, deltaNLL: r.DeltaNLL.Value, top1: r.Top1.Value}
	for _, p := range n.prompts {
		s.raw += mean(p.Candidate.KL) / float64(len(n.prompts))
	}
	if r.Ratio == nil {
		s.mean, s.median = r.KL.Value, r.Quantiles.P50
		s.tail = (r.Quantiles.P99 + quantileResolution) / (r.Quantiles.P50 + quantileResolution)
		s.late = lateOverEarly(n)
		return s
	}
	s.floor, s.mean, s.typical, s.tail = true, r.Ratio.Value, r.Typical.Value, r.Tail.Value
	s.median = (r.Quantiles.P50 + quantileResolution) / (r.FloorQuantiles.P50 + quantileResolution)
	s.late = lateOverEarly(n)
	var first []float64
	for _, p := range ev.Prompts {
		first = append(first, meanLogRatio(p.Candidate.KL[:1], p.Floor.KL[:1]))
	}
	slices.Sort(first) // the sum must not depend on the prompts' order
	s.first = math.Exp(mean(first))
	logs := make([]float64, 0, n.count)
	for _, p := range n.prompts {
		for i := range p.Candidate.KL {
			logs = append(logs, meanLogRatio(p.Candidate.KL[i:i+1], p.Floor.KL[i:i+1]))
		}
	}
	slices.Sort(logs)
	for _, x := range logs {
		s.hit += indicator(x > math.Log(10)) / float64(n.count)
		s.spared += indicator(x < 0) / float64(n.count)
	}
	s.middle = math.Exp(quantileAt(logs, 0.5))
	if r.Seen != nil {
		s.seen = r.Seen.Value
	}
	return s
}

// lateOverEarly is how much farther from its floor a typical token is in the
// last quarter of what is judged than in the first. Relative to the floor of
// the same tokens, since what is easy to predict is close on every side.
func lateOverEarly(n numbers) float64 {
	var early, late []float64
	for _, p := range n.prompts {
		kl, q := p.Candidate.KL, len(p.Candidate.KL)/4
		if q == 0 {
			continue
		}
		floor := make([]float64, len(kl))
		if p.Floor != nil {
			floor = p.Floor.KL
		}
		early, late = append(early, meanLogRatio(kl[:q], floor[:q])), append(late, meanLogRatio(kl[len(kl)-q:], floor[len(kl)-q:]))
	}
	return math.Exp(mean(late) - mean(early))
}

func (s signature) String() string {
	tail := fmt.Sprintf("logit slope %+.4f, ΔNLL %+.2g, top-1 %.2f %%", s.slope, s.deltaNLL, 100*s.top1)
	if !s.floor {
		return fmt.Sprintf("mean %.3g nats, median %.3g nats, p99/p50 %.3g, late/early %.3g (no floor); %s", s.mean, s.median, s.tail, s.late, tail)
	}
	return fmt.Sprintf("mean %.3g×, typical %.3g×, median token %.3g×, median %.3g×, p99/p50 %.3g× the floor's, %.0f %% of tokens over 10×, %.0f %% nearer than it; late/early %.3g, first token %.3g×, seen tokens %+.3g nats; %s",
		s.mean, s.typical, s.middle, s.median, s.tail, 100*s.hit, 100*s.spared, s.late, s.first, s.seen, tail)
}

// Cause is a guess from the signature: where to look first, not a finding.
type Cause struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// causes ranks what usually leaves such a signature, the most specific first.
// The limits are from the faults of verifytest planted in a trained model with
// latent attention and routed experts; design.md has the table.
func (s signature) causes() []Cause {
	const attentionCause = "positions or attention: the rotary embedding (RoPE base, scaling, interleaving, its kernel), the mask or scale, a query or key matrix, a context window"
	var out []Cause
	add := func(when bool, name, format string, args ...any) {
		if when {
			out = append(out, Cause{name, fmt.Sprintf(format, args...)})
		}
	}
	// Position 1 follows one token: whatever attention does with several is not
	// in it. Off from there on and exact there is a fault of position or attention.
	attention := s.floor && s.typical > 1.1 && (s.first < 1.2 || s.first < min(2, s.typical/3) || s.late > 50 && s.first < s.typical/100)
	// What precedes the prompt weighs most where it is short.
	before := s.floor && s.first > 50*max(s.typical, 1) && s.late < 0.8
	gross := s.raw > 0.1 || s.top1 < 0.85
	even := math.Abs(s.slope) > 0.02 && s.top1 > 0.98 && s.tail < 0.5
	// A penalty lowers what was seen; damage flattens, which raises it.
	penalised := s.seen < -0.02 && s.raw < 0.05 && s.tail < 2
	// Some tokens far off and the others not: the mean of the log ratios is above
	// their median, or the mean divergence far above a typical one.
	single := s.floor && s.typical > 1.1 && (s.hit < 0.6 && s.typical > 1.12*s.middle || s.hit < 0.35 && s.mean > 1.4*max(s.typical, 1))
	noisy := s.floor && s.typical > 1.1 && s.tail < 2 && math.Abs(s.slope) < 0.003 && s.late < 3 && s.late > 0.6
	add(penalised, "a penalty, a logit bias or banned tokens", "tokens already in the text moved by %+.3f nats against the others", s.seen)
	add(even, "logits are scaled: temperature, processed log-probabilities, a soft cap, or the final norm", "slope %+.3f, evenly over all tokens", s.slope)
	add(before, "the start of the text: BOS missing or doubled, a system prompt, the template", "the first token is %.3g× off, a typical one %.3g×", s.first, s.typical)
	add(attention && !single, attentionCause,
		"exact after one token (%.3g×), %.3g× on a typical one, late tokens %.3g× as far as early ones", s.first, s.typical, s.late)
	add(single, "few tokens are hit hard: one expert, block or row damaged or swapped, router ties, overflow",
		"%.0f %% of tokens over 10× their floor, mean %.3g×, typical %.3g×", 100*s.hit, s.mean, s.typical)
	add(gross && !attention, "wrong weights as a whole: a norm, the head, a dtype read as another, layers or shards out of order",
		"mean KL %.2g nats, top-1 %.0f %%", s.raw, 100*s.top1)
	add(attention && single, attentionCause,
		"exact after one token (%.3g×), %.3g× on a typical one", s.first, s.typical)
	add(noisy && !attention && !single, "noise everywhere alike: quantisation to 8 or 6 bits, another rounding, a slightly stale matrix",
		"typical %.3g×, %.0f %% of tokens over 10×, not scaled", s.typical, 100*s.hit)
	add(s.floor && s.hit > 0.2 && !even, "every token is off: a damaged layer or matrix, 4-bit weights, routing weights, a stale checkpoint",
		"%.0f %% of tokens over 10× their floor, ΔNLL %+.2g", 100*s.hit, s.deltaNLL)
	add(s.floor && len(out) == 0 && s.typical > 1.1, "a small difference of no known shape: a stale or rounded matrix, a rare expert", "typical %.3g×, mean %.3g×", s.typical, s.mean)
	return out
}

// elsewhere names what other parts of the run point at when the prefill
// comparison itself found nothing.
func elsewhere(r *Report) []Cause {
	failed := map[string]bool{}
	for _, c := range r.Gate.Checks {
		if c.Verdict == gate.Fail {
			part, _, _ := strings.Cut(c.Name, " ")
			part, _, _ = strings.Cut(part, "-")
			failed[part] = true
		}
	}
	main := false
	for _, name := range []string{"ratio", "typical", "kl", "delta", "top", "tail", "contrast", "seen", "slope", "surprise"} {
		main = main || failed[name]
	}
	var out []Cause
	add := func(when bool, name, format string, args ...any) {
		if when {
			out = append(out, Cause{name, fmt.Sprintf(format, args...)})
		}
	}
	add(failed["contract"], "the endpoint, not the weights: template, tokenizer, BOS or a parameter that is not honoured", "the contract's checks failed")
	add((failed["load"] || failed["replica"]) && !main, "under load only: experts that drop tokens in large batches, a kernel that is not batch-invariant, or one bad replica",
		"alone it is the same model")
	add(failed["decode"] && !main, "decode path only: the KV cache's dtype or scale, speculative decoding, graph capture, the decode attention kernel",
		"prefill agrees")
	add(failed["reverse"] && !main && !failed["decode"], "the sampler: temperature, top-p, top-k or penalties injected, end-of-text ids, a sampling kernel",
		"forced tokens agree, written ones do not")
	if st := certainLengths(r); failed["strata"] && st != nil {
		add(true, "certain lengths: paging, chunked prefill, a kernel's remainder", "%s is %.3g× the floor", st.Name, st.Ratio)
	}
	return out
}

// certainLengths is the worst residue of the length, if one or two of them are
// outside and much farther off than all prompts together.
func certainLengths(r *Report) *Stratum {
	var worst *Stratum
	n := 0
	for i, st := range r.Strata { // the worst comes first
		if st.Outside && strings.HasPrefix(st.Name, "length mod") {
			if n++; worst == nil {
				worst = &r.Strata[i]
			}
		}
	}
	if n > 2 || worst == nil || r.Ratio != nil && worst.Ratio < 2.5*r.Ratio.Value {
		return nil
	}
	return worst
}
