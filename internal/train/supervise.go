package train

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tarbert/internal/checkpoint"
	"tarbert/internal/device"
	"tarbert/internal/executor"
	"tarbert/internal/plan"
	"tarbert/internal/progress"
	"tarbert/internal/store"
)

// stopGrace is how long a trainer may take to end a step and exit when asked.
const stopGrace = 20 * time.Second

// saveEvery bounds how much of the ledger a killed supervisor forgets to class
// (that time is then "supervision").
const saveEvery = 2 * time.Second

// supervisor owns one run. Only Run's goroutine touches it, apart from what
// comes through channels.
type supervisor struct {
	Input
	state *state
	saved time.Time // when state was last written
	good  map[string]error

	opened, base time.Time     // the wall clock when this process took over
	from         time.Duration // and Elapsed then

	// Of the running attempt.
	tail     *tail
	watchdog *watchdog
	monitor  *monitor
	ranks    *ranks
	resumed  resumption
	log      *logTailer
	logged   time.Time
	ill      map[string]int                     // looks in a row that saw a chip unhealthy
	waits    bool                               // a move for a first checkpoint
	missing  map[int]int                        // rank that is gone, to the step after which that was seen
	ranked   atomic.Pointer[[]executor.Process] // what the inspector looks for
	blind    int                                // looks since a rank was announced that did not see every one

	announced chan struct{} // just now

	patterns []*regexp.Regexp

	verifier  sync.WaitGroup
	verifying bool
	waiting   *Kept
	results   chan verified
}

// Run supervises the run to its end, or goes on with one that is under way.
// The error is for what kept the run from an end: a run that ended badly is a
// Report whose gate says so. When ctx ends, the running attempt is stopped (it
// may finish its step and save) and the error wraps ctx's; the next Run goes on.
func Run(ctx context.Context, in Input) (*Report, error) {
	s := newSupervisor(in)
	defer s.verifier.Wait()
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
		if err := s.consider(); err != nil {
			return nil, err
		}
		if s.state.Move != nil {
			if err := s.migrate(ctx); err != nil {
				return nil, err
			}
			continue
		}
		report, err := s.decide()
		if report != nil || err != nil {
			return report, err
		}
	}
}

func newSupervisor(in Input) *supervisor {
	if in.Poll <= 0 {
		in.Poll = 250 * time.Millisecond
	}
	if in.Farewell <= 0 {
		in.Farewell = 2 * time.Minute
	}
	if in.SampleEvery <= 0 {
		in.SampleEvery = 10 * time.Second
	}
	if in.Elapsed == nil {
		began := time.Now()
		in.Elapsed = func() time.Duration { return time.Since(began) }
	}
	if in.wide <= 0 {
		in.wide = wideSpike
	}
	patterns := stepPatterns()
	if in.LogPattern != nil {
		patterns = append([]*regexp.Regexp{in.LogPattern}, patterns...)
	}
	return &supervisor{Input: in, good: map[string]error{}, results: make(chan verified, 1), announced: make(chan struct{}, 1), patterns: patterns}
}

// now is the wall clock of when this process took over, carried on by elapsed
// time: a clock that is set while it runs moves nothing.
func (s *supervisor) now() time.Time { return s.base.Add(s.Elapsed() - s.from) }

// decide makes the next attempt, or ends the run.
func (s *supervisor) decide() (*Report, error) {
	snap, skipped, err := s.snapshot()
	if err != nil {
		return nil, err
	}
	d := Decide(snap)
	s.state.Decisions = append(s.state.Decisions, d.Reason)
	switch d.Action {
	case Stop:
		// A full disk is nothing that the model or the recipe did.
		if err := s.roomToSave(snap.NewestDir); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", d.Reason, err), s.forget())
		}
		return s.finish(d, skipped)
	case Finish:
		return s.finish(d, skipped)
	}
	if len(s.state.Attempts) > 0 {
		if err := s.makeRoom(d.Resume); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", d.Reason, err), s.save(Ended))
		}
	}
	return nil, s.begin(d, skipped)
}

// open makes the folders and the recipe, and takes up the state.
func (s *supervisor) open() error {
	s.opened = s.Now()
	s.base, s.from = s.opened.Round(0), s.Elapsed()
	for _, d := range []string{s.Dir, filepath.Join(s.Dir, "checkpoints"), filepath.Join(s.Dir, "attempts")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("prepare the run: %w: %w", store.ErrEnvironment, err)
		}
	}
	var err error
	if s.state, err = loadState(s.Dir); err != nil {
		return err
	}
	if s.state.Clock == nil {
		s.state.Clock = newClock(s.now(), s.heldDevices(s.Pool), s.Pool.Price)
		s.state.PoolSince = s.base
	}
	if s.state.Every == 0 {
		s.state.Every = s.Recipe.Train.Checkpoint.Every
	}
	if s.state.OnFallback && s.Fallback == nil {
		return fmt.Errorf("the run went on in a fallback pool, and the release file names none any more: put it back")
	}
	// From when the last supervisor wrote until now, nobody saw what the time
	// went into. A live attempt is still where it was, or its next event says more.
	away := s.state.Clock.Since
	s.state.Clock.absent(s.now())
	if a := s.state.running(); a == nil || a.Phase != Watching {
		s.state.Clock.enter(classSupervision, s.now())
	}
	if s.state.Supervisors > 0 && s.now().Sub(away) > 10*s.Poll {
		s.state.Unseen = append(s.state.Unseen, plan.Span{From: away, To: s.now()})
	}
	s.state.Supervisors++
	return nil
}

// pool is the one in use.
func (s *supervisor) pool() Pool {
	if s.state.OnFallback {
		return s.Fallback.Pool
	}
	return s.Pool
}

// heldDevices is how many chips' time is counted: at least one, the machine itself.
func (s *supervisor) heldDevices(p Pool) int { return max(len(p.Devices), 1) }

// chips are those of the next attempt: the pool's, with spares in place of the cordoned.
func (s *supervisor) chips() (use []device.Device, free int) {
	p := s.pool()
	for _, d := range slices.Concat(p.Devices, p.Spares) {
		if _, out := s.state.Cordoned[d.ID]; out {
			continue
		}
		free++
		if len(use) < len(p.Devices) {
			use = append(use, d)
		}
	}
	return use, free
}

func ids(devices []device.Device) []string {
	var out []string
	for _, d := range devices {
		out = append(out, d.ID)
	}
	return out
}

// forget clears the count of fruitless attempts: the next run begins anew.
func (s *supervisor) forget() error {
	s.state.Judged = len(s.state.Attempts)
	return s.save(Ended)
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
	s.saved = s.now()
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
	use, free := s.chips()
	snap := Snapshot{
		Target: s.Recipe.Steps(), Limit: s.Recipe.Train.Restarts, Attempts: s.state.Attempts[s.state.Judged:], NewestStep: -1, Wide: s.wide,
		Program: blame(s.state.Faults).Program, Free: free, Need: len(s.pool().Devices), Cordoned: s.cordonText(),
	}
	if n := len(s.state.Attempts); n > 0 {
		snap.Moved = s.state.Attempts[n-1].Pool != s.pool().Name || !slices.Equal(s.state.Attempts[n-1].Devices, ids(use))
	}
	e, skipped, err := s.newestGood(nil)
	if err != nil {
		return snap, skipped, err
	}
	s.state.Good = nil
	if e != nil {
		snap.NewestStep, snap.NewestDir = e.Step, e.Dir
		s.state.Good = &Kept{Step: e.Step, Dir: e.Dir}
	}
	return snap, skipped, nil
}

func (s *supervisor) cordonText() string {
	var why []string
	for id, reason := range s.state.Cordoned {
		why = append(why, fmt.Sprintf("%s (%s)", id, reason))
	}
	slices.Sort(why)
	return strings.Join(why, ", ")
}

// stageOf is the recipe stage of a step.
func (s *supervisor) stageOf(step int) string {
	if step <= s.Recipe.Train.SFT.Steps {
		return "sft"
	}
	return "grpo"
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
