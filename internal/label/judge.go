package label

import (
	"fmt"

	"tarbert/internal/gate"
	"tarbert/internal/spec"
)

// judge is the gate: the bound, not the point, must reach what the spec asks
// for. A point that is high enough over a bound that is not says that there are
// too few items to tell, which is not a pass either.
func judge(r *Report, s spec.Label) gate.Result {
	want := s.Agreement.Alpha
	agreement := gate.Check{Name: "agreement"}
	switch {
	case r.Alpha == nil || r.Lower == nil:
		agreement.Verdict = gate.Inconclusive
		agreement.Detail = "Krippendorff's alpha is undefined: " + r.Undefined
	default:
		is := fmt.Sprintf("alpha %.3f, lower %g %% bound %.3f", *r.Alpha, 100*s.Agreement.Confidence, *r.Lower)
		switch {
		case *r.Lower >= want:
			agreement.Verdict, agreement.Detail = gate.Pass, fmt.Sprintf("%s ≥ %.3f", is, want)
		case *r.Alpha < want:
			agreement.Verdict, agreement.Detail = gate.Fail, fmt.Sprintf("%s; alpha itself is below %.3f", is, want)
		default:
			agreement.Verdict = gate.Inconclusive
			agreement.Detail = fmt.Sprintf("%s < %.3f: more annotated items would settle it", is, want)
		}
	}
	examples := gate.Check{Name: "examples", Verdict: gate.Pass, Detail: fmt.Sprintf("%d of %d items accepted", r.Accepted, r.Items)}
	if r.Accepted == 0 {
		examples.Verdict = gate.Fail
		examples.Detail = fmt.Sprintf("no item was adjudicated %q; labels are %v", s.Accept, r.Labels)
	}
	return gate.Of(agreement, examples)
}
