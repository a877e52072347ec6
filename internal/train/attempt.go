package train

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"tarbert/internal/executor"
	"tarbert/internal/store"
)

// attempt takes the running attempt from whatever phase it is in to its end.
// Each phase's work may be done twice, by two supervisors, and is the same then.
func (s *supervisor) attempt(ctx context.Context, a *Attempt) error {
	s.tail = &tail{path: a.Events, offset: s.state.Reading.Offset}
	if a.Phase == Starting {
		if err := s.start(ctx, a); err != nil {
			return err
		}
	}
	var last executor.Status
	if a.Phase == Watching {
		var err error
		if last, err = s.watch(ctx, a); err != nil {
			return err
		}
		if err := s.move(a, Stopping); err != nil {
			return err
		}
	}
	return s.end(ctx, a, last)
}

// mostNames bounds the search for a free task name.
const mostNames = 1000

// start asks for the task. A task of that name with another command is a run
// of the same release that this folder knows nothing of: it is ended, and the
// attempt takes the next number.
func (s *supervisor) start(ctx context.Context, a *Attempt) error {
	for range mostNames {
		err := s.Executor.Start(ctx, *s.state.Task)
		if err == nil {
			return s.move(a, Watching)
		}
		if ctx.Err() != nil {
			return err
		}
		if !errors.Is(err, executor.ErrDifferent) {
			return fmt.Errorf("start attempt %d: %w: %w", a.Number, store.ErrEnvironment, err)
		}
		if err := s.Executor.Stop(ctx, a.Task, stopGrace); err != nil {
			return fmt.Errorf("stop the other task of attempt %d's name: %w", a.Number, err)
		}
		if err := s.number(a, a.Number+1); err != nil {
			return err
		}
		s.tail = &tail{path: a.Events}
	}
	return fmt.Errorf("start attempt: %d task names beginning %s-train- are taken", mostNames, s.Release)
}

// watch returns when the task has ended, or when it must be: its loss is not
// finite, it does not exit after its work is done, or ctx has ended.
func (s *supervisor) watch(ctx context.Context, a *Attempt) (executor.Status, error) {
	watching, stop := context.WithCancel(ctx)
	statuses := make(chan executor.Status)
	failed := make(chan error, 1)
	var forwarder sync.WaitGroup
	forwarder.Go(func() {
		defer close(statuses)
		failed <- s.forward(watching, a.Task, statuses)
	})
	defer forwarder.Wait()
	defer stop()
	if s.state.Reading == (reading{}) {
		s.state.Clock.enter(classOf("setup", a.Number), s.Now())
	}
	tick := time.NewTicker(s.Poll)
	defer tick.Stop()
	var farewell <-chan time.Time
	for {
		select {
		case st, open := <-statuses:
			switch {
			case ctx.Err() != nil:
				s.state.Interrupted = true
				return executor.Status{}, nil
			case !open:
				return executor.Status{}, fmt.Errorf("watch attempt %d: %w: %w", a.Number, store.ErrEnvironment, <-failed)
			case st.State == executor.Exited:
				return st, nil
			case st.State == executor.Unknown:
				a.Unknown++ // and nothing else: it is not an end
			}
		case <-farewell:
			return executor.Status{}, nil
		case <-tick.C:
			if err := s.drain(a); err != nil {
				return executor.Status{}, err
			}
			if s.state.NotFinite != "" {
				return executor.Status{}, nil // nothing that it would save from here on is worth keeping
			}
			if s.state.Reading.Done && farewell == nil {
				farewell = time.After(s.Farewell)
			}
		}
	}
}

func (s *supervisor) forward(ctx context.Context, task string, out chan<- executor.Status) error {
	for st, err := range s.Executor.Watch(ctx, task) {
		if err != nil {
			return err
		}
		select {
		case out <- st:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errNoEnd
}

// end makes sure that nothing of the task is left, takes in its last events and
// judges it. last is how it ended, if the caller saw that.
func (s *supervisor) end(ctx context.Context, a *Attempt, last executor.Status) error {
	grace := stopGrace
	if s.state.NotFinite != "" {
		grace = time.Second
	}
	// Not ctx: it may have ended, and the task must be gone all the same.
	quiet := context.WithoutCancel(ctx)
	if err := s.Executor.Stop(quiet, a.Task, grace); err != nil && !errors.Is(err, executor.ErrNoTask) {
		return fmt.Errorf("stop attempt %d: %w: %w", a.Number, store.ErrEnvironment, err)
	}
	if last.State != executor.Exited {
		for st, err := range s.Executor.Watch(quiet, a.Task) {
			if err != nil && !errors.Is(err, executor.ErrNoTask) {
				return fmt.Errorf("read how attempt %d ended: %w: %w", a.Number, store.ErrEnvironment, err)
			}
			last = st
		}
	}
	if err := s.drain(a); err != nil {
		return err
	}
	if err := s.conclude(quiet, a, last); err != nil {
		return err
	}
	if s.state.Interrupted && ctx.Err() != nil { // else it was our predecessor who was interrupted
		return errors.Join(fmt.Errorf("interrupted at step %d; the same command goes on from there", a.LastStep), context.Cause(ctx))
	}
	return nil
}

// conclude judges an ended attempt.
func (s *supervisor) conclude(ctx context.Context, a *Attempt, last executor.Status) error {
	clear(s.good) // whatever was known of the checkpoints, the attempt may have changed
	a.ExitCode, a.Signal = last.ExitCode, last.Signal
	a.Outcome, a.Reason = judge(ending{
		status: last, target: s.Recipe.Steps(), done: s.state.Reading.Done, step: s.state.Reading.DoneStep,
		notFinite: s.state.NotFinite, interrupted: s.state.Interrupted,
	})
	if a.Outcome != Done {
		a.Log = s.logTail(ctx, a.Task)
	}
	// From here to the next attempt's first step it is recovery; after the last one, supervision.
	class := classRecovery
	if a.Outcome == Done || a.Outcome == Interrupted {
		class = classSupervision
	}
	s.state.Clock.enter(class, s.Now())
	newest, _, err := s.newestGood()
	if err != nil {
		return err
	}
	a.Saved = -1
	if newest != nil {
		a.Saved = newest.Step
	}
	if a.Outcome != Done || a.Saved != s.Recipe.Steps() {
		s.state.Clock.rewind(a.Saved)
	}
	s.state.Task = nil
	return s.move(a, Ended)
}

// drain takes in the events written since the last call.
func (s *supervisor) drain(a *Attempt) error {
	took := false
	for {
		events, err := s.tail.read()
		if err != nil {
			return fmt.Errorf("%w: %w", store.ErrEnvironment, err)
		}
		if len(events) == 0 {
			break
		}
		took = true
		now := s.Now()
		for _, e := range events {
			s.take(a, e, now)
		}
		s.state.Reading.Offset = s.tail.offset
	}
	s.state.Clock.tick(s.Now())
	if took && s.Now().Sub(s.saved) >= saveEvery {
		return s.save(a.Phase)
	}
	return nil
}

// take takes in one event.
func (s *supervisor) take(a *Attempt, e event, now time.Time) {
	clock := s.state.Clock
	switch e.Event {
	case "section":
		clock.enter(classOf(e.Name, a.Number), now)
	case "checkpoint":
		clock.mark(e.Step, now)
	case "done":
		s.state.Reading.Done, s.state.Reading.DoneStep = true, e.Step
	case "step":
		a.LastStep = max(a.LastStep, e.Step)
		// A trainer that names no sections is in its steps once it has done one.
		if clock.Current == classOf("setup", a.Number) {
			clock.enter(classStep, now)
		}
		if e.bad != "" && s.state.NotFinite == "" {
			s.state.NotFinite = fmt.Sprintf("%s is not finite at step %d", e.bad, e.Step)
		}
		s.report(a, e)
	}
}

// logTail is the end of what the trainer printed: evidence of why it ended.
func (s *supervisor) logTail(ctx context.Context, task string) string {
	w := &lastBytes{most: 2 << 10}
	if err := s.Executor.Logs(ctx, task, w); err != nil {
		return fmt.Sprintf("(no log: %v)", err)
	}
	return strings.ToValidUTF8(w.buf.String(), "\uFFFD")
}

// lastBytes keeps the end of what is written to it.
type lastBytes struct {
	most int
	buf  bytes.Buffer
}

var _ io.Writer = (*lastBytes)(nil)

func (l *lastBytes) Write(p []byte) (int, error) {
	n := len(p)
	if len(p) > l.most {
		p = p[len(p)-l.most:]
	}
	l.buf.Write(p)
	if over := l.buf.Len() - l.most; over > 0 {
		l.buf.Next(over)
	}
	return n, nil
}
