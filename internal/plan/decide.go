package plan

import (
	"errors"
	"fmt"
	"math"
)

// Action is what to do now.
type Action string

// The actions.
const (
	Stay   Action = "stay"
	Switch Action = "switch"
	Hedge  Action = "hedge" // queue for the fallback and prepare it while the attempt goes on
	Stop   Action = "stop"  // neither side finishes in time or within the money
)

// Window is one stretch of an attempt, a day as a rule.
type Window struct {
	Wall Hours `json:"wall"`
	// Unknown is how much of it nobody could see; it is not held against the pool.
	Unknown Hours `json:"unknown"`
	// Progress is the kept steps, as hours at the planned speed without interruptions.
	Progress      Hours `json:"progress"`
	Interruptions int   `json:"interruptions"`
}

// Checks counts comparisons with the reference: gradients, losses, log-probabilities.
type Checks struct {
	Done     int `json:"done"`
	Breaches int `json:"breaches"` // consecutive, newest last
	Unknown  int `json:"unknown"`
}

// Side is the other pool, as far as it is known.
type Side struct {
	// Rate is progress per wall hour, as in Window: ETTR times relative speed.
	Rate      Range   `json:"rate"`
	Queue     Range   `json:"queue_hours"`
	Migration Range   `json:"migration_hours"` // conversion, parity replay, first steps
	Price     Money   `json:"price_per_hour"`  // of the whole pool
	Refused   string  `json:"refused"`         // the policy clause that forbids it; empty if none
	Failed    float64 `json:"failed"`          // chance that it does not finish either
}

// Budget is set before the attempt. A zero field is no limit.
type Budget struct {
	Deadline Hours `json:"deadline"` // for the finish, from the attempt's start
	Money    Money `json:"money"`    // in all
	Hedge    Money `json:"hedge"`    // for preparing the fallback meanwhile
	// Floor is the least progress per wall hour over the last three days.
	Floor float64 `json:"floor"`
	// Breaches is how many parity breaches in a row are taken as proof; at least 2.
	Breaches int `json:"breaches"`
}

// Situation is all that Decide looks at.
type Situation struct {
	At        Hours    `json:"at"`        // since the attempt began
	Planned   Hours    `json:"planned"`   // wall hours that the whole attempt was forecast to take
	Remaining Hours    `json:"remaining"` // of uninterrupted steps at the planned speed, from the last good save
	Windows   []Window `json:"windows"`   // in order
	Parity    Checks   `json:"parity"`
	// Expected is progress per wall hour as the plan saw it before the attempt.
	Expected Range `json:"expected"`
	Price    Money `json:"price_per_hour"` // of the pool in use
	Spent    Money `json:"spent"`
	Other    Side  `json:"other"`
	// Preference is how many hours later the finish may be on the pool in use; from the spec.
	Preference Hours `json:"preference"`
	// DayWorth is what a day earlier is worth: it turns a difference of cost
	// into time. At 0 money counts only in the budgets.
	DayWorth Money  `json:"day_worth"`
	Budget   Budget `json:"budget"`
	// LastSwitch is when the last switch was made; 0 = none. Evidence from before it does not count.
	LastSwitch Hours `json:"last_switch"`
	// Leaning is the last decision and how many in a row favoured the other side.
	Leaning       int  `json:"leaning"`
	PreAuthorized bool `json:"pre_authorized"`
}

// Decision is the answer with its arithmetic.
type Decision struct {
	Action Action `json:"action"`
	// Confidence is the chance that the other side finishes earlier, preference counted.
	Confidence float64  `json:"confidence"`
	Reasons    []string `json:"reasons"`
	// BreakEven is the progress per wall hour above which staying pays, and
	// Within when the evidence could show it.
	BreakEven float64 `json:"break_even"`
	Within    Hours   `json:"within"`
	Rate      float64 `json:"rate"`       // posterior mean of progress per wall hour here
	RateError float64 `json:"rate_error"` // its standard deviation
	Here      Hours   `json:"here"`       // remaining wall hours on this side, at the mean
	There     Hours   `json:"there"`      // on the other, all delays counted
	// WouldChange is what observation would change the decision.
	WouldChange []string `json:"would_change"`
	Leaning     int      `json:"leaning"` // to be given back in the next Situation
	NeedsHuman  bool     `json:"needs_human"`
	Unknown     []string `json:"unknown"`
}

const (
	sure         = 0.95 // chance of the other side's being earlier that a switch needs
	unsure       = 0.57 // the same, if it stays so for long
	hedgeFrom    = 0.57
	leastSeen    = 36.0
	leastTrouble = 3 // interruptions, or days far below the expectation
	patience     = 2 // decisions in a row that must agree when they are sure
	steady       = 8 // when they are not
	settling     = 0.1
)

// Check says which field cannot be.
func (s Situation) Check() error {
	errs := []error{
		s.Expected.check("expected", true), s.Other.Rate.check("other: rate", true),
		s.Other.Queue.check("other: queue_hours", false), s.Other.Migration.check("other: migration_hours", false),
	}
	for _, f := range []struct {
		name string
		x    float64
	}{
		{"at", float64(s.At)}, {"planned", float64(s.Planned)}, {"remaining", float64(s.Remaining)}, {"preference", float64(s.Preference)},
		{"budget: deadline", float64(s.Budget.Deadline)}, {"budget: money", float64(s.Budget.Money)}, {"price_per_hour", float64(s.Price)}, {"day_worth", float64(s.DayWorth)},
		{"other: price_per_hour", float64(s.Other.Price)}, {"other: failed", s.Other.Failed},
	} {
		if math.IsNaN(f.x) || math.IsInf(f.x, 0) || f.x < 0 {
			errs = append(errs, fmt.Errorf("%s: %g: must be a number from 0", f.name, f.x))
		}
	}
	for i, w := range s.Windows {
		if !(w.Wall > 0) || w.Unknown < 0 || w.Unknown > w.Wall || w.Progress < 0 || w.Interruptions < 0 || math.IsNaN(float64(w.Progress)) {
			errs = append(errs, fmt.Errorf("windows[%d]: %+v: must be a positive stretch with no more unknown than wall time", i, w))
		}
	}
	return errors.Join(errs...)
}

// Decide weighs going on against the other side. It is pure: the same
// situation gives the same decision. It never decides on one failure nor on
// what nobody saw, and asks for two agreeing looks before a switch.
func Decide(s Situation) (Decision, error) {
	if err := s.Check(); err != nil {
		return Decision{}, fmt.Errorf("decide: %w", err)
	}
	there := Hours(s.Other.Queue.Mid()+s.Other.Migration.Mid()) + s.Remaining/Hours(s.Other.Rate.Mid())
	breakEven := s.breakEven(Hours(s.Other.Queue.Mid()), there-Hours(s.Other.Queue.Mid()))
	e := s.evidence(breakEven)
	d := Decision{Action: Stay, BreakEven: breakEven, Rate: e.mean, RateError: e.deviation, There: there}
	d.Here = Hours(float64(s.Remaining) / e.mean)
	d.Confidence = s.confidence(e)
	d.unknowns(s, e)
	switch {
	case s.Parity.Breaches >= max(2, s.Budget.Breaches):
		d.Confidence = 1 - math.Pow(0.05, float64(s.Parity.Breaches))
		d.because("%d parity checks in a row failed: what is trained here is not what the recipe says", s.Parity.Breaches)
		d.change("a parity check that passes after the cause was found and removed")
		d.leave(s)
	case s.Remaining == 0:
		d.because("nothing remains to be trained")
	case e.hours < leastSeen || e.trouble < leastTrouble:
		d.because("%v observed and %d troubles seen: too little to tell this pool from a good one (at least %v and %d)", Hours(e.hours), e.trouble, Hours(leastSeen), leastTrouble)
		d.change("%v more of observation", Hours(max(0, leastSeen-e.hours)))
		if e.hours >= leastSeen {
			d.WouldChange = []string{fmt.Sprintf("%d more interruptions or days under %.2f", leastTrouble-e.trouble, max(0.6*s.Expected.Mid(), breakEven))}
		}
	case s.Budget.Floor > 0 && e.hours >= 72 && e.recent < s.Budget.Floor && d.Confidence >= hedgeFrom:
		d.because("the last three days made %.2f progress, the floor set before the attempt is %.2f, and the other side is earlier with %.0f %%", e.recent, s.Budget.Floor, 100*d.Confidence)
		d.change("three days above the floor")
		d.leave(s)
	default:
		d.weigh(s, e)
	}
	d.limits(s)
	d.Within = max(0, 36-Hours(e.hours))
	if d.Within == 0 {
		d.Within = 36
	}
	d.NeedsHuman = d.Action != Stay && !s.PreAuthorized
	return d, nil
}

func (d *Decision) because(format string, args ...any) {
	d.Reasons = append(d.Reasons, fmt.Sprintf(format, args...))
}

func (d *Decision) change(format string, args ...any) {
	d.WouldChange = append(d.WouldChange, fmt.Sprintf(format, args...))
}
