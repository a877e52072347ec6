package gguf

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// reserve gives a file its blocks at once, so that a full disk is found before
// the work and not after it.
func reserve(f *os.File, size int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return f.Truncate(size)
	}
	return err
}
