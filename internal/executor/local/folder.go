package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tarbert/internal/executor"
	"tarbert/internal/store"
)

// tokenVariable marks every process of a task, so that orphans can be found.
const tokenVariable = "TARBERT_TASK"

// intent is task.json.
type intent struct {
	Version int           `json:"version"`
	Task    executor.Task `json:"task"`
	Token   string        `json:"token"`
	Cwd     string        `json:"cwd"` // where the task runs, absolute
	Created time.Time     `json:"created"`
}

// process identifies a process for good: pids come round again, a pid with its
// start time and boot does not.
type process struct {
	Pid   int       `json:"pid"`
	Start uint64    `json:"start"` // clock ticks since boot, /proc/PID/stat field 22
	Boot  string    `json:"boot"`
	At    time.Time `json:"at"`
}

// ending is exit.json.
type ending struct {
	Pid      int       `json:"pid"`
	ExitCode int       `json:"exit_code"`
	Signal   string    `json:"signal,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	Started  time.Time `json:"started,omitzero"`
	Ended    time.Time `json:"ended"`
}

// wish is stop.json.
type wish struct {
	Grace time.Duration `json:"grace"`
}

// folder is a task's directory.
type folder string

func (f folder) path(name string) string { return filepath.Join(string(f), name) }

func (f folder) exists(name string) bool {
	_, err := os.Stat(f.path(name))
	return err == nil
}

// read decodes a JSON file of the folder; a missing one gives fs.ErrNotExist.
func (f folder) read(name string, into any) error {
	b, err := os.ReadFile(f.path(name))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("read %s: %w", f.path(name), err)
	}
	return nil
}

func (f folder) write(name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	// 0600: a task's environment may hold secrets.
	return store.WriteFile(f.path(name), append(b, '\n'), 0o600)
}

// lock takes the folder's lock, waiting until ctx ends. Its holders only read
// and write small files, or start a shim.
func (f folder) lock(ctx context.Context) (unlock func(), err error) {
	file, err := os.OpenFile(f.path("lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() {
				// Explicit: a child between fork and exec may share the descriptor.
				_ = syscall.Flock(int(file.Fd()), syscall.LOCK_UN)
				_ = file.Close()
			}, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", file.Name(), err), file.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock %s: %w", file.Name(), ctx.Err()), file.Close())
		case <-time.After(pause):
		}
	}
}

// holdAlive takes the lock that stands for the shim's life. It belongs to the
// open file, so the shim inherits it with the descriptor: there is no moment
// between the starter and the shim in which nobody holds it.
func (f folder) holdAlive() (*os.File, error) {
	file, err := os.OpenFile(f.path("alive"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	whole := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, &whole); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", file.Name(), err), file.Close())
	}
	return file, nil
}

// alive reports whether a shim, or whoever is just starting one, holds the
// task. Asking does not take the lock.
func (f folder) alive() (bool, error) {
	file, err := os.OpenFile(f.path("alive"), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer file.Close()
	whole := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_GETLK, &whole); err != nil {
		return false, fmt.Errorf("query %s: %w", file.Name(), err)
	}
	return whole.Type != unix.F_UNLCK, nil
}
