package checkpoint

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// disk is what Commit does to a file system; tests make each step fail.
type disk interface {
	write(path string, data []byte) error // a new file, on disk when it returns
	sync(path string) error               // a file or a directory
	rename(from, to string) error
	removeAll(path string) error
}

// Writer is a checkpoint being written.
type Writer struct {
	root string
	dir  string
	step int
	hold *os.File // the lock on dir
	disk disk
}

const (
	tempPrefix  = ".tmp-"
	trashPrefix = ".trash-"
)

// Begin makes a temporary directory under root for the checkpoint of a step,
// and removes what dead writers left there.
func Begin(root string, step int) (*Writer, error) {
	return begin(root, step, realDisk{})
}

func begin(root string, step int, d disk) (*Writer, error) {
	if step < 0 {
		return nil, fmt.Errorf("begin checkpoint: step %d is negative", step)
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, fmt.Errorf("begin checkpoint: %w", err)
	}
	if err := sweep(root, d); err != nil {
		return nil, fmt.Errorf("begin checkpoint: %w", err)
	}
	// Another process may sweep the directory before it is locked: then there is a next one.
	for range 10 {
		dir, err := os.MkdirTemp(root, tempPrefix+stepName(step)+"-")
		if err != nil {
			return nil, fmt.Errorf("begin checkpoint: %w", err)
		}
		if hold, ok := lock(dir); ok {
			if err := os.Chmod(dir, 0o755); err == nil {
				return &Writer{root: root, dir: dir, step: step, hold: hold, disk: d}, nil
			}
			hold.Close()
		}
	}
	return nil, fmt.Errorf("begin checkpoint: cannot hold a directory under %s: another process removes it", root)
}

// lock takes the exclusive lock on a directory, unless somebody has it. The
// system releases it when the process ends, however it ends.
func lock(dir string) (*os.File, bool) {
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

// sweep removes temporary directories that no living process holds.
func sweep(root string, d disk) error {
	entries, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tempPrefix) && !strings.HasPrefix(e.Name(), trashPrefix) {
			continue
		}
		dir := filepath.Join(root, e.Name())
		hold, ok := lock(dir)
		if !ok {
			continue
		}
		if err := errors.Join(d.removeAll(dir), hold.Close()); err != nil {
			return err
		}
	}
	return nil
}

// Dir is the temporary directory to fill.
func (w *Writer) Dir() string { return w.dir }

// Abort removes the temporary directory. After Commit it does nothing.
func (w *Writer) Abort() error {
	if w.hold == nil {
		return nil
	}
	err := errors.Join(os.RemoveAll(w.dir), w.hold.Close())
	w.hold = nil
	return err
}

// Commit writes state.json and manifest.json, puts everything on disk and names
// the directory root/step-%08d, which it returns. Where a checkpoint of that step
// exists, an identical one is kept and any other replaced. After an error the
// temporary directory is still there: Abort removes it, as does the next Begin.
func (w *Writer) Commit(s State) (string, error) {
	if w.hold == nil {
		return "", errors.New("commit checkpoint: already committed or aborted")
	}
	if s.Step != w.step {
		return "", fmt.Errorf("commit checkpoint: state is of step %d, begun for step %d", s.Step, w.step)
	}
	s.Version = Version
	m, err := w.seal(s)
	if err != nil {
		return "", fmt.Errorf("commit checkpoint of step %d: %w", w.step, err)
	}
	final := filepath.Join(w.root, stepName(w.step))
	if err := w.place(final, m); err != nil {
		return "", fmt.Errorf("commit checkpoint of step %d: %w", w.step, err)
	}
	err = w.hold.Close()
	w.hold = nil
	return final, err
}

// seal completes the temporary directory and puts it on disk.
func (w *Writer) seal(s State) (*Manifest, error) {
	if err := w.clearEarlier(); err != nil {
		return nil, err
	}
	text, err := encodeJSON(s)
	if err != nil {
		return nil, fmt.Errorf("encode state: %w", err)
	}
	if err := w.disk.write(filepath.Join(w.dir, stateName), text); err != nil {
		return nil, err
	}
	files, err := listing(w.dir)
	if err != nil {
		return nil, err
	}
	m := &Manifest{Version: Version, Step: w.step}
	for _, f := range files {
		if err := w.disk.sync(filepath.Join(w.dir, f.Name)); err != nil {
			return nil, err
		}
		info, err := describe(w.dir, f.Name)
		if err != nil {
			return nil, err
		}
		m.Files = append(m.Files, info)
	}
	if text, err = encodeJSON(m); err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	if err := w.disk.write(filepath.Join(w.dir, manifestName), text); err != nil {
		return nil, err
	}
	return m, w.disk.sync(w.dir)
}

// clearEarlier removes what a failed Commit of the same writer left.
func (w *Writer) clearEarlier() error {
	for _, name := range []string{manifestName, stateName} {
		if err := os.Remove(filepath.Join(w.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// place gives the sealed directory its name.
func (w *Writer) place(final string, m *Manifest) error {
	trash := ""
	if _, err := os.Lstat(final); err == nil {
		if w.same(final, m) {
			return w.disk.removeAll(w.dir)
		}
		trash = filepath.Join(w.root, trashPrefix+filepath.Base(w.dir))
		if err := w.disk.rename(final, trash); err != nil {
			return err
		}
	}
	if err := w.disk.rename(w.dir, final); err != nil {
		return err
	}
	if err := w.disk.sync(w.root); err != nil {
		return err
	}
	if trash == "" {
		return nil
	}
	return w.disk.removeAll(trash)
}

// same reports whether the existing checkpoint is intact and equal to the new one.
func (w *Writer) same(final string, m *Manifest) bool {
	old, err := Verify(final)
	if err != nil {
		return false
	}
	a, errA := old.Digest()
	b, errB := m.Digest()
	return errA == nil && errB == nil && a == b
}

// realDisk is the file system.
type realDisk struct{}

func (realDisk) write(path string, data []byte) error {
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

func (realDisk) sync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (realDisk) rename(from, to string) error { return os.Rename(from, to) }

func (realDisk) removeAll(path string) error { return os.RemoveAll(path) }
