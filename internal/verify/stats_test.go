package verify

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// The bounds are one-sided 99 % bounds: on data with a known mean they may
// miss about one time in a hundred on each side. Divergences are skewed, and
// with tens of prompts every bootstrap misses more above than below.
func TestIntervalsCoverTheTruth(t *testing.T) {
	const trials, n = 1000, 64
	b := newBootstrap(n, 3, alpha)
	r := rand.New(rand.NewPCG(1, 2))
	above, below, ratioAbove, ratioBelow := 0, 0, 0, 0
	for range trials {
		x, y := make([]float64, n), make([]float64, n)
		for i := range x {
			effect := 0.5 * r.NormFloat64() // the prompt's, in both
			x[i] = 3 * math.Exp(effect+0.3*r.NormFloat64())
			y[i] = math.Exp(effect + 0.3*r.NormFloat64())
		}
		truth := 3 * math.Exp((0.25+0.09)/2)
		iv := b.mean(x)
		if truth > iv.Upper {
			above++
		}
		if truth < iv.Lower {
			below++
		}
		ratio, ok := b.ratio(x, y, 0)
		if !ok {
			t.Fatal("no ratio")
		}
		if 3 > ratio.Upper {
			ratioAbove++
		}
		if 3 < ratio.Lower {
			ratioBelow++
		}
	}
	t.Logf("of %d: mean missed %d above, %d below; ratio %d above, %d below", trials, above, below, ratioAbove, ratioBelow)
	for name, misses := range map[string]int{"mean above": above, "mean below": below, "ratio above": ratioAbove, "ratio below": ratioBelow} {
		if misses > trials*3/100 {
			t.Errorf("%s: missed %d of %d", name, misses, trials)
		}
	}
}

// Pairing is the point: with a common prompt effect the ratio is known far
// better than from the two means apart.
func TestRatiosArePaired(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	x, y := make([]float64, 64), make([]float64, 64)
	for i := range x {
		y[i] = math.Exp(r.NormFloat64())
		x[i] = 2 * y[i]
	}
	b := newBootstrap(64, 1, alpha)
	iv, ok := b.ratio(x, y, 0)
	if !ok || math.Abs(iv.Lower-2) > 1e-12 || math.Abs(iv.Upper-2) > 1e-12 {
		t.Errorf("twice as much everywhere gives %+v", iv)
	}
	if m := b.mean(y); m.Upper/m.Lower < 1.5 {
		t.Errorf("and yet the mean alone is known to %+v", m)
	}
	if _, ok := b.ratio(x, make([]float64, 64), 0); ok {
		t.Error("a ratio to zero")
	}
	once := make([]float64, 64)
	once[5] = 1 // most draws have it, some do not
	if iv, ok := b.ratio(x, once, 0); ok {
		t.Errorf("a ratio to what is zero in some draws: %+v", iv)
	}
}

func TestIntervalsHoldTheirEstimate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 40).Draw(t, "n")
		x := rapid.SliceOfN(rapid.Float64Range(0, 1), n, n).Draw(t, "x")
		iv := newBootstrap(n, 1, alpha).mean(x)
		if !(iv.Lower <= iv.Value && iv.Value <= iv.Upper) || math.Abs(iv.Value-mean(x)) > 1e-12 {
			t.Fatalf("%+v of %v", iv, x)
		}
		if iv.Lower < 0 || math.IsNaN(iv.Upper) || math.IsInf(iv.Upper, 0) {
			t.Fatalf("%+v of %v", iv, x)
		}
	})
}

func TestWeightedQuantile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		perPrompt := rapid.SliceOfN(rapid.SliceOfN(rapid.Float64Range(0, 1), 1, 9), 1, 9).Draw(t, "x")
		weights := rapid.SliceOfN(rapid.IntRange(0, 3), len(perPrompt), len(perPrompt)).Draw(t, "w")
		q := rapid.Float64Range(0, 1).Draw(t, "q")
		var all []float64
		for i, x := range perPrompt {
			for range weights[i] {
				all = append(all, x...)
			}
		}
		if len(all) == 0 {
			return
		}
		slices.Sort(all)
		if got, want := newTokens(perPrompt).quantile(q, weights), quantileAt(all, q); got != want {
			t.Fatalf("%g, want %g", got, want)
		}
	})
}

func TestWilson(t *testing.T) {
	// Wilson 1927 with z = 2.32635, computed apart from this code.
	if got := wilson(100, 100, alpha); math.Abs(got-0.94866) > 1e-4 {
		t.Errorf("%.5f", got)
	}
	if got := wilson(50, 100, alpha); math.Abs(got-0.38668) > 1e-4 {
		t.Errorf("%.5f", got)
	}
	if a, b := wilson(99, 100, alpha), wilson(990, 1000, alpha); !(a < b && b < 0.99) {
		t.Errorf("%g, %g", a, b)
	}
}
