package reference

import (
	"context"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// sameBits compares two logit rows to the bit.
func sameBits(a, b []float32) bool {
	return slices.EqualFunc(a, b, func(x, y float32) bool { return math.Float32bits(x) == math.Float32bits(y) })
}

type profileCase struct {
	dir       string
	precision Precision
}

func (c profileCase) String() string { return filepath.Base(c.dir) + " " + string(c.precision) }

func profileCases() []profileCase {
	cases := []profileCase{
		{ascendDir("w8a8"), W8A8}, {ascendDir("w8a8"), F32}, {compressedDir(), W8A8}, {compressedDir(), F32}, {compressedDir(), BF16},
		{goldenDir("deepseek-v3-fp8"), FP8Block},
	}
	for _, name := range goldenModels {
		cases = append(cases, profileCase{goldenDir(name), F32}, profileCase{goldenDir(name), BF16})
	}
	return cases
}

// TestBitsDoNotDependOnHow draws texts, thread counts and schedules (which
// sequences go together, in pieces of what length, with tokens taken back in
// between) and compares every logit with one prefill of each text alone on one
// thread. It logs how many cases it saw.
func TestBitsDoNotDependOnHow(t *testing.T) { bitsDoNotDependOnHow(t) }

// TestSoakBitsDoNotDependOnHow draws twenty times as many.
func TestSoakBitsDoNotDependOnHow(t *testing.T) {
	if os.Getenv("TARBERT_SOAK") == "" {
		t.Skip("some minutes; make soak runs it")
	}
	checks := flag.Lookup("rapid.checks")
	before := checks.Value.String()
	if err := checks.Value.Set("2000"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := checks.Value.Set(before); err != nil {
			t.Error(err)
		}
	}()
	bitsDoNotDependOnHow(t)
}

func bitsDoNotDependOnHow(t *testing.T) {
	var all drawn
	for _, c := range profileCases() {
		t.Run(c.String(), func(t *testing.T) {
			models := map[int]*Model{}
			for _, threads := range []int{1, 2, 3, 7} {
				m, err := Load(c.dir, Options{Precision: c.precision, Threads: threads})
				if err != nil {
					t.Fatal(err)
				}
				models[threads] = m
			}
			rapid.Check(t, func(t *rapid.T) { checkSchedule(t, models, &all) })
		})
	}
	t.Logf("%d models and profiles, %d schedules, %d passes, %d rows of logits compared to the bit", len(profileCases()), all.schedules, all.passes, all.rows)
	if all.rows == 0 {
		t.Error("nothing was compared")
	}
}

// drawn counts what the property saw.
type drawn struct{ schedules, passes, rows int }

func checkSchedule(t *rapid.T, models map[int]*Model, all *drawn) {
	all.schedules++
	ctx := context.Background()
	m := models[rapid.SampledFrom([]int{1, 2, 3, 7}).Draw(t, "threads")]
	vocab := m.Config().VocabSize
	n := rapid.IntRange(1, 6).Draw(t, "sequences")
	texts, want := make([][]int, n), make([][][]float32, n)
	seqs := make([]*Sequence, n)
	for i := range n {
		texts[i] = rapid.SliceOfN(rapid.IntRange(0, vocab-1), 1, 90).Draw(t, fmt.Sprintf("text %d", i))
		alone, err := models[1].Forward(ctx, []Input{{Seq: models[1].NewSequence(), Tokens: texts[i], All: true}})
		if err != nil {
			t.Fatal(err)
		}
		want[i], seqs[i] = alone[0], m.NewSequence()
	}
	for {
		in, which := drawBatch(t, texts, seqs)
		if len(in) == 0 {
			return
		}
		got, err := m.Forward(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		all.passes++
		for j, i := range which {
			all.rows += len(got[j])
			end := seqs[i].Len()
			for k, row := range got[j] {
				if pos := end - len(got[j]) + k; !sameBits(row, want[i][pos]) {
					t.Fatalf("sequence %d position %d: other bits than alone in one prefill", i, pos)
				}
			}
			if rapid.IntRange(0, 9).Draw(t, "back") == 0 {
				seqs[i].Truncate(rapid.IntRange(max(0, end-3), end).Draw(t, "to"))
			}
		}
	}
}

// drawBatch takes the next piece of some unfinished sequences.
func drawBatch(t *rapid.T, texts [][]int, seqs []*Sequence) (in []Input, which []int) {
	for i, text := range texts {
		left := len(text) - seqs[i].Len()
		if left == 0 || len(in) > 0 && rapid.IntRange(0, 2).Draw(t, "skip") == 0 {
			continue
		}
		piece := min(left, rapid.SampledFrom([]int{1, 1, 2, 9, 30, 90}).Draw(t, "piece"))
		in = append(in, Input{Seq: seqs[i], Tokens: text[seqs[i].Len():][:piece], All: rapid.Bool().Draw(t, "all")})
		which = append(which, i)
	}
	return in, which
}

// TestClonesContinueAlike shares one prefill between two continuations.
func TestClonesContinueAlike(t *testing.T) {
	m := loadGolden(t, "deepseek-v3", Options{})
	ctx := context.Background()
	step := func(s *Sequence, tokens ...int) []float32 {
		t.Helper()
		out, err := m.Forward(ctx, []Input{{Seq: s, Tokens: tokens}})
		if err != nil {
			t.Fatal(err)
		}
		return out[0][0]
	}
	trunk := m.NewSequence()
	step(trunk, 5, 6, 7, 8)
	branch := trunk.Clone()
	step(trunk, 100, 101)
	got := step(branch, 9)
	if want := step(m.NewSequence(), 5, 6, 7, 8, 9); !sameBits(got, want) {
		t.Error("a clone's logits differ from the same text's")
	}
	if branch.Len() != 5 || trunk.Len() != 6 {
		t.Errorf("lengths %d and %d, want 5 and 6", branch.Len(), trunk.Len())
	}
}

// TestConcurrentForward runs many passes on one model at once; with -race it
// also shows that a Model has no hidden state.
func TestConcurrentForward(t *testing.T) {
	m := loadGolden(t, "qwen3-moe", Options{Threads: 3})
	cases, _ := readGolden(t, "qwen3-moe")
	want, err := m.Score(context.Background(), cases[0].Tokens, 3)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	for range 8 {
		go func() {
			got, err := m.Score(context.Background(), cases[0].Tokens, 3)
			if err == nil && !slices.EqualFunc(got, want, func(a, b Position) bool { return a.LogProb == b.LogProb && a.Rank == b.Rank }) {
				err = fmt.Errorf("concurrent scores differ")
			}
			done <- err
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestForwardRefusesBadInput(t *testing.T) {
	m, other := loadGolden(t, "qwen3", Options{}), loadGolden(t, "qwen3", Options{})
	seq := m.NewSequence()
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	long := make([]int, m.Config().MaxPositionEmbeddings+1)
	for _, c := range []struct {
		name string
		ctx  context.Context
		in   []Input
	}{
		{"no sequence", context.Background(), []Input{{Tokens: []int{1}}}},
		{"another model's sequence", context.Background(), []Input{{Seq: other.NewSequence(), Tokens: []int{1}}}},
		{"the same sequence twice", context.Background(), []Input{{Seq: seq, Tokens: []int{1}}, {Seq: seq, Tokens: []int{2}}}},
		{"no tokens", context.Background(), []Input{{Seq: seq}}},
		{"a token outside the vocabulary", context.Background(), []Input{{Seq: seq, Tokens: []int{320}}}},
		{"a negative token", context.Background(), []Input{{Seq: seq, Tokens: []int{-1}}}},
		{"too long", context.Background(), []Input{{Seq: seq, Tokens: long}}},
		{"cancelled", cancelled, []Input{{Seq: seq, Tokens: []int{1}}}},
	} {
		if _, err := m.Forward(c.ctx, c.in); err == nil {
			t.Errorf("%s: no error", c.name)
		}
		if seq.Len() != 0 {
			t.Fatalf("%s: the sequence grew to %d", c.name, seq.Len())
		}
	}
}

// TestScoreMatchesForward holds Score's chunks, layer by layer, to one pass
// over the text, in every profile.
func TestScoreMatchesForward(t *testing.T) {
	for _, c := range profileCases() {
		t.Run(c.String(), func(t *testing.T) {
			m, err := Load(c.dir, Options{Precision: c.precision, Threads: 3})
			if err != nil {
				t.Fatal(err)
			}
			const chunk = 50
			tokens := text(7, m.Config().VocabSize, 3*chunk+20)
			got, err := m.score(context.Background(), tokens, 5, chunk)
			if err != nil {
				t.Fatal(err)
			}
			all, err := m.Forward(context.Background(), []Input{{Seq: m.NewSequence(), Tokens: tokens, All: true}})
			if err != nil {
				t.Fatal(err)
			}
			if got[0].Rank != 0 || got[0].Top != nil {
				t.Errorf("entry 0 is %+v, want zero", got[0])
			}
			for i := 1; i < len(tokens); i++ {
				want := LogProbs(all[0][i-1], tokens[i], 5)
				if got[i].LogProb != want.LogProb || got[i].Rank != want.Rank || !slices.Equal(got[i].Top, want.Top) {
					t.Fatalf("position %d: %+v, want %+v", i, got[i], want)
				}
			}
		})
	}
}

func TestScoreRefusesBadInput(t *testing.T) {
	m := loadGolden(t, "qwen3", Options{})
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	for name, c := range map[string]struct {
		ctx    context.Context
		tokens []int
	}{
		"a last token outside the vocabulary": {context.Background(), []int{1, 320}},
		"an only token outside it":            {context.Background(), []int{-1}},
		"a token outside it":                  {context.Background(), []int{320, 1, 1}},
		"too long":                            {context.Background(), make([]int, m.Config().MaxPositionEmbeddings+2)},
		"cancelled":                           {cancelled, []int{1, 2, 3}},
	} {
		if _, err := m.Score(c.ctx, c.tokens, 1); err == nil {
			t.Errorf("%s: scored", name)
		}
	}
	for n := range 2 {
		if got, err := m.Score(context.Background(), make([]int, n), 1); err != nil || len(got) != n {
			t.Errorf("%d tokens: %d positions, error %v", n, len(got), err)
		}
	}
}
