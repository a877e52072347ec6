package verifytest_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
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
			"KV cache in int4", "temperature 1.5 where 1 was asked", "one of two replicas has a layer's scales times 1.1", "tokenizer normalises line ends"}, f.Name) {
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
	seen := map[string]bool{}
	for _, x := range c.HeldOut[offset:] {
		if len(heads) < count && !seen[x.Prompt] {
			seen[x.Prompt], heads = true, append(heads, x.Prompt)
		}
	}
	b := openBench(t, g.Dir, heads, 128, uint64(offset)+s.Seed)
	b.stale = g.Stale
	b.decode, b.reverse, b.busy = verify.DecodeOptions{Prompts: 64, Cuts: 4, Tokens: 32}, count, count
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
	if os.Getenv("TARBERT_DEVELOP") != "" {
		return []verifytest.Specimen{verifytest.Latent(1), verifytest.Dense(1)}
	}
	return []verifytest.Specimen{verifytest.Latent(11), verifytest.Dense(11)}
}

// score sums a catalogue up.
type score struct {
	planted, seen, first, named int
	missed                      []string
	// numbers of the catalogue: whether every variant that can be seen was.
	numbers map[int]bool
}

func (x *score) add(f verifytest.Fault, r found) {
	x.planted++
	hit := r.verdict == gate.Fail
	was, ok := x.numbers[f.Number]
	switch {
	case f.Unseen == "":
		x.numbers[f.Number] = hit && (was || !ok)
	case !ok:
		x.numbers[f.Number] = hit
	}
	if !hit {
		x.missed = append(x.missed, fmt.Sprintf("%d %s (%s)", f.Number, f.Name, r.verdict))
		return
	}
	x.seen++
	switch r.named(f.Cause) {
	case 0:
	case 1:
		x.first, x.named = x.first+1, x.named+1
	default:
		x.named++
	}
}

func (x *score) log(t *testing.T, took time.Duration) {
	whole := 0
	for _, all := range x.numbers {
		if all {
			whole++
		}
	}
	t.Logf("%d faults planted, %d found; of %d numbers %d with every variant that can be seen; cause named first for %d, among the named for %d; %.0f s",
		x.planted, x.seen, len(x.numbers), whole, x.first, x.named, took.Seconds())
	t.Logf("not found: %s", strings.Join(x.missed, "; "))
}

// plantAll plants every fault whose name matches TARBERT_FAULT.
func plantAll(t *testing.T, b *bench) {
	began, only := time.Now(), os.Getenv("TARBERT_FAULT")
	sum := score{numbers: map[int]bool{}}
	for _, f := range append([]verifytest.Fault{{Name: "none"}}, verifytest.Catalogue(b.config)...) {
		if ok, err := regexp.MatchString(only, f.Name); !ok || err != nil {
			continue
		}
		got := b.try(t, f)
		t.Log(row(f, got))
		if os.Getenv("TARBERT_SIGNATURE") != "" {
			t.Logf("     %s; reverse %+v", got.report.Signature, got.report.Reverse)
		}
		if f.Name == "none" {
			if got.verdict == gate.Fail {
				t.Errorf("the honest model: %s by %s", got.verdict, got.by)
			}
			continue
		}
		sum.add(f, got)
	}
	sum.log(t, time.Since(began))
}
