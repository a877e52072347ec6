package train

import (
	"fmt"
	"slices"
	"time"
)

// Limits say when a silent section is taken for hung. What a section took
// before says it best; these are for where there is no history yet.
type Limits struct {
	First time.Duration // any section's first unit in an attempt: loading, compiling; 0 = 30 minutes
	Unit  time.Duration // a later unit before five were seen; 0 = 5 minutes
	Floor time.Duration // nothing is hung sooner; 0 = 10 s
}

func (l Limits) orDefault() Limits {
	pick := func(d, otherwise time.Duration) time.Duration {
		if d > 0 {
			return d
		}
		return otherwise
	}
	return Limits{First: pick(l.First, 30*time.Minute), Unit: pick(l.Unit, 5*time.Minute), Floor: pick(l.Floor, 10*time.Second)}
}

const (
	// hangFactor times the longest unit seen is the limit: with a poll and the
	// time to notice, a hang is found within three times the learned time.
	hangFactor = 2.5
	learnFrom  = 5   // units before history is trusted; firstLearn of first ones
	firstLearn = 3   //
	remember   = 64  // units of each kind
	idleMoves  = 100 // changes of section without a step: alternating is no progress
)

// history holds the durations of each kind of unit, newest last.
type durations map[string][]time.Duration

func (d durations) add(kind string, took time.Duration) {
	all := append(d[kind], took)
	d[kind] = all[max(0, len(all)-remember):]
}

// watchdog measures progress. A unit is a step, or the stay in a section until
// the next one or a step. Only a step that is higher than all before and a
// change of section end a unit: heartbeats and repeated lines do not. It is
// pure; time comes from outside and must not jump.
type watchdog struct {
	limits  Limits
	learned durations
	stage   func(step int) string // recipe stage of a step: its units are of their own kind

	section string
	since   time.Time       // when the unit at hand began
	seen    map[string]bool // kinds that this attempt has had a unit of
	step    int             // highest step
	moves   int             // sections entered since that step
	at      time.Time       // last look
}

func newWatchdog(l Limits, learned durations, stage func(int) string, step int, now time.Time) *watchdog {
	return &watchdog{limits: l.orDefault(), learned: learned, stage: stage, section: "setup", since: now, at: now, seen: map[string]bool{}, step: step}
}

func (w *watchdog) kind() string {
	kind := w.section
	if kind != "setup" {
		kind = w.stage(w.step+1) + " " + kind
	}
	if !w.seen[kind] {
		return "first " + kind
	}
	return kind
}

// finish ends the unit at hand, if it is worth learning from.
func (w *watchdog) finish(now time.Time, whole bool) {
	kind := w.kind()
	if whole {
		w.learned.add(kind, now.Sub(w.since))
		w.seen[trimFirst(kind)] = true
	}
	w.since = now
}

func trimFirst(kind string) string {
	if len(kind) > 6 && kind[:6] == "first " {
		return kind[6:]
	}
	return kind
}

// enter is a section event.
func (w *watchdog) enter(section string, now time.Time) {
	if section == w.section {
		return
	}
	if w.moves++; w.moves > idleMoves {
		w.section = section // the unit goes on
		return
	}
	// The rest of a step section after its last step is no whole unit.
	w.finish(now, w.section != "step")
	w.section = section
}

// advance is a step event.
func (w *watchdog) advance(step int, now time.Time) {
	if step <= w.step {
		return
	}
	if w.section == "setup" { // a trainer that names no sections
		w.finish(now, true)
		w.section, w.step, w.moves = "step", step, 0
		return
	}
	w.finish(now, true)
	w.step, w.moves = step, 0
}

// limit is how long the unit at hand may take, and what that rests on.
func (w *watchdog) limit() (time.Duration, string) {
	kind := w.kind()
	past, need, otherwise := w.learned[kind], learnFrom, w.limits.Unit
	if trimFirst(kind) != kind {
		need, otherwise = firstLearn, w.limits.First
	}
	if len(past) < need {
		return max(otherwise, w.limits.Floor), fmt.Sprintf("%d units of %q seen so far", len(past), kind)
	}
	longest := slices.Max(past)
	return max(time.Duration(hangFactor*float64(longest)), w.limits.Floor), fmt.Sprintf("the longest of the last %d units of %q took %v", len(past), kind, longest.Round(time.Millisecond))
}

// unseen leaves a stretch out that nobody could watch.
func (w *watchdog) unseen(d time.Duration) {
	if d > 0 {
		w.since = w.since.Add(d)
	}
}

// look says whether the unit at hand is overdue. A look that comes long after
// the last one saw nothing in between: that time is left out.
func (w *watchdog) look(now time.Time, poll time.Duration) (silent time.Duration, why string) {
	if gap := now.Sub(w.at); gap > max(20*poll, 2*time.Second) {
		w.unseen(gap)
	}
	w.at = now
	limit, from := w.limit()
	if silent = now.Sub(w.since); silent <= limit {
		return 0, ""
	}
	return silent, fmt.Sprintf("no progress in section %q for %v, the limit is %v (%s)", w.section, silent.Round(time.Millisecond), limit.Round(time.Millisecond), from)
}
