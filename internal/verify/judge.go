package verify

import (
	"fmt"
	"math"

	"tarbert/internal/gate"
)

const (
	// floorResolution is the smallest mean floor, in nats, that ratios are
	// formed with: below it the floor is rounding of float32 on the wire.
	floorResolution = 1e-7
	// quantileResolution is added to a token's divergence before a ratio of
	// tokens or quantiles is formed: the float32 wire gives no more.
	quantileResolution = 1e-6
	// leastPrompts and leastTokens: with fewer, resampling has nothing to go on.
	leastPrompts = 16
	leastTokens  = 256
)

// Report is the outcome of a verification. Divergences are in nats.
type Report struct {
	Gate   gate.Result `json:"gate"`
	Digest string      `json:"prompts_digest"`

	Reference Stack  `json:"reference"`
	Candidate Stack  `json:"candidate"`
	Floor     *Stack `json:"floor,omitempty"`

	Asked   int `json:"asked"`   // prompts
	Prompts int `json:"prompts"` // with a judged token
	Tokens  int `json:"tokens"`  // judged

	// KL is the mean over prompts of the mean clipped divergence per token;
	// FloorKL the floor's; Ratio the two's, absent when the floor is zero.
	KL      Interval  `json:"kl"`
	FloorKL *Interval `json:"floor_kl,omitempty"`
	Ratio   *Interval `json:"ratio,omitempty"`
	// Held is the ratio as it is held to its margin (ratioClips): of the bulk of
	// the tokens. A candidate like the floor has more than 1, one that is the margin
	// times the floor has the margin.
	Held *Interval `json:"ratio_held,omitempty"`
	// Typical is the ratio on a typical token: the geometric mean, over
	// prompts and tokens, of the token's divergence over the floor's on the same
	// token. A few heavy tokens, which routers make on both sides, widen Ratio's
	// interval and leave this one narrow: it is what sees a small fault.
	Typical *Interval `json:"typical,omitempty"`

	Quantiles      Quantiles  `json:"quantiles"` // of the tokens' divergence, not clipped
	FloorQuantiles *Quantiles `json:"floor_quantiles,omitempty"`
	// Tail is p99/p50 of the candidate over the floor's.
	Tail *Interval `json:"tail,omitempty"`

	Top1      Interval `json:"top1"` // share of tokens with the same likeliest token
	FloorTop1 float64  `json:"floor_top1,omitempty"`
	// Top1Clear counts only tokens where the reference's first is ahead of its
	// second by more than four times the mean |Δ log-probability|.
	Top1Clear float64 `json:"top1_clear"`

	DeltaNLL      Interval `json:"delta_nll"` // candidate − reference, of the actual tokens
	FloorDeltaNLL float64  `json:"floor_delta_nll,omitempty"`
	AbsDelta      float64  `json:"abs_delta"` // mean |Δ log-probability| of the actual tokens
	NLL           struct {
		Reference float64 `json:"reference"`
		Candidate float64 `json:"candidate"`
	} `json:"nll"`
	// Contrast is how much farther from its floor a typical token of the judged
	// part's last quarter is than one of its first; 0 = no floor.
	Contrast float64 `json:"contrast,omitempty"`
	// Slope of the candidate's centred log-probabilities on the reference's: 1 if logits are not scaled.
	Slope float64 `json:"slope"`
	// Seen is how much more tokens that the text already holds moved than
	// others, nats, beyond the slope and the floor's: penalties. Absent without a floor.
	Seen *Interval `json:"seen,omitempty"`

	Smallest  Smallest    `json:"smallest_fault"`
	Signature string      `json:"signature"`
	Causes    []Cause     `json:"causes,omitempty"` // likeliest first, when it failed
	First     *Divergence `json:"first_divergence,omitempty"`
	Worst     []Worst     `json:"worst"`

	// Contract, Sequential, Strata, Decode, Load and Reverse are there where
	// they were asked for; Strata always.
	Contract   *Contract   `json:"contract,omitempty"`
	Sequential *Sequential `json:"sequential,omitempty"`
	Strata     []Stratum   `json:"strata,omitempty"`
	Parts      []Part      `json:"parts,omitempty"`
	Reverse    *Reverse    `json:"reverse,omitempty"`

	// Floors are the sides against themselves, Scope what was not tested and
	// why, Cost what each part took.
	Floors []FloorMeasure `json:"floors,omitempty"`
	Scope  []string       `json:"scope,omitempty"`
	Cost   []Cost         `json:"cost,omitempty"`

	Failure  string  `json:"failure,omitempty"`
	Evidence string  `json:"evidence"`
	Seconds  float64 `json:"seconds"`
}

// Quantiles of a divergence.
type Quantiles struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// numbers are per-prompt means, and the tokens, in canonical order.
type numbers struct {
	prompts           []Prompt
	kl, floor, logs   []float64 // logs: of the paired token ratios
	above, below      []float64 // candidate and floor as the ratio counts them
	top1, dNLL        []float64
	floorTop1, floorD []float64
	kls, floorKLs     tokens
	count             int
}

func reduce(ev *Evidence) numbers {
	var n numbers
	n.prompts, _ = ev.canonical()
	clip := ev.Spec.Margin.Clip
	var kls, floors [][]float64
	for _, p := range n.prompts {
		n.count += len(p.LogProb)
		n.kl = append(n.kl, mean(clipped(p.Candidate.KL, clip)))
		n.top1 = append(n.top1, agreement(p.Candidate.Same))
		n.dNLL = append(n.dNLL, mean(p.LogProb)-mean(p.Candidate.LogProb))
		kls = append(kls, p.Candidate.KL)
		if p.Floor != nil {
			n.floor = append(n.floor, mean(clipped(p.Floor.KL, clip)))
			n.floorTop1 = append(n.floorTop1, agreement(p.Floor.Same))
			n.floorD = append(n.floorD, mean(p.LogProb)-mean(p.Floor.LogProb))
			n.logs = append(n.logs, meanLogRatio(p.Candidate.KL, p.Floor.KL))
			floors = append(floors, p.Floor.KL)
		}
	}
	n.kls, n.floorKLs = newTokens(kls), newTokens(floors)
	if len(floors) == 0 {
		return n
	}
	below, above := ratioClips(n.floorKLs.value, ev.Spec.Margin)
	for i, floor := range floors {
		n.above, n.below = append(n.above, mean(clipped(kls[i], above))), append(n.below, mean(clipped(floor, below)))
	}
	return n
}

// meanLogRatio is the mean log of a's tokens over b's.
func meanLogRatio(a, b []float64) float64 {
	s := 0.0
	for i := range a {
		s += math.Log((a[i] + quantileResolution) / (b[i] + quantileResolution))
	}
	return s / float64(len(a))
}

func agreement(marks string) float64 {
	hits := 0
	for i := range len(marks) {
		if marks[i] == '1' {
			hits++
		}
	}
	return float64(hits) / float64(len(marks))
}

// judge is the verdict as a function of the evidence and nothing else.
func judge(ev *Evidence) *Report {
	r := &Report{
		Digest: ev.Digest, Reference: ev.Reference, Candidate: ev.Candidate, Floor: ev.Floor,
		Asked: ev.Asked, Failure: ev.Failure, Seconds: ev.Seconds, Worst: []Worst{},
		Floors: ev.floorMeasures(), Scope: ev.Scope, Cost: ev.Cost,
	}
	var checks []gate.Check
	if ev.Contract != nil {
		r.Contract = &Contract{ev.Contract.Reference, ev.Contract.Candidate, CheckContract(ev.Contract.Reference, ev.Contract.Candidate)}
		for _, c := range r.Contract.Checks {
			c.Name = "contract-" + c.Name
			checks = append(checks, c)
		}
		if ev.refused() {
			r.Gate, r.Signature = gate.Of(checks...), "nothing was judged"
			return r
		}
	}
	answers := gate.Check{Name: "answers", Verdict: gate.Pass, Detail: fmt.Sprintf("all %d prompts scored on every side", ev.Asked)}
	if ev.Failure != "" {
		answers.Verdict = gate.Inconclusive
		answers.Detail = fmt.Sprintf("%s (after %d of %d prompts)", ev.Failure, len(ev.Prompts), ev.Asked)
	}
	n := reduce(ev)
	r.Prompts, r.Tokens = len(n.prompts), n.count
	checks = append(checks, answers)
	if ev.Failure == "" {
		// A side that failed midway may have lied before, and intervals from a
		// handful of prompts have no error rates: such numbers are reported,
		// and decide nothing.
		checks = append(checks, sampleCheck(n))
	}
	if r.Signature = "nothing was judged"; r.Prompts == 0 {
		r.Gate = gate.Of(checks...)
		return r
	}
	estimate(r, ev, n, ev.passLevel()/2)
	r.Strata, r.Sequential = strata(ev), decide(ev)
	if ev.Failure == "" && gate.Of(checks...).Verdict != gate.Inconclusive {
		checks = append(checks, mainChecks(r, ev)...)
		more := partChecks(r, ev)
		checks = append(checks, more...)
	}
	r.Gate = gate.Of(checks...)
	r.Smallest = smallest(r, ev)
	s := sign(r, ev, n)
	r.Signature = s.String()
	if r.Gate.Verdict == gate.Fail {
		r.Causes = append(elsewhere(r), s.causes()...)
	}
	r.First, r.Worst = firstDivergence(ev), worst(ev)
	return r
}

// Part is a comparison beside the main one.
type Part struct {
	Name string `json:"name"`
	*Report
}

// partChecks judges the other parts with the same margins.
func partChecks(r *Report, ev *Evidence) []gate.Check {
	var checks []gate.Check
	for _, p := range ev.Parts {
		got := judge(p)
		r.Parts = append(r.Parts, Part{p.Name, got})
		for _, c := range got.Gate.Checks {
			c.Name = p.Name + " " + c.Name
			checks = append(checks, c)
		}
	}
	if ev.Reverse != nil {
		rev, more := judgeReverse(ev.Reverse, ev.Seed, ev.otherLevel())
		r.Reverse, checks = rev, append(checks, more...)
	}
	return checks
}

// estimate fills in the statistics with their intervals.
func estimate(r *Report, ev *Evidence, n numbers, level float64) {
	b := newBootstrap(len(n.prompts), ev.Seed, level)
	r.KL, r.DeltaNLL, r.Top1 = b.mean(n.kl), b.mean(n.dNLL), b.mean(n.top1)
	r.Top1.Upper = min(r.Top1.Upper, 1)
	// Prompts that all agree leave resampling without spread; counting tokens has some.
	r.Top1.Lower = min(r.Top1.Lower, wilson(r.Top1.Value*float64(n.count), float64(n.count), level))
	r.Quantiles = quantiles(n.kls)
	if ev.Floor != nil {
		floor := b.mean(n.floor)
		r.FloorKL = &floor
		q := quantiles(n.floorKLs)
		r.FloorQuantiles = &q
		r.FloorTop1, r.FloorDeltaNLL = mean(n.floorTop1), mean(n.floorD)
		least := floorResolution * float64(len(n.floor))
		ratio, ok := b.ratio(n.kl, n.floor, least)
		if held, able := b.ratio(n.above, n.below, 0); ok && able {
			r.Ratio, r.Held = &ratio, &held
			logs := b.mean(n.logs)
			r.Typical = &Interval{math.Exp(logs.Value), math.Exp(logs.Lower), math.Exp(logs.Upper)}
			tail := b.percentile(tailRatio(n, nil), func(w []int) float64 { return tailRatio(n, w) })
			r.Tail, r.Contrast = &tail, lateOverEarly(n)
		}
	}
	var delta, slopeXY, slopeXX float64
	for _, p := range n.prompts {
		for i := range p.LogProb {
			delta += math.Abs(p.Candidate.LogProb[i] - p.LogProb[i])
		}
		r.NLL.Reference -= mean(p.LogProb) / float64(len(n.prompts))
		r.NLL.Candidate -= mean(p.Candidate.LogProb) / float64(len(n.prompts))
		slopeXY, slopeXX = slopeXY+p.Candidate.SlopeXY, slopeXX+p.Candidate.SlopeXX
	}
	r.AbsDelta = delta / float64(n.count)
	r.Slope = 1
	if slopeXX > 0 {
		r.Slope = slopeXY / slopeXX
	}
	if ev.Floor != nil {
		r.Seen = seenInterval(n.prompts, r.Slope, b)
	}
	r.Top1Clear = clearAgreement(n, 4*r.AbsDelta)
}

// seenInterval is the mean over prompts of the shift of seen tokens that the
// slope does not explain, minus the floor's.
func seenInterval(prompts []Prompt, slope float64, b *bootstrap) *Interval {
	x := make([]float64, len(prompts))
	for i, p := range prompts {
		if p.Candidate.SeenN > 0 {
			x[i] = (p.Candidate.Seen - (slope-1)*p.Candidate.SeenX) / float64(p.Candidate.SeenN)
		}
		if p.Floor.SeenN > 0 {
			x[i] -= p.Floor.Seen / float64(p.Floor.SeenN)
		}
	}
	iv := b.mean(x)
	return &iv
}

func quantiles(t tokens) Quantiles {
	return Quantiles{t.quantile(0.5, nil), t.quantile(0.9, nil), t.quantile(0.99, nil), t.value[len(t.value)-1]}
}

// tailRatio is p99/p50 of the candidate over the floor's.
func tailRatio(n numbers, w []int) float64 {
	shape := func(t tokens) float64 {
		return (t.quantile(0.99, w) + quantileResolution) / (t.quantile(0.5, w) + quantileResolution)
	}
	return shape(n.kls) / shape(n.floorKLs)
}

// clearAgreement is the agreement where the reference's choice is not a near tie.
func clearAgreement(n numbers, gap float64) float64 {
	hits, all := 0, 0
	for _, p := range n.prompts {
		for i, g := range p.Gap {
			if g > gap {
				all++
				if p.Candidate.Same[i] == '1' {
					hits++
				}
			}
		}
	}
	if all == 0 {
		return 1
	}
	return float64(hits) / float64(all)
}

func sampleCheck(n numbers) gate.Check {
	c := gate.Check{
		Name: "sample", Verdict: gate.Pass,
		Detail: fmt.Sprintf("%d prompts, %d tokens", len(n.prompts), n.count),
	}
	if len(n.prompts) < leastPrompts || n.count < leastTokens {
		c.Verdict = gate.Inconclusive
		c.Detail += fmt.Sprintf(": at least %d prompts and %d tokens are needed; raise verify.count", leastPrompts, leastTokens)
	}
	return c
}

// checkedBy states a gate: outside only by its bets, inside by its bets or by
// its interval.
func (s *Sequential) checkedBy(name string, inInterval bool, format string, args ...any) gate.Check {
	b := s.bet(name)
	c := gate.Check{Name: name, Verdict: verdict(b.Inside || inInterval, b.Outside), Detail: fmt.Sprintf(format, args...)}
	switch {
	case b.Outside:
		c.Detail += fmt.Sprintf("; outside, e-value %.3g after %d prompts", b.Beyond, s.After)
	case b.Inside:
		c.Detail += fmt.Sprintf("; inside by its bets, e-value %.3g", b.Within)
	}
	return c
}

// mainChecks judges each statistic that the spec sets a margin for, and the alarms.
func mainChecks(r *Report, ev *Evidence) []gate.Check {
	m, s := ev.Spec.Margin, r.Sequential
	var checks []gate.Check
	note := ""
	switch {
	case r.Ratio != nil && m.Ratio > 0:
		checks = append(checks, s.checkedBy("ratio", r.Held.Upper <= m.Ratio, "KL is %.3g× the floor; held to the margin, %.3g× [%.3g, %.3g], allowed %g×",
			r.Ratio.Value, r.Held.Value, r.Held.Lower, r.Held.Upper, m.Ratio))
	case r.Ratio == nil && m.KL <= 0:
		checks = append(checks, noRatioCheck(r))
	case r.Ratio == nil:
		note = "; " + noRatio(r) + ": this absolute margin stands in"
	}
	if r.Typical != nil && ev.Typical > 0 {
		checks = append(checks, s.checkedBy("typical", r.Typical.Upper <= ev.Typical, "a typical token's KL is %.3g× its floor [%.3g, %.3g], allowed %g×",
			r.Typical.Value, r.Typical.Lower, r.Typical.Upper, ev.Typical))
	}
	if m.KL > 0 {
		checks = append(checks, s.checkedBy("kl", r.KL.Upper <= m.KL, "mean clipped KL %.3g [%.3g, %.3g] nats, allowed %g%s",
			r.KL.Value, r.KL.Lower, r.KL.Upper, m.KL, note))
	}
	if m.DeltaNLL > 0 {
		d := r.DeltaNLL
		checks = append(checks, s.checkedBy("delta-nll", max(math.Abs(d.Lower), math.Abs(d.Upper)) <= m.DeltaNLL, "NLL changed by %+.3g [%+.3g, %+.3g] nats, allowed ±%g",
			d.Value, d.Lower, d.Upper, m.DeltaNLL))
	}
	if m.Top1 > 0 {
		checks = append(checks, s.checkedBy("top-1", r.Top1.Lower >= m.Top1, "%.2f %% [%.2f, %.2f] have the same likeliest token, needed %.2f %%",
			100*r.Top1.Value, 100*r.Top1.Lower, 100*r.Top1.Upper, 100*m.Top1))
	}
	if len(checks) == 0 {
		checks = append(checks, gate.Check{Name: "margin", Verdict: gate.Inconclusive, Detail: "no margin is set: set verify.margin.ratio or verify.margin.kl"})
	}
	checks = append(checks, alarms(r)...)
	if ev.Strata {
		checks = append(checks, strataCheck(r.Strata))
	}
	return checks
}

// alarms fail when something is wrong for certain and say nothing otherwise.
func alarms(r *Report) []gate.Check {
	says := map[string]string{
		"tail":     fmt.Sprintf("p99 %.3g, largest %.3g nats", r.Quantiles.P99, r.Quantiles.Max),
		"contrast": fmt.Sprintf("late tokens are %.3g× as far from their floor as early ones, alarm beyond a factor of %g", r.Contrast, math.Exp(contrastMargin)),
		"slope":    fmt.Sprintf("logits are scaled by %.4f, alarm beyond ±%g", r.Slope, slopeMargin),
		"surprise": fmt.Sprintf("tokens beyond %g nat and %g× any of the floor's, alarm above %g a token", grossKL, grossFloor, grossRate),
	}
	if r.Tail != nil {
		says["tail"] += fmt.Sprintf("; p99/p50 is %.3g× the floor's [%.3g, %.3g]", r.Tail.Value, r.Tail.Lower, r.Tail.Upper)
	}
	if r.Seen != nil {
		says["seen"] = fmt.Sprintf("tokens already in the text moved by %+.3g [%+.3g, %+.3g] nats against others, alarm beyond ±%g", r.Seen.Value, r.Seen.Lower, r.Seen.Upper, seenMargin)
	}
	var checks []gate.Check
	for _, name := range []string{"tail", "contrast", "seen", "slope", "surprise"} {
		if r.Sequential.bet(name).Beyond > 0 {
			checks = append(checks, r.Sequential.checkedBy(name, true, "%s", says[name]))
		}
	}
	return checks
}

// noRatio says why there is none.
func noRatio(r *Report) string {
	if r.FloorKL == nil {
		return "there is no floor, so no ratio is formed"
	}
	return fmt.Sprintf("the floor is zero (%.1g nats), so no ratio is formed", r.FloorKL.Value)
}

// noRatioCheck is the ratio check when there is nothing to divide by and no
// absolute margin: only a candidate that equals the reference passes.
func noRatioCheck(r *Report) gate.Check {
	if r.KL.Upper <= floorResolution {
		return gate.Check{Name: "ratio", Verdict: gate.Pass, Detail: noRatio(r) +
			"; the candidate equals the reference as far as float32 can tell"}
	}
	return gate.Check{Name: "ratio", Verdict: gate.Inconclusive, Detail: fmt.Sprintf(
		"%s, and the candidate is %.3g nats away: set verify.margin.kl", noRatio(r), r.KL.Value)}
}

func verdict(pass, fail bool) gate.Verdict {
	switch {
	case fail:
		return gate.Fail
	case pass:
		return gate.Pass
	}
	return gate.Inconclusive
}
