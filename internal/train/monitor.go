package train

import (
	"fmt"
	"math"
	"slices"
)

// Alarm is something worth a person's look. It stops nothing by itself.
type Alarm struct {
	Kind    string `json:"kind"`
	Attempt int    `json:"attempt"`
	Step    int    `json:"step"`  // of its first sighting
	Last    int    `json:"last"`  // of its last
	Count   int    `json:"count"` // sightings
	Text    string `json:"text"`
}

// The alarms.
const (
	alarmSpike      = "loss spike"
	alarmDrift      = "loss drift"
	alarmFlat       = "flat loss"
	alarmGradNorm   = "gradient norm"
	alarmMismatch   = "mismatch"
	alarmStraggler  = "straggler"
	alarmData       = "data order"
	alarmResume     = "bad resume"
	alarmCheckpoint = "checkpoint"
	alarmDisk       = "disk"
	alarmDevice     = "device"
	alarmUnseen     = "unseen"
	alarmDegraded   = "degraded"
	alarmAdvice     = "advice"
)

// finding is what a monitor says of one step.
type finding struct {
	kind, text string
	from       int  // where the trouble began
	act        bool // wide: roll back
}

// Bounds of the monitors, in steps unless said otherwise.
const (
	baseline     = 16  // losses before a spike can be told
	window       = 64  // losses that the baseline is made of
	wideSpike    = 10  // steps in a row that make a spike wide
	spikeSigmas  = 8.0 // robust standard deviations above the median
	spikeShare   = 0.5 // and at least so much of the median
	flatSteps    = 50  // equal losses in a row
	zeroNorm     = 20  // gradient norms of zero in a row
	normFactor   = 10.0
	mismatchWarn = 0.04 // nats, mean |Δ log p|
	mismatchMost = 0.1
	driftShare   = 1.3 // of the best window's median
)

// monitor watches one attempt's numbers. It is pure: the same steps give the same findings.
type monitor struct {
	wide int // wideSpike, unless a test says otherwise

	losses  []float64 // newest last, at most window, without what is taken for a spike
	spiking int       // steps in a row above the baseline
	from    int       // first of them
	best    float64   // lowest median of a full window
	since   int       // losses since best was compared
	flat    int       // equal losses in a row
	last    float64
	norms   []float64 // logarithms
	high    int       // norms in a row far above the baseline
	zero    int
}

func newMonitor(wide int) *monitor {
	if wide <= 0 {
		wide = wideSpike
	}
	return &monitor{wide: wide, best: math.Inf(1), last: math.NaN()}
}

// median of a copy.
func median(x []float64) float64 {
	s := slices.Sorted(slices.Values(x))
	n := len(s)
	if n == 0 {
		return math.NaN()
	}
	return (s[(n-1)/2] + s[n/2]) / 2
}

// spread is the median absolute deviation as a standard deviation.
func spread(x []float64, m float64) float64 {
	d := make([]float64, len(x))
	for i, v := range x {
		d[i] = math.Abs(v - m)
	}
	return 1.4826 * median(d)
}

// loss takes a step's loss. Only losses of one kind may be compared: reset
// between recipe stages.
func (m *monitor) loss(step int, x float64) []finding {
	var out []finding
	if x == m.last {
		if m.flat++; m.flat == flatSteps-1 {
			out = append(out, finding{kind: alarmFlat, from: step, text: fmt.Sprintf("the loss has been %g for %d steps: nothing is learnt", x, flatSteps)})
		}
	} else {
		m.flat = 0
	}
	m.last = x
	if len(m.losses) >= baseline {
		mid := median(m.losses)
		bound := mid + max(spikeSigmas*spread(m.losses, mid), spikeShare*math.Abs(mid))
		if x > bound {
			if m.spiking++; m.spiking == 1 {
				m.from = step
			}
			f := finding{kind: alarmSpike, from: m.from, text: fmt.Sprintf("loss %.4g at step %d; the median before was %.4g, the bound %.4g", x, step, mid, bound)}
			if m.spiking == m.wide {
				f.act = true
				f.text = fmt.Sprintf("loss above %.4g for %d steps from step %d on, %.4g now; the median before was %.4g", bound, m.wide, m.from, x, mid)
			}
			return append(out, f)
		}
	}
	m.spiking = 0
	m.losses = append(m.losses, x)
	m.losses = m.losses[max(0, len(m.losses)-window):]
	if m.since++; m.since >= window {
		m.since = 0
		mid := median(m.losses)
		if mid > driftShare*m.best && mid > m.best+5*spread(m.losses, mid) && m.best > 0 {
			out = append(out, finding{kind: alarmDrift, from: step, text: fmt.Sprintf("the median loss of the last %d steps is %.4g, the best such stretch had %.4g", len(m.losses), mid, m.best)})
		}
		m.best = min(m.best, mid)
	}
	return out
}

// norm takes a gradient norm.
func (m *monitor) norm(step int, x float64) []finding {
	if x == 0 {
		if m.zero++; m.zero == zeroNorm {
			return []finding{{kind: alarmGradNorm, from: step, text: fmt.Sprintf("the gradient norm has been 0 for %d steps: nothing is learnt", zeroNorm)}}
		}
		return nil
	}
	m.zero = 0
	l := math.Log(x)
	if len(m.norms) >= baseline && l > median(m.norms)+math.Log(normFactor) {
		if m.high++; m.high == 3 {
			return []finding{{kind: alarmGradNorm, from: step, text: fmt.Sprintf("gradient norm %.4g, for the third step more than %g times the median of %.4g", x, normFactor, math.Exp(median(m.norms)))}}
		}
		return nil
	}
	m.high = 0
	m.norms = append(m.norms, l)
	m.norms = m.norms[max(0, len(m.norms)-window):]
	return nil
}

// mismatch judges the mean |Δ log p| between rollout and trainer.
func mismatch(step int, x float64) []finding {
	switch {
	case x > mismatchMost:
		return []finding{{kind: alarmMismatch, from: step, text: fmt.Sprintf("rollout and trainer differ by %.3g nats a token (more than %g): what is sampled is not what is trained", x, mismatchMost)}}
	case x > mismatchWarn:
		return []finding{{kind: alarmMismatch, from: step, text: fmt.Sprintf("rollout and trainer differ by %.3g nats a token (0.04 to 0.1 is worth a look)", x)}}
	}
	return nil
}

// reset forgets losses and norms, as a new recipe stage asks for.
func (m *monitor) reset() {
	*m = *newMonitor(m.wide)
}

// ranks scores each rank's own step time.
type ranks struct {
	recent [][]float64 // per rank, newest last
	own    []float64   // per rank, the median of its first full window
	named  map[int]bool
	worst  map[int]float64
	seen   int
}

const (
	rankWindow    = 16
	straggling    = 1.05 // of the peers' median: named
	stragglerMost = 1.5  // of its own past, when all are slower: named as well
)

// take takes the ranks' seconds of one step, and names those that fell behind:
// a rank whose median over the last steps lies above its peers' median by more
// than the bound and by more than the noise, or far above its own past.
func (r *ranks) take(step int, seconds []float64) []finding {
	if len(seconds) < 2 || len(r.recent) > 0 && len(r.recent) != len(seconds) {
		return nil
	}
	if r.recent == nil {
		r.recent, r.own, r.named, r.worst = make([][]float64, len(seconds)), make([]float64, len(seconds)), map[int]bool{}, map[int]float64{}
	}
	for i, s := range seconds {
		if math.IsNaN(s) || s < 0 {
			return nil
		}
		r.recent[i] = append(r.recent[i], s)
		r.recent[i] = r.recent[i][max(0, len(r.recent[i])-rankWindow):]
	}
	if r.seen++; r.seen%rankWindow != 0 {
		return nil
	}
	mids, noise := make([]float64, len(seconds)), make([]float64, len(seconds))
	for i := range seconds {
		mids[i] = median(r.recent[i])
		noise[i] = spread(r.recent[i], mids[i])
		if r.own[i] == 0 {
			r.own[i] = mids[i]
		}
	}
	var out []finding
	for i, mine := range mids {
		peers := median(slices.Concat(mids[:i], mids[i+1:]))
		// The error of a median of n is 1.25·σ/√n; four of them, of both sides.
		err := 4 * 1.25 * math.Hypot(noise[i], median(noise)) / math.Sqrt(rankWindow)
		slow := peers > 0 && mine > straggling*peers && mine > peers+err
		worse := r.own[i] > 0 && mine > stragglerMost*r.own[i] && mine > r.own[i]+err
		if !slow && !worse {
			delete(r.named, i)
			continue
		}
		score := mine / max(peers, 1e-12)
		r.worst[i] = max(r.worst[i], score)
		if r.named[i] {
			continue
		}
		r.named[i] = true
		out = append(out, finding{kind: alarmStraggler, from: step, text: fmt.Sprintf("rank %d takes %.4g s a step, its peers %.4g (%.2f times), itself at first %.4g", i, mine, peers, score, r.own[i])})
	}
	return out
}
