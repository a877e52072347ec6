package release

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"tarbert/internal/certificate"
	"tarbert/internal/store"
)

// binding asks for a path to be bound by the certificate.
type binding struct{ name, path string }

// contentDigest is a file's sha256, or a directory's OpenSSF digest.
func contentDigest(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if info.IsDir() {
		return certificate.ModelDigest(path)
	}
	return store.FileDigest(path)
}

// optionalDigest is the digest of a path that may be left out of the spec.
func optionalDigest(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	d, err := contentDigest(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return d, err
}

// intact checks that everything a passed stage left is still what it was.
func (r *run) intact(past StageResult) error {
	for _, b := range past.Bound {
		now, err := certificate.Bind(r.Home, b.Name, filepath.Join(r.Home, filepath.FromSlash(b.Path)))
		if err != nil {
			return err
		}
		if now.Digest != b.Digest {
			return fmt.Errorf("%s has changed since stage %s passed", b.Path, past.Stage)
		}
	}
	return nil
}

// programOf is a trainer's name and its command, if it has one, with the digest of
// a file in place of its path: of every element that is an absolute path to a
// file, as the release file's ./ and ../ have become.
func programOf(trainer string, command []string) ([]string, error) {
	out := append([]string{trainer}, command...)
	for i, e := range command {
		if !filepath.IsAbs(e) {
			continue // text
		}
		if info, err := os.Stat(e); err != nil || !info.Mode().IsRegular() {
			continue // a path to something else, or to be
		}
		digest, err := store.FileDigest(e)
		if err != nil {
			return nil, err
		}
		out[i+1] = "sha256:" + digest
	}
	return out, nil
}

// inputDigest is what a stage's result depends on, in one digest.
func (r *run) inputDigest(st stage) (string, error) {
	inputs, err := st.inputs(r)
	if err != nil {
		return "", err
	}
	return digestOf(st.name, st.version, inputs)
}

func digestOf(stage string, version int, inputs any) (string, error) {
	b, err := json.Marshal(struct {
		Stage   string
		Version int
		Inputs  any
	}{stage, version, inputs})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

func short(digest string) string { return digest[:8] }

// copyFile copies a small file whole or not at all.
func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return store.WriteFile(to, b, 0o644)
}
