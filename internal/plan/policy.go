package plan

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"tarbert/internal/spec"
)

// Allowed applies the policy to one use: refusal is the clause that forbids it
// (empty if none), waivers the clauses that would have, each with who lifted it.
func Allowed(policy []spec.Clause, stage, vendor, site string, from, to time.Time) (refusal string, waivers []string) {
	for _, c := range policy {
		matches := (c.Stage == "" || c.Stage == stage) && (len(c.Vendors) == 0 || slices.Contains(c.Vendors, vendor)) &&
			(len(c.Sites) == 0 || slices.Contains(c.Sites, site)) && (c.From.IsZero() || !to.Before(c.From)) && (c.Until.IsZero() || from.Before(c.Until))
		switch {
		case !matches:
		case c.Waiver.By != "" && (c.Waiver.Until.IsZero() || to.Before(c.Waiver.Until.AddDate(0, 0, 1))): // the last day counts
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

// stageOf is the stage that a role's pool works at.
var stageOf = map[spec.Role]string{spec.Preferred: "train", spec.Fallback: "train", spec.Reference: "verify", spec.Target: "serve"}

// permitted applies the policy to a pool in a role, now.
func permitted(policy []spec.Clause, pool spec.Pool, role spec.Role, now time.Time) (refusal string, waivers []string) {
	return Allowed(policy, stageOf[role], string(pool.Vendor), pool.Site, now, now)
}

// Permissions is what the policy says of every pool in every role at a moment:
// as long as it says the same, a plan need not be made again.
func Permissions(s *spec.Release, now time.Time) (out []string) {
	for _, pool := range s.Pools {
		for _, role := range pool.Roles {
			refusal, waivers := permitted(s.Policy, pool, role, now)
			out = append(out, refusal, strings.Join(waivers, "; "))
		}
	}
	return out
}

// Waivers lists the clauses that were lifted for the options chosen.
func (p *Plan) Waivers() (out []string) {
	for _, o := range p.Options {
		for _, w := range o.Waivers {
			if w = fmt.Sprintf("pool %s as %s: %s", o.Pool, o.Role, w); o.Chosen && !slices.Contains(out, w) {
				out = append(out, w)
			}
		}
	}
	return out
}
