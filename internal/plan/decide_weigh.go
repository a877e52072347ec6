package plan

import (
	"fmt"
	"math"
)

// confidence is the chance that the other side finishes earlier than this one
// by more than the preference: over both sides' unknowns.
func (s Situation) confidence(e seen) float64 {
	sum, n := 0.0, 0.0
	for _, q := range []float64{0.1, 0.3, 0.5, 0.7, 0.9} {
		for _, r := range []float64{0.1, 0.5, 0.9} {
			busy := Hours(s.Other.Migration.At(q)) + s.Remaining/Hours(s.Other.Rate.At(1-r))
			sum += normal((s.breakEven(Hours(s.Other.Queue.At(q)), busy) - e.mean) / e.deviation)
			n++
		}
	}
	return sum / n * (1 - s.Other.Failed)
}

// breakEven is the progress per wall hour here above which staying pays, if the
// other side waits and then is busy so long. Cost counts where a day has a worth:
//
//	R/x·(1 + c_here) = queue + busy·(1 + c_there) + preference,  c = 24·price / day_worth
func (s Situation) breakEven(queue, busy Hours) float64 {
	here, there := Hours(1), Hours(1)
	if s.DayWorth > 0 {
		here += Hours(24 * s.Price / s.DayWorth)
		there += Hours(24 * s.Other.Price / s.DayWorth)
	}
	return float64(s.Remaining * here / (queue + busy*there + s.Preference))
}

// normal is the standard normal distribution function.
func normal(z float64) float64 { return 0.5 * math.Erfc(-z/math.Sqrt2) }

// weigh is the ordinary case: enough was seen.
func (d *Decision) weigh(s Situation, e seen) {
	d.because("progress here is %.2f ± %.2f of the wall time, planned %.2f: %v to go; the other side needs %v with queue and migration",
		e.mean, e.deviation, s.Expected.Mid(), d.Here, d.There)
	improving := e.trend > 0.15 && e.trend > 2*e.deviation
	if e.falls > 0 {
		d.because("progress falls by %.3f a day (± %.3f): %.2f of it is taken off for the rest", -e.slope, e.slopeError, e.falls)
	}
	// Slow and steady is no matter of settling; interruptions may be.
	settle := Hours(settling) * min(max(s.Planned, 72*24), 90*24)
	if days := e.hours / 24; float64(e.interruptions) < 3*days {
		settle = 3 * 24
	}
	settled := s.At >= settle
	// What stays open however long one looks is the other side: then many looks
	// that agree count for as much as one that is sure.
	looks := steady
	if d.Confidence >= sure || e.falls > 0 || e.stepped {
		looks = patience
	}
	switch {
	case d.Confidence < hedgeFrom:
		d.because("the other side is earlier with a chance of %.0f %% only", 100*d.Confidence)
		d.change("progress under %.2f for two days", max(0, d.BreakEven-2*e.deviation))
	case improving:
		d.because("the newest third of the attempt makes %.2f more progress than the first: it is getting better, and is given time", e.trend)
		d.change("two days without further improvement")
	case d.Confidence < unsure:
		d.Leaning = s.Leaning
		d.Action = Hedge
		d.because("the other side is earlier with a chance of %.0f %%, a switch needs %.0f %%: the evidence cannot tell yet", 100*d.Confidence, 100*unsure)
		d.change("progress under %.2f confirms a switch, above %.2f ends the hedge", max(0, d.BreakEven-1.7*e.deviation), d.BreakEven)
	case !settled:
		d.Leaning = min(s.Leaning+1, looks-1)
		d.Action = Hedge
		d.because("the attempt is %.1f days old; a pool may need %.1f days to settle", s.At.Days(), settle.Days())
		d.change("the same progress after that")
	case s.Leaning+1 < looks:
		d.Leaning = s.Leaning + 1
		d.Action = Hedge
		d.because("this is look %d that says so, now with %.0f %%: %d in a row must agree", d.Leaning, 100*d.Confidence, looks)
		d.change("progress above %.2f", d.BreakEven)
	default:
		d.because("the other side is earlier with a chance of %.0f %%, %v on average", 100*d.Confidence, d.Here-d.There)
		d.change("progress above %.2f within %v", d.BreakEven, Hours(36))
		d.leave(s)
	}
	if d.Action == Hedge && (s.Budget.Hedge == 0 || s.Other.Price*Money(s.Other.Queue.Mid()+s.Other.Migration.Mid()) > s.Budget.Hedge) {
		d.Action = Stay
		d.because("preparing the other side meanwhile would cost %v, and %v is set aside for it", s.Other.Price*Money(s.Other.Queue.Mid()+s.Other.Migration.Mid()), s.Budget.Hedge)
	}
}

// leave switches, or stops where the other side may not be used.
func (d *Decision) leave(s Situation) {
	d.Leaning = steady
	if s.Other.Refused != "" {
		d.Action = Stop
		d.because("the other side is refused: %s", s.Other.Refused)
		d.change("a waiver of that clause")
		return
	}
	d.Action = Switch
}

// limits applies deadline and money: an attempt that neither side can save stops.
func (d *Decision) limits(s Situation) {
	if b := s.Budget.Deadline; b > 0 && s.Remaining > 0 && len(s.Windows) > 0 {
		here, there := s.At+s.Remaining/Hours(min(1.5, d.Rate+2*d.RateError)), s.At+Hours(s.Other.Queue.Low+s.Other.Migration.Low)+s.Remaining/Hours(s.Other.Rate.High)
		if here > b && (there > b || s.Other.Refused != "") && d.Action != Stay {
			d.Action = Stop
			d.because("even at best the finish is %v here and %v there, past the deadline of %v", here, there, b)
			d.change("a later deadline, or less work")
		}
	}
	if b := s.Budget.Money; b > 0 {
		here, there := s.Spent+s.Price*Money(d.Here), s.Spent+s.Other.Price*Money(d.There)
		if d.Action == Switch && there > b && here > b {
			d.Action = Stop
			d.because("going on costs %v and switching %v in all, the budget is %v", here, there, b)
			d.change("a larger budget")
		}
	}
}

// unknowns lists what is not known and was not held against anybody.
func (d *Decision) unknowns(s Situation, e seen) {
	if e.unknown > 0 {
		d.Unknown = append(d.Unknown, fmt.Sprintf("%v of the attempt nobody could see: left out, not counted as failure", e.unknown))
	}
	if s.Parity.Done == 0 {
		d.Unknown = append(d.Unknown, "no parity check has been made")
	} else if s.Parity.Unknown > 0 {
		d.Unknown = append(d.Unknown, fmt.Sprintf("%d parity checks gave no answer", s.Parity.Unknown))
	}
	if s.Other.Rate.Spread() > 1.5 {
		d.Unknown = append(d.Unknown, fmt.Sprintf("the other side's progress is %v, not measured", s.Other.Rate))
	}
}

// String is the decision for people.
func (d Decision) String() string {
	text := fmt.Sprintf("%s (the other side is earlier with %.0f %%)\n", d.Action, 100*d.Confidence)
	if d.NeedsHuman {
		text = fmt.Sprintf("%s, to be confirmed by a human (the other side is earlier with %.0f %%)\n", d.Action, 100*d.Confidence)
	}
	for _, r := range d.Reasons {
		text += "  because " + r + "\n"
	}
	if d.BreakEven > 0 {
		text += fmt.Sprintf("  switching pays unless progress on this pool exceeds %.2f of the wall time within %v\n", d.BreakEven, d.Within)
	}
	for _, c := range d.WouldChange {
		text += "  would change: " + c + "\n"
	}
	for _, u := range d.Unknown {
		text += "  not known: " + u + "\n"
	}
	return text
}
