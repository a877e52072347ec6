package convert

import (
	"os"

	"golang.org/x/sys/unix"
)

// startWriteback asks the system to begin putting a range on disk, without
// waiting: the sync at the end then finds little left to do. It is a hint, so that
// an error says nothing about the data.
func startWriteback(f *os.File, offset, n int64) {
	_ = unix.SyncFileRange(int(f.Fd()), offset, n, unix.SYNC_FILE_RANGE_WRITE)
}
