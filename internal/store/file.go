package store

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
)

// WriteFile writes data to path so that a crash at any moment leaves either
// the old content or the new one, whole: temp file in the same directory,
// fsync, rename, fsync of the directory. The directory must exist.
func WriteFile(path string, data []byte, perm os.FileMode) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return envError(err, "write %s", path)
	}
	_, err = f.Write(data)
	if err := settle(f, err, perm); err != nil {
		return envError(errors.Join(err, os.Remove(f.Name())), "write %s", path)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return envError(errors.Join(err, os.Remove(f.Name())), "write %s", path)
	}
	return syncDir(dir)
}

// settle makes what was written to f durable and closes it; err is what
// writing gave. f is closed in every case.
func settle(f *os.File, err error, perm os.FileMode) error {
	if err == nil {
		err = f.Chmod(perm)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// syncDir makes renames within dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return envError(err, "sync directory %s", dir)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return envError(err, "sync directory %s", dir)
	}
	return nil
}

// FileDigest is the sha256 of a file's bytes, in lower-case hex.
func FileDigest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.CopyBuffer(h, f, make([]byte, 1<<20)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
