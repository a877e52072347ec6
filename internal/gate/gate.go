package gate

import "strings"

// Verdict is the outcome of a gate.
type Verdict string

// The three verdicts. The zero value is not a verdict and never passes.
const (
	Pass         Verdict = "pass"
	Fail         Verdict = "fail"
	Inconclusive Verdict = "inconclusive"
)

// Check is one question that a gate asked, with its answer and the numbers
// behind it in words a person can act on.
type Check struct {
	Name    string  `json:"name"`
	Verdict Verdict `json:"verdict"`
	// Detail says what was measured against what: "alpha 0.79, lower bound 0.77 ≥ 0.70".
	Detail string `json:"detail"`
}

// Result is a gate's verdict with the checks that led to it.
type Result struct {
	Verdict Verdict `json:"verdict"`
	// Reason is one line for the terminal: why it did not pass, or what passing rests on.
	Reason string  `json:"reason"`
	Checks []Check `json:"checks,omitempty"`
}

// Passed reports whether v is pass.
func (v Verdict) Passed() bool { return v == Pass }

// Passed reports whether the release may go on.
func (r Result) Passed() bool { return r.Verdict.Passed() }

// Of combines checks: any fail fails; else any inconclusive (or no check at
// all, or an unset verdict) is inconclusive; else pass. The reason names the
// checks that decided.
func Of(checks ...Check) Result {
	if len(checks) == 0 {
		return Result{Verdict: Inconclusive, Reason: "nothing was checked"}
	}
	verdict := Pass
	for _, c := range checks {
		switch c.Verdict {
		case Pass:
		case Fail:
			verdict = Fail
		default:
			if verdict != Fail {
				verdict = Inconclusive
			}
		}
	}
	var why []string
	for _, c := range checks {
		decided := c.Verdict == verdict || (verdict == Inconclusive && c.Verdict != Pass)
		if decided {
			why = append(why, c.Name+": "+c.Detail)
		}
	}
	return Result{Verdict: verdict, Reason: strings.Join(why, "; "), Checks: checks}
}
