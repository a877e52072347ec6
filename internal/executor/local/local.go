package local

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"tarbert/internal/device"
	"tarbert/internal/executor"
)

// Executor runs tasks on this machine. Any number of them, in any number of
// processes, may share one directory.
type Executor struct {
	// Interval is how often Watch looks; 50 ms if not set.
	Interval time.Duration

	dir     string
	shim    []string
	now     func() time.Time
	drivers []device.Driver
}

var _ executor.Executor = (*Executor)(nil)

// New makes an executor that keeps its tasks below dir. shim is the command
// that runs Shim when the task's folder is appended: {"/path/tarbert", "shim"}.
// drivers answer Nodes.
func New(dir string, shim []string, now func() time.Time, drivers ...device.Driver) *Executor {
	return &Executor{Interval: 50 * time.Millisecond, dir: dir, shim: slices.Clone(shim), now: now, drivers: drivers}
}

var taskName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,199}$`)

func (e *Executor) folder(name string) (folder, error) {
	if !taskName.MatchString(name) {
		return "", fmt.Errorf("task name %q: want lower-case letters, digits, dots and dashes", name)
	}
	dir, err := filepath.Abs(e.dir)
	return folder(filepath.Join(dir, name)), err
}

// known is the folder of a task that was asked for, or ErrNoTask.
func (e *Executor) known(name string) (folder, intent, error) {
	f, err := e.folder(name)
	if err != nil {
		return "", intent{}, err
	}
	var in intent
	err = f.read("task.json", &in)
	if errors.Is(err, fs.ErrNotExist) {
		return "", intent{}, fmt.Errorf("task %s: %w", name, executor.ErrNoTask)
	}
	return f, in, err
}

// Nodes is this machine with what the drivers find on it. A driver that fails
// is in Absent with its reason.
func (e *Executor) Nodes(ctx context.Context) ([]device.Node, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("read host name: %w", err)
	}
	n := device.Node{Name: host, OS: runtime.GOOS, Arch: runtime.GOARCH, Absent: map[device.Vendor]string{}}
	for _, d := range e.drivers {
		found, err := d.Detect(ctx)
		if err != nil {
			n.Absent[d.Vendor()] = err.Error()
			continue
		}
		n.Devices = append(n.Devices, found...)
	}
	return []device.Node{n}, ctx.Err()
}

// Start implements executor.Executor. The intent is on disk before the shim is
// forked; when Start returns nil, the shim has recorded itself.
func (e *Executor) Start(ctx context.Context, t executor.Task) error {
	f, err := e.folder(t.Name)
	if err != nil {
		return err
	}
	if len(t.Argv) == 0 || t.Argv[0] == "" {
		return fmt.Errorf("task %s: no command", t.Name)
	}
	if err := os.MkdirAll(string(f), 0o700); err != nil {
		return fmt.Errorf("start task %s: %w", t.Name, err)
	}
	unlock, err := f.lock(ctx)
	if err != nil {
		return fmt.Errorf("start task %s: %w", t.Name, err)
	}
	defer unlock()
	if err := e.intend(f, t); err != nil {
		return err
	}
	if f.exists("exit.json") {
		return nil
	}
	alive, err := f.alive()
	switch {
	case err != nil:
		return fmt.Errorf("start task %s: %w", t.Name, err)
	case alive:
		return nil // running, or coming up: its starter died, not the shim
	case f.exists("shim.json"):
		return e.bury(ctx, f) // it ran and its shim was killed: never a second copy
	}
	if err := e.spawn(ctx, f, t); err != nil {
		return fmt.Errorf("start task %s: %w", t.Name, err)
	}
	return nil
}

// intend writes task.json, or compares t with the one that is there.
func (e *Executor) intend(f folder, t executor.Task) error {
	var have intent
	err := f.read("task.json", &have)
	if err == nil {
		if !slices.Equal(have.Task.Argv, t.Argv) || !slices.Equal(have.Task.Env, t.Env) || have.Task.Dir != t.Dir {
			return fmt.Errorf("task %s: %w: it was started as %q", t.Name, executor.ErrDifferent, have.Task.Argv)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("task %s: %w", t.Name, err)
	}
	cwd, err := filepath.Abs(t.Dir)
	if err != nil {
		return fmt.Errorf("task %s: %w", t.Name, err)
	}
	in := intent{Version: 1, Task: t, Token: rand.Text(), Cwd: cwd, Created: e.now()}
	if t.Lease > 0 {
		if err := f.touchLease(); err != nil {
			return fmt.Errorf("task %s: %w", t.Name, err)
		}
	}
	if err := f.write("task.json", in); err != nil {
		return fmt.Errorf("task %s: %w", t.Name, err)
	}
	return nil
}

// spawn starts the shim and waits until it has recorded itself.
func (e *Executor) spawn(ctx context.Context, f folder, t executor.Task) error {
	alive, err := f.holdAlive()
	if err != nil {
		return err
	}
	defer alive.Close() // the shim has its own descriptor of the same lock
	ready, tell, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	log, err := os.OpenFile(f.path("shim.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return errors.Join(err, tell.Close())
	}
	defer log.Close()
	cmd := exec.Command(e.shim[0], append(slices.Clone(e.shim[1:]), string(f))...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{alive, tell} // descriptors 3 and 4
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	if err := errors.Join(err, tell.Close()); err != nil {
		return fmt.Errorf("start its shim: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	said, err := io.ReadAll(io.LimitReader(ready, 64))
	if string(said) == "ready" {
		// The shim outlives us or not; if not, this reaps it.
		go func() { _ = cmd.Wait() }()
		return nil
	}
	if ctx.Err() != nil {
		go func() { _ = cmd.Wait() }()
		return ctx.Err()
	}
	tail, _ := os.ReadFile(f.path("shim.log"))
	return errors.Join(fmt.Errorf("its shim ended before it began: %s", lastLine(tail)), err, cmd.Wait())
}

func lastLine(b []byte) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

// Logs implements executor.Executor.
func (e *Executor) Logs(ctx context.Context, name string, w io.Writer) error {
	f, _, err := e.known(name)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return copyLogs(f.path("log"), w)
}
