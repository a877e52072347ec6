package local

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// logLimit bounds one log file; with its predecessor a task keeps twice this.
const logLimit = 32 << 20

// logFile is a file that starts over when it is full, keeping one predecessor.
// A write that the disk refuses is counted and dropped: a full disk must not
// stop the task through its own output.
type logFile struct {
	path    string
	limit   int64
	file    *os.File
	size    int64
	dropped int64
}

func (l *logFile) Write(p []byte) (int, error) {
	if l.file != nil && l.size+int64(len(p)) > l.limit {
		l.close()
		// If the rename fails, the file is truncated below: bounded either way.
		_ = os.Rename(l.path, l.path+".1")
	}
	if l.file == nil {
		f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			l.dropped += int64(len(p))
			return len(p), nil
		}
		l.file, l.size = f, 0
		if l.dropped > 0 {
			n, _ := fmt.Fprintf(f, "[%d bytes of output were lost here]\n", l.dropped)
			l.size, l.dropped = int64(n), 0
		}
	}
	n, err := l.file.Write(p)
	l.size += int64(n)
	if err != nil {
		l.dropped += int64(len(p) - n)
	}
	return len(p), nil
}

func (l *logFile) close() {
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
	}
}

// copyLogs writes the predecessor and the current file.
func copyLogs(path string, w io.Writer) error {
	for _, p := range []string{path + ".1", path} {
		f, err := os.Open(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		_, err = io.Copy(w, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("read %s: %w", p, err)
		}
	}
	return nil
}
