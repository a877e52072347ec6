package verifytest_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tarbert/internal/engine"
	"tarbert/internal/gate"
	"tarbert/internal/reference"
	"tarbert/internal/reference/tokenizer"
	"tarbert/internal/reward"
	"tarbert/internal/spec"
	"tarbert/internal/verify"
	"tarbert/internal/verify/verifytest"
)

const (
	trained = "../../cli/testdata/trained"
	heldOut = "../../../examples/sums/data/held-out.jsonl"
)

// margins of every run here; the ratio and its like are to the bf16 floor.
var margins = spec.Verify{Top: 20, Margin: spec.Margin{Ratio: 3, KL: 0.005, DeltaNLL: 0.01, Top1: 0.97, Clip: 0.1}}

// remembered asks its scorer for each prompt once.
type remembered struct {
	*verifytest.Engine
	mu  sync.Mutex
	got map[string][]engine.Position
}

func (m *remembered) Score(ctx context.Context, prompts [][]int, k int) ([][]engine.Position, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([][]engine.Position, len(prompts))
	for i, p := range prompts {
		key := fmt.Sprint(p)
		if m.got[key] == nil {
			got, err := m.Engine.Score(ctx, prompts[i:i+1], k)
			if err != nil {
				return nil, err
			}
			m.got[key] = got[0]
		}
		out[i] = m.got[key]
	}
	return out, nil
}

// bench is a reference, its floor and prompts that the reference continued.
type bench struct {
	dir        string
	ref, floor *remembered
	prompts    [][]int
	from       []int
	eos        int
}

func load(t testing.TB, dir string, p reference.Precision) *verifytest.Engine {
	t.Helper()
	m, err := reference.Load(dir, reference.Options{Precision: p, Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	return &verifytest.Engine{Model: m, EOS: 258}
}

func newBench(t testing.TB, count int) *bench {
	t.Helper()
	b := &bench{dir: trained, eos: 258}
	b.ref = &remembered{Engine: load(t, trained, reference.F32), got: map[string][]engine.Position{}}
	b.floor = &remembered{Engine: load(t, trained, reference.BF16), got: map[string][]engine.Position{}}
	tok, err := tokenizer.Load(trained)
	if err != nil {
		t.Fatal(err)
	}
	problems, err := reward.ReadProblems(heldOut)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems[:count] {
		ids := tok.Encode(p.Prompt)
		b.prompts, b.from = append(b.prompts, ids), append(b.from, len(ids))
	}
	if b.prompts, err = verify.BuildPrompts(t.Context(), b.ref, b.prompts, verify.PromptOptions{Seed: 1, MaxTokens: 48}); err != nil {
		t.Fatal(err)
	}
	return b
}

// input compares a candidate; busy is the candidate under load.
func (b *bench) input(t testing.TB, candidate, busy *verifytest.Engine) verify.Input {
	in := verify.Input{
		Reference: verify.Side{Stack: verify.Stack{Name: "f32"}, Scorer: b.ref},
		Floor:     verify.Side{Stack: verify.Stack{Name: "bf16"}, Scorer: b.floor},
		Candidate: verify.Side{Stack: verify.Stack{Name: "candidate"}, Scorer: candidate},
		Prompts:   b.prompts, From: b.from, Spec: margins, Typical: 1.1, Seed: 7, OutDir: t.TempDir(), Vocab: 264,
		Sequential: true, Strata: slices.Repeat([]string{"sums"}, len(b.prompts)),
		Decode:  verify.DecodeOptions{Prompts: 64, Cuts: 2, Tokens: 4},
		Reverse: verify.ReverseOptions{Prompts: 200, MaxTokens: 48},
	}
	if busy != nil {
		in.Load = verify.LoadOptions{Prompts: 200, At: func(n int) verify.Scorer {
			if n > 1 {
				return busy
			}
			return candidate
		}}
	}
	return in
}

func (b *bench) plant(t testing.TB, f verifytest.Fault) (candidate, busy *verifytest.Engine) {
	t.Helper()
	dir := b.dir
	if f.Weights != nil || f.Config != nil {
		dir = t.TempDir()
		if err := verifytest.Copy(b.dir, dir, f.Weights, f.Config); err != nil {
			t.Fatal(err)
		}
	}
	candidate = load(t, dir, reference.BF16)
	if f.Engine != nil {
		f.Engine(candidate)
	}
	if f.Busy != nil {
		c := *candidate
		f.Busy(&c)
		busy = &c
	}
	return candidate, busy
}

type found struct {
	verdict gate.Verdict
	by      string // checks that failed
	prompts int
	tokens  int
	causes  []verify.Cause
	text    string
}

func (b *bench) try(t testing.TB, f verifytest.Fault) found {
	t.Helper()
	candidate, busy := b.plant(t, f)
	r, err := verify.Run(t.Context(), b.input(t, candidate, busy))
	if err != nil {
		t.Fatal(err)
	}
	again, err := verify.Recompute(r.Evidence)
	if err != nil || again.Gate.Verdict != r.Gate.Verdict {
		t.Errorf("%s: recomputed differently: %v", f.Name, err)
	}
	out := found{verdict: r.Gate.Verdict, causes: r.Causes, prompts: r.Prompts, tokens: r.Tokens, text: r.Signature}
	var by []string
	for _, c := range r.Gate.Checks {
		if c.Verdict == gate.Fail {
			by = append(by, c.Name)
		}
	}
	out.by = strings.Join(by, ", ")
	return out
}

func row(f verifytest.Fault, r found) string {
	named, right := "–", "no"
	if len(r.causes) > 0 {
		named = r.causes[0].Name
	}
	for i, c := range r.causes {
		if f.Cause != "" && strings.Contains(c.Name, f.Cause) {
			right = fmt.Sprint(i + 1)
			break
		}
	}
	return fmt.Sprintf("| %d | %s | %s | %s | %d | %s | %s |", f.Number, f.Name, r.verdict, r.by, r.tokens, named, right)
}

// A handful of faults, one of each kind, in every test run; all of them in
// TestSoakCatalogue.
func TestFaultsAreFound(t *testing.T) {
	b := newBench(t, 100)
	if r := b.try(t, verifytest.Fault{Name: "none"}); r.verdict != gate.Pass {
		t.Errorf("the honest model: %s by %s", r.verdict, r.by)
	}
	for _, f := range verifytest.Catalogue() {
		if !slices.Contains([]string{"two experts swapped", "rotary embedding not interleaved",
			"KV cache in eight bits (noise in decode)", "temperature 1.5 where 1 was asked", "experts drop tokens in large batches"}, f.Name) {
			continue
		}
		r := b.try(t, f)
		t.Log(row(f, r))
		if r.verdict != gate.Fail {
			t.Errorf("%s: %s", f.Name, r.verdict)
		}
		if !slices.ContainsFunc(r.causes, func(c verify.Cause) bool { return strings.Contains(c.Name, f.Cause) }) {
			t.Errorf("%s: named %v, want %q", f.Name, r.causes, f.Cause)
		}
	}
}

func TestSoakCatalogue(t *testing.T) {
	if os.Getenv("TARBERT_SOAK") == "" {
		t.Skip("set TARBERT_SOAK=1 to plant every fault")
	}
	b := newBench(t, 200)
	missed, wrong, seconds := 0, 0, time.Now()
	faults := append([]verifytest.Fault{{Name: "none"}}, verifytest.Catalogue()...)
	for _, f := range faults {
		r := b.try(t, f)
		line := row(f, r)
		t.Log(line)
		if os.Getenv("TARBERT_SIGNATURE") != "" {
			t.Log("    ", r.text)
		}
		switch {
		case f.Name == "none":
			if r.verdict != gate.Pass {
				t.Errorf("the honest model: %s by %s", r.verdict, r.by)
			}
		case r.verdict != gate.Fail && f.Unseen == "":
			missed++
			t.Errorf("not found: %s: %s", f.Name, r.verdict)
		case r.verdict == gate.Fail && strings.HasSuffix(line, "| no |"):
			wrong++
		}
	}
	t.Logf("%d faults planted, %d not found, cause not among the named for %d, %.0f s", len(faults)-1, missed, wrong, time.Since(seconds).Seconds())
}
