// Package harness carries the Python programs that run beside PyTorch: the
// trainer that speaks the trainer contract (train.py, started by launch.py).
// They travel in the binary, so that one file is all that a machine needs from
// us, and are written out where a task runs.
package harness

import (
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"tarbert/internal/store"
)

//go:embed *.py
var files embed.FS

// Materialise writes the programs into a folder below dir that is named by
// their content, and returns it. One that is there already is checked and used.
func Materialise(dir string) (string, error) {
	digest := sha256.New()
	contents := map[string][]byte{}
	err := fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := files.ReadFile(path)
		contents[path] = b
		fmt.Fprintf(digest, "%s %d\n%s", path, len(b), b) // never fails
		return err
	})
	if err != nil {
		return "", fmt.Errorf("the harness in this binary: %w", err)
	}
	target := filepath.Join(dir, fmt.Sprintf("harness-%x", digest.Sum(nil)[:6]))
	if err := os.MkdirAll(target, 0o755); err != nil {
		return "", fmt.Errorf("write out the harness: %w", err)
	}
	for name, want := range contents {
		path := filepath.Join(target, name)
		have, err := os.ReadFile(path)
		if err == nil && string(have) == string(want) {
			continue
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("write out the harness: %w", err)
		}
		if err := store.WriteFile(path, want, 0o644); err != nil {
			return "", fmt.Errorf("write out the harness: %w", err)
		}
	}
	return target, nil
}
