package enginetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"tarbert/internal/device"
	"tarbert/internal/engine"
	"tarbert/internal/executor"
)

// Executor runs tasks as functions in this process. It keeps the contract of
// executor.Executor: names are used once, starting again re-attaches.
type Executor struct {
	// Run is the task: it returns an exit code when it is done or ctx ends.
	Run func(ctx context.Context, t executor.Task, log io.Writer) int

	mu    sync.Mutex
	tasks map[string]*running
}

var _ executor.Executor = (*Executor)(nil)

type running struct {
	task    executor.Task
	cancel  context.CancelFunc
	done    chan struct{}
	mu      sync.Mutex
	log     []byte
	code    int
	watched int
}

func (r *running) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = append(r.log, p...)
	return len(p), nil
}

// Nodes lists none.
func (*Executor) Nodes(context.Context) ([]device.Node, error) { return nil, nil }

// Start runs the task in a goroutine that Stop or its own end ends.
func (e *Executor) Start(_ context.Context, t executor.Task) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if old := e.tasks[t.Name]; old != nil {
		if !slices.Equal(old.task.Argv, t.Argv) {
			return fmt.Errorf("%s: %w", t.Name, executor.ErrDifferent)
		}
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{task: t, cancel: cancel, done: make(chan struct{})}
	if e.tasks == nil {
		e.tasks = map[string]*running{}
	}
	e.tasks[t.Name] = r
	go func() {
		defer close(r.done)
		code := e.Run(ctx, t, r)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.code = code
	}()
	return nil
}

func (e *Executor) find(name string) (*running, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r := e.tasks[name]; r != nil {
		return r, nil
	}
	return nil, fmt.Errorf("%s: %w", name, executor.ErrNoTask)
}

// Watch yields the state now and the exit.
func (e *Executor) Watch(ctx context.Context, name string) iter.Seq2[executor.Status, error] {
	return func(yield func(executor.Status, error) bool) {
		r, err := e.find(name)
		if err != nil {
			yield(executor.Status{}, err)
			return
		}
		r.watch(1)
		defer r.watch(-1)
		st := executor.Status{Name: name, State: executor.Running, Labels: maps.Clone(r.task.Labels)}
		select {
		case <-r.done:
		default:
			if !yield(st, nil) {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-r.done:
		}
		r.mu.Lock()
		st.State, st.ExitCode = executor.Exited, r.code
		r.mu.Unlock()
		yield(st, nil)
	}
}

func (r *running) watch(by int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watched += by
}

// Logs copies what the task wrote.
func (e *Executor) Logs(_ context.Context, name string, w io.Writer) error {
	r, err := e.find(name)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_, err = w.Write(r.log)
	return err
}

// Stop cancels the task and waits for it.
func (e *Executor) Stop(_ context.Context, name string, _ time.Duration) error {
	r, err := e.find(name)
	if err != nil {
		return err
	}
	r.cancel()
	<-r.done
	return nil
}

// Running lists the tasks that have not ended, and Watched those somebody watches.
func (e *Executor) Running() []string {
	return e.names(func(r *running) bool {
		select {
		case <-r.done:
			return false
		default:
			return true
		}
	})
}

// Watched lists the tasks that somebody watches now.
func (e *Executor) Watched() []string {
	return e.names(func(r *running) bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.watched > 0
	})
}

func (e *Executor) names(keep func(*running) bool) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var names []string
	for name, r := range e.tasks {
		if keep(r) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Engine is an engine whose task is {"serve", host:port}; run it with Serve.
type Engine struct {
	Refuse error // what Supports says
}

var _ engine.Engine = Engine{}

// Name is "fake".
func (Engine) Name() string { return "fake" }

// Supports returns e.Refuse.
func (e Engine) Supports(engine.Model, device.Device) error { return e.Refuse }

// Task names the model's directory and address.
func (Engine) Task(name string, m engine.Model, _ device.Device, o engine.Options) (executor.Task, error) {
	return executor.Task{
		Name: name, Lease: time.Minute,
		Argv: []string{"serve", net.JoinHostPort(o.Host, strconv.Itoa(o.Port)), m.Dir, o.Precision},
	}, nil
}

// Ready asks /health once.
func (Engine) Ready(ctx context.Context, url string) error {
	return (&engine.Client{URL: url, Patience: time.Nanosecond}).Health(ctx)
}

// Serve is an Executor's Run that answers with s at the address in the task.
func Serve(s *Server) func(context.Context, executor.Task, io.Writer) int {
	return func(ctx context.Context, t executor.Task, log io.Writer) int {
		l, err := net.Listen("tcp", t.Argv[1])
		if err != nil {
			fmt.Fprintf(log, "serve: %v\n", err)
			return 3
		}
		srv := &http.Server{Handler: s.handler()}
		stopped := context.AfterFunc(ctx, func() { _ = srv.Close() })
		defer stopped()
		fmt.Fprintf(log, "serving at %s\n", t.Argv[1])
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			fmt.Fprintf(log, "serve: %v\n", err)
			return 1
		}
		return 0
	}
}
