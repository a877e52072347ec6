package executortest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"tarbert/internal/device"
	"tarbert/internal/executor"
)

// Behaviour is how a task goes. The zero value exits 0 at once.
type Behaviour struct {
	// StartError is what Start returns; nothing is started then.
	StartError error
	// Body, if set, is the task: it gets the task, its output, and a context
	// that Stop ends, and returns the exit code. It runs in a goroutine.
	Body func(ctx context.Context, t executor.Task, log io.Writer) int
	// ExitCode, Signal and Reason are the end, where there is no Body.
	ExitCode int
	Signal   string
	Reason   string
	// Hang keeps a task without Body running until it is stopped.
	Hang bool
	// Unknown is how many times a watcher is told Unknown before anything else.
	Unknown int
	// WatchError is yielded by Watch instead of any status.
	WatchError error
	// StopError is what Stop returns; the task goes on then.
	StopError error
}

// Fake is an executor in memory. Tasks behave as told; a test asks afterwards
// what was started and stopped. The zero value is not ready: use NewFake.
type Fake struct {
	mu      sync.Mutex
	now     func() time.Time
	nodes   []device.Node
	plans   []plan
	tasks   map[string]*fakeTask
	started []string
	stopped []string
}

type plan struct {
	prefix string
	behave Behaviour
}

type fakeTask struct {
	task    executor.Task
	behave  Behaviour
	status  executor.Status
	unknown int           // Unknown answers still to give
	changed chan struct{} // closed and replaced at every change
	cancel  context.CancelFunc
	done    chan struct{} // closed when the body has returned
	log     strings.Builder
}

var _ executor.Executor = (*Fake)(nil)

// NewFake makes one whose nodes and clock are given.
func NewFake(now func() time.Time, nodes ...device.Node) *Fake {
	return &Fake{now: now, nodes: nodes, tasks: map[string]*fakeTask{}}
}

// On sets how tasks whose name begins with prefix behave. The last matching
// call wins; it has no effect on tasks already started.
func (f *Fake) On(prefix string, b Behaviour) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.plans = append(f.plans, plan{prefix, b})
}

// Started lists the tasks in the order they were first started.
func (f *Fake) Started() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.started)
}

// Stopped lists the names that Stop was called with.
func (f *Fake) Stopped() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.stopped)
}

// Task is what was asked for under this name.
func (f *Fake) Task(name string) (executor.Task, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ft, ok := f.tasks[name]
	if !ok {
		return executor.Task{}, false
	}
	return ft.task, true
}

// Nodes implements executor.Executor.
func (f *Fake) Nodes(ctx context.Context) ([]device.Node, error) {
	return slices.Clone(f.nodes), ctx.Err()
}

// Start implements executor.Executor.
func (f *Fake) Start(ctx context.Context, t executor.Task) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if have, ok := f.tasks[t.Name]; ok {
		if !slices.Equal(have.task.Argv, t.Argv) || !slices.Equal(have.task.Env, t.Env) || have.task.Dir != t.Dir {
			return fmt.Errorf("task %s: %w", t.Name, executor.ErrDifferent)
		}
		return nil
	}
	b := f.behaviour(t.Name)
	if b.StartError != nil {
		return b.StartError
	}
	ft := &fakeTask{task: t, behave: b, unknown: b.Unknown, changed: make(chan struct{}), done: make(chan struct{})}
	ft.status = executor.Status{Name: t.Name, State: executor.Running, Pid: 1000 + len(f.tasks), Started: f.now(), Labels: t.Labels}
	f.tasks[t.Name] = ft
	f.started = append(f.started, t.Name)
	// Not ctx: a task outlives the call that started it.
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ft.cancel = cancel
	go f.run(run, ft)
	return nil
}

func (f *Fake) behaviour(name string) Behaviour {
	for _, p := range slices.Backward(f.plans) {
		if strings.HasPrefix(name, p.prefix) {
			return p.behave
		}
	}
	return Behaviour{}
}

// run is the task's goroutine; Stop waits for it.
func (f *Fake) run(ctx context.Context, ft *fakeTask) {
	defer close(ft.done)
	b := ft.behave
	end := executor.Status{ExitCode: b.ExitCode, Signal: b.Signal, Reason: b.Reason}
	switch {
	case b.Body != nil:
		end.ExitCode = b.Body(ctx, ft.task, &lockedLog{f: f, t: ft})
	case b.Hang:
		<-ctx.Done()
		end.ExitCode, end.Signal = -1, "terminated"
	}
	if ctx.Err() != nil && end.Reason == "" {
		end.Reason = "stopped"
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	ft.status.State, ft.status.ExitCode, ft.status.Signal, ft.status.Reason = executor.Exited, end.ExitCode, end.Signal, end.Reason
	ft.status.Ended = f.now()
	close(ft.changed)
	ft.changed = make(chan struct{})
}

type lockedLog struct {
	f *Fake
	t *fakeTask
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.f.mu.Lock()
	defer l.f.mu.Unlock()
	return l.t.log.Write(p)
}

// Watch implements executor.Executor. Unknown answers come first, one by one.
func (f *Fake) Watch(ctx context.Context, name string) iter.Seq2[executor.Status, error] {
	return func(yield func(executor.Status, error) bool) {
		for ctx.Err() == nil {
			st, changed, err := f.look(name)
			if err != nil {
				yield(executor.Status{Name: name}, err)
				return
			}
			if !yield(st, nil) || st.State == executor.Exited {
				return
			}
			if st.State == executor.Unknown {
				continue
			}
			select {
			case <-ctx.Done():
			case <-changed:
			}
		}
	}
}

func (f *Fake) look(name string) (executor.Status, <-chan struct{}, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ft, ok := f.tasks[name]
	if !ok {
		return executor.Status{}, nil, fmt.Errorf("task %s: %w", name, executor.ErrNoTask)
	}
	if ft.behave.WatchError != nil {
		return executor.Status{}, nil, ft.behave.WatchError
	}
	if ft.unknown > 0 {
		ft.unknown--
		return executor.Status{Name: name, State: executor.Unknown, Reason: "the poll was lost", Labels: ft.task.Labels}, nil, nil
	}
	return ft.status, ft.changed, nil
}

// Logs implements executor.Executor.
func (f *Fake) Logs(_ context.Context, name string, w io.Writer) error {
	f.mu.Lock()
	ft, ok := f.tasks[name]
	text := ""
	if ok {
		text = ft.log.String()
	}
	f.mu.Unlock()
	if !ok {
		return fmt.Errorf("task %s: %w", name, executor.ErrNoTask)
	}
	_, err := io.WriteString(w, text)
	return err
}

// Stop implements executor.Executor: it ends the body's context and waits.
func (f *Fake) Stop(ctx context.Context, name string, _ time.Duration) error {
	f.mu.Lock()
	ft, ok := f.tasks[name]
	f.stopped = append(f.stopped, name)
	f.mu.Unlock()
	if !ok {
		return fmt.Errorf("task %s: %w", name, executor.ErrNoTask)
	}
	if ft.behave.StopError != nil {
		return ft.behave.StopError
	}
	ft.cancel()
	select {
	case <-ft.done:
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("stop task %s: not over yet", name), ctx.Err())
	}
}
