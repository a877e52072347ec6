//go:build !linux

package tensor

import "os"

// Reserve gives a file its size.
func Reserve(f *os.File, size int64) error { return f.Truncate(size) }
