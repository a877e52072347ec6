package compare

import (
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

func near(got, want, tolerance float64) bool { return math.Abs(got-want) <= tolerance }

func TestPublishedWilson(t *testing.T) {
	for _, c := range []struct {
		source    string
		hits, n   int
		low, high float64
		tolerance float64
	}{
		{"Newcombe, Stat. Med. 17:857 (1998), table I, method 3", 81, 263, 0.2553, 0.3662, 5e-5},
		{"the same", 15, 148, 0.0624, 0.1605, 5e-5},
		{"the same", 0, 20, 0, 0.1611, 5e-5},
		{"the same", 1, 29, 0.0061, 0.1718, 5e-5},
		{"R, Hmisc::binconf(520, 1000)", 520, 1000, 0.4890177, 0.5508292, 5e-8},
		{"R, score interval of 6 of 32", 6, 32, 0.08889545, 0.35309155, 5e-9},
	} {
		low, high := wilson(c.hits, c.n, z975)
		if !near(low, c.low, c.tolerance) || !near(high, c.high, c.tolerance) {
			t.Errorf("%s: %d of %d gives %.8f to %.8f, want %.8f to %.8f", c.source, c.hits, c.n, low, high, c.low, c.high)
		}
	}
}

func TestPublishedMcNemar(t *testing.T) {
	for _, c := range []struct {
		source       string
		onlyA, onlyB int
		want         float64
		tolerance    float64
	}{
		{"Armitage and Berry (1994) p. 127, exact p by StatsDirect", 12, 2, 0.0129, 5e-5},
		{"R, binom.test(1, 8)", 1, 7, 0.0703125, 1e-12},
		{"R, binom.test(0, 5)", 0, 5, 0.0625, 1e-12},
		{"an even split", 7, 7, 1, 0},
		{"no discordant problem", 0, 0, 1, 0},
		{"sum over binomials, 59 of 145 by hand in float64", 59, 86, byHand(59, 145), 1e-12},
		{"thousands", 1900, 2100, byNormal(1900, 4000), 2e-4},
	} {
		for _, p := range []float64{mcnemar(c.onlyA, c.onlyB), mcnemar(c.onlyB, c.onlyA)} {
			if !near(p, c.want, c.tolerance) {
				t.Errorf("%s: %d against %d gives %.9f, want %.9f", c.source, c.onlyA, c.onlyB, p, c.want)
			}
		}
	}
}

// byHand builds Pascal's row by repeated halving, without logarithms.
func byHand(k, n int) float64 {
	row := make([]float64, n+1)
	row[0] = 1
	for range n {
		for i := n; i > 0; i-- {
			row[i] = (row[i] + row[i-1]) / 2
		}
		row[0] /= 2
	}
	sum := 0.0
	for i := 0; i <= k; i++ {
		sum += row[i]
	}
	return 2 * sum
}

// byNormal is the continuity-corrected normal approximation, good for large n.
func byNormal(k, n int) float64 {
	z := (float64(n)/2 - float64(k) - 0.5) / math.Sqrt(float64(n)/4)
	return math.Erfc(z / math.Sqrt2)
}

func TestPublishedPairedInterval(t *testing.T) {
	for _, c := range []struct {
		source    string
		s         split
		low, high float64
		tolerance float64
	}{
		{"Armitage and Berry (1994), Newcombe's interval by StatsDirect", split{20, 12, 2, 16}, 0.056156, 0.329207, 5e-7},
		{"Bland (2000), 1319 schoolchildren, by MedCalc's large-sample interval", split{212, 256, 144, 707}, 0.055, 0.114, 6e-4},
	} {
		low, high := c.s.interval(z975)
		if !near(low, c.low, c.tolerance) || !near(high, c.high, c.tolerance) {
			t.Errorf("%s: %.6f to %.6f, want %.6f to %.6f", c.source, low, high, c.low, c.high)
		}
	}
}

// weights-parity's rule of thumb: with a tenth of the problems discordant, 5
// points take 306 problems, 3 take 870, 2 take 1,950.
func TestDetectable(t *testing.T) {
	for n, want := range map[int]float64{306: 0.05, 870: 0.03, 1950: 0.02} {
		d := int(math.Round(float64(n) / 10))
		got := split{both: n - d, onlyA: d / 2, onlyB: d - d/2}.detectable()
		if !near(got, want, 4e-4) {
			t.Errorf("%d problems detect %.4f, want %.4f", n, got, want)
		}
	}
	if got := (split{both: 200}).detectable(); got <= 0 || got > 0.05 {
		t.Errorf("with nothing discordant: %v", got)
	}
}

func drawSplit(t *rapid.T) split {
	count := rapid.IntRange(0, 60)
	s := split{count.Draw(t, "both"), count.Draw(t, "onlyA"), count.Draw(t, "onlyB"), count.Draw(t, "neither")}
	if s.n() == 0 {
		s.both = 1
	}
	return s
}

// The interval holds the difference, lies in [−1, 1], mirrors when the candidates
// change places, and shrinks with less confidence; the p-value does not see the
// concordant problems.
func TestPairedIntervalProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSplit(t)
		low, high := s.interval(z975)
		if d := s.difference(); low > d+1e-12 || high < d-1e-12 || low < -1 || high > 1 {
			t.Fatalf("%+v: %v in %v to %v", s, d, low, high)
		}
		mirror := split{s.both, s.onlyB, s.onlyA, s.neither}
		if l, h := mirror.interval(z975); !near(l, -high, 1e-9) || !near(h, -low, 1e-9) {
			t.Fatalf("%+v: %v to %v, mirrored %v to %v", s, low, high, l, h)
		}
		if l, h := s.interval(z95); l < low-1e-12 || h > high+1e-12 {
			t.Fatalf("%+v: the 90 %% interval is not inside the 95 %% one", s)
		}
		if p := mcnemar(s.onlyA, s.onlyB); p <= 0 || p > 1 {
			t.Fatalf("p = %v", p)
		}
	})
}

// The one-sided bound covers the true difference in about 95 of 100
// repetitions, where the gate uses it: 200 problems, few of them discordant.
func TestBoundCovers(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const n, repetitions = 200, 4000
	for _, c := range []struct{ both, onlyA, onlyB float64 }{{0.88, 0.02, 0.04}, {0.7, 0.08, 0.08}, {0.93, 0.01, 0.06}} {
		truth, covered := c.onlyA-c.onlyB, 0
		for range repetitions {
			var s split
			for range n {
				switch u := rng.Float64(); {
				case u < c.both:
					s.both++
				case u < c.both+c.onlyA:
					s.onlyA++
				case u < c.both+c.onlyA+c.onlyB:
					s.onlyB++
				default:
					s.neither++
				}
			}
			if low, _ := s.interval(z95); low <= truth {
				covered++
			}
		}
		if share := float64(covered) / repetitions; share < 0.93 || share > 0.985 {
			t.Errorf("%+v: the 95 %% bound covers in %.3f of %d", c, share, repetitions)
		}
	}
}
