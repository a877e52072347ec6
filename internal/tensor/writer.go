package tensor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// Writer fills a planned file. WriteAt may be called concurrently, in any order.
type Writer struct {
	path   string
	f      *os.File // a temporary sibling until Commit
	layout *Layout
	index  map[string]int
	closed bool

	mu   sync.Mutex
	left []int64 // bytes of each tensor not yet written
}

// Create makes a temporary file beside path, of its full size, with the header
// in it. The file appears as path at Commit; Abort removes it.
func Create(path string, l *Layout) (*Writer, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return nil, fmt.Errorf("write weights: %w", err)
	}
	w := &Writer{path: path, f: f, layout: l, index: make(map[string]int, len(l.Infos)), left: make([]int64, len(l.Infos))}
	for i, info := range l.Infos {
		w.index[info.Name] = i
		w.left[i] = info.Size
	}
	err = f.Chmod(0o644)
	if err == nil {
		err = Reserve(f, l.Size)
	}
	if err == nil {
		_, err = f.WriteAt(l.header, 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("write %s (%d bytes): %w", path, l.Size, err), w.Abort())
	}
	return w, nil
}

// WriteAt writes b into a tensor from offset off within it. No byte may be
// written twice: Commit counts them.
func (w *Writer) WriteAt(name string, b []byte, off int64) error {
	i, ok := w.index[name]
	if !ok {
		return fmt.Errorf("write %s: no tensor %q was planned", w.path, name)
	}
	info := w.layout.Infos[i]
	if off < 0 || off > info.Size || int64(len(b)) > info.Size-off {
		return fmt.Errorf("write %s: tensor %q: bytes %d to %d are outside its %d", w.path, name, off, off+int64(len(b)), info.Size)
	}
	if _, err := w.f.WriteAt(b, info.Offset+off); err != nil {
		return fmt.Errorf("write %s: tensor %q at byte %d: %w", w.path, name, info.Offset+off, err)
	}
	w.mu.Lock()
	w.left[i] -= int64(len(b))
	w.mu.Unlock()
	return nil
}

// Commit checks that all was written, puts it on disk, and gives it its name.
func (w *Writer) Commit() error {
	for i, n := range w.left {
		if n != 0 {
			return errors.Join(w.Abort(), fmt.Errorf("write %s: tensor %q: %d of its %d bytes were not written (or were written twice)",
				w.path, w.layout.Infos[i].Name, n, w.layout.Infos[i].Size))
		}
	}
	if err := w.f.Sync(); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", w.path, err), w.Abort())
	}
	w.closed = true
	err := w.f.Close()
	if err == nil {
		err = os.Rename(w.f.Name(), w.path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", w.path, err), os.Remove(w.f.Name()))
	}
	return syncDir(filepath.Dir(w.path))
}

// Abort removes the temporary file. After Commit it does nothing.
func (w *Writer) Abort() error {
	if w.closed {
		return nil
	}
	w.closed = true
	return errors.Join(w.f.Close(), os.Remove(w.f.Name()))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// WriteFile writes tensors in the reference library's layout: to a temporary
// file, to disk, then under its name. Nil metadata stands for {"format":"pt"},
// an empty map for none.
func WriteFile(path string, tensors []Tensor, metadata map[string]string) error {
	infos := make([]Info, len(tensors))
	for i, t := range tensors {
		infos[i] = Info{Name: t.Name, DType: t.DType, Shape: t.Shape}
	}
	l, err := Plan(infos, metadata)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	w, err := Create(path, l)
	if err != nil {
		return err
	}
	for _, t := range tensors {
		if err := w.WriteAt(t.Name, t.Data, 0); err != nil {
			return errors.Join(err, w.Abort())
		}
	}
	return w.Commit()
}
