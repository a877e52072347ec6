package trainer

import (
	"math"

	"tarbert/internal/spec"
)

// rate is the learning rate of a step (from 0) of a stage of total steps: a
// linear rise over the warm-up, whose last step has the full rate, then half a
// cosine down to floor × rate at the last step. Floor 1 is constant.
func rate(o spec.Optimizer, step, total int) float64 {
	if step < o.Warmup {
		return o.LearningRate * float64(step+1) / float64(o.Warmup)
	}
	left := total - 1 - o.Warmup
	if left <= 0 {
		return o.LearningRate
	}
	done := min(float64(step-o.Warmup)/float64(left), 1)
	return o.LearningRate * (o.Floor + (1-o.Floor)*(1+math.Cos(math.Pi*done))/2)
}
