package train

import (
	"fmt"
	"math"
)

// Interval is how far apart checkpoints should be, by what was measured.
type Interval struct {
	Save    float64 `json:"save_seconds"` // blocking, mean
	Saves   int     `json:"saves"`
	Between float64 `json:"seconds_between_failures"` // posterior mean
	Step    float64 `json:"step_seconds"`
	Steps   int     `json:"steps"` // the best interval; 0 = not enough seen
	InUse   int     `json:"in_use"`
	Text    string  `json:"text"`
}

// priorFailure stands for what is not yet known of a run's failures: as if one
// failure had been seen in this many seconds of work.
const priorFailure = 24 * 3600

// bestInterval is Daly's optimum for the blocking cost of a save and the mean
// time between failures, which is taken as Gamma-distributed with one failure
// a day seen beforehand. A save shorter than the time between two looks is mostly
// seen to take none: one more that took as long as that is counted.
func bestInterval(look, saveSum float64, saves int, stepSum float64, steps, failures int, wall float64, inUse int) Interval {
	r := Interval{Saves: saves, InUse: inUse}
	if saves < 2 || steps < 10 || stepSum <= 0 {
		r.Text = "too few saves or steps were seen to tell the best interval"
		return r
	}
	r.Save, r.Step = (saveSum+look)/float64(saves+1), stepSum/float64(steps)
	r.Between = (wall + priorFailure) / float64(failures+1)
	tau := daly(r.Save, r.Between)
	r.Steps = max(1, int(math.Round(tau/r.Step)))
	r.Text = fmt.Sprintf("a save costs %.3g s, failures are %.3g s apart, a step takes %.3g s: %d steps between saves are best (Daly), %d are used", r.Save, r.Between, r.Step, r.Steps, inUse)
	return r
}

// daly is the time between saves that loses least: cost δ, mean time between failures M.
func daly(cost, between float64) float64 {
	if cost >= 2*between {
		return between
	}
	x := cost / (2 * between)
	return math.Sqrt(2*cost*between)*(1+math.Sqrt(x)/3+x/9) - cost
}
