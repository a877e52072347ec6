package convert

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
)

// left says why a file of the source does not belong to the converted model;
// empty for one that is copied.
func left(name string) string {
	switch {
	case strings.HasPrefix(name, "."):
		return "hidden"
	case name == recordName:
		return "record of an earlier conversion"
	case name == "optimizer.safetensors" || name == "state.json" || name == "manifest.json":
		return "training state"
	case strings.HasSuffix(name, ".safetensors") || strings.HasSuffix(name, ".safetensors.index.json"):
		return "weights, converted"
	case strings.HasSuffix(name, ".bin.index.json"):
		return "index of pickled weights"
	}
	switch filepath.Ext(name) {
	case ".bin", ".pt", ".pth", ".ckpt":
		return "pickle: never opened"
	case ".gguf", ".onnx", ".msgpack", ".h5":
		return "weights in another format"
	}
	return ""
}

// sourceFile is a file of the source directory.
type sourceFile struct {
	name string
	size int64
	left string // why it is not taken along
}

// listSource lists the source directory. Symbolic links to files are followed:
// model caches are made of them.
func listSource(src string) ([]sourceFile, error) {
	entries, err := os.ReadDir(src)
	if err != nil {
		return nil, fmt.Errorf("read source: %w", err)
	}
	var files []sourceFile
	for _, e := range entries {
		st, err := os.Stat(filepath.Join(src, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("read source: %w", err)
		}
		f := sourceFile{name: e.Name(), size: st.Size(), left: left(e.Name())}
		switch {
		case st.IsDir():
			f.left, f.size = "a directory", 0
		case !st.Mode().IsRegular():
			f.left = "not a regular file"
		case e.Name() == descriptionName:
			return nil, violation("source", e.Name(), "the source is quantised already; beside other weights the file would make vllm-ascend misread them: give the float model")
		}
		files = append(files, f)
	}
	return files, nil
}

// matters reports whether a file decides what a conversion gives.
func (f sourceFile) matters(weights map[string]bool) bool {
	return f.left == "" || weights[f.name]
}

// digestFiles hashes files of a directory, a few at a time.
func digestFiles(ctx context.Context, dir string, names []string) ([]FileReport, error) {
	out := make([]FileReport, len(names))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i, name := range names {
		g.Go(func() error {
			var err error
			out[i], err = digestFile(ctx, filepath.Join(dir, name))
			return err
		})
	}
	return out, g.Wait()
}

func digestFile(ctx context.Context, path string) (FileReport, error) {
	f, err := os.Open(path)
	if err != nil {
		return FileReport{}, fmt.Errorf("digest: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := copyContext(ctx, h, f)
	if err != nil {
		return FileReport{}, fmt.Errorf("digest %s: %w", path, err)
	}
	return FileReport{Name: filepath.Base(path), Size: n, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}

// copyContext copies until the end of r or of the context.
func copyContext(ctx context.Context, w io.Writer, r io.Reader) (int64, error) {
	buf := make([]byte, 1<<18) // stays in the second-level cache between reading and hashing
	var total int64
	for {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		n, err := r.Read(buf)
		if n > 0 {
			total += int64(n)
			if _, err := w.Write(buf[:n]); err != nil {
				return total, err
			}
		}
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// copyFile copies a file to a new one and puts it on disk.
func copyFile(ctx context.Context, from, to string) error {
	r, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	defer r.Close()
	w, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	_, err = copyContext(ctx, w, r)
	if err == nil {
		err = w.Sync()
	}
	if err := errors.Join(err, w.Close()); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return nil
}
