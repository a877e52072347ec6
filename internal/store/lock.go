package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"time"
)

var lockName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$`)

// Lock takes the named lock without waiting. While another process, or another
// Lock in this one, holds it, the error is a *LockedError with the holder's
// pid. The kernel frees the lock when the holder dies, however it dies.
func (s *Store) Lock(ctx context.Context, name string) (unlock func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !lockName.MatchString(name) {
		return nil, fmt.Errorf("lock name %q: want letters, digits, dot, dash and underscore", name)
	}
	return flock(filepath.Join(s.home, "locks", name+".lock"), name)
}

// waitLock is Lock that waits until ctx ends. It is for moments of our own
// (opening, migrating), never for something that lasts.
func waitLock(ctx context.Context, path, name string) (unlock func(), err error) {
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		unlock, err := flock(path, name)
		if !errors.Is(err, ErrLocked) {
			return unlock, err
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}

// flock locks path exclusively and writes our pid into it. The file is never
// removed: removing a locked file lets two processes hold "the" lock.
func flock(path, name string) (func(), error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, envError(err, "lock %s", name)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder := readPid(f)
		closeErr := f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, &LockedError{Name: name, Pid: holder}
		}
		return nil, envError(errors.Join(err, closeErr), "lock %s", name)
	}
	// The pid is for people: a full disk must not keep anyone from locking.
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	var once sync.Once
	return func() {
		once.Do(func() {
			_ = f.Truncate(0)
			// Explicit, since a child between fork and exec may share the descriptor.
			_ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
			_ = f.Close()
		})
	}, nil
}

// readPid reads the holder's pid; 0 if it has not written it yet.
func readPid(f *os.File) int {
	buf := make([]byte, 32)
	n, _ := f.ReadAt(buf, 0)
	pid, err := strconv.Atoi(string(bytes.TrimSpace(buf[:n])))
	if err != nil || pid < 1 {
		return 0
	}
	return pid
}
