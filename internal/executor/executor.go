package executor

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"tarbert/internal/device"
)

// Task is a process to run somewhere. Its name is its identity.
type Task struct {
	Name string   `json:"name"` // [a-z0-9.-]+, e.g. "sums-1-train-1"
	Argv []string `json:"argv"`
	Env  []string `json:"env,omitempty"` // KEY=VALUE, added to the executor's own environment
	Dir  string   `json:"dir,omitempty"`
	// Labels are kept with the task and returned by Watch: an engine's "url", say.
	Labels map[string]string `json:"labels,omitempty"`
	// Lease, if positive, ends the task when nobody has watched it for that
	// long: an engine must not outlive a release that was killed and
	// forgotten. A training task has none; it outlives its watcher.
	Lease time.Duration `json:"lease,omitempty"`
}

// State of a task.
type State string

// Task states. Unknown is not failed: it means the executor cannot see it now.
const (
	Pending State = "pending"
	Running State = "running"
	Exited  State = "exited"
	Unknown State = "unknown"
)

// Status is what is known of a task at a moment.
type Status struct {
	Name     string            `json:"name"`
	State    State             `json:"state"`
	Pid      int               `json:"pid,omitempty"`
	ExitCode int               `json:"exit_code"`        // when Exited; -1 = ended by a signal
	Signal   string            `json:"signal,omitempty"` // "killed", when ended by a signal
	Reason   string            `json:"reason,omitempty"` // why Unknown, or why it could not start
	Started  time.Time         `json:"started,omitzero"`
	Ended    time.Time         `json:"ended,omitzero"`
	Labels   map[string]string `json:"labels,omitempty"`
}

// ErrDifferent is wrapped by Start when a task of that name is there with
// another command: one name, one task.
var ErrDifferent = errors.New("a different task has this name")

// ErrNoTask is wrapped when no task has that name.
var ErrNoTask = errors.New("no such task")

// Executor runs tasks.
type Executor interface {
	// Nodes lists the machines this executor can start tasks on.
	Nodes(ctx context.Context) ([]device.Node, error)
	// Start starts the task, or does nothing if a task of this name with the
	// same Argv, Env and Dir was started before, be it running or exited.
	Start(ctx context.Context, t Task) error
	// Watch yields the task's status now and at every change until it has
	// exited or ctx ends. Polls that fail yield State Unknown, not an error.
	Watch(ctx context.Context, name string) iter.Seq2[Status, error]
	// Logs copies what the task has written so far (stdout and stderr).
	Logs(ctx context.Context, name string, w io.Writer) error
	// Stop ends the whole process group: SIGTERM, then SIGKILL after grace.
	// It returns when nothing of the task is left. Stopping twice is no error.
	Stop(ctx context.Context, name string, grace time.Duration) error
}

// Process is one process of a running task.
type Process struct {
	Pid     int    `json:"pid"`
	Start   uint64 `json:"start"` // with Pid, names the process for good
	Command string `json:"command"`
	Stopped bool   `json:"stopped"` // by a signal or a debugger: it lives and does nothing
}

// Inspector is what an executor may offer besides: a look inside a task that
// runs. Where there is none, what it would tell is unknown.
type Inspector interface {
	// Processes lists the living processes of the task, the task's own first.
	Processes(ctx context.Context, name string) ([]Process, error)
	// Dump writes where every process of the task is: stacks by py-spy where it
	// is installed, else what a SIGABRT makes the process print. The task is as
	// good as dead afterwards, and the caller ends it.
	Dump(ctx context.Context, name string, w io.Writer) error
}

// Checker is an Inspector that can tell of some processes for less than listing all.
type Checker interface {
	// Alive gives those of the processes that still run.
	Alive(ctx context.Context, processes []Process) ([]Process, error)
}
