package verify

import (
	"cmp"
	"math"
	"slices"
)

// wealth is a betting e-process (Waudby-Smith and Ramdas 2024) against the
// hypothesis that each X, given those before it, has a mean of at most 0:
// the money made by betting on X from 1, never more than 1 on average if the
// hypothesis holds, at whatever moment one stops (Ville 1939). X is at least
// −low: what a bet can lose is its price, so low is as small as X allows. Half
// of the money is with ten bettors who stake fixed shares of what they can
// lose, half with one who stakes what would have done best so far; the process
// is their sum.
type wealth struct {
	low            float64
	logs           []float64
	sum, sum2, cnt float64
	top            float64 // largest log e so far
}

var stakes = []float64{0.95, 0.75, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05, 0.025, 0.01}

// deepest is the largest share that the adaptive bettor stakes.
const deepest = 0.9

func newWealth(low float64) *wealth {
	w := &wealth{low: low, logs: make([]float64, len(stakes)+1)}
	for i := range stakes {
		w.logs[i] = -math.Log(2 * float64(len(stakes)))
	}
	w.logs[len(stakes)] = -math.Ln2
	return w
}

func (w *wealth) add(x float64) {
	x = max(x, -w.low)
	for i, s := range stakes {
		w.logs[i] += math.Log1p(s / w.low * x)
	}
	// The adaptive one: mean over second moment (aGRAPA), with a prior of one
	// observation of a quarter of the range, known before x.
	prior := w.low / 4
	mu, second := w.sum/(w.cnt+1), (w.sum2+prior*prior)/(w.cnt+1)
	stake := min(max(mu/second, 0), deepest/w.low)
	w.logs[len(stakes)] += math.Log1p(stake * x)
	w.sum, w.sum2, w.cnt = w.sum+x, w.sum2+x*x, w.cnt+1
	w.top = max(w.top, w.log())
}

func (w *wealth) log() float64 {
	top := slices.Max(w.logs)
	s := 0.0
	for _, l := range w.logs {
		s += math.Exp(l - top)
	}
	return top + math.Log(s)
}

// e is the wealth; it stays finite so that it can be written as JSON.
func (w *wealth) e() float64 { return math.Exp(min(600, w.log())) }

// reached says that the wealth was once at least 1/level: Ville's inequality
// bounds the chance of that, so what it has lost since does not matter.
func (w *wealth) reached(level float64) bool { return w.top >= -math.Log(level) }

// rejectedByEBH says which of some e-values are too large for all to come from
// true hypotheses, with a false discovery rate of at most level whatever their
// dependence (Wang and Ramdas 2022): the j largest, for the largest j with the
// j-th largest at least n/(j·level). Where every hypothesis is true that rate is
// the chance of rejecting any. It takes values of one moment, not maxima.
func rejectedByEBH(e []float64, level float64) []bool {
	order := make([]int, len(e))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(e[b], e[a]) })
	out := make([]bool, len(e))
	for j := len(order); j > 0; j-- {
		if e[order[j-1]] >= float64(len(e))/(float64(j)*level) {
			for _, i := range order[:j] {
				out[i] = true
			}
			break
		}
	}
	return out
}
