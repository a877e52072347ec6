package train

import "time"

// The classes of the ledger. Every moment of wall time is in exactly one.
const (
	classSetup       = "setup"       // of the first attempt
	classStep        = "step"        // optimizer steps that are in the result
	classRollout     = "rollout"     // sampling for reinforcement learning, in the result
	classCheckpoint  = "checkpoint"  // saving
	classEval        = "eval"        //
	classLost        = "lost"        // all of these past the checkpoint that the next attempt began with: done again
	classRecovery    = "recovery"    // from the end of an attempt to the next one's first step
	classSupervision = "supervision" // starting, verifying, and what the supervisor was not there to see
)

// Ledger is where the wall time went, in seconds.
type Ledger struct {
	Classes map[string]float64 `json:"classes"`
	Wall    float64            `json:"wall"` // from the first start to the report: the classes' sum
}

// clock accrues time in whole nanoseconds: each interval goes to the class that
// was current when it passed, so the classes sum to the wall time whatever
// happens. It is kept in the supervisor's state and outlives it.
type clock struct {
	Began   time.Time                `json:"began"`
	Classes map[string]time.Duration `json:"classes"`
	Current string                   `json:"current"`
	Since   time.Time                `json:"since"`
	// Attempt is what the running attempt has put into the classes that a crash can turn into lost work.
	Attempt map[string]time.Duration `json:"attempt"`
	// Marks are the Attempt sums at each checkpoint, by step.
	Marks map[int]map[string]time.Duration `json:"marks"`
}

func newClock(now time.Time) *clock {
	now = now.Round(0) // the wall clock, as it will be read back after a restart
	c := &clock{Began: now, Classes: map[string]time.Duration{}, Current: classSupervision, Since: now}
	c.begin()
	return c
}

// begin forgets what the last attempt did: none of it can be lost any more.
func (c *clock) begin() {
	c.Attempt, c.Marks = map[string]time.Duration{}, map[int]map[string]time.Duration{}
}

// enter closes the current interval and begins one of the given class. A clock
// that was set back adds nothing until it has caught up.
func (c *clock) enter(class string, now time.Time) {
	if passed := now.Round(0).Sub(c.Since); passed > 0 {
		c.Classes[c.Current] += passed
		if redoable(c.Current) {
			c.Attempt[c.Current] += passed
		}
		c.Since = c.Since.Add(passed)
	}
	c.Current = class
}

// tick brings the sums up to date.
func (c *clock) tick(now time.Time) { c.enter(c.Current, now) }

func redoable(class string) bool {
	switch class {
	case classStep, classRollout, classCheckpoint, classEval:
		return true
	}
	return false
}

// mark remembers what had been done when the checkpoint of step became durable.
func (c *clock) mark(step int, now time.Time) {
	c.tick(now)
	sums := map[string]time.Duration{}
	for k, v := range c.Attempt {
		sums[k] = v
	}
	c.Marks[step] = sums
}

// rewind turns what the ended attempt did past the checkpoint of step into lost work.
func (c *clock) rewind(step int) {
	kept := c.Marks[step] // nil: nothing of this attempt is kept
	for class, done := range c.Attempt {
		if lost := done - kept[class]; lost > 0 {
			c.Classes[class] -= lost
			c.Classes[classLost] += lost
		}
	}
	c.begin()
}

func (c *clock) ledger() Ledger {
	l := Ledger{Classes: map[string]float64{}, Wall: c.Since.Sub(c.Began).Seconds()}
	for k, v := range c.Classes {
		l.Classes[k] = v.Seconds()
	}
	return l
}

// classOf maps a contract section to a class; setup of a later attempt is recovery.
func classOf(section string, attempt int) string {
	switch section {
	case classStep, classCheckpoint, classRollout, classEval:
		return section
	}
	if attempt > 1 {
		return classRecovery
	}
	return classSetup
}
