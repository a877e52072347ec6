package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Manifest is manifest.json: every other file of the checkpoint.
type Manifest struct {
	Version int        `json:"version"`
	Step    int        `json:"step"`
	Files   []FileInfo `json:"files"` // by name
}

// FileInfo is one file's size in bytes and sha256 in lower-case hex.
type FileInfo struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Bytes is the size of all files but the manifest.
func (m *Manifest) Bytes() int64 {
	var n int64
	for _, f := range m.Files {
		n += f.Size
	}
	return n
}

// Digest names the checkpoint's content: sha256 of the manifest's canonical text.
func (m *Manifest) Digest() (string, error) {
	b, err := encodeJSON(m)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// readManifest accepts only the text that Commit writes, to the byte.
func readManifest(dir string) (*Manifest, error) {
	path := filepath.Join(dir, manifestName)
	b, err := readCapped(path)
	if err != nil {
		return nil, err
	}
	var m Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	canonical, err := encodeJSON(m)
	if err != nil {
		return nil, err
	}
	if m.Version != Version {
		return nil, fmt.Errorf("%s: version %d; this program reads version %d", path, m.Version, Version)
	}
	if !bytes.Equal(b, canonical) {
		return nil, fmt.Errorf("%s: not as it was written", path)
	}
	for i, f := range m.Files {
		if !plainName(f.Name) || f.Name == manifestName {
			return nil, fmt.Errorf("%s: %q is not the name of a file in the checkpoint", path, f.Name)
		}
		if i > 0 && m.Files[i-1].Name >= f.Name {
			return nil, fmt.Errorf("%s: %q is listed twice or out of order", path, f.Name)
		}
	}
	return &m, nil
}

func plainName(name string) bool {
	return filepath.IsLocal(name) && filepath.Base(name) == name && name != "."
}

// Verify proves that a checkpoint is as it was committed: every file of the
// manifest with its size and sha256, no other file, and the same step in the
// manifest, the state and (where it has the form) the directory's name.
// The error names the file that is wrong.
func Verify(dir string) (*Manifest, error) {
	m, err := readManifest(dir)
	if err != nil {
		return nil, err
	}
	if step, ok := parseStep(filepath.Base(dir)); ok && step != m.Step {
		return nil, fmt.Errorf("%s: the manifest is of step %d", dir, m.Step)
	}
	if err := checkListing(dir, m); err != nil {
		return nil, err
	}
	for _, f := range m.Files {
		got, err := describe(dir, f.Name)
		if err != nil {
			return nil, err
		}
		if got.SHA256 != f.SHA256 {
			return nil, fmt.Errorf("%s: sha256 is %s, the manifest says %s: the file has changed", filepath.Join(dir, f.Name), got.SHA256, f.SHA256)
		}
	}
	s, err := ReadState(dir)
	if err != nil {
		return nil, err
	}
	if s.Step != m.Step {
		return nil, fmt.Errorf("%s: state.json is of step %d, the manifest of step %d", dir, s.Step, m.Step)
	}
	return m, nil
}

// checkListing compares names and sizes, which costs nothing, before anything is hashed.
func checkListing(dir string, m *Manifest) error {
	found, err := listing(dir)
	if err != nil {
		return err
	}
	sizes := map[string]int64{}
	for _, f := range found {
		sizes[f.Name] = f.Size
	}
	for _, f := range m.Files {
		size, ok := sizes[f.Name]
		if !ok {
			return fmt.Errorf("%s: missing", filepath.Join(dir, f.Name))
		}
		if size != f.Size {
			return fmt.Errorf("%s: %d bytes, the manifest says %d: truncated or replaced", filepath.Join(dir, f.Name), size, f.Size)
		}
		delete(sizes, f.Name)
	}
	delete(sizes, manifestName)
	for _, f := range found {
		if _, extra := sizes[f.Name]; extra {
			return fmt.Errorf("%s: not in the manifest", filepath.Join(dir, f.Name))
		}
	}
	return nil
}

// listing gives the directory's files with sizes, without hashes, by name. A
// checkpoint has nothing but regular files in it.
func listing(dir string) ([]FileInfo, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read checkpoint: %w", err)
	}
	var files []FileInfo
	for _, e := range entries {
		st, err := e.Info()
		if err != nil {
			return nil, fmt.Errorf("read checkpoint: %w", err)
		}
		if !st.Mode().IsRegular() {
			return nil, fmt.Errorf("%s: not a regular file", filepath.Join(dir, e.Name()))
		}
		files = append(files, FileInfo{Name: e.Name(), Size: st.Size()})
	}
	slices.SortFunc(files, func(a, b FileInfo) int { return strings.Compare(a.Name, b.Name) })
	return files, nil
}

// describe hashes one file.
func describe(dir, name string) (FileInfo, error) {
	path := filepath.Join(dir, name)
	f, err := os.Open(path)
	if err != nil {
		return FileInfo{}, fmt.Errorf("read checkpoint: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, f, make([]byte, 1<<20))
	if err != nil {
		return FileInfo{}, fmt.Errorf("read %s: %w", path, err)
	}
	return FileInfo{Name: name, Size: n, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}
