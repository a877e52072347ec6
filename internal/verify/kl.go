package verify

import (
	"cmp"
	"math"
	"slices"

	"tarbert/internal/engine"
)

// massResolution is the smallest probability mass of the rest that is
// believed: log-probabilities are float32 on the wire, so that the sum of
// twenty of them is known to about this.
const massResolution = 1e-6

// lowerKL is a lower bound, in nats, of KL(a‖b) over the whole vocabulary from
// the k likeliest tokens of each side and the actual token, which both sides
// give (data-processing inequality: merging tokens cannot raise KL).
//
// Tokens known on both sides stand for themselves. A token that only a names
// has, under b, at most the probability of b's k-th; where in that range, and
// how much is left for all others, is chosen so that the divergence is least.
// Everything else is one bucket.
func lowerKL(a, b engine.Position) float64 {
	pb := masses(b)
	restA, restB, kl := 1.0, 1.0, 0.0
	var only []float64 // a's probabilities of tokens that b does not name
	for _, e := range known(a) {
		p := math.Exp(e.LogProb)
		restA -= p
		lq, both := pb[e.Token]
		if !both {
			only = append(only, p)
			continue
		}
		restB -= math.Exp(lq)
		if p > 0 {
			kl += p * (e.LogProb - lq)
		}
	}
	restA, restB = max(restA, 0), max(restB, massResolution)
	kl += leastRest(only, restA, restB, math.Exp(b.Top[len(b.Top)-1].LogProb))
	return max(kl, 0)
}

// known lists the tokens whose log-probability the position gives: the top
// ones, and the actual one if it is not among them.
func known(p engine.Position) []engine.TokenLogProb {
	for _, e := range p.Top {
		if e.Token == p.Token {
			return p.Top
		}
	}
	return append(slices.Clip(p.Top), engine.TokenLogProb{Token: p.Token, LogProb: p.LogProb})
}

func masses(p engine.Position) map[int]float64 {
	m := make(map[int]float64, len(p.Top)+1)
	for _, e := range known(p) {
		m[e.Token] = e.LogProb
	}
	return m
}

// leastRest minimises Σ pᵢ log(pᵢ/qᵢ) + r log(r/s) over qᵢ ∈ [0, most] and
// s ≥ 0 with Σ qᵢ + s = mass. Without the cap q is proportional to p; the
// likeliest tokens meet the cap first.
func leastRest(p []float64, r, mass, most float64) float64 {
	slices.SortFunc(p, func(x, y float64) int { return cmp.Compare(y, x) })
	total := r
	for _, x := range p {
		total += x
	}
	kl, left := 0.0, mass
	for len(p) > 0 && total > 0 && p[0]*left/total > most && left > most {
		kl += p[0] * math.Log(p[0]/most)
		total, left, p = total-p[0], left-most, p[1:]
	}
	if total > 0 {
		kl += total * math.Log(total/left)
	}
	return kl
}

// slopeSums gives Σxy and Σx² of the log-probabilities of the tokens that both
// sides name, each centred at its own mean: y ≈ slope·x. A slope other than one
// means scaled logits (temperature, a final norm), which keeps the order.
func slopeSums(a, b engine.Position) (xy, xx float64) {
	pb := masses(b)
	var xs, ys []float64
	for _, e := range a.Top {
		if y, ok := pb[e.Token]; ok {
			xs, ys = append(xs, e.LogProb), append(ys, y)
		}
	}
	mx, my := mean(xs), mean(ys)
	for i := range xs {
		xy += (xs[i] - mx) * (ys[i] - my)
		xx += (xs[i] - mx) * (xs[i] - mx)
	}
	return xy, xx
}

// seenShift is the mean change of the likely tokens that are in the text
// before, minus that of the others, and the same of a's log-probabilities
// themselves, by which a mere scale is told apart.
func seenShift(a, b engine.Position, before map[int]bool) (shift, level float64, ok bool) {
	pb := masses(b)
	var in, out, inX, outX []float64
	for _, e := range a.Top {
		lq, both := pb[e.Token]
		switch {
		case !both:
		case before[e.Token]:
			in, inX = append(in, lq-e.LogProb), append(inX, e.LogProb)
		default:
			out, outX = append(out, lq-e.LogProb), append(outX, e.LogProb)
		}
	}
	return mean(in) - mean(out), mean(inX) - mean(outX), len(in) > 0 && len(out) > 0
}

func mean(x []float64) float64 {
	if len(x) == 0 {
		return 0
	}
	s := 0.0
	for _, v := range x {
		s += v
	}
	return s / float64(len(x))
}
