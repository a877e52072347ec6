package reference

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestGreedyTakesTheLowestOfEquals(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, c := range []struct {
		logits []float32
		want   int
	}{
		{[]float32{1, 3, 3, 2}, 1}, {[]float32{5}, 0}, {[]float32{nan, 1, 2}, 2}, {[]float32{nan, nan}, 0},
		{[]float32{1, inf, inf}, 1}, {[]float32{-inf, -inf}, 0},
	} {
		if got := (Sampler{}).Pick(c.logits, 0.5); got != c.want {
			t.Errorf("greedy of %v is %d, want %d", c.logits, got, c.want)
		}
	}
}

// TestPickFollowsProbability walks u over [0, 1) and compares the share each
// token gets with its probability under the filters.
func TestPickFollowsProbability(t *testing.T) {
	logits := []float32{float32(math.Log(0.1)), float32(math.Log(0.4)), float32(math.Log(0.2)), float32(math.Log(0.3))}
	for _, c := range []struct {
		name string
		s    Sampler
		want []float64
	}{
		{"plain", Sampler{Temperature: 1}, []float64{0.1, 0.4, 0.2, 0.3}},
		{"half temperature", Sampler{Temperature: 0.5}, []float64{0.01 / 0.3, 0.16 / 0.3, 0.04 / 0.3, 0.09 / 0.3}},
		{"top-k", Sampler{Temperature: 1, TopK: 2}, []float64{0, 4.0 / 7, 0, 3.0 / 7}},
		{"top-k of more than there are", Sampler{Temperature: 1, TopK: 9}, []float64{0.1, 0.4, 0.2, 0.3}},
		{"top-p", Sampler{Temperature: 1, TopP: 0.75}, []float64{0, 4.0 / 9, 2.0 / 9, 3.0 / 9}},
		{"top-p of one", Sampler{Temperature: 1, TopP: 1}, []float64{0.1, 0.4, 0.2, 0.3}},
		{"tiny top-p", Sampler{Temperature: 1, TopP: 1e-9}, []float64{0, 1, 0, 0}},
		{"top-k, then top-p of what is left", Sampler{Temperature: 1, TopK: 2, TopP: 0.5}, []float64{0, 1, 0, 0}},
		{"min-p", Sampler{Temperature: 1, MinP: 0.6}, []float64{0, 4.0 / 7, 0, 3.0 / 7}},
	} {
		const steps = 100000
		count := make([]float64, len(logits))
		for i := range steps {
			count[c.s.Pick(logits, (float64(i)+0.5)/steps)]++
		}
		for i, w := range c.want {
			if math.Abs(count[i]/steps-w) > 1e-4 {
				t.Errorf("%s: token %d is picked %v of the time, want %v", c.name, i, count[i]/steps, w)
			}
		}
	}
}

func TestPickAtTheEdges(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	last := math.Nextafter(1, 0)
	for _, s := range []Sampler{{Temperature: 1}, {Temperature: 1, TopP: 0.9}, {Temperature: 1, TopK: 3}} {
		for _, logits := range [][]float32{{1, 2, 3, -inf}, {-inf, 0, -inf}, {inf, 1}, {nan, 0, nan}, {-3e38, 3e38}} {
			for _, u := range []float64{0, last} {
				if got := s.Pick([]float32{nan, -inf, -inf}, u); got != 1 {
					t.Errorf("%+v picked token %d where all are impossible", s, got)
				}
				got := s.Pick(logits, u)
				if x := logits[got]; x != x || x == -inf {
					t.Errorf("%+v picked token %d of %v with u=%v", s, got, logits, u)
				}
			}
		}
	}
}

func TestLogProbs(t *testing.T) {
	logits := []float32{1, 3, 2, 3, -1}
	sum := 0.0
	for _, l := range logits {
		sum += math.Exp(float64(l))
	}
	lp := func(l float64) float64 { return l - math.Log(sum) }
	near := cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) < 1e-6 })
	for _, c := range []struct {
		actual, k int
		want      Position
	}{
		{1, 0, Position{LogProb: lp(3), Rank: 1}},
		{3, 1, Position{LogProb: lp(3), Rank: 2, Top: []TokenLogProb{{1, lp(3)}}}},
		{4, 3, Position{LogProb: lp(-1), Rank: 5, Top: []TokenLogProb{{1, lp(3)}, {3, lp(3)}, {2, lp(2)}}}},
		{0, 9, Position{LogProb: lp(1), Rank: 4, Top: []TokenLogProb{{1, lp(3)}, {3, lp(3)}, {2, lp(2)}, {0, lp(1)}, {4, lp(-1)}}}},
	} {
		if diff := cmp.Diff(c.want, LogProbs(logits, c.actual, c.k), near); diff != "" {
			t.Errorf("token %d, top %d (-want +got):\n%s", c.actual, c.k, diff)
		}
	}
}

// TestTopKAgainstSorting draws logits with many ties.
func TestTopKAgainstSorting(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 200 {
		logits := make([]float32, 1+r.IntN(40))
		if i%4 == 0 {
			logits = make([]float32, 200+r.IntN(1500)) // whole blocks are passed over
		}
		order := make([]int, len(logits))
		for i := range logits {
			logits[i], order[i] = float32(r.IntN(6)*r.IntN(1+i%7)), i
		}
		slices.SortStableFunc(order, func(a, b int) int { return int(logits[b] - logits[a]) })
		k := 1 + r.IntN(len(logits))
		if diff := cmp.Diff(order[:k], topK(logits, k)); diff != "" {
			t.Fatalf("top %d of %v (-want +got):\n%s", k, logits, diff)
		}
	}
}
