package verify

import (
	"math/rand/v2"
	"testing"

	"tarbert/internal/gate"
)

// At the boundary of its hypothesis a bet makes 100 from 1 in at most 1 % of
// histories, however long one watches: Ville's inequality, here for skewed X.
func TestWealthIsRarelyLarge(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const trials, steps = 2000, 300
	reached := 0
	for range trials {
		w := newWealth(1)
		for range steps {
			x := -0.1 // mean zero: 0.9 with probability 1/10
			if r.Float64() < 0.1 {
				x = 0.9
			}
			w.add(x)
			if w.e() >= 100 {
				reached++
				break
			}
		}
	}
	if reached > trials*18/1000 { // three standard errors above 1 %
		t.Errorf("%d of %d fair histories reached 100", reached, trials)
	}
	t.Logf("%d of %d fair histories reached 100", reached, trials)
	w := newWealth(1)
	for range 30 {
		w.add(0.5)
	}
	if w.e() < 1e4 {
		t.Errorf("thirty wins of half the stake made only %g", w.e())
	}
}

func TestEBH(t *testing.T) {
	for _, c := range []struct {
		e    []float64
		want []bool
	}{
		{nil, nil},
		{[]float64{99}, []bool{false}},
		{[]float64{100}, []bool{true}},
		{[]float64{150, 1, 1}, []bool{false, false, false}},
		{[]float64{301, 1, 1}, []bool{true, false, false}},
		{[]float64{160, 1, 170}, []bool{true, false, true}}, // two at 150
	} {
		got := rejectedByEBH(c.e, 0.01)
		for i := range c.want {
			if got[i] != c.want[i] {
				t.Errorf("%v: %v, want %v", c.e, got, c.want)
			}
		}
	}
}

// scaledPrompt has a floor of log-normal divergences and a candidate that is
// drawn from the same distribution times a factor.
func scaledPrompt(r *rand.Rand, factor float64) Prompt {
	p := Prompt{From: 1, Tokens: make([]int, 33), Floor: &Series{}}
	level := exp(0.5 * r.NormFloat64())
	for range 32 {
		draw := func() float64 { return 5e-4 * level * exp(1.5*r.NormFloat64()) }
		p.Candidate.KL, p.Floor.KL = append(p.Candidate.KL, factor*draw()), append(p.Floor.KL, draw())
		p.LogProb, p.Candidate.LogProb = append(p.LogProb, -1), append(p.Candidate.LogProb, -1)
		p.Candidate.Same += "1"
		p.Gap = append(p.Gap, 1)
	}
	return p
}

// simulate decides on runs whose candidate is factor times the floor.
func simulate(factor float64, trials, prompts int) (pass, fail, median int) {
	r := rand.New(rand.NewPCG(42, uint64(factor*1000)))
	var after []int
	for range trials {
		ev := &Evidence{Floor: &Stack{}, Spec: margins, Planned: prompts, Typical: 2}
		ev.Spec.Margin.Ratio, ev.Spec.Margin.KL, ev.Spec.Margin.Top1 = 2, 0, 0
		for range prompts {
			ev.Prompts = append(ev.Prompts, scaledPrompt(r, factor))
		}
		s := decide(ev)
		switch s.Verdict {
		case gate.Pass:
			pass++
		case gate.Fail:
			fail++
		}
		after = append(after, s.After)
	}
	return pass, fail, medianOf(after)
}

func medianOf(x []int) int {
	best := 0
	for _, v := range x {
		below := 0
		for _, u := range x {
			if u <= v {
				below++
			}
		}
		if 2*below >= len(x) && (best == 0 || v < best) {
			best = v
		}
	}
	return best
}

// The facts' simulation: at twice the floor, the margin itself, a clipped mean
// ratio passed a third of the time. Clipped at one height it does not.
func TestSequentialErrorsAreRare(t *testing.T) {
	for _, c := range []struct {
		factor             float64
		maxPass, maxFail   int
		leastPass, leastFl int
	}{
		{1, 60, 0, 57, 0}, {2, 2, 2, 0, 0}, {3, 0, 60, 0, 57}, {10, 0, 60, 0, 60},
	} {
		pass, fail, n := simulate(c.factor, 60, 300)
		t.Logf("%g × the floor, margin 2×: %d pass, %d fail of 60, decided after %d prompts (median)", c.factor, pass, fail, n)
		if pass > c.maxPass || fail > c.maxFail || pass < c.leastPass || fail < c.leastFl {
			t.Errorf("%g × the floor: %d pass, %d fail", c.factor, pass, fail)
		}
	}
}
