package train

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"tarbert/internal/checkpoint"
	"tarbert/internal/gate"
)

// Report is what the stage found and made.
type Report struct {
	Attempts  []Attempt `json:"attempts"`
	Decisions []string  `json:"decisions"`
	Ledger    Ledger    `json:"ledger"`
	Steps     int       `json:"steps"`
	Target    int       `json:"target"`
	Tokens    int64     `json:"tokens"`
	// TokensPerSecond is over the time in steps and rollouts that are in the result.
	TokensPerSecond float64 `json:"tokens_per_second"`
	// Supervisors is how many processes have watched over the run: more than one, and it survived them.
	Supervisors int `json:"supervisors"`
	// Series are the events' numbers by step, merged over attempts: where a step was done again, the last one counts.
	Series []Series `json:"series"`
	// MismatchMean and MismatchMax are over the mean |Δ log p| between rollout and trainer that the trainer reported.
	MismatchMean float64              `json:"mismatch_mean"`
	MismatchMax  float64              `json:"mismatch_max"`
	Final        string               `json:"final"` // checkpoint directory; empty if there is none
	FinalDigest  string               `json:"final_digest"`
	SFT          string               `json:"sft"` // the last checkpoint of the sft stage
	Skipped      []checkpoint.Skipped `json:"skipped,omitempty"`
	Malformed    int                  `json:"malformed_events"`
	// Torn counts attempts whose last line of events was not finished, as a kill leaves it.
	Torn     int    `json:"torn_events"`
	FirstBad string `json:"first_malformed,omitempty"`
	// Pool is where the run ended, Moves how it came there.
	Pool string `json:"pool,omitempty"`
	// Program is what trained there, as Pool.Program gave it.
	Program []string `json:"program,omitempty"`
	Moves   []Move   `json:"moves,omitempty"`
	Alarms  []Alarm  `json:"alarms,omitempty"`
	// Good is the newest checkpoint that counted, Proven the newest whose resumed loss matched.
	Good     *Kept             `json:"last_good,omitempty"`
	Proven   *Kept             `json:"last_proven,omitempty"`
	Interval Interval          `json:"interval"`
	Faults   []ChipFault       `json:"faults,omitempty"`
	Cordoned map[string]string `json:"cordoned,omitempty"`
	Adjust   Adjust            `json:"adjust"`
	Gate     gate.Result       `json:"gate"`
}

// Series is a number over the steps.
type Series struct {
	Name   string       `json:"name"`
	Points [][2]float64 `json:"points"` // step, value
}

// mostPoints keeps a long run's report readable.
const mostPoints = 500

// history is what all attempts' events say together.
type history struct {
	values     map[int]map[string]float64 // by step
	mismatches map[int]float64            // mean |Δ log p| by step
	malformed  int
	torn       int
	firstBad   string
}

// readHistory reads every attempt's events. A step that a trainer reports
// beyond the target is not one of this recipe and is counted as malformed.
func readHistory(attempts []Attempt, target int) (*history, error) {
	h := &history{values: map[int]map[string]float64{}, mismatches: map[int]float64{}}
	for _, a := range attempts {
		t := &tail{path: a.Events}
		for {
			events, err := t.read()
			if err != nil {
				return nil, err
			}
			if len(events) == 0 {
				break
			}
			for _, e := range events {
				if e.Step > target {
					t.reject([]byte(e.Event), fmt.Errorf("step %d of %d", e.Step, target))
					continue
				}
				h.take(e)
			}
		}
		h.malformed += t.malformed
		if t.torn() > 0 {
			h.torn++
		}
		if h.firstBad == "" {
			h.firstBad = t.firstBad
		}
	}
	return h, nil
}

func (h *history) take(e event) {
	switch e.Event {
	case "step":
		h.values[e.Step] = e.values
	case "mismatch":
		if v, ok := e.values["mean_abs_dlogp"]; ok {
			h.mismatches[e.Step] = v
		}
	}
}

// mostSeries bounds the names that a trainer can fill a report with.
const mostSeries = 32

func (h *history) series() []Series {
	byName := map[string][][2]float64{}
	for step, values := range h.values {
		for name, v := range values {
			byName[name] = append(byName[name], [2]float64{float64(step), v})
		}
	}
	for step, v := range h.mismatches {
		byName["mismatch"] = append(byName["mismatch"], [2]float64{float64(step), v})
	}
	names := slices.Sorted(maps.Keys(byName))
	var out []Series
	for _, name := range names[:min(len(names), mostSeries)] {
		points := byName[name]
		slices.SortFunc(points, func(a, b [2]float64) int { return cmp.Compare(a[0], b[0]) })
		out = append(out, Series{Name: name, Points: thin(points, mostPoints)})
	}
	return out
}

// thin makes n points of many: each is the mean of its share, at the share's
// last step, so that a spike leaves a trace and the noise is that of the run.
func thin(p [][2]float64, n int) [][2]float64 {
	if len(p) <= n {
		return p
	}
	out := make([][2]float64, n)
	for i := range out {
		share := p[i*len(p)/n : (i+1)*len(p)/n]
		for _, q := range share {
			out[i][1] += q[1] / float64(len(share))
		}
		out[i][0] = share[len(share)-1][0]
	}
	return out
}

// finish makes the report of a run that has ended, well or badly.
func (s *supervisor) finish(d Decision, skipped []checkpoint.Skipped) (*Report, error) {
	h, err := readHistory(s.state.Attempts, s.Recipe.Steps())
	if err != nil {
		return nil, err
	}
	r := &Report{
		Attempts: s.state.Attempts, Decisions: s.state.Decisions, Target: s.Recipe.Steps(),
		Supervisors: s.state.Supervisors,
		Series:      h.series(), Skipped: skipped, Malformed: h.malformed, Torn: h.torn, FirstBad: h.firstBad,
		Final: d.Resume, Steps: d.Step,
		Pool: s.pool().Name, Program: s.pool().Program, Moves: s.state.Moves, Alarms: s.state.Alarms, Good: s.state.Good, Proven: s.state.Proven,
		Interval: s.interval(), Faults: s.state.Faults, Cordoned: s.state.Cordoned, Adjust: s.state.Adjust,
	}
	for _, v := range h.values {
		r.Tokens += int64(v["tokens"])
	}
	for _, m := range h.mismatches {
		r.MismatchMean += m / float64(len(h.mismatches))
		r.MismatchMax = max(r.MismatchMax, m)
	}
	if r.SFT, err = s.lastOfStage("sft"); err != nil {
		return nil, err
	}
	if r.Final != "" {
		m, err := checkpoint.Verify(r.Final)
		if err != nil {
			return nil, err
		}
		if r.FinalDigest, err = m.Digest(); err != nil {
			return nil, err
		}
	}
	r.Gate = verdict(d, r, len(h.values))
	s.state.Clock.enter(classSupervision, s.now())
	r.Ledger = s.state.Clock.ledger()
	if busy := r.Ledger.Classes[classStep] + r.Ledger.Classes[classRollout]; busy > 0 {
		r.TokensPerSecond = float64(r.Tokens) / busy
	}
	if d.Action == Stop {
		s.state.Judged = len(s.state.Attempts)
	}
	return r, s.save(Ended)
}

func verdict(d Decision, r *Report, observed int) gate.Result {
	finished := gate.Check{Name: "finished", Verdict: gate.Fail, Detail: d.Reason}
	if d.Action != Finish {
		return gate.Of(finished)
	}
	if last := r.Attempts[len(r.Attempts)-1]; last.Outcome == Unproven {
		finished.Verdict, finished.Detail = gate.Inconclusive, d.Reason+": speak the contract, or write a portable checkpoint, so that its result can be proven"
		return gate.Of(finished)
	}
	finished.Verdict = gate.Pass
	losses := gate.Check{Name: "finite", Verdict: gate.Pass, Detail: fmt.Sprintf("loss and gradient norm of %d steps are finite, and so is every tensor of the last checkpoint", observed)}
	if observed == 0 {
		losses.Verdict, losses.Detail = gate.Inconclusive, "the trainer reported no step: nothing is known of its loss"
	}
	return gate.Of(finished, losses)
}

// lastOfStage is the newest good checkpoint of a recipe stage, or empty.
func (s *supervisor) lastOfStage(stage string) (string, error) {
	all, err := s.candidates()
	if err != nil {
		return "", err
	}
	for _, c := range all {
		if c.skip != "" {
			continue
		}
		st, err := checkpoint.ReadState(c.Dir)
		if err == nil && st.Stage == stage && s.check(c.Dir) == nil {
			return c.Dir, nil
		}
	}
	return "", nil
}

// interval is the best checkpoint interval by what was measured so far.
func (s *supervisor) interval() Interval {
	failures := 0
	for _, a := range s.state.Attempts {
		if a.Phase == Ended && a.Outcome != Done && a.Outcome != Interrupted && a.Outcome != Left {
			failures++
		}
	}
	return bestInterval(s.Poll.Seconds(), s.state.SaveSum, s.state.Saves, s.state.StepSum, s.state.Steps, failures, s.state.Clock.Since.Sub(s.state.Clock.Began).Seconds(), s.state.Every)
}
