package verify

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"tarbert/internal/engine"
	"tarbert/internal/gate"
)

func itoa(n int) string { return strconv.Itoa(n) }

const (
	// processedShift: raw log-probabilities do not depend on the temperature;
	// processed ones at 0.5 are off by up to the logits' own size.
	processedShift = 0.05
	// filtered: no raw distribution has its 20th token this far below the
	// first, in nats; engines put filtered tokens at -1e9 or so.
	filtered = 1e4
	// unsteady: two equal requests that differ by more than this are not
	// rounding.
	unsteady = 0.5
)

// Contract is stage 0 of a verification: before any number is believed, both
// endpoints are held to what the numbers mean. Decided by CheckContract.
type Contract struct {
	Reference Observed     `json:"reference"`
	Candidate Observed     `json:"candidate"`
	Checks    []gate.Check `json:"checks"`
}

// CheckContract judges what was observed of two endpoints. A difference that
// users would see fails; a setting under which log-probabilities mean nothing
// is inconclusive and names the flag to change.
func CheckContract(ref, cand Observed) []gate.Check {
	checks := []gate.Check{vocabularyCheck(ref, cand), templateCheck(ref, cand), textCheck(ref, cand)}
	checks = append(checks, meaningChecks("reference", ref)...)
	checks = append(checks, meaningChecks("candidate", cand)...)
	return append(checks, batchCheck(ref, cand), parameterCheck(ref, cand), contextCheck(ref, cand))
}

// vocabularyCheck refuses to compare numbers about tokens that are not the same.
func vocabularyCheck(ref, cand Observed) gate.Check {
	c := gate.Check{Name: "vocabulary", Verdict: gate.Pass, Detail: "not told by one of the sides; token ids are taken to mean the same"}
	if len(ref.Spelled) == 0 || len(cand.Spelled) == 0 {
		return c
	}
	for i, text := range SpellingCases() {
		if i < len(ref.Spelled) && i < len(cand.Spelled) && !slices.Equal(ref.Spelled[i], cand.Spelled[i]) {
			c.Verdict = gate.Inconclusive
			c.Detail = fmt.Sprintf("%q is %v to the reference and %v to the candidate: token ids mean different texts, so no number can be compared; serve both with one tokenizer",
				text, ref.Spelled[i], cand.Spelled[i])
			return c
		}
	}
	c.Detail = fmt.Sprintf("%d texts have the same token ids", len(ref.Spelled))
	return c
}

// batchCheck says what a request among others does to its numbers; how much of
// that is too much is for the load part to judge.
func batchCheck(ref, cand Observed) gate.Check {
	c := gate.Check{Name: "batch", Verdict: gate.Pass, Detail: fmt.Sprintf(
		"one of four requests differs from the same alone by %.2g nats (reference) and %.2g (candidate)", ref.BatchShift, cand.BatchShift)}
	if cand.BatchShift > unsteady {
		c.Detail += ": the load part judges it; try VLLM_BATCH_INVARIANT=1"
	}
	return c
}

// meaningless says that a check forbids to believe any number.
func meaningless(checks []gate.Check) bool {
	return slices.ContainsFunc(checks, func(c gate.Check) bool { return c.Verdict == gate.Inconclusive })
}

// templateCheck compares usage.prompt_tokens over the template cases and says
// what kind of difference it is.
func templateCheck(ref, cand Observed) gate.Check {
	c := gate.Check{Name: "template", Verdict: gate.Pass}
	var diffs, cases []string
	sizes := map[int]bool{}
	compared, refused := 0, 0
	for i, tc := range TemplateCases() {
		if i >= len(ref.Templates) || i >= len(cand.Templates) || ref.Templates[i] < 0 || cand.Templates[i] < 0 {
			if i < len(ref.Templates) && i < len(cand.Templates) && (ref.Templates[i] < 0) != (cand.Templates[i] < 0) {
				refused++
			}
			continue
		}
		compared++
		if d := cand.Templates[i] - ref.Templates[i]; d != 0 {
			diffs = append(diffs, fmt.Sprintf("%s %+d", tc.Name, d))
			cases, sizes[d] = append(cases, tc.Name), true
		}
	}
	switch {
	case compared == 0:
		c.Detail = "no chat route on one of the sides: templates were not compared"
	case len(diffs) == 0:
		c.Detail = fmt.Sprintf("%d conversations have the same number of tokens", compared)
		if refused > 0 {
			c.Detail += fmt.Sprintf("; %d are refused by one side only", refused)
		}
	default:
		c.Verdict = gate.Fail
		c.Detail = fmt.Sprintf("%d of %d conversations differ in tokens (%s): %s", len(diffs), compared,
			strings.Join(diffs[:min(3, len(diffs))], ", "), templateCause(sizes, cases, compared))
	}
	return c
}

// templateCause names what a pattern of differences comes from.
func templateCause(sizes map[int]bool, cases []string, compared int) string {
	multi := slices.Contains(cases, "two turns")
	switch {
	case len(sizes) == 1 && len(cases) == compared:
		return "always the same: a BOS token or a system prompt more or less"
	case len(cases) == 1 || (len(cases) <= 3 && !multi):
		return "only some contents: another tokenizer's normaliser or merges, or special tokens read as text"
	case len(sizes) <= 3 && multi && len(cases) == compared:
		return "grows with the turns: the template's newline or role tag"
	}
	return "by varying amounts: another tokenizer"
}

func textCheck(ref, cand Observed) gate.Check {
	c := gate.Check{Name: "prompt", Verdict: gate.Pass, Detail: "prompts reach both models alike"}
	for _, s := range []struct {
		name string
		o    Observed
	}{{"reference", ref}, {"candidate", cand}} {
		if s.o.IDTokens >= 0 && s.o.IDsSent > 0 && s.o.IDTokens != s.o.IDsSent {
			c.Verdict = gate.Fail
			c.Detail = fmt.Sprintf("the %s read %d tokens where %d ids were sent: it adds or cuts", s.name, s.o.IDTokens, s.o.IDsSent)
			return c
		}
	}
	if ref.TextTokens >= 0 && cand.TextTokens >= 0 && ref.TextTokens != cand.TextTokens {
		c.Verdict = gate.Fail
		c.Detail = fmt.Sprintf("the same text is %d tokens for the reference and %d for the candidate: BOS (add_bos_token), or another tokenizer; token-id prompts and weights are not concerned",
			ref.TextTokens, cand.TextTokens)
	}
	return c
}

// meaningChecks refuses settings under which log-probabilities are not the model's.
func meaningChecks(side string, o Observed) []gate.Check {
	bad := func(format string, args ...any) []gate.Check {
		return []gate.Check{{Name: "meaning", Verdict: gate.Inconclusive, Detail: side + ": " + fmt.Sprintf(format, args...)}}
	}
	switch {
	case o.Keys == engine.KeysText:
		return bad("log-probabilities are named by text, where tokens of equal text overwrite each other; use an engine that honours return_tokens_as_token_ids")
	case max(o.RepeatShift, o.CacheShift) > unsteady && cached(o):
		return bad("the repeat of a request differs by %.2g nats, and a prefix cache answers it; start it with --no-enable-prefix-caching", max(o.RepeatShift, o.CacheShift))
	case max(o.RepeatShift, o.CacheShift) > unsteady:
		return bad("two equal requests differ by %.2g nats: nothing can be compared with that", max(o.RepeatShift, o.CacheShift))
	case o.TemperatureShift > processedShift:
		return bad("log-probabilities change by %.2g nats with the temperature: they are processed; start it with --logprobs-mode raw_logprobs", o.TemperatureShift)
	case o.FarBelow > filtered:
		return bad("the likeliest tokens end at %.3g nats below the first: top-p, top-k or a reduced sampler is active in the log-probabilities; start it with --generation-config vllm and, on Ascend, without enable_reduce_sample", -o.FarBelow)
	case o.Sum > 1.05:
		return bad("the likeliest %d tokens sum to %.3f", o.Top, o.Sum)
	case o.Speculative:
		return bad("it decodes speculatively, so that the draft model is part of what is measured; start it without --speculative-config")
	case o.PathShift > processedShift && o.PathSpread < o.PathShift/2:
		return bad("log-probabilities of what is generated are all %.2g nats above those of the same tokens under teacher forcing: the sampler works on a reduced or filtered vocabulary; start it without enable_reduce_sample (Ascend's additional_config) and with --generation-config vllm", o.PathShift)
	}
	if cached(o) && o.Strict {
		return bad("prefix caching is on, so that numbers depend on what was asked before; start it with --no-enable-prefix-caching (SGLang: --disable-radix-cache)")
	}
	if cached(o) {
		return []gate.Check{{Name: "meaning", Verdict: gate.Pass, Detail: fmt.Sprintf(
			"%s: log-probabilities are raw and by id; prefix caching is on, and a repeat from it differs by %.2g nats (--strict refuses it)", side, o.CacheShift)}}
	}
	return []gate.Check{{Name: "meaning", Verdict: gate.Pass, Detail: side + ": log-probabilities are raw, by id, and the same again"}}
}

// cached says that a prefix cache is on, as far as the endpoint tells.
func cached(o Observed) bool { return o.Cached > 0 || o.Flags[engine.FlagPrefixCaching] == "True" }

// parameterCheck fails on a parameter that only the reference honours.
func parameterCheck(ref, cand Observed) gate.Check {
	c := gate.Check{Name: "parameters", Verdict: gate.Pass}
	var only, both []string
	for _, name := range slices.Sorted(maps.Keys(cand.Parameters)) {
		problem := cand.Parameters[name]
		if problem == "" {
			continue
		}
		if r, asked := ref.Parameters[name]; asked && r != "" {
			both = append(both, name)
			continue
		}
		only = append(only, name+": "+problem)
	}
	switch {
	case len(only) > 0:
		c.Verdict, c.Detail = gate.Fail, "the candidate does not honour "+strings.Join(only, "; ")
	case len(both) > 0:
		c.Detail = "neither side honours " + strings.Join(both, ", ")
	default:
		c.Detail = strings.Join(slices.Sorted(maps.Keys(cand.Parameters)), ", ") + " are honoured"
	}
	return c
}

func contextCheck(ref, cand Observed) gate.Check {
	c := gate.Check{Name: "context", Verdict: gate.Pass, Detail: fmt.Sprintf("%d tokens on both sides", ref.MaxModelLen)}
	switch {
	case ref.MaxModelLen == 0 || cand.MaxModelLen == 0:
		c.Detail = "not told by one of the sides"
	case cand.MaxModelLen < ref.MaxModelLen:
		c.Verdict = gate.Fail
		c.Detail = fmt.Sprintf("the candidate takes %d tokens, the reference %d: longer prompts are cut or refused; raise --max-model-len", cand.MaxModelLen, ref.MaxModelLen)
	case cand.MaxModelLen > ref.MaxModelLen:
		c.Detail = fmt.Sprintf("the candidate takes %d tokens; only the reference's %d can be compared", cand.MaxModelLen, ref.MaxModelLen)
	}
	return c
}

// ContextLimit is the longest prompt both sides can score; 0 = not known.
func (c *Contract) ContextLimit() int {
	a, b := c.Reference.MaxModelLen, c.Candidate.MaxModelLen
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}
