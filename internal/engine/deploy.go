package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"tarbert/internal/device"
	"tarbert/internal/executor"
	"tarbert/internal/progress"
)

const (
	defaultWait = 10 * time.Minute
	stopGrace   = 5 * time.Second
	tailBytes   = 4 << 10
	mostStarts  = 5    // bind failures in a row before giving up
	mostNames   = 1000 // ended tasks of one name looked through
)

// Deployer starts an engine as a task and waits until it answers.
type Deployer struct {
	Executor executor.Executor
	Engine   Engine
	// Wait is how long a deployment may take to become ready; default 10 minutes.
	Wait time.Duration
	// Stage and Progress, if set, are told once a second or so what is waited for.
	Stage    string
	Progress progress.Func
}

// Deployment is an engine that answered. While it is held, its task is watched,
// which keeps the task's lease.
type Deployment struct {
	URL   string
	Name  string // the task's
	Model string // what to ask for

	executor executor.Executor
	cancel   context.CancelFunc
	watching sync.WaitGroup
	mu       sync.Mutex
	last     executor.Status
}

// Deploy starts e on m as task name, or re-attaches to it, with the default
// patience and no progress; see Deployer.
func Deploy(ctx context.Context, ex executor.Executor, e Engine, name string, m Model, d device.Device, o Options) (*Deployment, error) {
	return (&Deployer{Executor: ex, Engine: e}).Deploy(ctx, name, m, d, o)
}

// Deploy starts the engine as task name, or re-attaches to a task of that name
// that runs the same command, and returns once it answers and lists m. A task
// that has ended keeps its name, so later ones are called name-2, name-3, …
// Port 0 takes a free port, and another one should somebody else be quicker;
// a fixed port in use is an error that wraps EADDRINUSE. An engine that exits
// or does not get ready in time is stopped, and the error ends with the last
// lines it wrote.
func (dp *Deployer) Deploy(ctx context.Context, name string, m Model, d device.Device, o Options) (*Deployment, error) {
	if err := dp.Engine.Supports(m, d); err != nil {
		return nil, fmt.Errorf("deploy %s: %w", name, err)
	}
	if o.Host == "" {
		o.Host = "127.0.0.1"
	}
	wait := dp.Wait
	if wait == 0 {
		wait = defaultWait
	}
	life := ctx // the deployment is watched for as long as the caller's context lives
	ctx, cancel := context.WithTimeoutCause(ctx, wait, fmt.Errorf("%w after %v", ErrNotReady, wait))
	defer cancel()
	starts := 0
	for n := 1; n <= mostNames; n++ {
		taskName := name
		if n > 1 {
			taskName = fmt.Sprintf("%s-%d", name, n)
		}
		st, err := dp.status(ctx, taskName)
		if err != nil {
			return nil, fmt.Errorf("deploy %s: %w", taskName, err)
		}
		if st.State == executor.Exited {
			continue // its name is used up
		}
		at, same, err := dp.place(ctx, taskName, st, m, d, o)
		if err != nil {
			return nil, fmt.Errorf("deploy %s: %w", taskName, err)
		}
		if !same {
			continue // another command had the name; it has been stopped
		}
		starts++
		dep, err := dp.await(ctx, life, taskName, at, m)
		if err == nil {
			return dep, nil
		}
		if o.Port == 0 && starts < mostStarts && bindFailed(err) {
			continue
		}
		return nil, fmt.Errorf("deploy %s: %w", taskName, err)
	}
	return nil, fmt.Errorf("deploy %s: %d ended tasks have that name: clear the executor's directory", name, mostNames)
}

// status is what the executor knows of the task now: Pending with no start
// time if it has none of that name. It waits while the executor cannot see.
func (dp *Deployer) status(ctx context.Context, name string) (executor.Status, error) {
	for st, err := range dp.Executor.Watch(ctx, name) {
		switch {
		case errors.Is(err, executor.ErrNoTask):
			return executor.Status{Name: name, State: executor.Pending}, nil
		case err != nil:
			return st, err
		case st.State != executor.Unknown:
			return st, nil
		}
	}
	return executor.Status{}, errors.Join(errors.New("the executor cannot tell whether it runs"), context.Cause(ctx))
}

// place makes sure that the task runs m at the URL it returns. If the name
// belongs to another command it is stopped, and same is false.
func (dp *Deployer) place(ctx context.Context, name string, st executor.Status, m Model, d device.Device, o Options) (at string, same bool, err error) {
	running := st.Labels["url"] != ""
	if running {
		port, err := portOf(st.Labels["url"])
		if err != nil {
			return "", false, err
		}
		if o.Port != 0 && o.Port != port {
			return "", false, dp.Executor.Stop(ctx, name, stopGrace)
		}
		o.Port = port
	} else if o.Port, err = claimPort(o.Host, o.Port); err != nil {
		return "", false, err
	}
	task, err := dp.Engine.Task(name, m, d, o)
	if err != nil {
		return "", false, err
	}
	at = "http://" + net.JoinHostPort(dialable(o.Host), strconv.Itoa(o.Port))
	labels := map[string]string{"url": at, "model": m.Name}
	for k, v := range task.Labels {
		labels[k] = v
	}
	task.Labels = labels
	err = dp.Executor.Start(ctx, task)
	if errors.Is(err, executor.ErrDifferent) {
		return "", false, dp.Executor.Stop(ctx, name, stopGrace)
	}
	return task.Labels["url"], err == nil, err
}

// claimPort returns port if it is free on host, or a free one for port 0.
// Another process may still take it before the engine does.
func claimPort(host string, port int) (int, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if errors.Is(err, syscall.EADDRINUSE) {
		return 0, fmt.Errorf("port %d on %s is in use by another program: free it or choose another one: %w", port, host, err)
	}
	if err != nil {
		return 0, fmt.Errorf("listen on %s, port %d: %w", host, port, err)
	}
	got := l.Addr().(*net.TCPAddr).Port
	return got, l.Close()
}

func portOf(raw string) (int, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return 0, fmt.Errorf("task's url: %w", err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		return 0, fmt.Errorf("task's url %q has no port", raw)
	}
	return port, nil
}

// dialable is where to reach a server that listens on host: one that listens
// everywhere is reached at home.
func dialable(host string) string {
	switch ip := net.ParseIP(host); {
	case ip == nil || !ip.IsUnspecified():
		return host
	case ip.To4() == nil:
		return "::1"
	}
	return "127.0.0.1"
}

// await watches the task and asks it until it is ready. On failure the task is stopped.
func (dp *Deployer) await(ctx, life context.Context, name, at string, m Model) (*Deployment, error) {
	watchCtx, cancel := context.WithCancel(life)
	dep := &Deployment{URL: at, Name: name, Model: m.Name, executor: dp.Executor, cancel: cancel}
	exited := make(chan executor.Status, 1)
	dep.watching.Go(func() { dep.watch(watchCtx, exited) })

	err := dp.poll(ctx, at, m, exited)
	if err == nil {
		return dep, nil
	}
	tail := logTail(context.WithoutCancel(ctx), dp.Executor, name)
	stopErr := dep.Stop(context.WithoutCancel(ctx))
	return nil, errors.Join(&startError{err, tail}, stopErr)
}

// startError is why an engine did not start, with the last of what it wrote.
type startError struct {
	err  error
	tail string
}

func (e *startError) Error() string {
	if e.tail == "" {
		return e.err.Error() + "; it wrote nothing"
	}
	return e.err.Error() + "; its last lines:\n" + e.tail
}

func (e *startError) Unwrap() error { return e.err }

// bindFailed tells from the engine's own words that its port was taken.
func bindFailed(err error) bool {
	var start *startError
	return errors.As(err, &start) && errors.Is(err, ErrExited) &&
		strings.Contains(strings.ToLower(start.tail), "address already in use")
}

// watch keeps the lease and remembers the last status, until the task has
// exited or ctx ends.
func (d *Deployment) watch(ctx context.Context, exited chan<- executor.Status) {
	for ctx.Err() == nil {
		for st, err := range d.executor.Watch(ctx, d.Name) {
			if err != nil {
				st = executor.Status{Name: d.Name, State: executor.Unknown, Reason: err.Error()}
			}
			d.mu.Lock()
			d.last = st
			d.mu.Unlock()
			if st.State == executor.Exited {
				exited <- st
				return
			}
		}
		// The executor stopped looking, which it should not: look again.
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// poll asks the engine whether it is ready, ever less often.
func (dp *Deployer) poll(ctx context.Context, at string, m Model, exited <-chan executor.Status) error {
	began, pause, said := time.Now(), 20*time.Millisecond, time.Time{}
	var last error
	for {
		if last = dp.ask(ctx, at, m); last == nil {
			return nil
		}
		if now := time.Now(); now.Sub(said) >= time.Second {
			said = now
			dp.Progress.Report(progress.Update{
				Stage: dp.Stage, Done: now.Sub(began).Seconds(), Unit: "s", Note: "waiting for " + m.Name + " at " + at,
			})
		}
		timer := time.NewTimer(pause)
		select {
		case st := <-exited:
			timer.Stop()
			return fmt.Errorf("%w before it was ready: %s", ErrExited, describeExit(st))
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w (last answer: %w)", context.Cause(ctx), last)
		case <-timer.C:
		}
		pause = min(pause*3/2, 500*time.Millisecond)
	}
}

// ask is one readiness probe, with its own deadline. A server that is ready
// but lists another model is somebody else's.
func (dp *Deployer) ask(ctx context.Context, at string, m Model) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := dp.Engine.Ready(ctx, at); err != nil || m.Name == "" {
		return err
	}
	c := Client{URL: at, Patience: time.Nanosecond}
	served, err := c.Models(ctx)
	if err != nil {
		return err
	}
	for _, s := range served {
		if s.ID == m.Name {
			return nil
		}
	}
	return fmt.Errorf("%s serves %v, not %q", at, served, m.Name)
}

func describeExit(st executor.Status) string {
	switch {
	case st.Signal != "":
		return "ended by signal " + st.Signal
	case st.Reason != "":
		return st.Reason
	}
	return fmt.Sprintf("exit code %d", st.ExitCode)
}

// Client speaks to the deployment.
func (d *Deployment) Client() *Client { return &Client{URL: d.URL, Model: d.Model} }

// Status is the task's last known one.
func (d *Deployment) Status() executor.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last
}

// Explain adds to an error of the client that the engine's process has ended,
// and its last lines, where that is why.
func (d *Deployment) Explain(ctx context.Context, err error) error {
	if st := d.Status(); err != nil && st.State == executor.Exited {
		return fmt.Errorf("%w: %w: %s; its last lines:\n%s", err, ErrExited, describeExit(st), logTail(ctx, d.executor, d.Name))
	}
	return err
}

// Detach stops watching and leaves the task running: its lease then ends it
// unless somebody else watches.
func (d *Deployment) Detach() {
	d.cancel()
	d.watching.Wait()
}

// Stop ends the task. Stopping twice is no error.
func (d *Deployment) Stop(ctx context.Context) error {
	err := d.executor.Stop(ctx, d.Name, stopGrace)
	d.Detach()
	if errors.Is(err, executor.ErrNoTask) {
		return nil
	}
	return err
}

// logTail is the last lines of what the task wrote; best effort.
func logTail(ctx context.Context, ex executor.Executor, name string) string {
	var t tail
	if err := ex.Logs(ctx, name, &t); err != nil && len(t.b) == 0 {
		return "(no logs: " + err.Error() + ")"
	}
	s := strings.ToValidUTF8(string(t.b), "?")
	if t.cut {
		if i := strings.IndexByte(s, '\n'); i >= 0 {
			s = s[i+1:]
		}
	}
	return strings.TrimSpace(s)
}

// tail keeps the last tailBytes written to it.
type tail struct {
	b   []byte
	cut bool
}

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if extra := len(t.b) - tailBytes; extra > 0 {
		t.b, t.cut = append(t.b[:0], t.b[extra:]...), true
	}
	return len(p), nil
}
