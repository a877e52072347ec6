package forecast

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"tarbert/internal/plan"
)

// Kind is what a line of evidence is about.
type Kind string

// The kinds of evidence.
const (
	Began        Kind = "began"        // of a stage; pool, if it is the run
	Ended        Kind = "ended"        // of a stage
	Count        Kind = "count"        // done so far in the stage's unit
	Steps        Kind = "steps"        // last step whose work is kept
	Interruption Kind = "interruption" // of the run
	Section      Kind = "section"      // seconds that a "step", "checkpoint" or "restart" took
	Unseen       Kind = "unseen"       // from at to until nobody could see the run
	Parity       Kind = "parity"       // a comparison with the reference: ok, or not, or null = no answer
	Qualified    Kind = "qualified"    // ranges measured on a pool
	Spent        Kind = "spent"        // money so far
	Switched     Kind = "switched"     // the run goes on on this pool
)

var kinds = []Kind{Began, Ended, Count, Steps, Interruption, Section, Unseen, Parity, Qualified, Spent, Switched}

// Event is one line of evidence.
type Event struct {
	At    time.Time `json:"at"`
	Kind  Kind      `json:"kind"`
	Stage string    `json:"stage,omitempty"`
	Pool  string    `json:"pool,omitempty"`

	Done    float64     `json:"done,omitempty"`    // count
	Step    int         `json:"step,omitempty"`    // steps
	Name    string      `json:"name,omitempty"`    // section
	Seconds float64     `json:"seconds,omitempty"` // section
	Until   time.Time   `json:"until,omitzero"`    // unseen
	OK      *bool       `json:"ok,omitempty"`      // parity; absent = no answer
	Money   plan.Money  `json:"money,omitempty"`   // spent
	MFU     *plan.Range `json:"mfu,omitempty"`     // qualified
	Hazard  *plan.Range `json:"hazard,omitempty"`  // qualified
}

// longestLine and mostEvents bound what a file can make us hold.
const (
	longestLine = 64 << 10
	mostEvents  = 1_000_000
)

// ReadEvidence reads JSON lines, strictly; empty lines and lines with # are
// left out. An error names the line. The events come back in order of time.
func ReadEvidence(r io.Reader) ([]Event, error) {
	var out []Event
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 4096), longestLine)
	n := 0
	for sc.Scan() {
		n++
		line := bytes.TrimSpace(sc.Bytes())
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		if len(out) >= mostEvents {
			return nil, fmt.Errorf("evidence: line %d: more than %d lines", n, mostEvents)
		}
		e, err := parse(line)
		if err != nil {
			return nil, fmt.Errorf("evidence: line %d: %w", n, err)
		}
		out = append(out, e)
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("evidence: after line %d: %w", n, err)
	}
	slices.SortStableFunc(out, func(a, b Event) int { return a.At.Compare(b.At) })
	return out, nil
}

// moment reads a day or an RFC 3339 time.
type moment struct{ time.Time }

func (m *moment) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return errors.New("a moment is text, as \"2027-03-31\" or \"2027-03-31T09:00:00Z\"")
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, s); err == nil {
			m.Time = t.UTC()
			return nil
		}
	}
	return fmt.Errorf("%q is not a moment that exists: write 2027-03-31 or 2027-03-31T09:00:00Z", s)
}

func parse(line []byte) (Event, error) {
	type plainEvent Event
	v := struct {
		*plainEvent
		At    moment `json:"at"`
		Until moment `json:"until"`
	}{plainEvent: &plainEvent{}}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return Event{}, errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Event{}, errors.New("something follows the event")
	}
	e := Event(*v.plainEvent)
	e.At, e.Until = v.At.Time, v.Until.Time
	return e, e.check()
}

func (e Event) check() error {
	switch {
	case e.At.IsZero():
		return errors.New("at is missing: when was it?")
	case !slices.Contains(kinds, e.Kind):
		return fmt.Errorf("kind %q: known are %v", e.Kind, kinds)
	}
	for _, f := range []struct {
		name string
		x    float64
	}{{"done", e.Done}, {"step", float64(e.Step)}, {"seconds", e.Seconds}, {"money", float64(e.Money)}} {
		if f.x < 0 || math.IsNaN(f.x) || math.IsInf(f.x, 0) {
			return fmt.Errorf("%s is %g: must be a number from 0", f.name, f.x)
		}
	}
	needs := map[Kind]bool{Began: e.Stage != "", Ended: e.Stage != "", Count: e.Stage != "", Section: e.Name != "" && e.Seconds > 0,
		Unseen: e.Until.After(e.At), Qualified: e.Pool != "" && (e.MFU != nil || e.Hazard != nil), Switched: e.Pool != ""}
	want := map[Kind]string{Began: "stage", Ended: "stage", Count: "stage", Section: "name and positive seconds", Unseen: "until, after at",
		Qualified: "pool, and mfu or hazard", Switched: "pool"}
	if ok, asked := needs[e.Kind]; asked && !ok {
		return fmt.Errorf("kind %s needs %s", e.Kind, want[e.Kind])
	}
	return nil
}

// Known says which evidence does not fit the plan: a stage or pool that it does not have, progress that falls.
func Known(events []Event, p *plan.Project) error {
	var errs []error
	done, step := map[string]float64{}, -1
	for _, e := range events {
		if e.Stage != "" && !p.HasStage(e.Stage) {
			errs = append(errs, fmt.Errorf("evidence of %s: stage %q is not in the plan", e.At.Format(time.DateOnly), e.Stage))
		}
		if e.Pool != "" && !p.HasPool(e.Pool) {
			errs = append(errs, fmt.Errorf("evidence of %s: pool %q is not in the plan", e.At.Format(time.DateOnly), e.Pool))
		}
		if e.Kind == Count {
			if e.Done < done[e.Stage] {
				errs = append(errs, fmt.Errorf("evidence of %s: %s had %g done before, now %g: done is counted from the start", e.At.Format(time.DateOnly), e.Stage, done[e.Stage], e.Done))
			}
			done[e.Stage] = e.Done
		}
		if e.Kind == Steps {
			if e.Step < step {
				errs = append(errs, fmt.Errorf("evidence of %s: step %d after step %d: give the last step whose work is kept", e.At.Format(time.DateOnly), e.Step, step))
			}
			step = e.Step
		}
	}
	return errors.Join(errs...)
}

// upTo is the events until a moment.
func upTo(events []Event, now time.Time) []Event {
	i, _ := slices.BinarySearchFunc(events, now, func(e Event, t time.Time) int { return cmp.Or(e.At.Compare(t), -1) })
	return events[:i]
}
