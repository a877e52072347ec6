package local

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stat is what /proc/PID/stat says that we need.
type stat struct {
	pid, parent int
	state       byte   // 'Z' is a corpse: its pid is taken, but nothing runs
	start       uint64 // clock ticks since boot
}

// readStat reads /proc/PID/stat.
func readStat(pid int) (stat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, err
	}
	return parseStat(b)
}

// parseStat reads the line of proc_pid_stat(5). The second field is the
// command in parentheses and may itself hold spaces and parentheses.
func parseStat(b []byte) (stat, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return stat{}, fmt.Errorf("stat line %q: no command", b)
	}
	pid, err := strconv.Atoi(string(bytes.TrimSpace(b[:open])))
	if err != nil {
		return stat{}, fmt.Errorf("stat line %q: %w", b, err)
	}
	rest := strings.Fields(string(b[end+1:])) // from field 3 on
	if len(rest) < 20 || len(rest[0]) != 1 {
		return stat{}, fmt.Errorf("stat line %q: too few fields", b)
	}
	parent, err := strconv.Atoi(rest[1])
	if err != nil {
		return stat{}, fmt.Errorf("stat line %q: %w", b, err)
	}
	start, err := strconv.ParseUint(rest[19], 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("stat line %q: %w", b, err)
	}
	return stat{pid: pid, parent: parent, state: rest[0][0], start: start}, nil
}

// identify names a process that is there now.
func identify(pid int, at time.Time) (process, error) {
	st, err := readStat(pid)
	if err != nil {
		return process{}, err
	}
	boot, err := bootID()
	return process{Pid: pid, Start: st.start, Boot: boot, At: at}, err
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return string(bytes.TrimSpace(b)), err
}

// running reports whether p still runs: same pid, start time and boot, and not
// a corpse.
func (p process) running() bool {
	if !living(p.Pid, p.Start) {
		return false
	}
	boot, err := bootID()
	return err == nil && boot == p.Boot
}

// living reports whether a process of this boot runs and is not a corpse.
func living(pid int, start uint64) bool {
	if pid < 1 {
		return false
	}
	st, err := readStat(pid)
	return err == nil && st.start == start && st.state != 'Z' && st.state != 'X'
}

// signal sends sig to p and to no other process: the descriptor is taken
// first, then the identity behind it checked. A process that is gone is no error.
func (p process) signal(sig syscall.Signal) error {
	fd, err := unix.PidfdOpen(p.Pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("signal process %d: %w", p.Pid, err)
	}
	defer unix.Close(fd)
	if !p.running() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", p.Pid, err)
	}
	return nil
}

// everyone lists the processes that are running now.
func everyone() ([]stat, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var all []stat
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if st, err := readStat(pid); err == nil { // else it ended meanwhile
			all = append(all, st)
		}
	}
	return all, nil
}

// descendants lists the living processes below root, nearest first.
func descendants(root int) ([]process, error) {
	all, err := everyone()
	if err != nil {
		return nil, err
	}
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	children := map[int][]stat{}
	for _, st := range all {
		children[st.parent] = append(children[st.parent], st)
	}
	var found []process
	seen := map[int]bool{root: true} // the listing is not atomic: a loop is possible
	for queue := []int{root}; len(queue) > 0; queue = queue[1:] {
		for _, st := range children[queue[0]] {
			if seen[st.pid] {
				continue
			}
			seen[st.pid] = true
			queue = append(queue, st.pid)
			if st.state != 'Z' && st.state != 'X' {
				found = append(found, process{Pid: st.pid, Start: st.start, Boot: boot})
			}
		}
	}
	return found, nil
}

// bearers lists the living processes with the task's token in their
// environment, besides this one.
func bearers(token string) ([]process, error) {
	all, err := everyone()
	if err != nil {
		return nil, err
	}
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	want := []byte(tokenVariable + "=" + token)
	var found []process
	for _, st := range all {
		if st.pid == os.Getpid() || st.state == 'Z' || st.state == 'X' {
			continue
		}
		env, err := os.ReadFile("/proc/" + strconv.Itoa(st.pid) + "/environ")
		if err != nil {
			continue // another user's, or gone
		}
		for v := range bytes.SplitSeq(env, []byte{0}) {
			if bytes.Equal(v, want) {
				found = append(found, process{Pid: st.pid, Start: st.start, Boot: boot})
				break
			}
		}
	}
	return found, nil
}
