package train

import (
	"fmt"
	"slices"
	"time"

	"tarbert/internal/plan"
)

// replayedBatches is how many batches a trainer stores for a replay (docs/formats.md).
const replayedBatches = 4

// costs is what a run has measured, in seconds, of what a move would take.
type costs struct {
	step, save float64   // means; 0 = none was seen
	loads      []float64 // from a start to the end of setup
	waits      []float64 // of attempts, until they ran
	target     int       // the recipe's steps
}

func (s *supervisor) costs() costs {
	c := costs{target: s.Recipe.Steps()}
	if s.state.Steps > 0 {
		c.step = s.state.StepSum / float64(s.state.Steps)
	}
	if s.state.Saves > 0 {
		c.save = s.state.SaveSum / float64(s.state.Saves)
	}
	for _, took := range s.state.Learned["first setup"] {
		c.loads = append(c.loads, took.Seconds())
	}
	for _, a := range s.state.Attempts {
		if a.Pool == s.Pool.Name && a.Waited > 0 {
			c.waits = append(c.waits, a.Waited)
		}
	}
	return c
}

// terms puts what was measured in the place of what was assumed before the run.
// What the other pool alone can tell stays as it was, and a range ends where a
// limit of this run's does.
func (f *Fallback) terms(c costs, l Limits) plan.Terms {
	t := f.Terms
	if !(t.Step > 0) && c.step > 0 { // the plan had no rate
		t.Step, t.Planned = plan.Seconds(c.step), (plan.Seconds(c.step) * plan.Seconds(c.target)).Hours()
	}
	hours := func(seconds float64) float64 { return seconds / time.Hour.Seconds() }
	if f.SameQueue && len(c.waits) > 0 {
		least, most := slices.Min(c.waits), slices.Max(c.waits)
		t.Other.Queue = plan.Range{
			Low: hours(least), High: hours(2 * most),
			Source: fmt.Sprintf("measured: %d attempts waited %.3g to %.3g s for the same executor; up to twice that is allowed for", len(c.waits), least, most),
		}
	}
	if len(c.loads) > 0 && c.step > 0 {
		load := median(c.loads)
		once := load + replayedBatches*c.step
		// Save, both sides' replays, and the load with which it goes on. A replay,
		// or a load elsewhere, that takes longer than a first unit may is ended.
		low := c.save + 2*once + load
		high := max(low, stopGrace.Seconds()+c.save+3*l.orDefault().First.Seconds())
		t.Other.Migration = plan.Range{
			Low: hours(low), High: hours(high),
			Source: fmt.Sprintf("measured here: a save %.3g s, a load %.3g s, a step %.3g s; how long they take elsewhere is not known, and is limited to %v each", c.save, load, c.step, l.orDefault().First),
		}
	}
	return t
}
