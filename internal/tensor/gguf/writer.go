package gguf

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// Layout is a planned file.
type Layout struct {
	// Infos are the tensors with their offsets, in the order given to Plan.
	Infos []Info
	// Size is the file's, in bytes.
	Size   int64
	header []byte
}

// Plan fixes every offset of a file with this metadata and these tensors (name,
// type and shape), in this order, as gguf-py lays it out.
func Plan(metadata Metadata, tensors []Info) (*Layout, error) {
	alignment, err := alignmentOf(metadata)
	if err != nil {
		return nil, fmt.Errorf("key %q: %w", alignmentKey, err)
	}
	if len(metadata) > MaxKeys || len(tensors) > MaxTensors {
		return nil, fmt.Errorf("%d keys and %d tensors, more than %d or %d", len(metadata), len(tensors), MaxKeys, MaxTensors)
	}
	var w bytes.Buffer
	w.WriteString(magic)
	put(&w, uint32(version))
	put(&w, uint64(len(tensors)))
	put(&w, uint64(len(metadata)))
	if err := encodeMetadata(&w, metadata); err != nil {
		return nil, err
	}
	l := &Layout{Infos: make([]Info, len(tensors))}
	next := int64(0)
	seen := make(map[string]bool, len(tensors))
	for i, info := range tensors {
		if err := checkName(info.Name, MaxName); err != nil {
			return nil, fmt.Errorf("tensor %q: %w", info.Name, err)
		}
		if seen[info.Name] {
			return nil, fmt.Errorf("tensor %q: the name occurs twice", info.Name)
		}
		seen[info.Name] = true
		if info.Size, err = size(info.Type, info.Shape); err != nil {
			return nil, fmt.Errorf("tensor %q: %w", info.Name, err)
		}
		if info.Size > 1<<62-next {
			return nil, fmt.Errorf("tensor %q: the file's size overflows", info.Name)
		}
		info.Offset = next
		describe(&w, info)
		next = pad(next+info.Size, alignment)
		l.Infos[i] = info
	}
	if w.Len() > MaxMetadata {
		return nil, fmt.Errorf("the metadata and tensor descriptions have %d bytes, more than %d", w.Len(), MaxMetadata)
	}
	data := pad(int64(w.Len()), alignment)
	l.header = w.Bytes()
	l.Size = data + next
	for i := range l.Infos {
		l.Infos[i].Offset += data
	}
	return l, nil
}

// Header is the file's beginning: all that comes before the first tensor's bytes
// but the padding, which is zeros.
func (l *Layout) Header() []byte { return l.header }

// describe writes one tensor's description; its Offset counts from the start of
// the data.
func describe(w *bytes.Buffer, info Info) {
	putString(w, info.Name)
	put(w, uint32(len(info.Shape)))
	for _, d := range slices.Backward(info.Shape) {
		put(w, uint64(d))
	}
	put(w, uint32(info.Type))
	put(w, uint64(info.Offset))
}

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
// in it and zeros for padding. The file appears as path at Commit; Abort removes it.
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
		err = reserve(f, l.Size)
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
	d, err := os.Open(filepath.Dir(w.path))
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// Abort removes the temporary file. After Commit it does nothing.
func (w *Writer) Abort() error {
	if w.closed {
		return nil
	}
	w.closed = true
	return errors.Join(w.f.Close(), os.Remove(w.f.Name()))
}
