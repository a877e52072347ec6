package verify

import (
	"math"
	"math/rand/v2"
	"slices"

	"tarbert/internal/spec"
)

const (
	// alpha is the chance of error where the spec gives none, and that of each
	// bound of the intervals that are only told.
	alpha = 0.01
	// resamples of the prompts for each interval.
	resamples = 2000
)

// Interval is an estimate with its bounds.
type Interval struct {
	Value float64 `json:"value"`
	Lower float64 `json:"lower"`
	Upper float64 `json:"upper"`
}

// bootstrap draws prompts with replacement. One draw serves all statistics, so
// that ratios are paired.
type bootstrap struct {
	n     int
	level float64 // of each bound
	draws [][]int // resamples × n: how often each prompt was drawn
}

func newBootstrap(n int, seed uint64, level float64) *bootstrap {
	r := rand.New(rand.NewPCG(seed, 0x7665726966790000)) // "verify": its own stream of the release's seed
	b := &bootstrap{n: n, level: level, draws: make([][]int, resamples)}
	for i := range b.draws {
		b.draws[i] = make([]int, n)
		for range n {
			b.draws[i][r.IntN(n)]++
		}
	}
	return b
}

// ratio gives the interval of Σnum/Σden over prompts: from the bias-corrected and
// accelerated bootstrap (Efron 1987) to the studentised one (Hall 1988), whichever
// reaches farther. Per-prompt means of divergences are skewed: plain percentiles
// cover too little, and each of the two too little where the other does not.
// stats_test.go has the rates. ok is false if a draw's denominator is not above
// least, so that the ratio means nothing.
func (b *bootstrap) ratio(num, den []float64, least float64) (iv Interval, ok bool) {
	sumN, sumD := sum(num), sum(den)
	if sumD <= least {
		return Interval{}, false
	}
	reps, shifts := make([]float64, len(b.draws)), make([]float64, 0, len(b.draws))
	value := sumN / sumD
	for i, w := range b.draws {
		var n, d, nn, nd, dd float64
		for j, times := range w {
			t := float64(times)
			n, d = n+t*num[j], d+t*den[j]
			nn, nd, dd = nn+t*num[j]*num[j], nd+t*num[j]*den[j], dd+t*den[j]*den[j]
		}
		if d <= least {
			return Interval{}, false
		}
		r := n / d
		reps[i] = r
		if spread := math.Sqrt(max(0, nn-2*r*nd+r*r*dd)) / d; spread > 0 {
			shifts = append(shifts, (r-value)/spread)
		}
	}
	jack := make([]float64, b.n)
	spread := 0.0
	for j := range jack {
		if jack[j] = value; sumD-den[j] > least {
			jack[j] = (sumN - num[j]) / (sumD - den[j])
		}
		spread += (num[j] - value*den[j]) * (num[j] - value*den[j])
	}
	iv = bca(value, reps, jack, b.level)
	if len(shifts) > 0 {
		slices.Sort(shifts)
		spread = math.Sqrt(spread) / sumD
		iv.Lower = min(iv.Lower, value-spread*quantileAt(shifts, 1-b.level))
		iv.Upper = max(iv.Upper, value-spread*quantileAt(shifts, b.level))
		if slices.Min(num) >= 0 { // nor can their mean be below 0
			iv.Lower = max(iv.Lower, 0)
		}
	}
	return iv, true
}

// mean is the interval of the mean over prompts.
func (b *bootstrap) mean(x []float64) Interval {
	ones := make([]float64, b.n)
	for i := range ones {
		ones[i] = 1
	}
	iv, _ := b.ratio(x, ones, 0)
	return iv
}

// percentile is the plain interval of a statistic of the draws' weights, for
// statistics (quantiles) on which the jackknife fails.
func (b *bootstrap) percentile(value float64, of func(weights []int) float64) Interval {
	reps := make([]float64, len(b.draws))
	for i, w := range b.draws {
		reps[i] = of(w)
	}
	slices.Sort(reps)
	return Interval{value, min(value, quantileAt(reps, b.level)), max(value, quantileAt(reps, 1-b.level))}
}

// bca turns replicates into bounds.
func bca(value float64, reps, jack []float64, level float64) Interval {
	slices.Sort(reps)
	below := 0.0
	for _, r := range reps {
		switch {
		case r < value:
			below++
		case r == value:
			below += 0.5
		}
	}
	z0 := normalQuantile(below / float64(len(reps)))
	m, s2, s3 := mean(jack), 0.0, 0.0
	for _, x := range jack {
		d := m - x
		s2 += d * d
		s3 += d * d * d
	}
	accel := 0.0
	if s2 > 0 {
		accel = s3 / (6 * math.Pow(s2, 1.5))
	}
	bound := func(p float64) float64 {
		z := z0 + normalQuantile(p)
		q := normalCDF(z0 + z/(1-accel*z))
		if math.IsNaN(q) || math.IsInf(z0, 0) || 1-accel*z <= 0 {
			q = p // too skewed to correct: the percentile itself
		}
		return quantileAt(reps, q)
	}
	// The bounds never exclude the estimate itself.
	return Interval{value, min(value, bound(level)), max(value, bound(1-level))}
}

func normalCDF(z float64) float64 { return 0.5 * math.Erfc(-z/math.Sqrt2) }

func normalQuantile(p float64) float64 { return -math.Sqrt2 * math.Erfcinv(2*p) }

// quantileAt is the q-quantile of sorted values, the nearest one.
func quantileAt(sorted []float64, q float64) float64 {
	i := int(q * float64(len(sorted)))
	return sorted[max(0, min(i, len(sorted)-1))]
}

// tokens is one number per token, sorted, with the prompt each belongs to.
type tokens struct {
	value  []float64
	prompt []int
}

func newTokens(perPrompt [][]float64) tokens {
	type pair struct {
		v float64
		p int
	}
	var all []pair
	for p, x := range perPrompt {
		for _, v := range x {
			all = append(all, pair{v, p})
		}
	}
	slices.SortFunc(all, func(a, b pair) int {
		switch {
		case a.v < b.v:
			return -1
		case a.v > b.v:
			return 1
		}
		return a.p - b.p
	})
	t := tokens{make([]float64, len(all)), make([]int, len(all))}
	for i, x := range all {
		t.value[i], t.prompt[i] = x.v, x.p
	}
	return t
}

// quantile is the token quantile when prompt p counts weights[p] times; nil
// weights count each once.
func (t tokens) quantile(q float64, weights []int) float64 {
	if weights == nil {
		return quantileAt(t.value, q)
	}
	total := 0
	for _, p := range t.prompt {
		total += weights[p]
	}
	want := min(int(q*float64(total)), total-1)
	for i, p := range t.prompt {
		if want -= weights[p]; want < 0 {
			return t.value[i]
		}
	}
	return 0
}

// wilson is the one-sided lower bound, at the level, of a share of hits among n.
func wilson(hits, n, level float64) float64 {
	z := normalQuantile(1 - level)
	p := hits / n
	centre := p + z*z/(2*n)
	return (centre - z*math.Sqrt(p*(1-p)/n+z*z/(4*n*n))) / (1 + z*z/n)
}

func sum(x []float64) float64 {
	s := 0.0
	for _, v := range x {
		s += v
	}
	return s
}

// ratioTop is the quantile of the floor's tokens up to which the ratio that is
// held to its margin counts them.
const ratioTop = 0.9

// ratioClips are what one token counts at most in that ratio: the floor's its own
// quantile, the candidate's the margin times that. So a candidate that is ρ times
// the floor has the ratio ρ, where clipping both at one height would bring it
// nearer; and tokens that routers throw far off on both sides, which at a higher
// clip would be all that the means are made of, decide nothing.
func ratioClips(floor []float64, m spec.Margin) (floorClip, candidateClip float64) {
	rho := m.Ratio
	if rho <= 0 { // nothing is claimed
		return m.Clip, m.Clip
	}
	top := min(quantileAt(floor, ratioTop), m.Clip/rho)
	return top, rho * top
}
