package verifytest_test

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"tarbert/internal/gate"
	"tarbert/internal/verify"
	"tarbert/internal/verify/verifytest"
)

func row(f verifytest.Fault, r found) string {
	named, right := "–", "no"
	if len(r.causes) > 0 {
		named = r.causes[0].Name
	}
	if n := r.named(f.Cause); n > 0 {
		right = fmt.Sprint(n)
	}
	return fmt.Sprintf("| %d | %s | %s | %s | %d | %s | %s |", f.Number, f.Name, r.verdict, r.by, r.tokens, named, right)
}

// A handful of faults, one of each kind, in every test run; all of them in
// TestSoakCatalogue.
func TestFaultsAreFound(t *testing.T) {
	b := newBench(t, 100)
	b.chip = 2
	if r := b.try(t, verifytest.Fault{Name: "none"}); r.verdict == gate.Fail {
		t.Errorf("the honest model: %s by %s", r.verdict, r.by)
	}
	for _, f := range verifytest.Catalogue(b.config) {
		if !slices.Contains([]string{"two experts swapped", "rotary embedding not interleaved",
			"KV cache in int4", "temperature 1.5 where 1 was asked", "one bit flipped in a replica's weights", "tokenizer normalises line ends"}, f.Name) {
			continue
		}
		r := b.try(t, f)
		t.Log(row(f, r))
		if r.verdict != gate.Fail {
			t.Errorf("%s: %s", f.Name, r.verdict)
		}
		if r.named(f.Cause) == 0 {
			t.Errorf("%s: named %v, want %q", f.Name, r.causes, f.Cause)
		}
	}
}

// specimenBench grows a specimen, or finds it, and continues held-out heads
// from the offset on.
func specimenBench(t testing.TB, s verifytest.Specimen, offset, count int) *bench {
	t.Helper()
	c, err := verifytest.ReadCorpus()
	if err != nil {
		t.Fatal(err)
	}
	lab, err := verifytest.LabDir()
	if err != nil {
		t.Fatal(err)
	}
	g, err := verifytest.Grow(t.Context(), lab, s, c, 2)
	if err != nil {
		t.Fatal(err)
	}
	var heads []string
	for _, x := range c.HeldOut[offset : offset+count] {
		heads = append(heads, x.Prompt)
	}
	b := openBench(t, g.Dir, heads, 128, uint64(offset)+s.Seed)
	b.stale = g.Stale
	b.decode, b.reverse, b.busy = verify.DecodeOptions{Prompts: 64, Cuts: 8, Tokens: 16}, count, count
	b.chip = s.Seed + 100
	return b
}

func TestSoakCatalogue(t *testing.T) {
	if os.Getenv("TARBERT_SOAK") == "" {
		t.Skip("set TARBERT_SOAK=1 to plant every fault")
	}
	for _, s := range specimens() {
		t.Run(s.Name, func(t *testing.T) { plantAll(t, specimenBench(t, s, int(s.Seed)*64, 64)) })
	}
}

// specimens are those held out: nothing was chosen by looking at them.
// TARBERT_DEVELOP=1 takes those that limits and margins were set on.
func specimens() []verifytest.Specimen {
	seed := uint64(11)
	if os.Getenv("TARBERT_DEVELOP") != "" {
		seed = 1
	}
	return []verifytest.Specimen{verifytest.Latent(seed), verifytest.Dense(seed)}
}

func plantAll(t *testing.T, b *bench) {
	began := time.Now()
	only := os.Getenv("TARBERT_FAULT")
	seen, wrong, planted := 0, 0, 0
	numbers := map[int]bool{} // every variant that must be seen was
	for _, f := range append([]verifytest.Fault{{Name: "none"}}, verifytest.Catalogue(b.config)...) {
		if only != "" && f.Name != only {
			continue
		}
		r := b.try(t, f)
		t.Log(row(f, r))
		if os.Getenv("TARBERT_SIGNATURE") != "" {
			t.Log("    ", r.report.Signature)
			if s := r.report.Sequential; s != nil {
				for _, x := range s.Bets {
					t.Logf("      %-10s within %.3g beyond %.3g", x.Name, x.Within, x.Beyond)
				}
			}
		}
		if f.Name == "none" {
			if r.verdict == gate.Fail {
				t.Errorf("the honest model: %s by %s", r.verdict, r.by)
			}
			continue
		}
		planted++
		hit := r.verdict == gate.Fail
		if was, ok := numbers[f.Number]; f.Unseen == "" {
			numbers[f.Number] = hit && (was || !ok)
		} else if hit && !ok {
			numbers[f.Number] = true
		}
		if hit {
			seen++
			if r.named(f.Cause) == 0 {
				wrong++
			}
		}
	}
	whole := 0
	for _, all := range numbers {
		if all {
			whole++
		}
	}
	t.Logf("%d faults planted, %d found; of %d numbers %d with every variant that can be seen; cause not among the named for %d; %.0f s",
		planted, seen, len(numbers), whole, wrong, time.Since(began).Seconds())
}
