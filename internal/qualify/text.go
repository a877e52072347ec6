package qualify

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"tarbert/internal/gate"
	"tarbert/internal/spec"
)

// Text is what was found of another trainer, a line a check; empty for the
// reference trainer. Where the gate is inconclusive it is how to go on without.
func (r *Report) Text() string {
	switch {
	case r.Gate.Verdict == gate.Inconclusive:
		return r.howToWaive()
	case r.Against == nil && r.Parity == nil || !r.Gate.Passed():
		return ""
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, c := range r.Gate.Checks {
		fmt.Fprintf(w, "%s\t%s\t%s\n", c.Name, c.Verdict, c.Detail)
	}
	_ = w.Flush() // into a strings.Builder
	for _, x := range r.Waivers {
		fmt.Fprintf(&b, "waiver: %s\n", x)
	}
	return b.String()
}

func (r *Report) howToWaive() string {
	var open []string
	for _, c := range r.Gate.Checks {
		if c.Verdict == gate.Inconclusive && slices.Contains(spec.Waivable(), c.Name) {
			open = append(open, c.Name)
		}
	}
	if len(open) == 0 {
		return ""
	}
	return fmt.Sprintf("To go on with these unchecked, which the certificate will say, write to the release file:\n  qualify: {waivers: [{checks: [%s], by: WHO, why: WHY}]}\n", strings.Join(open, ", "))
}
