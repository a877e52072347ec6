package verify

import (
	"cmp"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"tarbert/internal/engine"
)

// position is what an engine would say of a distribution.
func position(logp []float64, actual, k int) engine.Position {
	p := engine.Position{Token: actual, LogProb: logp[actual]}
	for id, lp := range logp {
		p.Top = append(p.Top, engine.TokenLogProb{Token: id, LogProb: lp})
	}
	slices.SortFunc(p.Top, func(a, b engine.TokenLogProb) int {
		return cmp.Or(cmp.Compare(b.LogProb, a.LogProb), cmp.Compare(a.Token, b.Token))
	})
	p.Top = p.Top[:min(k, len(p.Top))]
	return p
}

func logSoftmax(x []float64) []float64 {
	top, s := slices.Max(x), 0.0
	for _, v := range x {
		s += math.Exp(v - top)
	}
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = v - top - math.Log(s)
	}
	return out
}

func fullKL(a, b []float64) float64 {
	kl := 0.0
	for i := range a {
		if p := math.Exp(a[i]); p > 0 {
			kl += p * (a[i] - b[i])
		}
	}
	return kl
}

func drawPair(t *rapid.T) (a, b []float64, actual int) {
	n := rapid.IntRange(2, 60).Draw(t, "vocabulary")
	spread := rapid.SampledFrom([]float64{0.01, 1, 5, 40}).Draw(t, "spread")
	noise := rapid.SampledFrom([]float64{0, 1e-4, 0.1, 3, 40}).Draw(t, "noise")
	x, y := make([]float64, n), make([]float64, n)
	for i := range x {
		x[i] = spread * rapid.Float64Range(-1, 1).Draw(t, "x")
		y[i] = x[i] + noise*rapid.Float64Range(-1, 1).Draw(t, "d")
	}
	return logSoftmax(x), logSoftmax(y), rapid.IntRange(0, n-1).Draw(t, "actual")
}

func TestLowerKLIsALowerBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, actual := drawPair(t)
		k := rapid.IntRange(1, len(a)).Draw(t, "k")
		got, full := lowerKL(position(a, actual, k), position(b, actual, k)), fullKL(a, b)
		if !(got >= 0) || math.IsInf(got, 0) {
			t.Fatalf("bound is %g", got)
		}
		if got > full+1e-9+1e-12*full {
			t.Fatalf("k=%d: bound %.12g above the divergence %.12g", k, got, full)
		}
		if same := lowerKL(position(a, actual, k), position(a, actual, k)); same > 1e-12 {
			t.Fatalf("a distribution is %g from itself", same)
		}
	})
}

func TestLowerKLOfTheWholeVocabularyIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, actual := drawPair(t)
		got, full := lowerKL(position(a, actual, len(a)), position(b, actual, len(b))), fullKL(a, b)
		if math.Abs(got-max(full, 0)) > 2*massResolution+1e-9*full {
			t.Fatalf("%g, want %g", got, full)
		}
	})
}

// More of the vocabulary never loosens the bound on known cases: what the top
// twenty keep of a divergence is what the reports rest on.
func TestLowerKLKeepsMostOfTheDivergence(t *testing.T) {
	m := toy{vocab: 200}
	noisy := toy{vocab: 200, noise: 0.1}
	var kept, full float64
	for i := range 200 {
		prefix := []int{i % 7, i}
		a, b := m.logits(prefix), noisy.logits(prefix)
		kept += lowerKL(position(a, 3, 20), position(b, 3, 20))
		full += fullKL(a, b)
	}
	if share := kept / full; share < 0.75 || share > 1 {
		t.Errorf("top 20 of 200 keep %.3f of the divergence", share)
	}
}

func TestSlopeSeesATemperature(t *testing.T) {
	m := toy{vocab: 100}
	var xy, xx float64
	for i := range 50 {
		a := m.logits([]int{i, i + 1})
		cold := slices.Clone(a)
		for j := range cold {
			cold[j] /= 0.9
		}
		dxy, dxx := slopeSums(position(a, 0, 20), position(logSoftmax(cold), 0, 20))
		xy, xx = xy+dxy, xx+dxx
	}
	if slope := xy / xx; math.Abs(slope-1/0.9) > 1e-9 {
		t.Errorf("slope %.6f, want 1/0.9", slope)
	}
}
