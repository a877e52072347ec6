package spec

import (
	"fmt"
	"time"
)

// Clause is one rule of the policy: what it matches is forbidden, unless a waiver says otherwise.
type Clause struct {
	ID      string    `json:"id"`
	Text    string    `json:"text"`
	Stage   string    `json:"stage"`   // "train", "serve", …; empty = all
	Vendors []string  `json:"vendors"` // forbidden; empty = all
	Sites   []string  `json:"sites"`   // where; empty = everywhere
	From    time.Time `json:"from,omitzero"`
	Until   time.Time `json:"until,omitzero"`
	Waiver  Waiver    `json:"waiver,omitzero"`
}

// Waiver lifts a clause. One that was used goes into the certificate.
type Waiver struct {
	By    string    `json:"by"`
	Until time.Time `json:"until,omitzero"`
	Why   string    `json:"why"`
}

// ClauseMistake is what is wrong with a clause; Field is relative to it.
type ClauseMistake struct{ Field, What, Hint string }

// Mistakes says what is wrong with a clause; seen holds the ids of those before it.
func (c Clause) Mistakes(seen map[string]bool) (out []ClauseMistake) {
	bad := func(field, hint, format string, args ...any) {
		out = append(out, ClauseMistake{field, fmt.Sprintf(format, args...), hint})
	}
	if c.ID == "" || c.Text == "" {
		bad("", "add both: id: home-1, text: …", " has no id or no text: a refusal names them")
	}
	if c.ID != "" && seen[c.ID] {
		bad(".id", "give each clause an id of its own", ".id: %q is used twice", c.ID)
	}
	if !c.Until.IsZero() && !c.Until.After(c.From) {
		bad(".until", "", ".until: %s is not after from", c.Until.Format(time.DateOnly))
	}
	if w := c.Waiver; w.By == "" && (w.Why != "" || !w.Until.IsZero()) {
		bad(".waiver", "add by: who waived it", ".waiver has no by: somebody answers for it")
	}
	return out
}

// ValidName says whether a text can name a release, a pool or a project.
func ValidName(s string) bool { return namePattern.MatchString(s) }
