package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"tarbert/internal/executor"
)

var (
	_ executor.Inspector = (*Executor)(nil)
	_ executor.Checker   = (*Executor)(nil)
)

// Processes implements executor.Inspector.
func (e *Executor) Processes(_ context.Context, name string) ([]executor.Process, error) {
	below, err := e.below(name)
	if err != nil {
		return nil, err
	}
	var out []executor.Process
	for _, p := range below {
		st, err := readStat(p.Pid)
		if err != nil || st.start != p.Start {
			continue // it ended meanwhile
		}
		out = append(out, executor.Process{Pid: p.Pid, Start: p.Start, Command: command(p.Pid), Stopped: st.state == 'T' || st.state == 't'})
	}
	return out, nil
}

// Alive implements executor.Checker.
func (e *Executor) Alive(_ context.Context, processes []executor.Process) ([]executor.Process, error) {
	var out []executor.Process
	for _, p := range processes {
		if living(p.Pid, p.Start) {
			out = append(out, p)
		}
	}
	return out, nil
}

// below lists the processes of a task that runs; the shim is none of them.
func (e *Executor) below(name string) ([]process, error) {
	f, _, err := e.known(name)
	if err != nil {
		return nil, err
	}
	var shim process
	if err := f.read("shim.json", &shim); err != nil {
		return nil, fmt.Errorf("processes of task %s: %w", name, err)
	}
	if !shim.running() {
		return nil, nil
	}
	return descendants(shim.Pid)
}

func command(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return ""
	}
	return strings.ToValidUTF8(string(bytes.TrimRight(bytes.ReplaceAll(b[:min(len(b), 200)], []byte{0}, []byte(" ")), " ")), "\uFFFD")
}

const (
	spyLimit   = 5 * time.Second // a stopped process cannot be read, and py-spy waits for it
	abortLimit = 2 * time.Second // for what a process prints when it is told to abort
)

// Dump implements executor.Inspector.
func (e *Executor) Dump(ctx context.Context, name string, w io.Writer) error {
	below, err := e.below(name)
	if err != nil {
		return err
	}
	spy, _ := exec.LookPath("py-spy")
	var abort []process
	for _, p := range below {
		fmt.Fprintf(w, "== process %d: %s\n%s", p.Pid, command(p.Pid), kernelView(p.Pid))
		if spy != "" && strings.Contains(filepath.Base(executable(p.Pid)), "python") {
			text, err := runSpy(ctx, spy, p.Pid)
			if err == nil {
				fmt.Fprintf(w, "%s\n", text)
				continue
			}
			fmt.Fprintf(w, "py-spy: %v\n", err)
		}
		abort = append(abort, p)
	}
	return e.abort(ctx, name, abort, w)
}

func executable(pid int) string {
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return ""
	}
	return path
}

func runSpy(ctx context.Context, spy string, pid int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, spyLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, spy, "dump", "--pid", strconv.Itoa(pid))
	cmd.WaitDelay = time.Second
	return cmd.Output()
}

// kernelView is the state of each thread and what it waits for in the kernel.
func kernelView(pid int) string {
	var b strings.Builder
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*", pid))
	if err != nil {
		return ""
	}
	const most = 64
	for i, dir := range threads {
		if i == most {
			fmt.Fprintf(&b, "  … %d threads more\n", len(threads)-most)
			break
		}
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue
		}
		st, err := parseStat(stat)
		if err != nil {
			continue
		}
		wait, _ := os.ReadFile(filepath.Join(dir, "wchan"))
		fmt.Fprintf(&b, "  thread %s: state %c, waits in %s\n", filepath.Base(dir), st.state, strings.TrimSpace(string(wait)))
	}
	return b.String()
}

// abort makes the processes print where they are, and copies what they print.
func (e *Executor) abort(ctx context.Context, name string, targets []process, w io.Writer) error {
	if len(targets) == 0 {
		return nil
	}
	before := &counter{}
	if err := e.Logs(ctx, name, before); err != nil {
		return err
	}
	for _, p := range targets {
		// A stopped process takes the signal once it goes on, before anything else.
		if err := errors.Join(p.signal(syscall.SIGABRT), p.signal(syscall.SIGCONT)); err != nil {
			return err
		}
	}
	deadline := time.NewTimer(abortLimit)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for waiting := true; waiting; {
		waiting = false
		for _, p := range targets {
			waiting = waiting || p.running()
		}
		if !waiting {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline.C:
			fmt.Fprintf(w, "== still there %v after SIGABRT\n", abortLimit)
			waiting = false
		case <-tick.C:
		}
	}
	fmt.Fprintf(w, "== printed on SIGABRT\n")
	return e.Logs(ctx, name, &skipper{w: w, skip: before.n, most: 1 << 20})
}

// counter counts what is written to it.
type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

// skipper passes on what comes after the first skip bytes, at most so many.
type skipper struct {
	w          io.Writer
	skip, most int64
}

func (s *skipper) Write(p []byte) (int, error) {
	n := len(p)
	drop := min(int64(len(p)), s.skip)
	s.skip -= drop
	p = p[drop:]
	p = p[:min(int64(len(p)), s.most)]
	s.most -= int64(len(p))
	if _, err := s.w.Write(p); err != nil {
		return 0, err
	}
	return n, nil
}
