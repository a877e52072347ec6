package trainer

import "math"

// weights are the factors of one sample's tokens, from the log-probabilities
// that the trainer (pi) and the rollout (mu) gave them.
func (c Correction) weights(pi, mu []float32) []float64 {
	w := make([]float64, len(pi))
	var truncate, mask []float64
	if c.Truncate > 0 {
		truncate = ratios(c.TruncateLevel, pi, mu)
	}
	if c.MaskHigh > 0 {
		mask = ratios(c.MaskLevel, pi, mu)
	}
	for t := range w {
		w[t] = 1
		if truncate != nil {
			w[t] = min(truncate[t], c.Truncate)
		}
		if mask != nil && !(mask[t] >= c.MaskLow && mask[t] <= c.MaskHigh) { // NaN too
			w[t] = 0
		}
	}
	return w
}

// ratios are π/μ at a level, per token.
func ratios(l Level, pi, mu []float32) []float64 {
	r, sum := make([]float64, len(pi)), 0.0
	for t := range r {
		r[t] = float64(pi[t]) - float64(mu[t])
		sum += r[t]
	}
	if l == Geometric {
		sum /= float64(len(r))
	}
	for t := range r {
		if l == Sequence || l == Geometric {
			r[t] = sum
		}
		r[t] = math.Exp(r[t])
	}
	return r
}

// corrected builds an objective whose ratios are to the policy as it is when the
// objective is called, which is the one before the update, and whose tokens
// weigh what the correction says. Both are constants to the derivative. tally,
// if set, gets the weights.
func (c Correction) corrected(mu []float32, build func(old []float32, weights []float64) objective, tally func([]float64)) objective {
	return func(logp []float32) (float64, []float32) {
		w := c.weights(logp, mu)
		if tally != nil {
			tally(w)
		}
		return build(logp, w)(logp)
	}
}

// tally sums up what a correction did to a step's tokens.
type tally struct {
	sum                    float64
	truncated, masked, all int
}

func (y *tally) add(c Correction, w []float64) {
	for _, v := range w {
		y.sum += v
		switch {
		case v == 0:
			y.masked++
		case c.Truncate > 0 && v == c.Truncate:
			y.truncated++
		}
	}
	y.all += len(w)
}

// share is n of all tokens, 0 without any.
func (y *tally) share(n float64) float64 { return n / float64(max(y.all, 1)) }
