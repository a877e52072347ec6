package gguf

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// File is an open GGUF file. Its methods may be called concurrently.
type File struct {
	path string
	f    *os.File
	*header
}

// Open reads and checks the header of a GGUF file.
func Open(path string) (*File, error) {
	st, err := os.Stat(path) // before opening: a named pipe would block
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
	h, err := parseHeader(path, io.NewSectionReader(f, 0, st.Size()), st.Size())
	if err != nil {
		return nil, err
	}
	return &File{path: path, f: f, header: h}, nil
}

// Path is the path given to Open.
func (t *File) Path() string { return t.path }

// Close closes the file.
func (t *File) Close() error { return t.f.Close() }

// Metadata is the file's own, in its order. The caller must not change the values.
func (t *File) Metadata() Metadata { return slices.Clone(t.metadata) }

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

// Float32 reads an F32, F16, BF16 or Q8_0 tensor, decoded.
func (t *File) Float32(name string) ([]float32, error) {
	b, err := t.Bytes(name)
	if err != nil {
		return nil, err
	}
	info, _ := t.Info(name)
	x := make([]float32, info.Elements())
	if err := Decode(x, b, info.Type); err != nil {
		return nil, fmt.Errorf("%s: tensor %q: %w", t.path, name, err)
	}
	return x, nil
}
