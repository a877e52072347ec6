package reference_test

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"testing"

	"tarbert/internal/reference"
	"tarbert/internal/reference/oracle"
)

// golden models that can be trained, and what each of them covers.
var trainable = []string{
	"deepseek-v3",                  // q_proj, sigmoid routing, shared experts
	"deepseek-v3-groups-yarn",      // q_lora, group-limited routing, scaling factor, YaRN with mscale
	"qwen3",                        // tied embeddings, head norms, grouped queries
	"qwen3-published-bf16-sharded", // biases
	"qwen3-moe",                    // softmax routing, renormalised
	"qwen3-moe-published",          // not renormalised, decoder_sparse_step 2
}

func goldenDir(name string) string { return filepath.Join("testdata", "golden", name) }

// someSamples are short random sequences with random targets, one of them
// without any.
func someSamples(seed uint64, vocab int, lengths ...int) []reference.Sample {
	r := rand.New(rand.NewPCG(seed, 1))
	var out []reference.Sample
	for i, n := range lengths {
		s := reference.Sample{Tokens: make([]int, n), Mask: make([]bool, n)}
		for t := range n {
			s.Tokens[t] = r.IntN(vocab)
			s.Mask[t] = i != 1 && r.IntN(3) > 0
		}
		out = append(out, s)
	}
	return out
}

// meanNLL is the mean of -log p over all targets.
func meanNLL(logp [][]float32) (float64, [][]float32) {
	n, loss := 0, 0.0
	for _, s := range logp {
		n += len(s)
	}
	d := make([][]float32, len(logp))
	for i, s := range logp {
		d[i] = make([]float32, len(s))
		for j, v := range s {
			loss -= float64(v) / float64(n)
			d[i][j] = float32(-1 / float64(n))
		}
	}
	return loss, d
}

// gradientModel loads a golden model, or for "new" makes one with what none of
// them has: biases with latent attention, rotary halves, two shared experts,
// weights of experts not renormalised.
func gradientModel(t *testing.T, name string) *reference.Trainable {
	t.Helper()
	if name != "new" {
		m, err := reference.LoadTrainable(goldenDir(name), 2)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	c := sumsConfig()
	c.AttentionBias, c.QLoraRank, c.RopeInterleave, c.NumSharedExperts, c.NormTopKProb = true, 20, false, 2, false
	c.InitializerRange, c.RoutedScalingFactor = 0.15, 1.7
	m := reference.NewTrainable(c, 4, 2)
	r := rand.New(rand.NewPCG(8, 8))
	for _, p := range append(append([]reference.Param(nil), m.Params()...), m.RouterBias()...) {
		if len(p.Shape) == 1 {
			for i := range p.Data {
				p.Data[i] += float32(0.2 * r.NormFloat64())
			}
		}
	}
	return m
}

// oracleOf is the float64 implementation on the model's current weights.
func oracleOf(t *testing.T, m *reference.Trainable) *oracle.Model {
	t.Helper()
	config, err := m.Config().JSON()
	if err != nil {
		t.Fatal(err)
	}
	tensors := map[string]oracle.Tensor{}
	for _, p := range append(append([]reference.Param(nil), m.Params()...), m.RouterBias()...) {
		x := oracle.Tensor{Shape: p.Shape}
		for _, v := range p.Data {
			x.Data = append(x.Data, float64(v))
		}
		tensors[p.Name] = x
	}
	o, err := oracle.New(config, tensors)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

var numbers = regexp.MustCompile(`\.\d+\.`)

// TestGradientsAgreeWithFloat64 compares every kind of parameter's gradient
// with central differences of an independent float64 implementation.
func TestGradientsAgreeWithFloat64(t *testing.T) {
	for _, name := range append(trainable, "new") {
		t.Run(name, func(t *testing.T) {
			m := gradientModel(t, name)
			batch := someSamples(7, m.Config().VocabSize, 9, 4, 12)
			stats, err := m.ForwardBackward(context.Background(), batch, meanNLL)
			if err != nil {
				t.Fatal(err)
			}
			o := oracleOf(t, m)
			var examples []oracle.Example
			for _, s := range batch {
				examples = append(examples, oracle.Example{Tokens: s.Tokens, Mask: s.Mask, Routing: s.Routing})
			}
			if want, err := o.Loss(examples); err != nil || math.Abs(want-stats.Loss) > 1e-4 {
				t.Fatalf("loss %v, float64 has %v (%v)", stats.Loss, want, err)
			}
			r, seen := rand.New(rand.NewPCG(3, 4)), map[string]int{}
			for _, p := range m.Params() {
				// Twice each kind: experts without a token have no gradient.
				kind := numbers.ReplaceAllString(numbers.ReplaceAllString(p.Name, ".N."), ".N.")
				norm := length(p.Grad)
				if norm == 0 || seen[kind] == 2 {
					continue
				}
				seen[kind]++
				checkSlope(t, o, examples, p, norm, r)
			}
			for _, p := range m.Params() {
				if kind := numbers.ReplaceAllString(numbers.ReplaceAllString(p.Name, ".N."), ".N."); seen[kind] == 0 {
					t.Errorf("%s: no tensor of its kind has a gradient", p.Name)
				}
			}
		})
	}
}

func length(x []float32) float64 {
	sum := 0.0
	for _, v := range x {
		sum += float64(v) * float64(v)
	}
	return math.Sqrt(sum)
}

// checkSlope compares the derivative along the gradient with random signs plus
// a random direction: what is wrong anywhere shows in the first, what is
// missing in the second.
func checkSlope(t *testing.T, o *oracle.Model, batch []oracle.Example, p reference.Param, norm float64, r *rand.Rand) {
	t.Helper()
	d, want := make([]float64, len(p.Grad)), 0.0
	for i, g := range p.Grad {
		sign := float64(r.IntN(2)*2 - 1)
		d[i] = sign*float64(g)/norm + r.NormFloat64()/math.Sqrt(float64(len(d)))
		want += d[i] * float64(g)
	}
	got, err := o.Slope(batch, map[string][]float64{p.Name: d}, 1e-4)
	if errors.Is(err, oracle.ErrKink) {
		t.Logf("%s: %v", p.Name, err)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if diff := math.Abs(got.Value - want); !(diff <= 2e-4*norm) {
		t.Errorf("%s: derivative %v, float64 differences give %v (gradient's length %v)", p.Name, want, got.Value, norm)
	}
}
