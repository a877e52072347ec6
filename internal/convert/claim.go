package convert

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const partialMark = ".partial-"

// partial is a directory being written beside its destination.
type partial struct {
	dir   string
	final string
	hold  *os.File
}

// newPartial removes what killed conversions to the same destination left and
// makes a directory that this process holds.
func newPartial(final string) (*partial, error) {
	if err := os.MkdirAll(filepath.Dir(final), 0o755); err != nil {
		return nil, fmt.Errorf("make destination: %w", err)
	}
	if err := sweepPartials(final); err != nil {
		return nil, fmt.Errorf("remove what a killed conversion left: %w", err)
	}
	// Another process may sweep the directory before it is locked: then there is a next one.
	for range 10 {
		dir, err := os.MkdirTemp(filepath.Dir(final), filepath.Base(final)+partialMark)
		if err != nil {
			return nil, fmt.Errorf("make destination: %w", err)
		}
		if hold, ok := lockDir(dir); ok {
			return &partial{dir: dir, final: final, hold: hold}, os.Chmod(dir, 0o755)
		}
	}
	return nil, fmt.Errorf("make destination: cannot hold a directory beside %s: another process removes it", final)
}

// sweepPartials removes the partial directories of a destination that no living
// process holds.
func sweepPartials(final string) error {
	entries, err := os.ReadDir(filepath.Dir(final))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), filepath.Base(final)+partialMark) {
			continue
		}
		dir := filepath.Join(filepath.Dir(final), e.Name())
		if hold, ok := lockDir(dir); ok {
			if err := errors.Join(os.RemoveAll(dir), hold.Close()); err != nil {
				return err
			}
		}
	}
	return nil
}

// lockDir takes the exclusive lock on a directory, unless somebody has it. The
// system releases it when the process ends, however it ends.
func lockDir(dir string) (*os.File, bool) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, false
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, false
	}
	return f, true
}

// commit puts the directory on disk and gives it its name, which must be free
// or an empty directory.
func (p *partial) commit() error {
	if err := syncPath(p.dir); err != nil {
		return err
	}
	if err := os.Remove(p.final); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("name the destination: %w", err)
	}
	if err := os.Rename(p.dir, p.final); err != nil {
		return fmt.Errorf("name the destination: %w", err)
	}
	return errors.Join(p.hold.Close(), syncPath(filepath.Dir(p.final)))
}

// abort removes the directory. The lock may be gone already: that is no error.
func (p *partial) abort() error {
	err := os.RemoveAll(p.dir)
	if closing := p.hold.Close(); !errors.Is(closing, os.ErrClosed) {
		err = errors.Join(err, closing)
	}
	return err
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return errors.Join(f.Sync(), f.Close())
}

// writeNew writes a file that is not there yet, and puts it on disk.
func writeNew(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
