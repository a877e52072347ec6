package plan

import (
	"math"
	"math/rand/v2"
	"testing"
)

// A second generator, by another way: hours instead of days, states that last,
// log-normal gaps, autocorrelated speed, weaker and wilder parity checks,
// monitoring that is blind for days on end. Decide's constants were chosen on
// seeds 1 and 7 of makeWorld and of this one.
var otherKinds = []kindShare{
	{"good", 0.30}, {"good, uneven", 0.10}, {"software matures", 0.08}, {"lemons, evicted one by one", 0.09}, {"bursts of faults", 0.10},
	{"an upgrade slows it", 0.06}, {"slows until it levels off", 0.06}, {"never runs long", 0.07}, {"links too slow", 0.06}, {"silent divergence", 0.04}, {"parity broken", 0.04},
}

// machine is one hour of the pool after another.
type machine struct {
	rng    *rand.Rand
	speed  func(hour float64) float64
	gap    func(hour float64) float64 // hours until the next interruption
	repair func(hour float64) float64
}

// days plays the machine: progress and interruptions by the day.
func (m machine) days(n int, save float64) (progress []float64, trouble []int) {
	progress, trouble = make([]float64, n), make([]int, n)
	at, end := 0.0, float64(24*n)
	next := m.gap(0)
	shift := 0.0 // autocorrelated
	for at < end {
		until := min(end, next, (math.Floor(at/6)+1)*6)
		shift = 0.9*shift + 0.01*m.rng.NormFloat64()
		progress[min(n-1, int(at/24))] += max(0, m.speed(at)*(1+shift)) * (until - at) / 24
		if at = until; at < next {
			continue
		}
		day := min(n-1, int(at/24))
		trouble[day]++
		lost := save * m.rng.Float64() // work since the last save
		progress[day] = max(0, progress[day]-lost*m.speed(at)/24)
		at += m.repair(at)
		next = at + m.gap(at)
	}
	return progress, trouble
}

func logNormal(rng *rand.Rand, median, sigma float64) float64 {
	return median * math.Exp(sigma*rng.NormFloat64())
}

// makeOtherWorld draws a campaign of 25 to 130 days.
func makeOtherWorld(rng *rand.Rand) *world {
	const days = 1500
	w := &world{kind: drawKind(rng, otherKinds), work: math.Exp(between(rng, math.Log(20), math.Log(105))), wrongAt: -1, checks: 1 + rng.IntN(3), misses: 0.15, wolf: 0.01}
	w.planned = w.work / 0.85
	base, every, down := between(rng, 0.86, 0.98), between(rng, 12, 60), between(rng, 0.3, 1.2)
	onset := between(rng, 2, 0.6*w.work) * 24
	m := machine{
		rng: rng, speed: func(float64) float64 { return base },
		gap:    func(float64) float64 { return logNormal(rng, every, 1) },
		repair: func(float64) float64 { return logNormal(rng, down, 0.8) },
	}
	switch w.kind {
	case "good, uneven":
		m.speed = func(h float64) float64 { return base * (1 - 0.2*math.Abs(math.Sin(h/37))) }
	case "software matures":
		start, tau := between(rng, 0.4, 0.75), 24*between(rng, 1.5, 5)
		m.speed = func(h float64) float64 { return base * (1 - (1-start)*math.Exp(-h/tau)) }
		m.gap = func(h float64) float64 { return logNormal(rng, every*(1-0.8*math.Exp(-h/tau)), 1) }
	case "lemons, evicted one by one":
		last := 24 * between(rng, 3, 9)
		m.gap = func(h float64) float64 {
			if h < last {
				return logNormal(rng, 3+every*h/last/3, 0.8)
			}
			return logNormal(rng, every, 1)
		}
	case "bursts of faults":
		quiet, burst := 24*between(rng, 6, 20), 24*between(rng, 0.5, 2)
		m.gap = func(h float64) float64 {
			if math.Mod(h+quiet/2, quiet+burst) > quiet {
				return logNormal(rng, 2, 1)
			}
			return logNormal(rng, every, 1)
		}
		m.repair = func(h float64) float64 { return logNormal(rng, down, 1.6) }
	case "an upgrade slows it":
		w.begins = int(onset / 24)
		to := between(rng, 0.35, 0.65)
		m.speed = func(h float64) float64 {
			if h < onset {
				return base
			}
			return base * to
		}
	case "slows until it levels off":
		w.begins = int(onset / 48)
		by, tau := between(rng, 0.4, 0.8), 24*between(rng, 6, 25)
		m.speed = func(h float64) float64 { return base * (1 - by*(1-math.Exp(-max(0, h-onset/2)/tau))) }
	case "never runs long":
		m.gap = func(float64) float64 { return logNormal(rng, 3, 1.2) }
		slow := between(rng, 2, 8)
		m.repair = func(float64) float64 { return logNormal(rng, slow, 0.8) }
	case "links too slow":
		base = between(rng, 0.3, 0.58)
	case "silent divergence":
		w.wrongAt, w.begins = int(onset/24), int(onset/24)
	case "parity broken":
		w.wrongAt = 0
	}
	w.progress, w.trouble = m.days(days, 1)
	w.unseen = make([]float64, days)
	for day := 0; day < days; day++ {
		if rng.Float64() < 0.02 { // monitoring is away for a while
			for range 1 + rng.IntN(4) {
				if day < days {
					w.unseen[day] = between(rng, 0.3, 1)
					day++
				}
			}
		}
	}
	w.queue, w.move, w.rate = min(20, logNormal(rng, 3, 0.6)), between(rng, 1, 5), between(rng, 0.72, 0.96)
	w.ranges = [3]Range{{Low: 1.4, High: 6.5}, {Low: 1, High: 5}, {Low: 0.72, High: 0.96}}
	return w
}

// The aim of 5 % missed is not met here. Its campaigns are short (20 days and up)
// against what is open about the other side (3.5 to 11.5 days): a rule that knew
// all of this pool's future, and of the other side only the ranges, misses 2 %.
func TestDecisionsOther(t *testing.T) {
	judgeDecide(t, trial{"second generator", makeOtherWorld, otherKinds, 1500, 20261128, 0.07})
}

func TestSoakDecisionsOther(t *testing.T) {
	if !soak() {
		t.Skip("set TARBERT_SOAK=1")
	}
	judgeDecide(t, trial{"second generator", makeOtherWorld, otherKinds, 10000, 4, 0.065})
}
