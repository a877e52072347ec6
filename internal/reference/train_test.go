package reference_test

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tarbert/internal/reference"
	"tarbert/internal/tensor"
)

// TestGradientsDoNotDependOnThreads compares every gradient to the bit.
func TestGradientsDoNotDependOnThreads(t *testing.T) {
	for _, name := range trainable {
		t.Run(name, func(t *testing.T) {
			var want []reference.Param
			for _, threads := range []int{1, 2, 5} {
				m, err := reference.LoadTrainable(goldenDir(name), threads)
				if err != nil {
					t.Fatal(err)
				}
				batch := someSamples(11, m.Config().VocabSize, 70, 3, 2, 130, 33, 64)
				if _, err := m.ForwardBackward(context.Background(), batch, meanNLL); err != nil {
					t.Fatal(err)
				}
				if want == nil {
					want = m.Params()
					continue
				}
				for i, p := range m.Params() {
					if !sameBits(p.Grad, want[i].Grad) {
						t.Errorf("%s: other bits with %d threads than with 1", p.Name, threads)
					}
				}
			}
		})
	}
}

func sameBits(a, b []float32) bool {
	return slices.EqualFunc(a, b, func(x, y float32) bool { return math.Float32bits(x) == math.Float32bits(y) })
}

// TestTrainerAndSamplerAgreeToTheBit is what makes the mismatch between
// rollout and trainer exactly zero, also after the weights have changed.
func TestTrainerAndSamplerAgreeToTheBit(t *testing.T) {
	ctx := context.Background()
	for _, name := range trainable {
		t.Run(name, func(t *testing.T) {
			m, err := reference.LoadTrainable(goldenDir(name), 2)
			if err != nil {
				t.Fatal(err)
			}
			batch := someSamples(5, m.Config().VocabSize, 40, 2, 17, 90)
			for round := range 2 {
				var seen [][]float32
				objective := func(logp [][]float32) (float64, [][]float32) {
					for _, s := range logp {
						seen = append(seen, slices.Clone(s))
					}
					return meanNLL(logp)
				}
				m.ZeroGrad()
				if _, err := m.ForwardBackward(ctx, batch, objective); err != nil {
					t.Fatal(err)
				}
				again, err := m.LogProbs(ctx, batch)
				if err != nil {
					t.Fatal(err)
				}
				for i, s := range batch {
					if !sameBits(seen[i], again[i]) {
						t.Errorf("round %d sample %d: LogProbs differs from the training pass", round, i)
					}
					if got := decoded(t, m.Inference(), s); !sameBits(got, seen[i]) {
						t.Errorf("round %d sample %d: decoding differs from the training pass", round, i)
					}
				}
				for _, p := range m.Params() { // a step of gradient descent
					for i, g := range p.Grad {
						p.Data[i] -= 0.01 * g
					}
				}
			}
		})
	}
}

// TestGradientsFollowTheWeights changes weights in place and compares the next
// step's gradients with those of the same model loaded afresh.
func TestGradientsFollowTheWeights(t *testing.T) {
	ctx := context.Background()
	m := reference.NewTrainable(sumsConfig(), 6, 2)
	batch := someSamples(1, 264, 30, 4, 18)
	for range 2 {
		if _, err := m.ForwardBackward(ctx, batch, meanNLL); err != nil {
			t.Fatal(err)
		}
		for _, p := range m.Params() {
			for i, g := range p.Grad {
				p.Data[i] -= 0.1 * g
			}
		}
		m.ZeroGrad()
	}
	dir := t.TempDir()
	if err := m.SaveModel(dir); err != nil {
		t.Fatal(err)
	}
	fresh, err := reference.LoadTrainable(dir, 2)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []*reference.Trainable{m, fresh} {
		if _, err := x.ForwardBackward(ctx, batch, meanNLL); err != nil {
			t.Fatal(err)
		}
	}
	for i, p := range m.Params() {
		if !sameBits(p.Grad, fresh.Params()[i].Grad) {
			t.Errorf("%s: the gradient is not that of the changed weights", p.Name)
		}
	}
}

// decoded are the targets' log-probabilities, token by token through a cache.
func decoded(t *testing.T, m *reference.Model, s reference.Sample) []float32 {
	t.Helper()
	seq, out := m.NewSequence(), []float32{}
	for i := 1; i < len(s.Tokens); i++ {
		logits, err := m.Forward(context.Background(), []reference.Input{{Seq: seq, Tokens: s.Tokens[i-1 : i]}})
		if err != nil {
			t.Fatal(err)
		}
		if s.Mask[i] {
			out = append(out, float32(reference.LogProbs(logits[0][0], s.Tokens[i], 0).LogProb))
		}
	}
	return out
}

// TestGradientsAdd holds two steps on halves to one step on the whole: what
// gradient accumulation relies on, up to rounding.
func TestGradientsAdd(t *testing.T) {
	ctx := context.Background()
	sum := func(logp [][]float32) (float64, [][]float32) {
		d := make([][]float32, len(logp))
		for i, s := range logp {
			d[i] = slices.Repeat([]float32{-1}, len(s))
		}
		return 0, d
	}
	whole := reference.NewTrainable(sumsConfig(), 3, 2)
	parts := reference.NewTrainable(sumsConfig(), 3, 2)
	batch := someSamples(9, 264, 30, 5, 21, 40)
	if _, err := whole.ForwardBackward(ctx, batch, sum); err != nil {
		t.Fatal(err)
	}
	for _, half := range [][]reference.Sample{batch[:2], batch[2:]} {
		if _, err := parts.ForwardBackward(ctx, half, sum); err != nil {
			t.Fatal(err)
		}
	}
	for i, p := range whole.Params() {
		for j, g := range p.Grad {
			if d := math.Abs(float64(g - parts.Params()[i].Grad[j])); d > 1e-4*(1+math.Abs(float64(g))) {
				t.Fatalf("%s[%d]: %v in one step, %v in two", p.Name, j, g, parts.Params()[i].Grad[j])
			}
		}
	}
}

// TestExpertLoadCountsChoices checks the statistics of the balancing rule.
func TestExpertLoadCountsChoices(t *testing.T) {
	c := sumsConfig()
	m := reference.NewTrainable(c, 1, 2)
	batch := someSamples(2, c.VocabSize, 25, 9, 31)
	rows := 0
	for _, s := range batch { // tokens after the last target are not computed
		for at := len(s.Mask) - 1; at > 0; at-- {
			if s.Mask[at] {
				rows += at
				break
			}
		}
	}
	// A bias that large decides the choice alone.
	copy(m.RouterBias()[1].Data, []float32{0, 0, 0, 9, 0, 0, 9, 0})
	stats, err := m.ForwardBackward(context.Background(), batch, meanNLL)
	if err != nil {
		t.Fatal(err)
	}
	if len(stats.ExpertLoad) != 2 || len(m.RouterBias()) != 2 || stats.Tokens != 65 {
		t.Fatalf("%d loads, %d biases, %d tokens", len(stats.ExpertLoad), len(m.RouterBias()), stats.Tokens)
	}
	total := 0
	for _, n := range stats.ExpertLoad[0] {
		total += n
	}
	if total != rows*c.NumExpertsPerTok {
		t.Errorf("layer 1 has %d choices, want %d", total, rows*c.NumExpertsPerTok)
	}
	if want := []int{0, 0, 0, rows, 0, 0, rows, 0}; !slices.Equal(stats.ExpertLoad[1], want) {
		t.Errorf("layer 2's load is %v, want %v", stats.ExpertLoad[1], want)
	}
}

// TestSavedModelIsTheSame writes a model, reads it back in both ways and
// compares every bit.
func TestSavedModelIsTheSame(t *testing.T) {
	ctx := context.Background()
	for _, name := range trainable {
		t.Run(name, func(t *testing.T) {
			m, err := reference.LoadTrainable(goldenDir(name), 1)
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(t.TempDir(), "saved")
			if err := m.SaveModel(dir); err != nil {
				t.Fatal(err)
			}
			again, err := reference.LoadTrainable(dir, 1)
			if err != nil {
				t.Fatal(err)
			}
			for i, p := range append(m.Params(), m.RouterBias()...) {
				if q := append(again.Params(), again.RouterBias()...)[i]; q.Name != p.Name || !sameBits(p.Data, q.Data) {
					t.Errorf("%s came back as %s with other bits", p.Name, q.Name)
				}
			}
			loaded, err := reference.Load(dir, reference.Options{})
			if err != nil {
				t.Fatal(err)
			}
			tokens := []int{1, 2, 3, 4, 5, 6, 7}
			want, err := m.Inference().Score(ctx, tokens, 0)
			if err != nil {
				t.Fatal(err)
			}
			got, err := loaded.Score(ctx, tokens, 0)
			if err != nil {
				t.Fatal(err)
			}
			for i := range want {
				if want[i].LogProb != got[i].LogProb {
					t.Errorf("position %d: %v after saving, %v before", i, got[i].LogProb, want[i].LogProb)
				}
			}
		})
	}
}

// TestPredictionLayersAreKept loads a model with a multi-token-prediction
// layer in FP8 and finds it, widened, in what is saved.
func TestPredictionLayersAreKept(t *testing.T) {
	m, err := reference.LoadTrainable(goldenDir("deepseek-v3-fp8"), 1)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := m.SaveModel(dir); err != nil {
		t.Fatal(err)
	}
	source, err := tensor.OpenDir(goldenDir("deepseek-v3-fp8"))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	saved, err := tensor.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer saved.Close()
	kept := 0
	for _, want := range source.Infos() {
		got, ok := saved.Info(want.Name)
		if strings.HasSuffix(want.Name, "_scale_inv") {
			if ok {
				t.Errorf("%s was saved although its weight is no longer FP8", want.Name)
			}
			continue
		}
		if !ok || !slices.Equal(got.Shape, want.Shape) || got.DType == tensor.F8_E4M3 {
			t.Errorf("%s: saved %v as %v", want.Name, ok, got)
		}
		if m.Config().PredictionLayer(want.Name) {
			kept++
		}
	}
	if kept == 0 {
		t.Error("the model has no prediction layer")
	}
	if _, err := reference.Load(dir, reference.Options{}); err != nil {
		t.Error(err)
	}
}

// TestNewWeights checks the distribution and that a seed decides every bit.
func TestNewWeights(t *testing.T) {
	c := sumsConfig()
	a, b, other := reference.NewTrainable(c, 1, 1), reference.NewTrainable(c, 1, 4), reference.NewTrainable(c, 2, 1)
	n := 0
	for i, p := range a.Params() {
		n += len(p.Data)
		if !sameBits(p.Data, b.Params()[i].Data) {
			t.Errorf("%s: two models of one seed differ", p.Name)
		}
		if !p.Decay {
			if slices.ContainsFunc(p.Data, func(x float32) bool { return x != 1 }) {
				t.Errorf("%s: a norm is not one", p.Name)
			}
			continue
		}
		if sameBits(p.Data, other.Params()[i].Data) {
			t.Errorf("%s: seeds 1 and 2 agree", p.Name)
		}
		var sum, square float64
		for _, x := range p.Data {
			sum += float64(x)
			square += float64(x) * float64(x)
		}
		count := float64(len(p.Data))
		if std := math.Sqrt(square / count); math.Abs(std/0.02-1) > 0.1 || math.Abs(sum/count) > 0.02*4/math.Sqrt(count) {
			t.Errorf("%s: mean %v, standard deviation %v", p.Name, sum/count, std)
		}
	}
	if want := 500000; n < want || n > want*12/10 {
		t.Errorf("%d parameters, want a tenth or two more than %d", n, want)
	}
}

func TestTrainingRefusesBadInput(t *testing.T) {
	m := reference.NewTrainable(sumsConfig(), 1, 1)
	ok := reference.Sample{Tokens: []int{1, 2, 3}, Mask: []bool{false, true, true}}
	short := func(logp [][]float32) (float64, [][]float32) { return 0, [][]float32{{1}} }
	for _, c := range []struct {
		name  string
		batch []reference.Sample
		obj   reference.Objective
		want  string
	}{
		{"mask of another length", []reference.Sample{{Tokens: []int{1, 2}, Mask: []bool{true}}}, meanNLL, "mask"},
		{"no target", []reference.Sample{{Tokens: []int{1, 2}, Mask: []bool{true, false}}}, meanNLL, "no target"},
		{"empty batch", nil, meanNLL, "no target"},
		{"token outside the vocabulary", []reference.Sample{{Tokens: []int{264, 2}, Mask: []bool{false, true}}}, meanNLL, "264"},
		{"target outside the vocabulary", []reference.Sample{{Tokens: []int{2, 264}, Mask: []bool{false, true}}}, meanNLL, "264"},
		{"too long", []reference.Sample{{Tokens: make([]int, 600), Mask: slices.Repeat([]bool{true}, 600)}}, meanNLL, "max_position_embeddings"},
		{"derivatives of another shape", []reference.Sample{ok}, short, "derivatives"},
	} {
		if _, err := m.ForwardBackward(context.Background(), c.batch, c.obj); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one about %q", c.name, err, c.want)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := m.LogProbs(ctx, []reference.Sample{ok}); err == nil {
		t.Error("a cancelled pass went on")
	}
}

func TestSaveReportsFailure(t *testing.T) {
	m := reference.NewTrainable(sumsConfig(), 1, 1)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.SaveModel(filepath.Join(file, "below")); err == nil {
		t.Error("saving below a file succeeded")
	}
}
