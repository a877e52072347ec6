package forecast

import (
	"fmt"
	"time"

	"tarbert/internal/plan"
)

// Considered is a decision with what it rests on.
type Considered struct {
	At       time.Time     `json:"at"`
	Plan     string        `json:"plan"`
	Pool     string        `json:"pool"`
	Fallback string        `json:"fallback"`
	Events   int           `json:"events"`
	Basis    string        `json:"basis"`
	Before   int           `json:"leaning_before"` // looks in a row that favoured the other side, before this one
	Decision plan.Decision `json:"decision"`
}

// Consider weighs the attempt under way against the plan's best option on
// another pool, from the evidence until a moment. leaning is the last
// decision's; it counts only where evidence came since.
func Consider(p *plan.Project, o *plan.Outlook, events []Event, now time.Time, leaning int) (*Considered, error) {
	events = upTo(events, now)
	if err := Known(events, p); err != nil {
		return nil, err
	}
	s := look(events, p.RunStage())
	began, running := s.began[p.RunStage()]
	if !running {
		return nil, fmt.Errorf("decide: the evidence has no line {\"kind\":\"began\",\"stage\":%q,\"pool\":…}: nothing is under way", p.RunStage())
	}
	terms, err := o.Terms(p, s.pool)
	if err != nil {
		return nil, err
	}
	choice := o.On(s.pool)
	e := plan.Evidence{
		Began: began, Now: now, Target: int(choice.Steps), Steps: s.marks, Interruptions: s.stops, Unseen: s.blind, Parity: s.parity,
		Spent: s.spent, Switched: s.switched, Leaning: leaning,
	}
	if len(s.marks) > 0 && !s.switched.IsZero() {
		e.First = s.marks[0].Step
	}
	d, err := plan.Consider(terms, e)
	if err != nil {
		return nil, err
	}
	return &Considered{At: now, Plan: p.Name, Pool: terms.Pool, Fallback: terms.Fallback, Events: len(events), Before: leaning, Decision: d}, nil
}

// Text is the decision for people.
func (c *Considered) Text() string {
	return fmt.Sprintf("%s, against %s, as seen on %s from %d lines of evidence\n%s", c.Pool, or(c.Fallback, "no other pool"),
		c.At.UTC().Format("2006-01-02 15:04"), c.Events, c.Decision)
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
