package local

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tarbert/internal/executor"
)

// Descriptors that Start hands to the shim.
const (
	aliveFD = 3
	readyFD = 4
)

// Shim is the body of the hidden command that Start runs: parent, reaper and
// witness of one task. It returns the process's exit status.
func Shim(taskDir string) int {
	// The parent-death signal is bound to the thread that forks, so that thread
	// must live as long as the shim does.
	runtime.LockOSThread()
	s := shim{dir: folder(taskDir)}
	if err := s.run(); err != nil {
		fmt.Fprintf(os.Stderr, "shim of %s: %v\n", taskDir, err)
		return 3
	}
	return 0
}

// shim is single-threaded apart from the log's pump: one loop owns all of it.
type shim struct {
	dir     folder
	task    executor.Task
	child   process
	signals chan os.Signal
	pumped  chan struct{} // closed when the log is complete

	status  *syscall.WaitStatus // set once the child itself has ended
	reason  string              // why we ended it, if we did
	killing bool                // grace is over: SIGKILL from now on
}

func (s *shim) run() error {
	if err := s.inherit(); err != nil {
		return err
	}
	// Notify, not Ignore: an ignored signal would stay ignored in the child.
	s.signals = make(chan os.Signal, 64)
	signal.Notify(s.signals, syscall.SIGTERM, syscall.SIGCHLD, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT)
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become subreaper: %w", err)
	}
	var in intent
	if err := s.dir.read("task.json", &in); err != nil {
		return err
	}
	s.task = in.Task
	me, err := identify(os.Getpid(), time.Now())
	if err != nil {
		return err
	}
	if err := s.dir.write("shim.json", me); err != nil {
		return err
	}
	if err := tellReady(); err != nil {
		return err
	}
	if s.dir.exists("stop.json") {
		return s.finish(ending{ExitCode: -1, Reason: "stopped before it started"})
	}
	if err := s.fork(in); err != nil {
		return s.finish(ending{ExitCode: 127, Reason: "could not start: " + err.Error()})
	}
	s.supervise()
	return s.finish(s.verdict())
}

// inherit checks that the descriptors are those of Start and keeps them from
// the child: a hand-typed `tarbert shim` must not run a task.
func (s *shim) inherit() error {
	var have, want unix.Stat_t
	if err := unix.Fstat(aliveFD, &have); err != nil {
		return errors.New("this command is started by tarbert itself, not by hand")
	}
	if err := unix.Stat(s.dir.path("alive"), &want); err != nil {
		return err
	}
	if have.Dev != want.Dev || have.Ino != want.Ino {
		return errors.New("this command is started by tarbert itself, not by hand")
	}
	syscall.CloseOnExec(aliveFD)
	syscall.CloseOnExec(readyFD)
	return nil
}

func tellReady() error {
	f := os.NewFile(readyFD, "ready")
	_, err := f.WriteString("ready")
	if errors.Is(err, syscall.EPIPE) {
		err = nil // the starter is gone; the task was asked for all the same
	}
	return errors.Join(err, f.Close())
}

// fork starts the child in its own process group, its output to the log.
func (s *shim) fork(in intent) error {
	env := environment(os.Environ(), append(slices.Clone(s.task.Env), tokenVariable+"="+in.Token))
	path, err := lookPath(s.task.Argv[0], in.Cwd)
	if err != nil {
		return err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer w.Close()
	s.pumped = make(chan struct{})
	go func() {
		defer close(s.pumped)
		log := &logFile{path: s.dir.path("log"), limit: logLimit}
		defer log.close()
		_, _ = io.Copy(log, r) // ends when the last process of the task has
	}()
	pid, err := syscall.ForkExec(path, s.task.Argv, &syscall.ProcAttr{
		Dir: in.Cwd, Env: env, Files: []uintptr{null.Fd(), w.Fd(), w.Fd()},
		Sys: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return &os.PathError{Op: "exec", Path: path, Err: err}
	}
	if s.child, err = identify(pid, time.Now()); err != nil {
		s.child = process{Pid: pid, At: time.Now()} // it is our child: the pid cannot be another's
	}
	// If this cannot be written, the token still finds the child.
	if err := s.dir.write("child.json", s.child); err != nil {
		fmt.Fprintf(os.Stderr, "shim of %s: %v\n", s.dir, err)
	}
	return nil
}

// lookPath finds the program as a shell in dir would.
func lookPath(name, dir string) (string, error) {
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return name, nil
	}
	return exec.LookPath(name)
}

// environment is base with add, where the last value of a name wins.
func environment(base, add []string) []string {
	last := map[string]int{}
	all := append(slices.Clone(base), add...)
	for i, kv := range all {
		name, _, _ := strings.Cut(kv, "=")
		last[name] = i
	}
	var out []string
	for i, kv := range all {
		name, _, _ := strings.Cut(kv, "=")
		if last[name] == i {
			out = append(out, kv)
		}
	}
	return out
}

// supervise returns when no process of the task is left.
func (s *shim) supervise() {
	lease := newLease(s.dir, s.task.Lease)
	defer lease.stop()
	grace := time.NewTimer(time.Hour)
	grace.Stop()
	again := time.NewTicker(20 * time.Millisecond) // for what forks while being killed
	defer again.Stop()
	for {
		if alone := s.reap(); alone {
			return
		}
		if s.status != nil {
			s.killing = true // nobody outlives the task
		}
		if s.killing {
			s.signalAll(syscall.SIGKILL)
		} else {
			again.Stop()
		}
		select {
		case sig := <-s.signals:
			if sig == syscall.SIGTERM && s.reason == "" {
				s.beginStop("stopped", s.grace(), grace)
			}
		case <-lease.tick:
			if s.reason == "" && lease.expired() {
				s.beginStop(fmt.Sprintf("its lease ran out: nobody watched it for %v", s.task.Lease), 2*time.Second, grace)
			}
		case <-grace.C:
			s.killing = true
		case <-again.C:
		}
		if s.killing {
			again.Reset(20 * time.Millisecond)
		}
	}
}

func (s *shim) grace() time.Duration {
	var w wish
	if err := s.dir.read("stop.json", &w); err != nil {
		return 5 * time.Second // somebody's own kill -TERM
	}
	return w.Grace
}

// beginStop asks everything below to end and starts the grace. SIGCONT lets a
// stopped process see the SIGTERM.
func (s *shim) beginStop(reason string, d time.Duration, grace *time.Timer) {
	s.reason = reason
	if d <= 0 {
		s.killing = true
		return
	}
	s.signalAll(syscall.SIGTERM)
	s.signalAll(syscall.SIGCONT)
	grace.Reset(d)
}

// signalAll signals every process below the shim, in whatever group or session.
func (s *shim) signalAll(sig syscall.Signal) {
	below, err := descendants(os.Getpid())
	if err != nil {
		// Without /proc there is still the group.
		_ = syscall.Kill(-s.child.Pid, sig)
		return
	}
	for _, p := range below {
		_ = p.signal(sig)
	}
}

// reap collects every ended child, among them orphans that came to us, and
// reports whether there are no more.
func (s *shim) reap() (alone bool) {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.ECHILD):
			return true
		case err != nil || pid == 0:
			return false
		case pid == s.child.Pid && (ws.Exited() || ws.Signaled()):
			s.status = &ws
		}
	}
}

// verdict is how the child ended.
func (s *shim) verdict() ending {
	end := ending{Pid: s.child.Pid, Started: s.child.At, ExitCode: -1, Reason: s.reason}
	switch {
	case s.status == nil:
		end.Reason = "its exit status was lost"
	case s.status.Signaled():
		end.Signal = s.status.Signal().String()
	default:
		end.ExitCode = s.status.ExitStatus()
	}
	return end
}

// finish completes the log and writes the end. On a full disk it tries for a
// while: the end is what everybody waits for.
func (s *shim) finish(end ending) error {
	if s.pumped != nil && s.child.Pid != 0 {
		select {
		case <-s.pumped:
		case <-time.After(2 * time.Second): // somebody outside the task holds the pipe
		}
	}
	end.Ended = time.Now()
	err := s.dir.write("exit.json", end)
	for range 100 {
		if err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
		err = s.dir.write("exit.json", end)
	}
	return err
}

// lease watches the lease file's time. It measures with its own monotonic
// clock how long the time has not changed, so no jump of the clock ends a task.
type lease struct {
	dir    folder
	length time.Duration
	ticker *time.Ticker
	tick   <-chan time.Time
	last   time.Time // the file's time
	seen   time.Time // when it was first seen so
}

func newLease(dir folder, length time.Duration) *lease {
	l := &lease{dir: dir, length: length, seen: time.Now()}
	if length > 0 {
		l.ticker = time.NewTicker(min(max(length/4, 10*time.Millisecond), time.Second))
		l.tick = l.ticker.C
	}
	return l
}

func (l *lease) stop() {
	if l.ticker != nil {
		l.ticker.Stop()
	}
}

func (l *lease) expired() bool {
	if info, err := os.Stat(l.dir.path("lease")); err == nil && !info.ModTime().Equal(l.last) {
		l.last, l.seen = info.ModTime(), time.Now()
	}
	return time.Since(l.seen) > l.length
}
