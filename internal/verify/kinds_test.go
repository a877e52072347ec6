package verify

import (
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"tarbert/internal/gate"
)

func samples() []Sample {
	var out []Sample
	for i, kind := range Kinds() {
		out = append(out, Sample{kind, toy{}.write(1, 200, uint64(i))[0]})
	}
	return out
}

func TestPlanPromptsMeetsEveryKindAndLength(t *testing.T) {
	o := PlanOptions{Seed: 1, Count: 96, MaxTokens: 16, Longest: 600, Long: 600, Vocab: 64, Avoid: []int{63}}
	stems, scope, err := PlanPrompts(samples(), o)
	if err != nil || len(stems) != 96 || len(scope) != 0 {
		t.Fatal(len(stems), scope, err)
	}
	met, lengths := map[string]int{}, map[int]bool{}
	for i, s := range stems {
		met[s.Kind]++
		if lengths[s.Length] = true; s.Length > o.Longest || len(s.Tokens) < 2 || s.Length <= len(s.Tokens) || s.Length-len(s.Tokens) > o.MaxTokens+commonStem {
			t.Errorf("stem %d of %d tokens, %d in the end", i, len(s.Tokens), s.Length)
		}
		met["mod "+itoa(s.Length%modulus)]++
	}
	for _, kind := range Kinds() {
		if least := map[bool]int{true: 4, false: 8}[kind == KindLong]; met[kind] < least {
			t.Errorf("%s: %d prompts", kind, met[kind])
		}
	}
	for r := range modulus {
		if met["mod "+itoa(r)] < 4 {
			t.Errorf("residue %d: %v", r, met)
		}
	}
	for _, n := range []int{31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513, 600} {
		if !lengths[n] {
			t.Errorf("no prompt of %d tokens", n)
		}
	}
	again, _, err := PlanPrompts(samples(), o)
	if diff := gocmp.Diff(stems, again); diff != "" || err != nil {
		t.Errorf("same seed: %v\n%s", err, diff)
	}
}

func TestPlanPromptsSaysWhatDoesNotFit(t *testing.T) {
	o := PlanOptions{Seed: 1, Count: 32, MaxTokens: 64, Longest: 100, Long: 4096}
	stems, scope, err := PlanPrompts(samples(), o)
	if err != nil || len(scope) != 1 || !strings.Contains(scope[0], "up to 100 tokens, not 4096") {
		t.Errorf("scope %q, %v", scope, err)
	}
	for i, s := range stems {
		if s.Length > 100 || len(s.Tokens) >= s.Length {
			t.Errorf("stem %d of %d tokens, %d in the end", i, len(s.Tokens), s.Length)
		}
	}
	for name, change := range map[string]func(*PlanOptions){
		"context too short": func(o *PlanOptions) { o.Longest = 23 }, "no prompts": func(o *PlanOptions) { o.Count = 0 }, "no tokens": func(o *PlanOptions) { o.MaxTokens = 0 },
	} {
		bad := o
		change(&bad)
		if _, _, err := PlanPrompts(samples(), bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, _, err := PlanPrompts(nil, o); err == nil {
		t.Error("no samples: no error")
	}
}

// A fault of one length residue fails the verification through its stratum,
// and the stratum is named.
func TestOneBadResidueIsNamed(t *testing.T) {
	var prompts [][]int
	var kinds []string
	for i, p := range (toy{}).write(200, 60, 3) {
		prompts, kinds = append(prompts, p[:len(p)-i%modulus*5]), append(kinds, "natural")
	}
	in := verification(t.TempDir(), residueFault{honest, 3}, prompts)
	in.Strata, in.Spec.Margin.Ratio, in.Spec.Margin.KL = kinds, 40, 0
	r := run(t, in)
	if r.Gate.Verdict != gate.Fail || !strings.HasPrefix(r.Strata[0].Name, "length mod 8 = 3") || !r.Strata[0].Outside || r.Strata[len(r.Strata)-1].Outside {
		t.Errorf("%s: %s; worst %+v", r.Gate.Verdict, r.Gate.Reason, r.Strata[0])
	}
	if !slices.ContainsFunc(r.Causes, func(c Cause) bool { return strings.Contains(c.Name, "certain lengths") }) {
		t.Errorf("causes %v", r.Causes)
	}
	in.Candidate.Scorer = honest
	if r := run(t, in); r.Gate.Verdict != gate.Pass {
		t.Errorf("honest: %s: %s", r.Gate.Verdict, r.Gate.Reason)
	}
}
