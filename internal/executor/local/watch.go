package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"sync"
	"syscall"
	"time"

	"tarbert/internal/executor"
)

// Watch implements executor.Executor by looking at the folder every Interval
// until the task runs. From then on its shim's end wakes it, where the kernel can
// tell of that, and it looks seldom. While it is being ranged over, it keeps the
// task's lease.
func (e *Executor) Watch(ctx context.Context, name string) iter.Seq2[executor.Status, error] {
	return func(yield func(executor.Status, error) bool) {
		f, in, err := e.known(name)
		if err != nil {
			yield(executor.Status{Name: name}, err)
			return
		}
		if in.Task.Lease > 0 {
			defer f.keepLease(in.Task.Lease)()
		}
		tick := time.NewTicker(e.Interval)
		defer tick.Stop()
		var last executor.Status
		var ended <-chan struct{}
		asked := false
		for ctx.Err() == nil {
			st := e.look(ctx, f, in)
			if ctx.Err() != nil {
				return
			}
			if !same(st, last) {
				if !yield(st, nil) || st.State == executor.Exited {
					return
				}
				last = st
			}
			if st.State == executor.Running && !asked {
				asked = true
				if end, release, err := f.shimEnds(); err == nil {
					defer release()
					ended = end
					tick.Reset(seldom * e.Interval)
				}
			}
			select {
			case <-ctx.Done():
			case <-tick.C:
			case <-ended: // but a thread of it that is still ending may hold the task for a moment
				ended = nil
				tick.Reset(min(e.Interval, closely))
			}
		}
	}
}

// seldom is how many intervals lie between two looks where none is needed: for
// what is not thought of.
const seldom = 40

// closely is how often it looks once the shim has ended.
const closely = 20 * time.Millisecond

// shimEnds tells when the task's shim has ended, which it does once it has
// recorded the task's end.
func (f folder) shimEnds() (ended <-chan struct{}, release func(), err error) {
	var shim process
	if err := f.read("shim.json", &shim); err != nil {
		return nil, nil, err
	}
	return shim.ends()
}

func same(a, b executor.Status) bool {
	return a.State == b.State && a.Pid == b.Pid && a.Reason == b.Reason && maps.Equal(a.Labels, b.Labels)
}

// look is what the folder says now. Trouble in reading it is Unknown.
func (e *Executor) look(ctx context.Context, f folder, in intent) executor.Status {
	st, err := f.status(in)
	if err == nil && st.State == lost {
		unlock, lockErr := f.lock(ctx)
		if err = lockErr; err == nil {
			err = e.bury(ctx, f)
			unlock()
		}
		if err == nil {
			st, err = f.status(in)
		}
		if err == nil && st.State == lost {
			err = errors.New("its shim is gone and its end could not be recorded yet")
		}
	}
	if err != nil {
		return executor.Status{Name: in.Task.Name, State: executor.Unknown, Reason: err.Error(), Labels: in.Task.Labels}
	}
	return st
}

// lost is a task whose shim ran and is gone without having recorded the end.
const lost executor.State = "lost"

func (f folder) status(in intent) (executor.Status, error) {
	st := executor.Status{Name: in.Task.Name, Labels: in.Task.Labels}
	if done, err := f.ended(&st); done || err != nil {
		return st, err
	}
	alive, err := f.alive()
	if err != nil {
		return st, err
	}
	if !alive {
		// The shim writes the end and goes: look again, now that it is gone.
		if done, err := f.ended(&st); done || err != nil {
			return st, err
		}
		if f.exists("shim.json") {
			st.State = lost
			return st, nil
		}
		st.State, st.Reason = executor.Pending, "not started yet"
		return st, nil
	}
	var child process
	switch err := f.read("child.json", &child); {
	case errors.Is(err, fs.ErrNotExist):
		st.State = executor.Pending
	case err != nil:
		return st, err
	default:
		st.State, st.Pid, st.Started = executor.Running, child.Pid, child.At
	}
	return st, nil
}

// ended fills st from exit.json, if it is there.
func (f folder) ended(st *executor.Status) (bool, error) {
	var end ending
	err := f.read("exit.json", &end)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	st.State, st.Pid, st.ExitCode, st.Signal = executor.Exited, end.Pid, end.ExitCode, end.Signal
	st.Reason, st.Started, st.Ended = end.Reason, end.Started, end.Ended
	return true, nil
}

// bury ends what a killed shim has left and records the task as exited. The
// caller holds the folder's lock.
func (e *Executor) bury(ctx context.Context, f folder) error {
	if f.exists("exit.json") {
		return nil
	}
	if alive, err := f.alive(); alive || err != nil {
		return err
	}
	var in intent
	if err := f.read("task.json", &in); err != nil {
		return err
	}
	var child, shim process
	if err := f.read("child.json", &child); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := f.read("shim.json", &shim); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := killOrphans(ctx, in.Token, child); err != nil {
		return err
	}
	return f.write("exit.json", ending{
		Pid: child.Pid, ExitCode: -1, Signal: syscall.SIGKILL.String(), Started: child.At, Ended: e.now(),
		Reason: fmt.Sprintf("its shim (process %d) was killed, which killed it too", shim.Pid),
	})
}

// killOrphans returns when no process of the task is left. The shim is dead.
func killOrphans(ctx context.Context, token string, child process) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		left, err := bearers(token)
		if err != nil {
			return err
		}
		if child.running() {
			left = append(left, child)
		}
		if len(left) == 0 {
			return nil
		}
		for _, p := range left {
			if err := p.signal(syscall.SIGKILL); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

func (f folder) touchLease() error {
	file, err := os.OpenFile(f.path("lease"), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	// The shim looks for a change of the time, not at the time itself.
	t := syscall.NsecToTimespec(time.Now().UnixNano())
	err = syscall.UtimesNano(f.path("lease"), []syscall.Timespec{t, t})
	return errors.Join(err, file.Close())
}

// keepLease touches the lease four times per lease until the returned function
// is called, which waits for the last touch.
func (f folder) keepLease(lease time.Duration) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(max(lease/4, time.Millisecond))
		defer tick.Stop()
		for {
			_ = f.touchLease() // if it cannot be touched, the lease runs out as promised
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}
