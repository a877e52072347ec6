package verifytest_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

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

// typicalMargin is that on a typical token. Floor and honest candidate are as far
// from the reference as each other, so the truth is 1.
const typicalMargin = 1.25

// remembered is an engine that is asked for everything once, and for what it
// writes all at once: every continuation that a bench will ask for.
type remembered struct {
	*verifytest.Engine
	b       *bench
	mu      sync.Mutex
	got     map[string][]engine.Position
	greedy  map[string]verifytest.Written
	sampled map[string]verifytest.Written
}

func (b *bench) remember(e *verifytest.Engine) *remembered {
	return &remembered{Engine: e, b: b, got: map[string][]engine.Position{}}
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

// Generate finds a greedy continuation of one of the bench's cuts.
func (m *remembered) Generate(ctx context.Context, r engine.GenerateRequest) ([]engine.Generated, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.greedy == nil {
		var prefixes [][]int
		n := m.b.decode.Cuts
		for i, p := range m.b.prompts { // which come first is for the run to choose
			for c := range n {
				prefixes = append(prefixes, p[:m.b.from[i]+c*(len(p)-m.b.from[i])/n])
			}
		}
		var err error
		if m.greedy, err = m.writeAll(ctx, prefixes, r.MaxTokens, 0, r.Top); err != nil {
			return nil, err
		}
	}
	w, ok := m.greedy[fmt.Sprint(r.Tokens)]
	if !ok {
		return nil, fmt.Errorf("a prefix of %d tokens was not expected", len(r.Tokens))
	}
	g := engine.Generated{FinishReason: "length", Positions: w.Positions, Keys: engine.KeysID, PromptTokens: len(r.Tokens), CompletionTokens: len(w.Tokens)}
	if w.Ended {
		g.FinishReason = "stop"
	}
	return []engine.Generated{g}, nil
}

// Complete finds a sample that follows one of the bench's heads.
func (m *remembered) Complete(ctx context.Context, r engine.CompletionRequest) ([]engine.Completion, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sampled == nil {
		heads := make([][]int, len(m.b.prompts))
		for i, p := range m.b.prompts {
			heads[i] = p[:m.b.from[i]]
		}
		var err error
		if m.sampled, err = m.writeAll(ctx, heads, r.MaxTokens, r.Temperature, 0); err != nil {
			return nil, err
		}
	}
	w, ok := m.sampled[fmt.Sprint(r.Tokens)]
	if !ok {
		return nil, fmt.Errorf("a prompt of %d tokens was not expected", len(r.Tokens))
	}
	c := engine.Completion{FinishReason: "length", TokenIDs: w.Tokens}
	if w.Ended {
		c.FinishReason = "stop"
	}
	return []engine.Completion{c}, nil
}

func (m *remembered) writeAll(ctx context.Context, prompts [][]int, most int, temperature float64, top int) (map[string]verifytest.Written, error) {
	out := map[string]verifytest.Written{}
	for len(prompts) > 0 { // so many at once that their caches stay small
		n := min(128, len(prompts))
		got, err := m.Write(ctx, prompts[:n], most, temperature, uint64(len(prompts))<<20+77, top)
		if err != nil {
			return nil, err
		}
		for i, w := range got {
			out[fmt.Sprint(prompts[i])] = w
		}
		prompts = prompts[n:]
	}
	return out, nil
}

// bench is a reference, its floor and prompts that the reference continued. The
// reference computes in float32; the floor is one chip's bf16, the candidate
// another's (see verifytest.Chip).
type bench struct {
	dir, stale string
	config     *reference.Config
	tok        *tokenizer.Tokenizer
	ref, floor *remembered
	prompts    [][]int
	from       []int
	eos        int
	chip       uint64 // the candidate's; 0 = the floor's own
	// what is asked
	typical   float64
	maxTokens int
	decode    verify.DecodeOptions
	reverse   int // prompts
	busy      int
}

func load(t testing.TB, dir string, p reference.Precision) *verifytest.Engine {
	t.Helper()
	m, err := reference.Load(dir, reference.Options{Precision: p, Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	return &verifytest.Engine{Model: m, EOS: m.Config().EOS[0]}
}

// openBench continues heads of text by the model in dir.
func openBench(t testing.TB, dir string, heads []string, maxTokens int, seed uint64) *bench {
	t.Helper()
	b := &bench{dir: dir, maxTokens: maxTokens, typical: typicalMargin}
	b.ref, b.floor = b.remember(load(t, dir, reference.F32)), b.remember(load(t, dir, reference.BF16))
	b.config, b.eos = b.ref.Model.Config(), b.ref.EOS
	var err error
	if b.tok, err = tokenizer.Load(dir); err != nil {
		t.Fatal(err)
	}
	for _, head := range heads {
		ids := b.tok.Encode(head)
		b.prompts, b.from = append(b.prompts, ids), append(b.from, len(ids))
	}
	got, err := b.ref.Write(t.Context(), b.prompts, maxTokens, 1, seed, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range got {
		b.prompts[i] = append(slices.Clip(b.prompts[i]), w.Tokens...)
	}
	return b
}

// newBench is on the small model of the command line's tests, for quick ones.
func newBench(t testing.TB, count int) *bench {
	t.Helper()
	problems, err := reward.ReadProblems(heldOut)
	if err != nil {
		t.Fatal(err)
	}
	var heads []string
	for _, p := range problems[:count] {
		heads = append(heads, p.Prompt)
	}
	b := openBench(t, trained, heads, 48, 1)
	b.decode, b.reverse, b.busy = verify.DecodeOptions{Prompts: 64, Cuts: 2, Tokens: 4}, count, count
	return b
}

// input compares a candidate; busy is the candidate under load.
func (b *bench) input(t testing.TB, candidate, busy, replica *verifytest.Engine) verify.Input {
	in := verify.Input{
		Reference: verify.Side{Stack: verify.Stack{Name: "f32"}, Scorer: b.ref},
		Floor:     verify.Side{Stack: verify.Stack{Name: "bf16"}, Scorer: b.floor},
		Candidate: verify.Side{Stack: verify.Stack{Name: "candidate"}, Scorer: b.remember(candidate)},
		Prompts:   slices.Clone(b.prompts), From: slices.Clone(b.from), Spec: margins, Typical: b.typical, Seed: 7, OutDir: t.TempDir(), Vocab: verifytest.Vocabulary,
		Sequential: true, Strata: slices.Repeat([]string{"text"}, len(b.prompts)),
		Decode:  b.decode,
		Reverse: verify.ReverseOptions{Prompts: b.reverse, MaxTokens: b.maxTokens},
	}
	if busy != nil || replica != nil {
		in.Load.Prompts = b.busy
	}
	if busy != nil {
		in.Load.At = func(n int) verify.Scorer {
			if n > 1 {
				return busy
			}
			return candidate
		}
	}
	if replica != nil {
		in.Load.Replicas = []verify.Side{{Stack: verify.Stack{Name: "replica 0"}, Scorer: candidate}, {Stack: verify.Stack{Name: "replica 1"}, Scorer: replica}}
	}
	return in
}

// candidate is the model in dir, edited, on the candidate's chip.
func (b *bench) candidate(t testing.TB, dir string, weights func(verifytest.Weights) error, config func(map[string]any)) *verifytest.Engine {
	t.Helper()
	chipWeights, chipConfig := func(verifytest.Weights) error { return nil }, func(map[string]any) {}
	if b.chip != 0 {
		chipWeights, chipConfig = verifytest.Chip(b.chip)
	}
	out := t.TempDir()
	if err := verifytest.Copy(dir, out, func(w verifytest.Weights) error {
		if weights != nil {
			if err := weights(w); err != nil {
				return err
			}
		}
		return chipWeights(w)
	}, func(c map[string]any) {
		if config != nil {
			config(c)
		}
		chipConfig(c)
	}); err != nil {
		t.Fatal(err)
	}
	return load(t, out, reference.BF16)
}

func (b *bench) plant(t testing.TB, f verifytest.Fault) (candidate, busy, replica *verifytest.Engine) {
	t.Helper()
	dir := b.dir
	if f.Stale {
		dir = b.stale
	}
	candidate = b.candidate(t, dir, f.Weights, f.Config)
	if f.Engine != nil {
		f.Engine(candidate)
	}
	if f.Busy != nil {
		c := *candidate
		f.Busy(&c)
		busy = &c
	}
	if f.Replica != nil {
		replica = b.candidate(t, dir, f.Replica, nil)
	}
	return candidate, busy, replica
}

type found struct {
	verdict gate.Verdict
	by      string // checks that failed
	prompts int
	tokens  int
	causes  []verify.Cause
	report  *verify.Report
}

// named is the rank at which a cause, or one of several with | between them,
// was named; 0 = not.
func (r found) named(cause string) int {
	for i, c := range r.causes {
		for one := range strings.SplitSeq(cause, "|") {
			if one != "" && strings.Contains(c.Name, one) {
				return i + 1
			}
		}
	}
	return 0
}

func (b *bench) try(t testing.TB, f verifytest.Fault) found {
	t.Helper()
	if f.Text != nil {
		return b.tryText(f)
	}
	r, err := verify.Run(t.Context(), b.input(b.plantFor(t, f)))
	if err != nil {
		t.Fatal(err)
	}
	again, err := verify.Recompute(r.Evidence)
	if err != nil || again.Gate.Verdict != r.Gate.Verdict {
		t.Errorf("%s: recomputed differently: %v", f.Name, err)
	}
	out := found{verdict: r.Gate.Verdict, causes: r.Causes, prompts: r.Prompts, tokens: spent(r), report: r}
	var by []string
	for _, c := range r.Gate.Checks {
		if c.Verdict == gate.Fail {
			by = append(by, c.Name)
		}
	}
	out.by = strings.Join(by, ", ")
	return out
}

func (b *bench) plantFor(t testing.TB, f verifytest.Fault) (testing.TB, *verifytest.Engine, *verifytest.Engine, *verifytest.Engine) {
	candidate, busy, replica := b.plant(t, f)
	return t, candidate, busy, replica
}

// spent counts the candidate's tokens in all parts up to the decision.
func spent(r *verify.Report) int {
	n := r.Tokens
	if r.Sequential != nil {
		n = r.Sequential.Tokens
	}
	for _, p := range r.Parts {
		n += p.Tokens
	}
	if r.Reverse != nil {
		n += r.Reverse.Tokens
	}
	return n
}

// tryText holds the contract's conversations against what the fault makes of
// them: counts of tokens, no statistics.
func (b *bench) tryText(f verifytest.Fault) found {
	var ref, cand verify.Observed
	tokens := 0
	for _, tc := range verify.TemplateCases() {
		text := strings.NewReplacer(`[{"role":`, "<", `,{"role":`, "<", `","content":"`, ">", `"},`, "</>", `"}]`, "</>", `\r`, "\r", `\n`, "\n").Replace(strings.ReplaceAll(tc.Messages, `"role":"`, `"role":`))
		text = strings.ReplaceAll(text, "<system></>", "<system></system>")
		ref.Templates = append(ref.Templates, len(b.tok.Encode(text)))
		cand.Templates = append(cand.Templates, len(b.tok.Encode(f.Text(text))))
		tokens += cand.Templates[len(cand.Templates)-1]
	}
	checks := verify.CheckContract(ref, cand)
	out := found{verdict: gate.Pass, tokens: tokens, report: &verify.Report{}}
	for _, c := range checks {
		if c.Verdict == gate.Fail {
			out.verdict, out.by = gate.Fail, "contract-"+c.Name
			out.causes = []verify.Cause{{Name: "the endpoint, not the weights", Why: c.Detail}}
		}
	}
	return out
}

// meanKL is the candidate's mean divergence from the reference, not clipped, and
// the number of tokens it is over.
func (b *bench) meanKL(t testing.TB, candidate *verifytest.Engine) (kl float64, tokens int) {
	t.Helper()
	in := b.input(t, candidate, nil, nil)
	in.Sequential, in.Strata, in.Decode, in.Reverse = false, nil, verify.DecodeOptions{}, verify.ReverseOptions{}
	in.Spec.Margin.Clip = 1e6
	r, err := verify.Run(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return r.KL.Value, r.Tokens
}
