package convert

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const partialMark = ".partial-"

// partial is a directory being written beside its destination.
type partial struct {
	dir     string
	final   string
	hold    *os.File
	journal *journal
}

// newPartial takes up what a killed conversion of this identity to the same
// destination left, removes what others left, or makes a directory. Either way
// this process holds it.
func newPartial(final, identity string) (*partial, error) {
	if err := os.MkdirAll(filepath.Dir(final), 0o755); err != nil {
		return nil, fmt.Errorf("make destination: %w", err)
	}
	p, err := takeUp(final, identity)
	if err != nil {
		return nil, fmt.Errorf("look at what a killed conversion left: %w", err)
	}
	if p != nil {
		return p, nil
	}
	// Another process may sweep the directory before it is locked: then there is a next one.
	for range 10 {
		dir, err := os.MkdirTemp(filepath.Dir(final), filepath.Base(final)+partialMark)
		if err != nil {
			return nil, fmt.Errorf("make destination: %w", err)
		}
		if hold, ok := lockDir(dir); ok {
			p := &partial{dir: dir, final: final, hold: hold}
			err := os.Chmod(dir, 0o755)
			if err == nil {
				p.journal, err = createJournal(dir, identity)
			}
			if err != nil {
				return nil, errors.Join(err, p.abort())
			}
			return p, nil
		}
	}
	return nil, fmt.Errorf("make destination: cannot hold a directory beside %s: another process removes it", final)
}

// takeUp finds the partial directory of this conversion, and removes those of
// others that no living process holds.
func takeUp(final, identity string) (found *partial, err error) {
	err = eachPartial(final, func(dir string, hold *os.File) error {
		if found == nil {
			j, err := reopenJournal(dir, identity)
			if err != nil {
				return errors.Join(err, hold.Close())
			}
			if j != nil {
				found = &partial{dir: dir, final: final, hold: hold, journal: j}
				return nil
			}
		}
		return errors.Join(os.RemoveAll(dir), hold.Close())
	})
	return found, err
}

// sweepPartials removes the partial directories of a destination that no living
// process holds.
func sweepPartials(final string) error {
	return eachPartial(final, func(dir string, hold *os.File) error {
		return errors.Join(os.RemoveAll(dir), hold.Close())
	})
}

// eachPartial calls f with each partial directory of a destination that could be
// locked, and the lock, which is f's.
func eachPartial(final string, f func(dir string, hold *os.File) error) error {
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
			if err := f(dir, hold); err != nil {
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
	if err := os.Remove(filepath.Join(p.dir, journalName)); err != nil {
		return err
	}
	if err := syncPath(p.dir); err != nil {
		return err
	}
	if err := os.Remove(p.final); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("name the destination: %w", err)
	}
	if err := os.Rename(p.dir, p.final); err != nil {
		return fmt.Errorf("name the destination: %w", err)
	}
	return errors.Join(p.leave(), syncPath(filepath.Dir(p.final)))
}

// leave ends the hold on the directory and keeps what is in it.
func (p *partial) leave() error {
	var err error
	if p.journal != nil {
		err = p.journal.f.Close()
	}
	return errors.Join(err, p.hold.Close())
}

// abort removes the directory. Lock and journal may be closed already: that is no error.
func (p *partial) abort() error {
	err := os.RemoveAll(p.dir)
	if closing := p.leave(); !errors.Is(closing, os.ErrClosed) {
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
	return writeWith(path, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// writeWith is writeNew for what is written piece by piece.
func writeWith(path string, write func(w io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
