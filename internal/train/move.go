package train

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tarbert/internal/executor"
	"tarbert/internal/plan"
	"tarbert/internal/store"
)

// MovePhase is where a move to another pool stands; written down before the act.
type MovePhase string

// Phases of a move.
const (
	Leaving   MovePhase = "leaving"   // the attempt is asked to save and end
	Judging   MovePhase = "judging"   // the judge computes the stored batches
	Replaying MovePhase = "replaying" // the fallback computes them
	Moved     MovePhase = "moved"     // parity passed: the run goes on there
	Refused   MovePhase = "refused"   // it did not pass, or could not be told: the run stays
	Advised   MovePhase = "advised"   // a switch is advised, and nobody has authorised it
)

// Move is a decision about the pool, and what came of it.
type Move struct {
	Phase      MovePhase     `json:"phase"`
	From       string        `json:"from"`
	To         string        `json:"to"`
	At         time.Time     `json:"at"`
	AfterStep  int           `json:"after_step"`
	Spent      []string      `json:"budgets_spent"` // with the arithmetic
	Terms      plan.Terms    `json:"terms"`         // with what was measured by then
	Decision   plan.Decision `json:"decision"`
	Arithmetic string        `json:"arithmetic"` // the decision for people
	Checkpoint string        `json:"checkpoint,omitempty"`
	Step       int           `json:"step"`
	Proven     bool          `json:"proven"`
	// BreachFrom is the step in which the parity breaches began, if that is why.
	BreachFrom int     `json:"breaches_from,omitempty"`
	Parity     *Parity `json:"parity,omitempty"`
	Number     int     `json:"number"`
}

// consider looks whether a budget is spent, and decides then. It is called
// between attempts and while one runs; a decision is made once an Again.
func (s *supervisor) consider() error {
	f := s.Fallback
	if f == nil || s.state.OnFallback || s.state.Move != nil {
		return nil
	}
	again := f.Again
	if again <= 0 {
		again = time.Hour
	}
	now := s.now()
	if len(s.state.Moves) > 0 && s.state.Moves[len(s.state.Moves)-1].Phase == Refused {
		return nil // the fallback computes something else: that does not change by itself
	}
	if !s.state.Considered.IsZero() && now.Sub(s.state.Considered) < again {
		return nil
	}
	spent := f.Budgets.spent(s.facts(now))
	if len(spent) == 0 {
		return nil
	}
	s.state.Considered = now
	decide := f.Consider
	if decide == nil {
		decide = plan.Consider
	}
	terms := f.terms(s.costs(), s.Limits)
	d, err := decide(terms, s.evidence(now))
	if err != nil { // no reason to end a run that goes on
		s.state.alarm(s.lastNumber(), s.lastStep(), alarmAdvice, fmt.Sprintf("%s; whether to go on in pool %s could not be decided: %v", strings.Join(spent, "; "), f.Pool.Name, err))
		return nil
	}
	if d.Action == plan.Switch && f.Authorized {
		if ready, err := s.canLeave(); err != nil || !ready {
			return err
		}
	}
	s.state.Leaning = d.Leaning
	m := Move{
		From: s.Pool.Name, To: f.Pool.Name, At: now, AfterStep: s.lastStep(), Spent: spent, Terms: terms, Decision: d, Arithmetic: d.String(),
		Number: len(s.state.Moves) + 1, Phase: Advised,
	}
	s.state.Decisions = append(s.state.Decisions, fmt.Sprintf("budget spent: %s; the decision is to %s: %s", strings.Join(spent, "; "), d.Action, strings.Join(d.Reasons, "; ")))
	if d.Action != plan.Switch {
		return nil // with its arithmetic among the decisions
	}
	if !f.Authorized {
		s.state.Moves = append(s.state.Moves, m)
		s.state.alarm(s.lastNumber(), m.AfterStep, alarmAdvice, fmt.Sprintf("going on in pool %s is advised; set train.fallback.authorized to let it happen", m.To))
		return nil
	}
	m.Phase = Leaving
	s.state.Move = &m
	if a := s.state.running(); a != nil {
		s.trouble(a, Left, 0, "budget spent: "+strings.Join(spent, "; "))
		return nil
	}
	return s.save(Ended)
}

// canLeave says that there is a checkpoint to go on from. Without one a move would
// have nothing to replay, and end where it began: it waits for the first.
func (s *supervisor) canLeave() (bool, error) {
	all, err := s.candidates()
	if err != nil || slices.ContainsFunc(all, func(c candidate) bool { return c.skip == "" }) {
		return err == nil, err
	}
	s.state.Considered = time.Time{} // and is looked at again at once
	if !s.waits {
		s.waits = true
		s.state.alarm(s.lastNumber(), s.lastStep(), alarmAdvice, fmt.Sprintf("going on in pool %s is decided, and waits for a first checkpoint to go on from", s.Fallback.Pool.Name))
	}
	return false, nil
}

func (s *supervisor) lastStep() int {
	step := 0
	for _, a := range s.state.Attempts {
		step = max(step, a.LastStep)
	}
	return step
}

// facts are what the budgets are held against.
func (s *supervisor) facts(now time.Time) facts {
	f := facts{on: now.Sub(s.state.PoolSince), target: s.Recipe.Steps(), breaches: s.state.Breaches}
	for i := range s.state.Attempts {
		a := &s.state.Attempts[i]
		if i < s.state.PoolAttempt {
			continue
		}
		f.clean = max(f.clean, a.LastStep-a.ResumeStep)
		if a.Outcome == Hung && a.Cause == "" {
			f.hangs++
		}
	}
	s.state.Clock.tick(now)
	f.ratio, f.watched = rolling(s.state.Useful, s.Fallback.Budgets.window(), now, s.state.Clock.useful())
	return f
}

// evidence is the plan's view of the attempt.
func (s *supervisor) evidence(now time.Time) plan.Evidence {
	e := plan.Evidence{
		Began: s.state.PoolSince, Now: now, Target: s.Recipe.Steps(), Steps: slices.Clone(s.state.Marks), Unseen: s.state.Unseen,
		Leaning: s.state.Leaning, Parity: plan.Checks{Done: s.state.Breaches, Breaches: s.state.Breaches},
	}
	for i := range s.state.Attempts {
		a := &s.state.Attempts[i]
		if i < s.state.PoolAttempt || a.Phase != Ended || a.Outcome == Done || a.Outcome == Interrupted || a.Outcome == Left {
			continue
		}
		e.Interruptions = append(e.Interruptions, a.Over)
	}
	for _, money := range s.state.Clock.Classes.Money {
		e.Spent += plan.Money(money)
	}
	e.Steps = slices.DeleteFunc(e.Steps, func(m plan.Mark) bool { return m.At.Before(e.Began) })
	return e
}

// migrate takes a move to its end: the last proven checkpoint is replayed by
// the judge and by the fallback, and the run goes there only if they agree.
func (s *supervisor) migrate(ctx context.Context) error {
	m := s.state.Move
	s.state.Clock.enter(classMigration, s.now())
	if m.Phase == Leaving {
		if err := s.chooseForMove(m); err != nil {
			return err
		}
		if m.Checkpoint == "" {
			return s.moved(m, Parity{Reasons: []string{"there is no checkpoint that counts: nothing to replay"}})
		}
		m.Phase = Judging
		if err := s.save(Ended); err != nil {
			return err
		}
	}
	judge := s.Pool
	if s.Fallback.Judge != nil {
		judge = *s.Fallback.Judge
	}
	want, wantFile, err := s.replay(ctx, judge, m, "judge")
	if err != nil {
		return err
	}
	if m.Phase == Judging {
		m.Phase = Replaying
		if err := s.save(Ended); err != nil {
			return err
		}
	}
	got, gotFile, err := s.replay(ctx, s.Fallback.Pool, m, "fallback")
	if err != nil {
		return err
	}
	p := CompareReplays(want, got, "")
	p.Judge, p.Other, p.JudgeSaid, p.OtherSaid = judge.Name, s.Fallback.Pool.Name, wantFile, gotFile
	return s.moved(m, p)
}

// chooseForMove takes the last proven checkpoint; where none was proven, the last
// good one. What was saved in a step of a parity breach, or after it, holds
// updates that the recipe does not ask for: it is taken only if there is no other.
func (s *supervisor) chooseForMove(m *Move) error {
	m.BreachFrom = s.state.BreachFrom
	clean := func(step int) bool { return m.BreachFrom == 0 || step < m.BreachFrom }
	if p := s.state.Proven; p != nil && clean(p.Step) && s.state.Suspect[p.Dir] == "" && s.check(p.Dir) == nil {
		m.Checkpoint, m.Step, m.Proven = p.Dir, p.Step, true
		return nil
	}
	e, _, err := s.newestGood(clean)
	if err == nil && e == nil {
		e, _, err = s.newestGood(nil)
	}
	if err == nil && e != nil {
		m.Checkpoint, m.Step = e.Dir, e.Step
	}
	return err
}

// checkpoint is what the run goes on from, in words.
func (m *Move) checkpoint() string {
	switch {
	case m.Proven:
		return "last proven checkpoint"
	case m.BreachFrom > 0 && m.Step >= m.BreachFrom:
		return fmt.Sprintf("last good checkpoint (none is left from before the breaches began in step %d)", m.BreachFrom)
	case m.BreachFrom > 0:
		return fmt.Sprintf("last good checkpoint from before the breaches began in step %d (none was proven)", m.BreachFrom)
	}
	return "last good checkpoint (none was proven)"
}

// moved ends a move.
func (s *supervisor) moved(m *Move, p Parity) error {
	m.Parity = &p
	if p.Passed {
		m.Phase = Moved
		s.state.Decisions = append(s.state.Decisions, fmt.Sprintf("pool %s → %s from the %s, step %d: %s", m.From, m.To, m.checkpoint(), m.Step, strings.Join(p.Reasons, "; ")))
		for i := range s.state.Attempts { // what comes after it was never proven
			if a := &s.state.Attempts[i]; a.From == 0 || a.From > m.Step+1 {
				a.From, a.Why = m.Step+1, fmt.Sprintf("the run went on in pool %s from step %d", m.To, m.Step)
			}
		}
		s.state.OnFallback, s.state.PoolSince, s.state.PoolAttempt = true, s.now(), len(s.state.Attempts)
		s.state.Breaches, s.state.BreachFrom = 0, 0
		s.state.Leaning, s.state.Judged = 0, len(s.state.Attempts)
		s.state.Learned = durations{} // other chips, other times
		s.state.rewindMarks(m.Step)
		s.state.Clock.rewind(m.Step)
		s.state.Clock.hold(s.heldDevices(s.Fallback.Pool), s.Fallback.Pool.Price, s.now())
	} else {
		m.Phase = Refused
		verdict := "did not pass"
		if !p.Failed {
			verdict = "could not be told"
		}
		s.state.Decisions = append(s.state.Decisions, fmt.Sprintf("pool %s is not left: parity with %s %s: %s", m.From, m.To, verdict, strings.Join(p.Reasons, "; ")))
	}
	s.state.Moves = append(s.state.Moves, *m)
	s.state.Move = nil
	s.state.Clock.enter(classRecovery, s.now())
	return s.save(Ended)
}

// replay runs the stored batches on one side, or takes up a run of them that an
// earlier supervisor began. What cannot be computed gives no batches.
func (s *supervisor) replay(ctx context.Context, p Pool, m *Move, side string) ([]Replay, string, error) {
	dir := filepath.Join(s.Dir, "moves", fmt.Sprintf("move-%d", m.Number))
	name := fmt.Sprintf("%s-replay-%d-%s", s.Release, m.Number, side)
	events := filepath.Join(dir, side+".jsonl")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, events, fmt.Errorf("replay: %w: %w", store.ErrEnvironment, err)
	}
	task := s.task(p, p.Devices, name, map[string]string{
		"EVENTS": events, "CHECKPOINTS": filepath.Join(dir, side), "RESUME": m.Checkpoint, "RECIPE": s.recipePath(), "REPLAY": dir,
	})
	limited, cancel := context.WithTimeout(ctx, s.Limits.orDefault().First)
	defer cancel()
	if err := p.Executor.Start(limited, *task); err != nil {
		return nil, events, fmt.Errorf("replay in pool %s: %w: %w", p.Name, store.ErrEnvironment, err)
	}
	for st, err := range p.Executor.Watch(limited, name) {
		if err != nil {
			return nil, events, fmt.Errorf("replay in pool %s: %w: %w", p.Name, store.ErrEnvironment, err)
		}
		if st.State == executor.Exited {
			break
		}
	}
	if err := p.Executor.Stop(context.WithoutCancel(ctx), name, 0); err != nil && !errors.Is(err, executor.ErrNoTask) {
		return nil, events, fmt.Errorf("end the replay in pool %s: %w: %w", p.Name, store.ErrEnvironment, err)
	}
	if err := ctx.Err(); err != nil {
		return nil, events, err
	}
	return ReadReplays(events), events, nil
}

// ReadReplays reads a side's batches. Without the done line they are incomplete, and none count.
func ReadReplays(path string) []Replay {
	t := &tail{path: path}
	var out []Replay
	done := false
	for {
		events, err := t.read()
		if err != nil || len(events) == 0 {
			break
		}
		for _, e := range events {
			switch e.Event {
			case "replay":
				r, err := e.replay()
				if err != nil {
					return nil
				}
				out = append(out, r)
			case "done":
				done = true
			}
		}
	}
	if !done {
		return nil
	}
	return out
}
