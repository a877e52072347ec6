package compare

import "math"

// z975 and z95 are quantiles of the standard normal: two-sided 95 % and one-sided 95 %.
const (
	z975 = 1.959963984540054
	z95  = 1.6448536269514722
)

// wilson is the score interval of a binomial share, hits of n (E. B. Wilson,
// JASA 22, 1927), at z standard deviations. n must be positive.
func wilson(hits, n int, z float64) (low, high float64) {
	p, m := float64(hits)/float64(n), float64(n)
	center := p + z*z/(2*m)
	half := z * math.Sqrt(p*(1-p)/m+z*z/(4*m*m))
	low, high = (center-half)/(1+z*z/m), (center+half)/(1+z*z/m)
	if hits == 0 {
		low = 0 // exactly, where rounding would leave 1e-18
	}
	if hits == n {
		high = 1
	}
	return low, high
}

// mcnemar is the exact two-sided p-value of McNemar's test: were it a coin's
// toss which of two candidates is right where just one is, how likely is a split
// at least as uneven as onlyA to onlyB (Q. McNemar, Psychometrika 12, 1947;
// binomial instead of χ²). It is 1 if there is no such problem.
func mcnemar(onlyA, onlyB int) float64 {
	n, k := onlyA+onlyB, min(onlyA, onlyB)
	logAll, _ := math.Lgamma(float64(n + 1))
	p := 0.0
	for i := 0; i <= k; i++ {
		a, _ := math.Lgamma(float64(i + 1))
		b, _ := math.Lgamma(float64(n - i + 1))
		p += math.Exp(logAll - a - b - float64(n)*math.Ln2)
	}
	return min(1, 2*p)
}

// split is how two candidates did on the same problems.
type split struct{ both, onlyA, onlyB, neither int }

func (s split) n() int { return s.both + s.onlyA + s.onlyB + s.neither }

// difference is share(A correct) − share(B correct).
func (s split) difference() float64 { return float64(s.onlyA-s.onlyB) / float64(s.n()) }

// interval is Newcombe's hybrid score interval of that difference for paired
// data, at z standard deviations: the Wilson intervals of both shares, squared
// and added, with the shares' correlation φ (R. G. Newcombe, Statistics in
// Medicine 17, 2635–2650, 1998, method 10: φ's numerator is continuity
// corrected). Unlike the normal interval it stays inside [−1, 1] and does not
// collapse to a point where nothing is discordant.
func (s split) interval(z float64) (low, high float64) {
	n := float64(s.n())
	pa, pb := float64(s.both+s.onlyA)/n, float64(s.both+s.onlyB)/n
	la, ua := wilson(s.both+s.onlyA, s.n(), z)
	lb, ub := wilson(s.both+s.onlyB, s.n(), z)
	phi, d := s.phi(), s.difference()
	below := (pa-la)*(pa-la) - 2*phi*(pa-la)*(ub-pb) + (ub-pb)*(ub-pb)
	above := (pb-lb)*(pb-lb) - 2*phi*(pb-lb)*(ua-pa) + (ua-pa)*(ua-pa)
	return max(-1, d-math.Sqrt(max(0, below))), min(1, d+math.Sqrt(max(0, above)))
}

// phi is the correlation of the two candidates' correctness, with Newcombe's
// correction of the numerator towards 0.
func (s split) phi() float64 {
	a, b, c, d := float64(s.both), float64(s.onlyA), float64(s.onlyB), float64(s.neither)
	margins := (a + b) * (c + d) * (a + c) * (b + d)
	if margins == 0 {
		return 0
	}
	x := a*d - b*c
	if x > 0 {
		x = max(x-(a+b+c+d)/2, 0)
	}
	return x / math.Sqrt(margins)
}

// detectable is the smallest true difference that a two-sided 5 % test on these
// problems would find four times in five, if the share of discordant problems is
// what was seen (at least one): Δ with n = (z_{.975} + z_{.8})² (d − Δ²)/Δ².
func (s split) detectable() float64 {
	const z80 = 0.8416212335729143
	k := (z975 + z80) * (z975 + z80)
	n := float64(s.n())
	d := max(float64(s.onlyA+s.onlyB), 1) / n
	return math.Sqrt(k * d / (n + k))
}
