package trainer

import "math"

// An objective is the part of the loss that one sample contributes, as a
// function of the log-probabilities of its target tokens, and its derivative
// by each of them. The batch's loss is the sum over samples: normalisers are
// bound beforehand, so samples can be computed in any grouping.
type objective func(logp []float32) (loss float64, dlogp []float32)

// crossEntropy is −log p, averaged over all targets of the batch.
func crossEntropy(targets int) objective {
	return func(logp []float32) (float64, []float32) {
		d := make([]float32, len(logp))
		loss := 0.0
		for i, l := range logp {
			loss -= float64(l)
			d[i] = float32(-1 / float64(targets))
		}
		return loss / float64(targets), d
	}
}

// clipping bounds the probability ratio to [1−low, 1+high].
type clipping struct{ low, high float64 }

// surrogate is min(w·A, clip(w)·A) and its derivative by log w.
func (c clipping) surrogate(w, advantage float64) (value, slope float64, clipped bool) {
	bound := min(max(w, 1-c.low), 1+c.high)
	if bound*advantage < w*advantage {
		return bound * advantage, 0, true
	}
	return w * advantage, w * advantage, false
}

// grpo is the token-level objective: the ratio of each token to the rollout's
// policy, clipped, averaged over all target tokens of the batch (token-mean, as
// DAPO has it). A token counts by its weight; nil weights are one. No KL term.
func grpo(old []float32, weights []float64, advantage float64, c clipping, targets int) objective {
	return func(logp []float32) (float64, []float32) {
		d := make([]float32, len(logp))
		loss := 0.0
		for i, l := range logp {
			value, slope, _ := c.surrogate(math.Exp(float64(l)-float64(old[i])), advantage)
			w := 1.0
			if weights != nil {
				w = weights[i]
			}
			loss -= w * value
			d[i] = float32(-w * slope / float64(targets))
		}
		return loss / float64(targets), d
	}
}

// gspo is the sequence-level objective: one ratio per sample, the geometric
// mean of its tokens', clipped, averaged over the batch's samples. A sample
// counts by its tokens' mean weight; nil weights are one.
func gspo(old []float32, weights []float64, advantage float64, c clipping, samples int) objective {
	return func(logp []float32) (float64, []float32) {
		n := float64(len(logp))
		mean, w := 0.0, 1.0
		if weights != nil {
			w = 0
			for _, x := range weights {
				w += x / n
			}
		}
		for i, l := range logp {
			mean += (float64(l) - float64(old[i])) / n
		}
		value, slope, _ := c.surrogate(math.Exp(mean), advantage)
		d := make([]float32, len(logp))
		for i := range d {
			d[i] = float32(-w * slope / n / float64(samples))
		}
		return -w * value / float64(samples), d
	}
}

// advantages normalises the rewards of one group: (r − mean) / standard
// deviation (of the group as it is, divided by n). A group whose rewards are
// all equal teaches nothing: ok is false.
func advantages(rewards []float64) (a []float64, ok bool) {
	mean, square := 0.0, 0.0
	for _, r := range rewards {
		mean += r / float64(len(rewards))
	}
	for _, r := range rewards {
		square += (r - mean) * (r - mean) / float64(len(rewards))
	}
	if square < 1e-12 {
		return nil, false
	}
	a = make([]float64, len(rewards))
	for i, r := range rewards {
		a[i] = (r - mean) / math.Sqrt(square)
	}
	return a, true
}

// gap is |Δ log p| between the rollout and the trainer: the mismatch meter.
type gap struct {
	sum, most float64
	far       int // tokens beyond alarm
	n         int
}

// alarm is the |Δ log p| of a token, in nats, beyond which trainers and engines
// that should agree have been seen to diverge.
const alarm = 0.1

func (g *gap) add(logp, old []float32) {
	for i, l := range logp {
		d := math.Abs(float64(l) - float64(old[i]))
		g.sum += d
		g.most = max(g.most, d)
		if d > alarm {
			g.far++
		}
	}
	g.n += len(logp)
}

func (g *gap) mean() float64 { return g.sum / float64(max(g.n, 1)) }

// share is that of the tokens beyond the alarm.
func (g *gap) share() float64 { return float64(g.far) / float64(max(g.n, 1)) }
