package tensor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// File is an open safetensors file. Its methods may be called concurrently.
type File struct {
	path string
	f    *os.File
	*header
}

// Open reads and checks the header of a safetensors file.
func Open(path string) (*File, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("open weights: %w", err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("open weights: %s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open weights: %w", err)
	}
	t, err := newFile(path, f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return t, nil
}

func newFile(path string, f *os.File) (*File, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open weights: %w", err)
	}
	h, err := readHeader(path, f, st.Size())
	if err != nil {
		return nil, err
	}
	base := filepath.Base(path)
	for i := range h.infos {
		h.infos[i].File = base
	}
	return &File{path: path, f: f, header: h}, nil
}

// readHeader reads the header of a file of size bytes.
func readHeader(path string, r io.ReaderAt, size int64) (*header, error) {
	bad := func(offset int64, format string, a ...any) error {
		return &FormatError{File: path, Offset: offset, Reason: fmt.Sprintf(format, a...)}
	}
	if size < 8 {
		return nil, bad(size, "the file has %d bytes, too few for a safetensors header: truncated", size)
	}
	var length [8]byte
	if _, err := r.ReadAt(length[:], 0); err != nil {
		return nil, fmt.Errorf("%s: read header length: %w", path, err)
	}
	n := binary.LittleEndian.Uint64(length[:])
	if n > MaxHeader {
		return nil, bad(0, "the header's length is given as %d, more than %d: not a safetensors file", n, MaxHeader)
	}
	if int64(n) > size-8 {
		return nil, bad(size, "the header is %d bytes long, but the file has only %d: truncated; copy it again", n, size)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(io.NewSectionReader(r, 8, int64(n)), text); err != nil {
		return nil, fmt.Errorf("%s: read header: %w", path, err)
	}
	return parseHeader(path, string(text), size)
}

// Path is the path given to Open.
func (t *File) Path() string { return t.path }

// Close closes the file.
func (t *File) Close() error { return t.f.Close() }

// Metadata is the file's own; empty, not nil, where it has none.
func (t *File) Metadata() map[string]string { return maps.Clone(t.metadata) }

// Infos lists the tensors in the order of their bytes.
func (t *File) Infos() []Info { return slices.Clone(t.infos) }

// Info finds a tensor by name.
func (t *File) Info(name string) (Info, bool) {
	i, ok := t.index[name]
	if !ok {
		return Info{}, false
	}
	return t.infos[i], true
}

// ReadAt fills p with a tensor's bytes from offset off within the tensor.
func (t *File) ReadAt(name string, p []byte, off int64) error {
	info, ok := t.Info(name)
	if !ok {
		return fmt.Errorf("%s: no tensor %q", t.path, name)
	}
	if off < 0 || off > info.Size || int64(len(p)) > info.Size-off {
		return fmt.Errorf("%s: tensor %q: bytes %d to %d are outside its %d", t.path, name, off, off+int64(len(p)), info.Size)
	}
	if _, err := t.f.ReadAt(p, info.Offset+off); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("the file became shorter after it was opened")
		}
		return fmt.Errorf("%s: tensor %q at byte %d: %w", t.path, name, info.Offset+off, err)
	}
	return nil
}

// Bytes reads a tensor as stored.
func (t *File) Bytes(name string) ([]byte, error) {
	info, ok := t.Info(name)
	if !ok {
		return nil, fmt.Errorf("%s: no tensor %q", t.path, name)
	}
	b := make([]byte, info.Size)
	return b, t.ReadAt(name, b, 0)
}

// Float32 reads an F32, BF16 or F16 tensor, widened exactly.
func (t *File) Float32(name string) ([]float32, error) {
	b, err := t.Bytes(name)
	if err != nil {
		return nil, err
	}
	info, _ := t.Info(name)
	x := make([]float32, info.Elements())
	if err := Widen(x, b, info.DType); err != nil {
		return nil, fmt.Errorf("%s: tensor %q: %w", t.path, name, err)
	}
	return x, nil
}
