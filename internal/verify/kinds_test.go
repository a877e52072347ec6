package verify

import (
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"tarbert/internal/gate"
)

func TestBuildStrataMeetsEveryKind(t *testing.T) {
	corpus := toy{}.write(20, 60, 3)
	for i := range corpus { // 48…63 are rare
		for j := range corpus[i] {
			corpus[i][j] %= 48
		}
	}
	o := StrataOptions{Seed: 1, Longest: 130, Vocab: 64, Avoid: []int{63}, Digits: []int{3, 4, 5}}
	prompts, kinds, err := BuildStrata(corpus, o)
	if err != nil {
		t.Fatal(err)
	}
	met, lengths := map[string]int{}, map[int]bool{}
	for i, p := range prompts {
		met[kinds[i]]++
		if lengths[len(p)] = true; len(p) > o.Longest || slices.Contains(p, 63) || slices.Max(p) >= o.Vocab {
			t.Errorf("prompt %d: %d tokens, largest %d", i, len(p), slices.Max(p))
		}
		for _, s := range strataOf(Prompt{}, 1, len(p)) {
			met[s]++
		}
	}
	for r := range modulus {
		if met["length mod 8 = "+itoa(r)] < 4 {
			t.Errorf("residue %d: %v", r, met)
		}
	}
	for _, n := range []int{15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129} {
		if !lengths[n] {
			t.Errorf("no prompt of %d tokens", n)
		}
	}
	if met["digits"] != 4 || met["rare tokens"] != 4 {
		t.Errorf("%v", met)
	}
	again, _, err := BuildStrata(corpus, o)
	if diff := gocmp.Diff(prompts, again); diff != "" || err != nil {
		t.Errorf("same seed: %v\n%s", err, diff)
	}
	for name, change := range map[string]func(*StrataOptions){
		"too short": func(o *StrataOptions) { o.Longest = 15 }, "no vocabulary": func(o *StrataOptions) { o.Vocab = 0 },
	} {
		bad := o
		change(&bad)
		if _, _, err := BuildStrata(corpus, bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, _, err := BuildStrata(nil, o); err == nil {
		t.Error("no corpus: no error")
	}
}

// A fault of one length residue fails the verification through its stratum,
// and the stratum is named.
func TestOneBadResidueIsNamed(t *testing.T) {
	prompts, kinds, err := BuildStrata(toy{}.write(40, 60, 3), StrataOptions{Seed: 1, Longest: 60, Each: 24, Vocab: 64})
	if err != nil {
		t.Fatal(err)
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
