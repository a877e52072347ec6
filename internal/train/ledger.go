package train

import (
	"maps"
	"slices"
	"time"
)

// The classes of the ledger. Every moment of wall time is in exactly one, and
// so is every device-second.
const (
	classQueue       = "queue"       // asked for, not yet running
	classSetup       = "setup"       // of the first attempt
	classStep        = "step"        // optimizer steps that are in the result
	classRollout     = "rollout"     // sampling for reinforcement learning, in the result
	classCheckpoint  = "checkpoint"  // saving
	classEval        = "eval"        //
	classLost        = "lost"        // all of these past the checkpoint that the next attempt began with: done again
	classHang        = "hang"        // from the last sign of progress to the end of a hung attempt
	classRecovery    = "recovery"    // from the end of an attempt to the next one's first step
	classMigration   = "migration"   // leaving a pool for another: replay, and what comes with it
	classSupervision = "supervision" // starting, verifying, and what the supervisor was not there to see
)

// classNames in the order that a table has them.
func classNames() []string {
	return []string{classQueue, classSetup, classStep, classRollout, classCheckpoint, classEval, classLost, classHang, classRecovery, classMigration, classSupervision}
}

// Ledger is where the wall time went, in seconds.
type Ledger struct {
	Classes map[string]float64 `json:"classes"`
	Wall    float64            `json:"wall"` // from the first start to the report: the classes' sum
	// Devices and Money are the same split of device-seconds and of what they
	// cost, at each pool's own count and price.
	Devices       map[string]float64 `json:"device_seconds"`
	DeviceSeconds float64            `json:"device_seconds_total"`
	Money         map[string]float64 `json:"money"`
	MoneyTotal    float64            `json:"money_total"`
	// ETTR, the effective training time ratio, is kept steps and rollouts over
	// wall time; once with the time in the queue, once without.
	ETTR             float64 `json:"ettr"`
	ETTRWithoutQueue float64 `json:"ettr_without_queue"`
}

// sums is time by class: of the wall, of devices, and money.
type sums struct {
	Wall    map[string]time.Duration `json:"wall"`
	Devices map[string]time.Duration `json:"devices"`
	Money   map[string]float64       `json:"money"`
}

func newSums() sums {
	return sums{Wall: map[string]time.Duration{}, Devices: map[string]time.Duration{}, Money: map[string]float64{}}
}

func (s sums) clone() sums {
	return sums{Wall: maps.Clone(s.Wall), Devices: maps.Clone(s.Devices), Money: maps.Clone(s.Money)}
}

func (s sums) add(class string, d time.Duration, devices int, price float64) {
	s.Wall[class] += d
	s.Devices[class] += d * time.Duration(devices)
	s.Money[class] += d.Hours() * float64(devices) * price
}

// clock accrues time in whole nanoseconds: each interval goes to the class that
// was current when it passed, so the classes sum to the wall time whatever
// happens. It is kept in the supervisor's state and outlives it.
type clock struct {
	Began   time.Time `json:"began"`
	Classes sums      `json:"classes"`
	Current string    `json:"current"`
	Since   time.Time `json:"since"`
	// Run is how much of Current passed without another class, or other devices, in between.
	Run     time.Duration `json:"run"`
	Devices int           `json:"devices"` // held now
	Price   float64       `json:"price"`   // of one for an hour
	// Done is what is in the result so far of the classes that going back can turn
	// into lost work, Kept what it was at each checkpoint, by step.
	Done sums         `json:"done"`
	Kept map[int]sums `json:"kept"`
}

// mostKept bounds the checkpoints that are remembered; of older ones every other goes.
const mostKept = 128

func newClock(now time.Time, devices int, price float64) *clock {
	now = now.Round(0) // the wall clock, as it will be read back after a restart
	return &clock{
		Began: now, Classes: newSums(), Current: classSupervision, Since: now, Devices: devices, Price: price,
		Done: newSums(), Kept: map[int]sums{},
	}
}

// sound says whether a clock that was read from a file can go on.
func (c *clock) sound() bool {
	return c != nil && c.Classes.Wall != nil && c.Classes.Devices != nil && c.Classes.Money != nil && c.Done.Wall != nil && c.Done.Devices != nil && c.Done.Money != nil && c.Kept != nil
}

// enter closes the current interval and begins one of the given class. A clock
// that was set back adds nothing until it has caught up.
func (c *clock) enter(class string, now time.Time) {
	if passed := now.Round(0).Sub(c.Since); passed > 0 {
		c.Classes.add(c.Current, passed, c.Devices, c.Price)
		if redoable(c.Current) {
			c.Done.add(c.Current, passed, c.Devices, c.Price)
		}
		c.Since = c.Since.Add(passed)
		c.Run += passed
	}
	if class != c.Current {
		c.Run = 0
	}
	c.Current = class
}

// absent books what passed since the clock was last looked at as nobody's: its
// supervisor was not there. The class that was current goes on.
func (c *clock) absent(now time.Time) {
	was := c.Current
	c.Current, c.Run = classSupervision, 0
	c.tick(now)
	c.Current, c.Run = was, 0
}

// tick brings the sums up to date.
func (c *clock) tick(now time.Time) { c.enter(c.Current, now) }

// hold changes how many devices are held from now on, and what they cost.
func (c *clock) hold(devices int, price float64, now time.Time) {
	c.tick(now)
	c.Run = 0
	c.Devices, c.Price = devices, price
}

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
	// Of higher steps nothing stands any more: the trainer went back by itself.
	maps.DeleteFunc(c.Kept, func(s int, _ sums) bool { return s > step })
	c.Kept[step] = c.Done.clone()
	if len(c.Kept) > mostKept {
		for i, old := range slices.Sorted(maps.Keys(c.Kept))[:mostKept/2] {
			if i%2 == 1 {
				delete(c.Kept, old)
			}
		}
	}
}

// hung moves the last stretch of the current class, at most what it has, to the
// hang that it turned out to be.
func (c *clock) hung(silent time.Duration, now time.Time) {
	c.tick(now)
	silent = min(silent, c.Run)
	if redoable(c.Current) {
		silent = min(silent, c.Done.Wall[c.Current])
		for _, kept := range c.Kept { // what is in a checkpoint is no part of a hang
			silent = min(silent, c.Done.Wall[c.Current]-kept.Wall[c.Current])
		}
		c.Done.add(c.Current, -max(silent, 0), c.Devices, c.Price)
	}
	if silent > 0 {
		c.Classes.add(c.Current, -silent, c.Devices, c.Price)
		c.Classes.add(classHang, silent, c.Devices, c.Price)
	}
	c.Current, c.Run = classHang, 0
}

// rewind turns what was done past the checkpoint of step into lost work, by
// whichever attempt in whichever pool: at what it took and cost then.
func (c *clock) rewind(step int) {
	at, kept := -1, newSums() // nothing is kept
	for s, k := range c.Kept {
		switch {
		case s > step:
			delete(c.Kept, s)
		case s > at:
			at, kept = s, k
		}
	}
	for class, done := range c.Done.Wall {
		lose(c.Classes.Wall, class, done-kept.Wall[class])
		lose(c.Classes.Devices, class, c.Done.Devices[class]-kept.Devices[class])
		lose(c.Classes.Money, class, c.Done.Money[class]-kept.Money[class])
	}
	c.Done = kept.clone()
}

func lose[T time.Duration | float64](from map[string]T, class string, lost T) {
	from[class] -= lost
	from[classLost] += lost
}

// useful is the time in kept steps and rollouts.
func (c *clock) useful() time.Duration {
	return c.Classes.Wall[classStep] + c.Classes.Wall[classRollout]
}

func (c *clock) ledger() Ledger {
	l := Ledger{Classes: map[string]float64{}, Devices: map[string]float64{}, Money: map[string]float64{}, Wall: c.Since.Sub(c.Began).Seconds()}
	for k, v := range c.Classes.Wall {
		l.Classes[k] = v.Seconds()
	}
	for k, v := range c.Classes.Devices {
		l.Devices[k] = v.Seconds()
		l.DeviceSeconds += v.Seconds()
	}
	for k, v := range c.Classes.Money {
		l.Money[k] = v
		l.MoneyTotal += v
	}
	useful := c.useful().Seconds()
	if l.Wall > 0 {
		l.ETTR = useful / l.Wall
	}
	if busy := l.Wall - l.Classes[classQueue]; busy > 0 {
		l.ETTRWithoutQueue = useful / busy
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
