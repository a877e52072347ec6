package train

import (
	"fmt"
	"time"

	"tarbert/internal/plan"
)

// Budgets are fixed before the run: what the pool in use may cost before the
// other one is considered. A zero field is no limit.
type Budgets struct {
	CleanWithin time.Duration // until the first CleanSteps steps in a row without interruption
	CleanSteps  int           // 0 = 1,000, or the whole run where that is shorter
	Hangs       int           // hangs that nothing explains
	Breaches    int           // parity breaches in a row: the mismatch meter above its bound, resumptions that do not match
	Floor       float64       // least ETTR over Window
	Window      time.Duration // 0 = 72 h
}

// Fallback is where a run may go on.
type Fallback struct {
	Pool Pool
	// Judge computes what the fallback's gradients must be; nil: the pool that is left.
	Judge      *Pool
	Authorized bool // switch without asking
	Budgets    Budgets
	// Terms are what the decision needs beside the evidence; what the run measures
	// takes the place of what they assume.
	Terms plan.Terms
	// SameQueue: both pools' tasks wait for the same executor.
	SameQueue bool
	// Consider decides; nil: plan.Consider.
	Consider func(plan.Terms, plan.Evidence) (plan.Decision, error)
	// Again is how long after a decision to stay the next one is made; 0 = 1 h.
	Again time.Duration
}

// facts are what budgets are held against; all of them of the pool in use.
type facts struct {
	on       time.Duration // since the pool was taken into use
	clean    int           // longest row of steps without interruption
	hangs    int
	breaches int
	target   int
	// ratio is the ETTR over the last window, and over how long it was watched.
	ratio   float64
	watched time.Duration
}

// spent lists the budgets that are spent, each with its arithmetic.
func (b Budgets) spent(f facts) []string {
	var out []string
	need := b.CleanSteps
	if need == 0 {
		need = 1000
	}
	need = min(need, f.target)
	if b.CleanWithin > 0 && f.on > b.CleanWithin && f.clean < need {
		out = append(out, fmt.Sprintf("%v after its start the pool has made %d steps in a row at most; %d within %v were set", f.on.Round(time.Second), f.clean, need, b.CleanWithin))
	}
	if b.Hangs > 0 && f.hangs >= b.Hangs {
		out = append(out, fmt.Sprintf("%d hangs that nothing explains; %d were set", f.hangs, b.Hangs))
	}
	if b.Breaches > 0 && f.breaches >= b.Breaches {
		out = append(out, fmt.Sprintf("%d parity breaches in a row; %d were set", f.breaches, b.Breaches))
	}
	if window := b.window(); b.Floor > 0 && f.watched >= window && f.ratio < b.Floor {
		out = append(out, fmt.Sprintf("ETTR %.3f over the last %v; the floor was set at %.3f", f.ratio, window, b.Floor))
	}
	return out
}

func (b Budgets) window() time.Duration {
	if b.Window > 0 {
		return b.Window
	}
	return 72 * time.Hour
}

// mark is useful time at a moment: two of them give the ETTR between.
type usefulMark struct {
	At     time.Time     `json:"at"`
	Useful time.Duration `json:"useful"`
}

// rolling is the ETTR over the last window, from marks that are in order.
func rolling(marks []usefulMark, window time.Duration, now time.Time, useful time.Duration) (ratio float64, watched time.Duration) {
	if len(marks) == 0 {
		return 0, 0
	}
	from := marks[0]
	for _, m := range marks {
		if now.Sub(m.At) < window {
			break
		}
		from = m
	}
	watched = now.Sub(from.At)
	if watched <= 0 {
		return 0, 0
	}
	return float64(max(useful-from.Useful, 0)) / float64(watched), watched
}
