package train

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"tarbert/internal/checkpoint"
	"tarbert/internal/executor"
	"tarbert/internal/progress"
	"tarbert/internal/spec"
	"tarbert/internal/store"
)

// Input is what the stage works with.
type Input struct {
	Release  string // prefix of task names
	Recipe   spec.Recipe
	Dir      string   // the stage's own; checkpoints and events go below it
	Argv     []string // the trainer's command
	Env      []string
	Executor executor.Executor
	Now      func() time.Time
	Progress progress.Func
	// Poll is how often the events file is read; 0 = 100 ms.
	Poll time.Duration
	// Farewell is how long a trainer may take to exit after its done event; 0 = 2 minutes.
	Farewell time.Duration

	// written, if set, is told of every phase right after it is on disk: the
	// points at which tests kill the supervisor.
	written func(Phase)
}

// stopGrace is how long a trainer may take to end a step and exit when asked.
const stopGrace = 20 * time.Second

// saveEvery bounds how much of the ledger a killed supervisor forgets to class
// (that time is then "supervision").
const saveEvery = 2 * time.Second

// supervisor owns one run. Only Run's goroutine touches it.
type supervisor struct {
	Input
	state *state
	tail  *tail     // of the running attempt
	saved time.Time // when state was last written
	good  map[string]error
}

// Run supervises the run to its end, or goes on with one that is under way.
// The error is for what kept the run from an end: a run that ended badly is a
// Report whose gate says so. When ctx ends, the running attempt is stopped (it
// may finish its step and save) and the error wraps ctx's; the next Run goes on.
func Run(ctx context.Context, in Input) (*Report, error) {
	if in.Poll <= 0 {
		in.Poll = 100 * time.Millisecond
	}
	if in.Farewell <= 0 {
		in.Farewell = 2 * time.Minute
	}
	s := &supervisor{Input: in, good: map[string]error{}}
	if err := s.open(); err != nil {
		return nil, err
	}
	for {
		if a := s.state.running(); a != nil {
			if err := s.attempt(ctx, a); err != nil {
				return nil, err
			}
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		snap, skipped, err := s.snapshot()
		if err != nil {
			return nil, err
		}
		d := Decide(snap)
		s.state.Decisions = append(s.state.Decisions, d.Reason)
		if d.Action == Stop {
			// A full disk is nothing that the model or the recipe did.
			if err := s.roomToSave(snap.NewestDir); err != nil {
				return nil, errors.Join(fmt.Errorf("%s: %w", d.Reason, err), s.forget())
			}
		}
		if d.Action != Start {
			return s.finish(d, skipped)
		}
		if err := s.begin(d, skipped); err != nil {
			return nil, err
		}
	}
}

// open makes the folders and the recipe, and takes up the state.
func (s *supervisor) open() error {
	for _, d := range []string{s.Dir, checkpointDir(s.Dir), filepath.Join(s.Dir, "attempts")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("prepare the run: %w: %w", store.ErrEnvironment, err)
		}
	}
	b, err := json.MarshalIndent(s.Recipe, "", "  ")
	if err != nil {
		return fmt.Errorf("prepare the run: %w", err)
	}
	if err := store.WriteFile(recipePath(s.Dir), append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("prepare the run: %w", err)
	}
	if s.state, err = loadState(s.Dir); err != nil {
		return err
	}
	if s.state.Clock == nil {
		s.state.Clock = newClock(s.Now())
	}
	// From when the last supervisor wrote until now, nobody saw what the time
	// went into. A live attempt is still where it was, or its next event says more.
	was := s.state.Clock.Current
	s.state.Clock.Current = classSupervision
	s.state.Clock.tick(s.Now())
	if a := s.state.running(); a != nil && a.Phase == Watching {
		s.state.Clock.Current = was
	}
	s.state.Supervisors++
	return nil
}

// roomToSave is an error of the environment where the disk has no room for
// another checkpoint like the newest one.
func (s *supervisor) roomToSave(newest string) error {
	need := int64(1 << 20)
	if newest != "" {
		m, err := checkpoint.Verify(newest)
		if err != nil {
			return err
		}
		need = max(need, m.Bytes())
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(s.Dir, &fs); err != nil {
		return fmt.Errorf("%w: free space of %s: %w", store.ErrEnvironment, s.Dir, err)
	}
	if free := int64(fs.Bavail) * int64(fs.Bsize); free < need {
		return fmt.Errorf("%w: the disk of %s has %d bytes free, a checkpoint needs %d: free some space and run the same command again", store.ErrEnvironment, s.Dir, free, need)
	}
	return nil
}

// forget clears the count of fruitless attempts: the next run begins anew.
func (s *supervisor) forget() error {
	s.state.Judged = len(s.state.Attempts)
	return s.save(Ended)
}

func recipePath(dir string) string    { return filepath.Join(dir, "recipe.json") }
func checkpointDir(dir string) string { return filepath.Join(dir, "checkpoints") }

// begin writes down that an attempt will start. attempt starts it, because a
// supervisor that died in between must do so too.
func (s *supervisor) begin(d Decision, skipped []checkpoint.Skipped) error {
	s.state.Attempts = append(s.state.Attempts, Attempt{Resume: d.Resume, ResumeStep: d.Step, LastStep: d.Step, Skipped: skipped, Saved: -1})
	a := &s.state.Attempts[len(s.state.Attempts)-1]
	number := 1
	if n := len(s.state.Attempts); n > 1 {
		number = s.state.Attempts[n-2].Number + 1
	}
	s.state.Reading, s.state.Interrupted, s.state.NotFinite = reading{}, false, ""
	s.state.Clock.begin()
	return s.number(a, number)
}

// number names the attempt, its task and its events file, and writes that down.
func (s *supervisor) number(a *Attempt, n int) error {
	a.Number, a.Task = n, fmt.Sprintf("%s-train-%d", s.Release, n)
	a.Events = filepath.Join(s.Dir, "attempts", fmt.Sprintf("attempt-%03d.jsonl", n))
	s.state.Task = &executor.Task{
		Name: a.Task, Argv: s.Argv, Dir: s.Dir,
		Env: append(append([]string{}, s.Env...),
			"TARBERT_EVENTS="+a.Events,
			"TARBERT_CHECKPOINTS="+checkpointDir(s.Dir),
			"TARBERT_RESUME="+a.Resume,
			"TARBERT_RECIPE="+recipePath(s.Dir)),
	}
	a.Phase = Starting
	return s.save(Starting)
}

// move takes the running attempt to its next phase and writes that down.
func (s *supervisor) move(a *Attempt, to Phase) error {
	if !a.Phase.mayBecome(to) {
		return fmt.Errorf("attempt %d: no way from %s to %s", a.Number, a.Phase, to)
	}
	a.Phase = to
	return s.save(to)
}

func (s *supervisor) save(reached Phase) error {
	s.saved = s.Now()
	if err := s.state.save(s.Dir); err != nil {
		return err
	}
	if s.written != nil {
		s.written(reached)
	}
	return nil
}

// snapshot is what Decide needs to know.
func (s *supervisor) snapshot() (Snapshot, []checkpoint.Skipped, error) {
	snap := Snapshot{Target: s.Recipe.Steps(), Limit: s.Recipe.Train.Restarts, Attempts: s.state.Attempts[s.state.Judged:], NewestStep: -1}
	e, skipped, err := s.newestGood()
	if err != nil {
		return snap, skipped, err
	}
	if e != nil {
		snap.NewestStep, snap.NewestDir = e.Step, e.Dir
	}
	return snap, skipped, nil
}

// newestGood is the newest checkpoint that verifies and whose tensors are
// finite, with those passed over.
func (s *supervisor) newestGood() (*checkpoint.Entry, []checkpoint.Skipped, error) {
	entries, err := checkpoint.List(checkpointDir(s.Dir))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", store.ErrEnvironment, err)
	}
	var skipped []checkpoint.Skipped
	for i := len(entries) - 1; i >= 0; i-- {
		e := entries[i]
		if err := s.check(e.Dir); err != nil {
			skipped = append(skipped, checkpoint.Skipped{Step: e.Step, Dir: e.Dir, Reason: err.Error()})
			continue
		}
		return &e, skipped, nil
	}
	return nil, skipped, nil
}

// check proves a checkpoint good. It is called between attempts only, when
// nobody writes; what it found holds until the next attempt.
func (s *supervisor) check(dir string) error {
	if err, known := s.good[dir]; known {
		return err
	}
	_, err := checkpoint.Verify(dir)
	if err == nil {
		err = checkpoint.Finite(dir)
	}
	s.good[dir] = err
	return err
}

// report tells whoever watches how far the attempt is.
func (s *supervisor) report(a *Attempt, e event) {
	stage, note := "sft", ""
	if e.Step > s.Recipe.Train.SFT.Steps {
		stage = s.Recipe.Train.GRPO.Objective
		if stage == "" {
			stage = "grpo"
		}
	}
	if loss, ok := e.values["loss"]; ok {
		note = fmt.Sprintf("%s: loss %.3f", stage, loss)
	}
	shown := map[string]float64{}
	for _, name := range []string{"loss", "reward", "thinks"} {
		if v, ok := e.values[name]; ok && (name != "loss" || stage == "sft") {
			shown[name] = v
		}
	}
	if r, ok := e.values["reward"]; ok {
		note = fmt.Sprintf("%s: reward %.3f", stage, r)
	}
	if a.Number > 1 {
		note += fmt.Sprintf(" (attempt %d)", a.Number)
	}
	s.Progress.Report(progress.Update{
		Stage: "train", Done: float64(e.Step), Total: float64(s.Recipe.Steps()), Unit: "steps", Note: note, Values: shown,
	})
}

var errNoEnd = errors.New("the executor stopped watching before the task ended")
