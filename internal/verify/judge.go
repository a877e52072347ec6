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
