package plan

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Terms is what was agreed before an attempt began: what Decide needs beside
// what happens. It comes from the spec and the plan; a supervisor hands it on.
type Terms struct {
	Pool     string  `json:"pool"`
	Fallback string  `json:"fallback"`
	Step     Seconds `json:"step_seconds"` // planned, without interruptions
	// Planned is the whole attempt's forecast in wall hours, Expected its progress per wall hour.
	Planned    Hours `json:"planned_hours"`
	Expected   Range `json:"expected"`
	Price      Money `json:"price_per_hour"` // of the pool in use
	Other      Side  `json:"other"`
	Preference Hours `json:"preference_hours"`
	// BringUp is how long it may take to the first kept step. Until it is spent,
	// days without one are no evidence against the pool; then they all are.
	BringUp       Hours  `json:"bring_up_hours"`
	DayWorth      Money  `json:"day_worth"`
	Budget        Budget `json:"budget"`
	PreAuthorized bool   `json:"pre_authorized"`
}

// Mark is a step whose work is still kept, and when it was done.
type Mark struct {
	At   time.Time `json:"at"`
	Step int       `json:"step"`
}

// Span is a stretch of time.
type Span struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

// Evidence is what a supervisor has seen of an attempt, every field from its
// journal: a supervisor that was started again comes to the same decision.
type Evidence struct {
	Began  time.Time `json:"began"`
	Now    time.Time `json:"now"`
	First  int       `json:"first_step"` // step that the attempt began with
	Target int       `json:"target"`     // the recipe's last step
	// Steps are the checkpoints and the newest step. What an interruption
	// lost is left out, so steps never fall.
	Steps []Mark `json:"steps"`
	// Interruptions are attempts that ended without being asked to. One that
	// nobody could see is not among them: it is a stretch in Unseen.
	Interruptions []time.Time `json:"interruptions"`
	Unseen        []Span      `json:"unseen"`
	Parity        Checks      `json:"parity"`
	Spent         Money       `json:"spent"`
	Switched      time.Time   `json:"switched,omitzero"` // the last switch; evidence from before does not count
	Leaning       int         `json:"leaning"`           // the last Decision's
}

// windowWidth is the stretch that evidence is cut into: a day, so that hours of
// the day and single restarts do not look like trends.
const windowWidth = 24 * time.Hour

// Consider decides on an attempt that is under way. It is pure.
func Consider(t Terms, e Evidence) (Decision, error) {
	s, err := t.Situation(e)
	if err != nil {
		return Decision{}, err
	}
	d, err := Decide(s)
	if err == nil && len(s.Windows) == 0 && s.At >= leastSeen {
		d.Reasons = append([]string{fmt.Sprintf("no step has been kept yet, in %v: bringing up may take %v", s.At, t.BringUp)}, d.Reasons...)
		d.WouldChange = []string{"the first kept step, or the end of that time"}
	}
	return d, err
}

// afterBringUp leaves out the days before the first kept step, until what was allowed for it is spent.
func afterBringUp(windows []Window, allowed Hours) []Window {
	var waited Hours
	for i, w := range windows {
		if w.Progress > 0 {
			return windows[i:]
		}
		if waited += w.Wall; waited > allowed {
			return windows
		}
	}
	return nil
}

// Situation puts terms and evidence together.
func (t Terms) Situation(e Evidence) (Situation, error) {
	if err := e.check(); err != nil {
		return Situation{}, fmt.Errorf("evidence: %w", err)
	}
	if !(t.Step > 0) {
		return Situation{}, fmt.Errorf("terms: step_seconds is %g: must be positive", float64(t.Step))
	}
	done := e.First
	if n := len(e.Steps); n > 0 {
		done = e.Steps[n-1].Step
	}
	s := Situation{
		At: hoursBetween(e.Began, e.Now), Planned: t.Planned, Remaining: (Seconds(max(0, e.Target-done)) * t.Step).Hours(),
		Windows: t.windows(e), Parity: e.Parity, Expected: t.Expected, Price: t.Price, Spent: e.Spent, Other: t.Other,
		Preference: t.Preference, DayWorth: t.DayWorth, Budget: t.Budget, Leaning: e.Leaning, PreAuthorized: t.PreAuthorized,
	}
	if e.Switched.After(e.Began) {
		s.LastSwitch = hoursBetween(e.Began, e.Switched)
	} else {
		s.Windows = afterBringUp(s.Windows, t.BringUp)
	}
	return s, nil
}

func hoursBetween(from, to time.Time) Hours { return Hours(to.Sub(from).Hours()) }

func (e Evidence) check() error {
	var errs []error
	if e.Began.IsZero() || e.Now.Before(e.Began) {
		errs = append(errs, fmt.Errorf("now %v is before the attempt began at %v", e.Now, e.Began))
	}
	last := Mark{At: e.Began, Step: e.First}
	for i, m := range e.Steps {
		if m.At.Before(last.At) || m.Step < last.Step || m.At.After(e.Now) {
			errs = append(errs, fmt.Errorf("steps[%d]: step %d at %v after step %d at %v: must not fall, nor lie ahead", i, m.Step, m.At, last.Step, last.At))
		}
		last = m
	}
	for i, u := range e.Unseen {
		if u.To.Before(u.From) {
			errs = append(errs, fmt.Errorf("unseen[%d]: ends %v, before it begins", i, u.To))
		}
	}
	return errors.Join(errs...)
}

// windows cuts the attempt into days; what is left of the last one counts from a quarter day on.
func (t Terms) windows(e Evidence) []Window {
	var out []Window
	for from := e.Began; e.Now.Sub(from) >= windowWidth/4; from = from.Add(windowWidth) {
		to := from.Add(windowWidth)
		if to.After(e.Now) {
			to = e.Now
		}
		w := Window{Wall: hoursBetween(from, to), Unknown: min(hoursBetween(from, to), Unseen(e.Unseen, from, to))}
		w.Progress = (Seconds(e.stepsAt(to)-e.stepsAt(from)) * t.Step).Hours()
		for _, at := range e.Interruptions {
			if !at.Before(from) && at.Before(to) {
				w.Interruptions++
			}
		}
		out = append(out, w)
	}
	return out
}

// stepsAt is the kept steps at a moment, between marks in proportion.
func (e Evidence) stepsAt(at time.Time) float64 {
	before := Mark{At: e.Began, Step: e.First}
	for _, m := range e.Steps {
		if m.At.After(at) {
			return float64(before.Step) + float64(m.Step-before.Step)*float64(at.Sub(before.At))/float64(m.At.Sub(before.At))
		}
		before = m
	}
	return float64(before.Step)
}

// Unseen is how much of a stretch lies in spans; where they overlap it counts once.
func Unseen(spans []Span, from, to time.Time) Hours {
	spans = slices.SortedFunc(slices.Values(spans), func(a, b Span) int { return a.From.Compare(b.From) })
	var sum Hours
	for _, u := range spans {
		begin, end := u.From, u.To
		if begin.Before(from) {
			begin = from
		}
		if end.After(to) {
			end = to
		}
		if end.After(begin) {
			sum += hoursBetween(begin, end)
			from = end
		}
	}
	return sum
}
