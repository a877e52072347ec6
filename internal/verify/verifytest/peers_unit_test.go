package verifytest_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"tarbert/internal/engine"
	"tarbert/internal/verify/verifytest"
)

// Tables of the binomial distribution, by R's binom.test.
func TestClopperPearson(t *testing.T) {
	for _, c := range []struct {
		count, n  int
		low, high float64
	}{{0, 600, 0, 0.006129}, {5, 100, 0.016432, 0.112835}, {10, 10, 0.691503, 1}, {0, 1, 0, 0.975}} {
		low, high := verifytest.ClopperPearson(c.count, c.n, 0.05)
		if math.Abs(low-c.low) > 1e-5 || math.Abs(high-c.high) > 1e-5 {
			t.Errorf("%d of %d: [%.6f, %.6f], want [%.6f, %.6f]", c.count, c.n, low, high, c.low, c.high)
		}
	}
}

func TestPeersRules(t *testing.T) {
	if !verifytest.Benchmark([]bool{true, true, false, false}, []bool{true, false, true, false}, 0.05) || verifytest.Benchmark([]bool{true, true}, []bool{true, false}, 0.05) {
		t.Error("benchmark")
	}
	pos := func(top ...int) engine.Position {
		var p engine.Position
		for _, id := range top {
			p.Top = append(p.Top, engine.TokenLogProb{Token: id})
		}
		return p
	}
	a := verifytest.Written{Tokens: []int{1, 2, 9}, Positions: []engine.Position{pos(1), pos(2, 3), pos(9)}}
	b := verifytest.Written{Tokens: []int{1, 3, 7}, Positions: []engine.Position{pos(1), pos(3, 2), pos(7)}}
	if !verifytest.LogProbsClose(a, b) {
		t.Error("both name the other's token where they part: close, whatever comes after")
	}
	b.Positions[1] = pos(3, 4)
	if verifytest.LogProbsClose(a, b) {
		t.Error("the reference's token is not among the candidate's")
	}
	if verifytest.SameGreedy([]verifytest.Written{a}, []verifytest.Written{b}) || !verifytest.SameGreedy([]verifytest.Written{a}, []verifytest.Written{a}) {
		t.Error("greedy")
	}
	if f := verifytest.F1([]bool{true, true, false}, []bool{true, false, true}); math.Abs(f-0.5) > 1e-12 {
		t.Errorf("F1 %g", f)
	}
	r := rand.New(rand.NewPCG(1, 1))
	draw := func(shift int) [][][]int {
		out := make([][][]int, 8)
		for i := range out {
			for range 10 {
				s := make([]int, 20)
				for j := range s {
					s[j] = r.IntN(3) + shift*r.IntN(2)
				}
				out[i] = append(out[i], s)
			}
		}
		return out
	}
	if p := verifytest.EqualModels(draw(0), draw(0), 20, 199, r); p < 0.01 {
		t.Errorf("equal models: p %g", p)
	}
	if p := verifytest.EqualModels(draw(0), draw(2), 20, 199, r); p > 0.01 {
		t.Errorf("different models: p %g", p)
	}
}
