package tensor

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Reserve gives a file its blocks at once, so that a full disk is found before
// the work and not after it.
func Reserve(f *os.File, size int64) error {
	if size == 0 {
		return nil
	}
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return f.Truncate(size)
	}
	return err
}
