package plan

import (
	"math"
	"math/rand/v2"
	"testing"
)

// A third generator, for judging alone: faults of the real trace on nodes drawn
// anew, their number scaled from a tenth to thirty times, restarts from minutes to
// half a day, speeds from a quarter of the plan's up. Written after Decide's
// constants were fixed, and run once for each figure that is reported.
var traceKinds = []kindShare{{"chips as planned", 0.5}, {"slower chips", 0.2}, {"frail chips", 0.2}, {"wrong results", 0.1}}

func makeTraceWorld(t *testing.T) func(rng *rand.Rand) *world {
	tr := stepfun(t)
	return func(rng *rand.Rand) *world {
		w := &world{kind: drawKind(rng, traceKinds), work: between(rng, 25, 100), wrongAt: -1, checks: 1, misses: 0.1, wolf: 0.005}
		w.planned = w.work / 0.85
		speed, hazard, restart := between(rng, 0.88, 1), math.Exp(between(rng, math.Log(0.1), math.Log(2))), between(rng, 0.2, 1)
		switch w.kind {
		case "slower chips":
			speed = between(rng, 0.25, 0.7)
		case "frail chips":
			hazard, restart = math.Exp(between(rng, math.Log(3), math.Log(30))), between(rng, 1, 12)
		case "wrong results":
			w.wrongAt = int(between(rng, 0, 0.5) * w.work)
			w.begins = w.wrongAt
		}
		const days = 1500
		w.progress, w.trouble, w.unseen = make([]float64, days), make([]int, days), make([]float64, days)
		source := newFaultSource(tr, rng)
		source.reset(256, hazard) // 2,048 devices
		down := 0.0
		fault, more := source.pull()
		for day := range days {
			up := 24.0
			for more && float64(fault.At) < float64(24*(day+1)) {
				w.trouble[day]++
				down += logNormal(rng, restart, 0.7)
				fault, more = source.pull()
			}
			lost := min(up, down)
			down -= lost
			w.progress[day] = speed * (up - lost) / 24 * (1 + 0.02*rng.NormFloat64())
			if rng.Float64() < 0.04 {
				w.unseen[day] = between(rng, 0.2, 1)
			}
		}
		w.queue, w.move, w.rate = between(rng, 1, 8), between(rng, 1, 4), between(rng, 0.75, 0.95)
		w.ranges = [3]Range{{Low: 1, High: 8}, {Low: 1, High: 4}, {Low: 0.75, High: 0.95}}
		return w
	}
}

func TestSoakDecisionsOnTheTrace(t *testing.T) {
	if !soak() {
		t.Skip("set TARBERT_SOAK=1")
	}
	judgeDecide(t, trial{"trace", makeTraceWorld(t), traceKinds, 10000, 20261128, 0.05})
}
