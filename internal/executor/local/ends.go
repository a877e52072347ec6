package local

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// ends tells when a process has ended, without looking again and again: its
// descriptor becomes readable then. release must be called. The error is for a
// kernel that cannot tell (Linux before 5.10); a process that is gone already
// has ended.
func (p process) ends() (ended <-chan struct{}, release func(), err error) {
	done := make(chan struct{})
	fd, err := unix.PidfdOpen(p.Pid, unix.PIDFD_NONBLOCK)
	if err == unix.ESRCH {
		close(done)
		return done, func() {}, nil
	}
	if err != nil {
		return nil, nil, os.NewSyscallError("pidfd_open", err)
	}
	file := os.NewFile(uintptr(fd), "pidfd")
	if !p.running() { // the descriptor may be another's, who has the pid now
		close(done)
		return done, func() { _ = file.Close() }, nil
	}
	raw, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, nil, err
	}
	var wait sync.WaitGroup
	wait.Go(func() {
		over := func(fd uintptr) bool {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			return n > 0 && err == nil
		}
		if raw.Read(over) == nil { // else it was released
			close(done)
		}
	})
	return done, func() {
		_ = file.Close()
		wait.Wait()
	}, nil
}
