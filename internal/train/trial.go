package train

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"tarbert/internal/executor"
	"tarbert/internal/store"
)

// Trial is a trainer run once by its contract, with nobody to restart it: a few
// steps, or a replay of stored batches.
type Trial struct {
	Task string // its name; a name is used once
	Dir  string // where it is started; the other paths lie below it
	// The contract's variables. With Replay it is ended if it trains instead.
	Events, Checkpoints, Resume, Recipe, Replay string
	Limit                                       time.Duration // of the whole; 0 = 30 minutes
	Now                                         func() time.Time
	Step                                        func(step int) // told of every step; may be nil
}

// Tried is what a trial left.
type Tried struct {
	Replays []Replay
	Steps   []TriedStep // the last report of a step counts
	Done    bool        // it said so, at DoneStep
	// Silent says that it wrote no event at all.
	DoneStep int
	Silent   bool
	// Trained says that it took a step where it was asked to replay.
	Trained bool
	// NotFinite names what was NaN or infinite, and where.
	NotFinite string
	Exit      executor.Status
	Late      bool   // it was ended at the limit
	Log       string // the last lines that it printed
}

// TriedStep is a step and when it was seen.
type TriedStep struct {
	Step   int
	Loss   float64 // NaN if there is none
	Tokens float64
	Data   string // digest of the batch; may be empty
	At     time.Time
}

// TrialPoll is how often a trial's events are looked at: what its times are good to.
const TrialPoll = 10 * time.Millisecond

// trialLease ends a trial whose watcher has died.
const trialLease = 30 * time.Second

// Try runs a trial to its end. An error is the executor's or the disk's, or ctx
// has ended; what the trainer does wrong is in Tried.
func (p Pool) Try(ctx context.Context, t Trial) (*Tried, error) {
	limit := t.Limit
	if limit <= 0 {
		limit = 30 * time.Minute
	}
	watched, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	task := p.task(p.Devices, t.Task, t.Dir, map[string]string{
		"EVENTS": t.Events, "CHECKPOINTS": t.Checkpoints, "RESUME": t.Resume, "RECIPE": t.Recipe, "REPLAY": t.Replay,
	})
	task.Lease = trialLease
	if err := p.Executor.Start(watched, *task); err != nil {
		return nil, fmt.Errorf("try the trainer of pool %s: %w: %w", p.Name, store.ErrEnvironment, err)
	}
	out := &Tried{}
	err := p.follow(watched, t, out)
	if stop := p.Executor.Stop(context.WithoutCancel(ctx), t.Task, 0); stop != nil && !errors.Is(stop, executor.ErrNoTask) {
		err = errors.Join(err, fmt.Errorf("end the trial in pool %s: %w: %w", p.Name, store.ErrEnvironment, stop))
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	var log bytes.Buffer
	if p.Executor.Logs(ctx, t.Task, &log) == nil {
		out.Log = lastLines(log.String(), 3)
	}
	out.Late = watched.Err() != nil
	return out, err
}

// follow reads events until the task has exited, or has shown that it does something else.
func (p Pool) follow(ctx context.Context, t Trial, out *Tried) error {
	type end struct {
		status executor.Status
		err    error
	}
	ended := make(chan end, 1)
	go func() { // over at the latest when ctx is
		var e end
		for st, err := range p.Executor.Watch(ctx, t.Task) {
			if e.status, e.err = st, err; err != nil || st.State == executor.Exited {
				break
			}
		}
		ended <- e
	}()
	events := &tail{path: t.Events}
	tick := time.NewTicker(TrialPoll)
	defer tick.Stop()
	out.Silent = true
	for {
		select {
		case e := <-ended:
			out.take(events, t)
			if out.Exit = e.status; e.err != nil && ctx.Err() == nil {
				return fmt.Errorf("try the trainer of pool %s: %w: %w", p.Name, store.ErrEnvironment, e.err)
			}
			return nil
		case <-tick.C:
			if out.take(events, t); out.Trained {
				return nil
			}
		}
	}
}

// take takes in the events since the last look.
func (x *Tried) take(from *tail, t Trial) {
	for {
		events, err := from.read()
		if err != nil || len(events) == 0 {
			return // what cannot be read is not there
		}
		x.Silent = false
		for _, e := range events {
			switch e.Event {
			case "replay":
				r, err := e.replay()
				if err != nil {
					r.Layers = nil // compared as no batch
				}
				x.Replays = append(x.Replays, r)
			case "step":
				x.Trained = x.Trained || t.Replay != ""
				x.step(e, t.Now())
				if t.Step != nil {
					t.Step(e.Step)
				}
			case "done":
				x.Done, x.DoneStep = true, e.Step
			}
			if e.bad != "" && x.NotFinite == "" {
				x.NotFinite = fmt.Sprintf("%s at step %d", e.bad, e.Step)
			}
		}
	}
}

func (x *Tried) step(e event, at time.Time) {
	loss, ok := e.values["loss"]
	if !ok {
		loss = math.NaN()
	}
	s := TriedStep{Step: e.Step, Loss: loss, Tokens: e.values["tokens"], Data: e.Data, At: at}
	for i := range x.Steps {
		if x.Steps[i].Step == e.Step {
			x.Steps[i] = s
			return
		}
	}
	x.Steps = append(x.Steps, s)
}

// End is how it ended, in words.
func (x *Tried) End() string {
	how := fmt.Sprintf("exit code %d", x.Exit.ExitCode)
	switch {
	case x.Late:
		how = "it was ended at its time limit"
	case x.Exit.Signal != "":
		how = "ended by signal: " + x.Exit.Signal
	case x.Exit.Reason != "":
		how = x.Exit.Reason
	}
	if x.Log != "" {
		how += "; it printed: " + x.Log
	}
	return how
}

// lastLines is the end of a log, on one line and not longer than people read.
func lastLines(log string, n int) string {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	text := strings.Join(lines[max(0, len(lines)-n):], " / ")
	if r := []rune(text); len(r) > 400 {
		text = "…" + string(r[len(r)-400:])
	}
	return text
}

// ReadSteps reads the steps of a run that has ended.
func ReadSteps(path string, at time.Time) ([]TriedStep, error) {
	x := &Tried{}
	t := &tail{path: path}
	if x.take(t, Trial{Now: func() time.Time { return at }}); t.malformed > 0 {
		return nil, fmt.Errorf("%s: %s", path, t.firstBad)
	}
	return x.Steps, nil
}
