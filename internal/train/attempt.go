package train

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"tarbert/internal/executor"
	"tarbert/internal/store"
)

// attempt takes the running attempt from whatever phase it is in to its end.
// Each phase's work may be done twice, by two supervisors, and is the same then.
func (s *supervisor) attempt(ctx context.Context, a *Attempt) error {
	if err := s.attach(a); err != nil {
		return err
	}
	if a.Phase == Starting {
		s.state.Clock.enter(classQueue, s.now())
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

// attach sets up what watches the attempt. What an earlier supervisor had read
// is read again for the monitors, and counted no second time.
func (s *supervisor) attach(a *Attempt) error {
	s.tail = &tail{path: a.Events, offset: s.state.Reading.Offset}
	s.watchdog = newWatchdog(s.Limits, s.state.Learned, s.stageOf, a.LastStep, s.now())
	s.monitor, s.ranks = newMonitor(s.wide), &ranks{}
	s.ill, s.missing = nil, nil
	s.blind = 0
	s.lookFor(a)
	s.log = &logTailer{taken: s.state.Reading.Log}
	if err := s.expect(a); err != nil {
		return err
	}
	before := &tail{path: a.Events}
	for before.offset < s.state.Reading.Offset {
		events, err := before.read()
		if err != nil || len(events) == 0 {
			break // the monitors begin without a past
		}
		for _, e := range events {
			switch e.Event {
			case "section":
				s.watchdog.section = e.Name
			case "step":
				s.watch1(a, e, false)
			}
		}
	}
	return nil
}

// mostNames bounds the search for a free task name.
const mostNames = 1000

// start asks for the task. A task of that name with another command is a run
// of the same release that this folder knows nothing of: it is ended, and the
// attempt takes the next number.
func (s *supervisor) start(ctx context.Context, a *Attempt) error {
	ex := s.pool().Executor
	for range mostNames {
		err := ex.Start(ctx, *s.state.Task)
		if err == nil {
			return s.move(a, Watching)
		}
		if ctx.Err() != nil {
			return err
		}
		if !errors.Is(err, executor.ErrDifferent) {
			return fmt.Errorf("start attempt %d: %w: %w", a.Number, store.ErrEnvironment, err)
		}
		if err := ex.Stop(ctx, a.Task, stopGrace); err != nil {
			return fmt.Errorf("stop the other task of attempt %d's name: %w", a.Number, err)
		}
		if err := s.number(a, a.Number+1); err != nil {
			return err
		}
		s.tail = &tail{path: a.Events}
	}
	return fmt.Errorf("start attempt: %d task names beginning %s-train- are taken", mostNames, s.Release)
}

// watcher is what a watch waits for.
type watcher struct {
	statuses chan executor.Status
	failed   chan error
	sampled  chan sampled
	inside   chan inside
	farewell <-chan time.Time
	unknown  bool // the last status
}

// watch returns when the task has ended, or when it must be: there is trouble,
// it does not exit after its work is done, or ctx has ended.
func (s *supervisor) watch(ctx context.Context, a *Attempt) (executor.Status, error) {
	watching, stop := context.WithCancel(ctx)
	w := &watcher{statuses: make(chan executor.Status), failed: make(chan error, 1), sampled: make(chan sampled), inside: make(chan inside)}
	var helpers sync.WaitGroup
	helpers.Go(func() {
		defer close(w.statuses)
		w.failed <- s.forward(watching, a.Task, w.statuses)
	})
	s.sampler(watching, &helpers, a, w.sampled)
	s.inspector(watching, &helpers, a, w.inside)
	defer helpers.Wait()
	defer stop()
	tick := time.NewTicker(s.Poll)
	defer tick.Stop()
	for {
		select {
		case st, open := <-w.statuses:
			over, err := s.status(ctx, a, w, st, open)
			if over || err != nil {
				return st, err
			}
		case <-w.farewell:
			return executor.Status{}, nil
		case v := <-s.results:
			s.takeVerified(a, v)
		case x := <-w.sampled:
			s.takeSampled(a, x)
		case x := <-w.inside:
			s.takeInside(a, x)
		case <-tick.C:
			if err := s.tick(ctx, a, w); err != nil {
				return executor.Status{}, err
			}
		}
		if s.state.Trouble != nil {
			return executor.Status{}, nil
		}
	}
}

// status takes in what the executor says. Unknown is counted and is no end.
func (s *supervisor) status(ctx context.Context, a *Attempt, w *watcher, st executor.Status, open bool) (over bool, err error) {
	w.unknown = st.State == executor.Unknown
	switch {
	case ctx.Err() != nil:
		s.trouble(a, Interrupted, 0, "interrupted")
	case !open:
		return false, fmt.Errorf("watch attempt %d: %w: %w", a.Number, store.ErrEnvironment, <-w.failed)
	case st.State == executor.Exited:
		if !st.Ended.IsZero() {
			a.Noticed, a.NoticedAt = max(s.Now().Sub(st.Ended).Seconds(), 0), s.now()
		}
		return true, nil
	case st.State == executor.Unknown:
		a.Unknown++
		s.state.alarm(a.Number, a.LastStep, alarmUnseen, "the executor cannot see the task: "+st.Reason)
	case st.State == executor.Running && s.state.Clock.Current == classQueue:
		a.Waited = s.now().Sub(a.Began).Seconds()
		s.state.Clock.enter(classOf("setup", a.Number), s.now())
		s.watchdog.since = s.now()
	}
	return false, nil
}

// tick is one look at everything that is written down somewhere.
func (s *supervisor) tick(ctx context.Context, a *Attempt, w *watcher) error {
	s.drain(ctx, a)
	now := s.now()
	if w.unknown || s.state.Clock.Current == classQueue { // what cannot be seen is not late
		s.watchdog.unseen(now.Sub(s.watchdog.at))
		s.watchdog.at = now
	}
	if s.state.Reading.Done {
		if w.farewell == nil {
			w.farewell = time.After(s.Farewell)
		}
		return nil
	}
	if silent, why := s.watchdog.look(now, s.Poll); why != "" {
		s.trouble(a, Hung, 0, why)
		s.state.Trouble.Silent = silent
		a.Noticed = silent.Seconds()
		s.dump(ctx, a)
		return nil
	}
	return s.consider()
}

// trouble says that the attempt is to be ended. The first one counts.
func (s *supervisor) trouble(a *Attempt, o Outcome, from int, reason string) {
	if s.state.Trouble == nil {
		s.state.Trouble = &trouble{Outcome: o, Reason: reason, Step: a.LastStep, From: from, Noticed: s.now()}
		a.NoticedAt = s.now()
	}
}

// dump captures where the processes of a hung attempt stand, before they are killed.
func (s *supervisor) dump(ctx context.Context, a *Attempt) {
	look, able := s.pool().Executor.(executor.Inspector)
	if !able {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	var b bytes.Buffer
	if err := look.Dump(ctx, a.Task, &b); err != nil {
		fmt.Fprintf(&b, "\n(%v)\n", err)
	}
	path := filepath.Join(s.Dir, "attempts", fmt.Sprintf("attempt-%03d.stacks", a.Number))
	if err := store.WriteFile(path, b.Bytes(), 0o644); err != nil {
		s.state.alarm(a.Number, a.LastStep, alarmDisk, fmt.Sprintf("stacks could not be kept: %v", err))
		return
	}
	a.Stacks = path
}

func (s *supervisor) forward(ctx context.Context, task string, out chan<- executor.Status) error {
	for st, err := range s.pool().Executor.Watch(ctx, task) {
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
	grace := stopGrace // a trainer that is asked to end saves what it has: a dying gasp
	if t := s.state.Trouble; t != nil && t.Outcome != Interrupted && t.Outcome != Left {
		grace = 0 // nothing that it would save from here on is worth keeping
	}
	// Not ctx: it may have ended, and the task must be gone all the same.
	quiet, ex := context.WithoutCancel(ctx), s.pool().Executor
	if err := ex.Stop(quiet, a.Task, grace); err != nil && !errors.Is(err, executor.ErrNoTask) {
		return fmt.Errorf("stop attempt %d: %w: %w", a.Number, store.ErrEnvironment, err)
	}
	if last.State != executor.Exited {
		for st, err := range ex.Watch(quiet, a.Task) {
			if err != nil && !errors.Is(err, executor.ErrNoTask) {
				return fmt.Errorf("read how attempt %d ended: %w: %w", a.Number, store.ErrEnvironment, err)
			}
			last = st
		}
	}
	s.drain(quiet, a)
	s.drainVerifier(a)
	interrupted := s.state.Trouble != nil && s.state.Trouble.Outcome == Interrupted
	if err := s.conclude(quiet, a, last); err != nil {
		return err
	}
	if interrupted && ctx.Err() != nil { // else it was our predecessor who was interrupted
		return errors.Join(fmt.Errorf("interrupted at step %d; the same command goes on from there", a.LastStep), context.Cause(ctx))
	}
	return nil
}

// drainVerifier waits for what is being verified: its result is of no use after
// the attempt, and the next one must not get it.
func (s *supervisor) drainVerifier(a *Attempt) {
	for s.verifying {
		s.waiting = nil
		s.takeVerified(a, <-s.results)
	}
}

// conclude judges an ended attempt.
func (s *supervisor) conclude(ctx context.Context, a *Attempt, last executor.Status) error {
	clear(s.good) // whatever was known of the checkpoints, the attempt may have changed
	if t := s.state.Trouble; t != nil {
		if t.Outcome == Hung {
			s.state.Clock.hung(t.Silent, s.now())
		}
		if t.From > 0 {
			a.From, a.Why = t.From, t.Reason
		}
		if t.Outcome == BadResume && a.Resume != "" {
			s.state.Suspect[a.Resume] = t.Reason
			if s.state.Proven != nil && s.state.Proven.Dir == a.Resume {
				s.state.Proven = nil
			}
		}
	}
	a.ExitCode, a.Signal, a.Over = last.ExitCode, last.Signal, s.now()
	a.Outcome, a.Reason = judge(ending{
		status: last, target: s.Recipe.Steps(), done: s.state.Reading.Done, step: s.state.Reading.DoneStep, last: a.LastStep,
		trouble: s.state.Trouble, degraded: a.Degraded,
	})
	if a.Outcome != Done {
		a.Log = s.logTail(ctx, a.Task)
	}
	if a.Outcome == Crashed || a.Outcome == Hung || a.Outcome == RankLost || a.Outcome == Early {
		a.Cause = explain(a.Log)
	}
	// From here to the next attempt's first step it is recovery; after the last one, supervision.
	class := classRecovery
	if a.Outcome == Done || a.Outcome == Interrupted {
		class = classSupervision
	}
	s.state.Clock.enter(class, s.now())
	if err := s.seal(a); err != nil {
		return err
	}
	newest, _, err := s.newestGood(nil)
	if err != nil {
		return err
	}
	a.Saved = -1
	if newest != nil {
		a.Saved = newest.Step
	}
	if a.Outcome != Done || a.Saved != s.Recipe.Steps() {
		if a.Outcome == Done { // its last checkpoint does not count: there will be another attempt
			s.state.Clock.enter(classRecovery, s.now())
		}
		s.state.Clock.rewind(a.Saved)
		s.state.rewindMarks(max(a.Saved, 0))
	}
	s.state.Task, s.state.Trouble = nil, nil
	return s.move(a, Ended)
}

// logTail is the end of what the trainer printed: evidence of why it ended.
func (s *supervisor) logTail(ctx context.Context, task string) string {
	w := &lastBytes{most: 2 << 10}
	if err := s.pool().Executor.Logs(ctx, task, w); err != nil {
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
