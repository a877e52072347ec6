package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"
)

// stopMargin is how long past the grace a shim may take to kill and reap
// before it is itself taken for stuck.
const stopMargin = 3 * time.Second

// Stop implements executor.Executor. The wish is on disk before the shim is
// told, so a shim that is only just starting does not start its child.
func (e *Executor) Stop(ctx context.Context, name string, grace time.Duration) error {
	f, in, err := e.known(name)
	if err != nil {
		return err
	}
	if err := e.stop(ctx, f, in, max(grace, 0)); err != nil {
		return fmt.Errorf("stop task %s: %w", name, err)
	}
	return nil
}

func (e *Executor) stop(ctx context.Context, f folder, in intent, grace time.Duration) error {
	if f.exists("exit.json") {
		return nil
	}
	if err := f.write("stop.json", wish{Grace: grace}); err != nil {
		return err
	}
	if ended, err := e.endUnstarted(ctx, f); ended || err != nil {
		return err
	}
	deadline := time.NewTimer(grace + stopMargin)
	defer deadline.Stop()
	tick := time.NewTicker(min(e.Interval, 10*time.Millisecond))
	defer tick.Stop()
	for told := false; ; {
		if f.exists("exit.json") {
			return nil
		}
		if !told {
			var err error
			if told, err = f.tellShim(); err != nil {
				return err
			}
		}
		st, err := f.status(in)
		if err != nil {
			return err
		}
		if st.State == lost {
			return e.buryLocked(ctx, f)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline.C:
			return e.force(ctx, f, in)
		case <-tick.C:
		}
	}
}

// endUnstarted records the end of a task whose shim never was: Start will not
// start it any more.
func (e *Executor) endUnstarted(ctx context.Context, f folder) (bool, error) {
	unlock, err := f.lock(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	alive, err := f.alive()
	if err != nil || alive || f.exists("shim.json") || f.exists("exit.json") {
		return false, err
	}
	now := e.now()
	return true, f.write("exit.json", ending{ExitCode: -1, Reason: "stopped before it started", Ended: now})
}

// tellShim signals the shim, once it has recorded itself. SIGCONT wakes one
// that somebody stopped.
func (f folder) tellShim() (bool, error) {
	var shim process
	if err := f.read("shim.json", &shim); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if err := shim.signal(syscall.SIGTERM); err != nil {
		return false, err
	}
	return true, shim.signal(syscall.SIGCONT)
}

// force ends a task whose shim does not answer: everything below it first,
// since what is left when the shim dies would be nobody's.
func (e *Executor) force(ctx context.Context, f folder, in intent) error {
	var shim process
	if err := f.read("shim.json", &shim); err != nil {
		return err
	}
	if shim.running() {
		below, err := descendants(shim.Pid)
		if err != nil {
			return err
		}
		for _, p := range below {
			if err := p.signal(syscall.SIGKILL); err != nil {
				return err
			}
		}
		if err := shim.signal(syscall.SIGKILL); err != nil {
			return err
		}
	}
	for {
		alive, err := f.alive()
		if err != nil {
			return err
		}
		if !alive {
			return e.buryLocked(ctx, f)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(e.Interval):
		}
	}
}

func (e *Executor) buryLocked(ctx context.Context, f folder) error {
	unlock, err := f.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return e.bury(ctx, f)
}
