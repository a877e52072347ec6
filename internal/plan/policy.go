package plan

import (
	"fmt"
	"slices"
	"time"

	"tarbert/internal/spec"
)

// Allowed applies the policy to one use: refusal is the clause that forbids it
// (empty if none), waivers the clauses that would have, each with who lifted it.
func Allowed(policy []spec.Clause, stage, vendor, site string, from, to time.Time) (refusal string, waivers []string) {
	for _, c := range policy {
		matches := (c.Stage == "" || c.Stage == stage) && (len(c.Vendors) == 0 || slices.Contains(c.Vendors, vendor)) &&
			(len(c.Sites) == 0 || slices.Contains(c.Sites, site)) && (c.From.IsZero() || to.After(c.From)) && (c.Until.IsZero() || from.Before(c.Until))
		switch {
		case !matches:
		case c.Waiver.By != "" && (c.Waiver.Until.IsZero() || !to.After(c.Waiver.Until)):
			end := "without end"
			if !c.Waiver.Until.IsZero() {
				end = "until " + day(c.Waiver.Until)
			}
			waivers = append(waivers, fmt.Sprintf("%s (%s) waived by %s %s: %s", c.ID, c.Text, c.Waiver.By, end, c.Waiver.Why))
		case c.Waiver.By != "":
			return fmt.Sprintf("policy %s: %s (the waiver by %s ends %s, before %s)", c.ID, c.Text, c.Waiver.By, day(c.Waiver.Until), day(to)), waivers
		default:
			return fmt.Sprintf("policy %s: %s", c.ID, c.Text), waivers
		}
	}
	return "", waivers
}
