package trainer

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestWeights holds corrections to their definitions on one sample whose
// tokens' ratios are 2, 1/2, 4 and 1: product 4, geometric mean √2.
func TestWeights(t *testing.T) {
	ln2 := float32(math.Ln2)
	mu := []float32{-2, -1, -3, -0.5}
	pi := []float32{-2 + ln2, -1 - ln2, -3 + 2*ln2, -0.5}
	root := math.Sqrt2
	for _, c := range []struct {
		name string
		c    Correction
		want []float64
	}{
		{"none", Correction{}, []float64{1, 1, 1, 1}},
		{"truncated, tokens", Correction{Truncate: 3}, []float64{2, 0.5, 3, 1}},
		{"truncated, sequence", Correction{Truncate: 3, TruncateLevel: Sequence}, []float64{3, 3, 3, 3}},
		{"truncated, sequence within", Correction{Truncate: 5, TruncateLevel: Sequence}, []float64{4, 4, 4, 4}},
		{"truncated, geometric", Correction{Truncate: 5, TruncateLevel: Geometric}, []float64{root, root, root, root}},
		{"masked, tokens", Correction{MaskLow: 0.6, MaskHigh: 3}, []float64{1, 0, 0, 1}},
		{"masked, sequence", Correction{MaskLow: 0.5, MaskHigh: 3, MaskLevel: Sequence}, []float64{0, 0, 0, 0}},
		{"masked, geometric", Correction{MaskLow: 0.5, MaskHigh: 1.5, MaskLevel: Geometric}, []float64{1, 1, 1, 1}},
		{"IcePop", Correction{Truncate: 3, MaskLow: 0.6, MaskHigh: 3}, []float64{2, 0, 0, 1}},
		{"both levels", Correction{Truncate: 3, MaskLow: 0.5, MaskHigh: 4.1, MaskLevel: Sequence}, []float64{2, 0.5, 3, 1}},
	} {
		got := c.c.weights(pi, mu)
		for i := range got {
			if math.Abs(got[i]-c.want[i]) > 1e-6 {
				t.Errorf("%s: weights %v, want %v", c.name, got, c.want)
				break
			}
		}
	}
	nan := float32(math.NaN())
	if got := (Correction{MaskHigh: 2}).weights([]float32{nan}, []float32{0}); got[0] != 0 {
		t.Errorf("a ratio that is no number weighs %g", got[0])
	}
}

// TestWeightsStayInBounds: whatever the log-probabilities, a weight is 0 or at
// most C, one for all tokens of a sample above token level, and all of them 1
// where the policies agree.
func TestWeightsStayInBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		level := rapid.SampledFrom([]Level{"", Token, Sequence, Geometric})
		c := Correction{Truncate: rapid.SampledFrom([]float64{0, 1, 2, 10}).Draw(t, "C"), TruncateLevel: level.Draw(t, "truncate level"),
			MaskHigh: rapid.SampledFrom([]float64{0, 1, 2, 5}).Draw(t, "high"), MaskLevel: level.Draw(t, "mask level")}
		if c.MaskHigh > 0 {
			c.MaskLow = 1 / c.MaskHigh
		}
		logp := rapid.SliceOfN(rapid.Float32Range(-30, 0), 1, 12)
		mu := logp.Draw(t, "mu")
		pi := slices.Clone(mu)
		for i := range pi {
			pi[i] += rapid.Float32Range(-3, 3).Draw(t, "apart")
		}
		whole := c.TruncateLevel != "" && c.TruncateLevel != Token && c.MaskLevel != "" && c.MaskLevel != Token
		for i, w := range c.weights(pi, mu) {
			if !(w >= 0) || c.Truncate > 0 && w > c.Truncate || c.Truncate == 0 && w > 1 {
				t.Fatalf("weight %g with %+v", w, c)
			}
			if whole && w != c.weights(pi, mu)[0] {
				t.Fatalf("token %d of a sample weighs %g and the first %g with %+v", i, w, c.weights(pi, mu)[0], c)
			}
		}
		for _, w := range c.weights(mu, mu) {
			if w != 1 {
				t.Fatalf("weight %g with %+v where the policies agree", w, c)
			}
		}
	})
}

// TestWeightedObjectiveGradients: weights and the old policy are constants to
// the derivative.
func TestWeightedObjectiveGradients(t *testing.T) {
	mu := []float32{-0.5, -2, -0.25, -1}
	old := []float32{-0.625, -1.75, -0.5, -1.5}
	near := []float32{-0.5625, -1.8125, -0.5625, -1.5}
	clip := clipping{low: 0.2, high: 0.28}
	for _, c := range []struct {
		name string
		c    Correction
	}{
		{"token", Correction{Truncate: 1.1, MaskLow: 0.7, MaskHigh: 5}},
		{"sequence", Correction{Truncate: 2, TruncateLevel: Sequence, MaskLow: 0.1, MaskHigh: 5, MaskLevel: Sequence}},
		{"geometric", Correction{Truncate: 0.9, TruncateLevel: Geometric}},
	} {
		w := c.c.weights(old, mu)
		if slices.Equal(w, []float64{1, 1, 1, 1}) {
			t.Errorf("%s: weights of one show nothing", c.name)
		}
		for name, f := range map[string]objective{
			"grpo, good": grpo(old, w, 1.5, clip, 9), "grpo, bad": grpo(old, w, -0.7, clip, 9),
			"gspo, good": gspo(old, w, 1.5, clip, 5), "gspo, bad": gspo(old, w, -0.7, clip, 5),
		} {
			if e := slopeError(f, near); !(e < 2e-3) {
				t.Errorf("%s with %s weights: derivative off by %.2g of the largest", name, c.name, e)
			}
		}
	}
}

// TestCorrectedStartsAtTheTrainersPolicy: before the update every clipped ratio
// is 1, so the gradient is the plain policy gradient times the weights, however
// far the rollout's policy is.
func TestCorrectedStartsAtTheTrainersPolicy(t *testing.T) {
	mu, pi := []float32{-3, -1, -1}, []float32{-1, -1, -2} // ratios e², 1, 1/e
	c := Correction{Truncate: 2, MaskLow: 0.5, MaskHigh: 10}
	clip := clipping{low: 0.2, high: 0.28}
	var seen tally
	f := c.corrected(mu, func(old []float32, w []float64) objective { return grpo(old, w, 3, clip, 6) }, func(w []float64) { seen.add(c, w) })
	loss, d := f(pi)
	if want := []float32{-1, -0.5, 0}; !slices.Equal(d, want) || loss != -1.5 {
		t.Errorf("loss %g, gradient %v; want -1.5 and %v", loss, d, want)
	}
	if seen.all != 3 || seen.masked != 1 || seen.truncated != 1 || seen.sum != 3 {
		t.Errorf("tally %+v", seen)
	}
}
