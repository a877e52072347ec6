package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// PutFile copies the file at path into the store and returns the SHA-256 of
// the bytes copied, in lower-case hex. The source may be anything readable;
// what is kept is what was read, whatever happens to the source meanwhile.
func (s *Store) PutFile(ctx context.Context, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("keep %s: %w", path, err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return "", fmt.Errorf("keep %s: %w", path, err)
	} else if !info.Mode().IsRegular() {
		return "", fmt.Errorf("keep %s: not a regular file", path)
	}
	return s.put(ctx, f, path)
}

// PutBytes keeps b and returns its digest.
func (s *Store) PutBytes(ctx context.Context, b []byte) (string, error) {
	return s.put(ctx, bytes.NewReader(b), "bytes")
}

// put copies r to a temp file while hashing, makes it durable and read-only,
// and renames it to its digest. An artifact that is already there is replaced
// by the same bytes, which also heals a damaged one.
func (s *Store) put(ctx context.Context, r io.Reader, what string) (string, error) {
	// The pid in the name tells sweep whether the writer is still there.
	tmp, err := os.CreateTemp(filepath.Join(s.home, "tmp"), strconv.Itoa(os.Getpid())+"-*")
	if err != nil {
		return "", envError(err, "keep %s", what)
	}
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(tmp, sum), &contextReader{ctx: ctx, r: r})
	if err := settle(tmp, err, 0o444); err != nil {
		err = errors.Join(err, os.Remove(tmp.Name()))
		if ctx.Err() != nil {
			return "", fmt.Errorf("keep %s: %w", what, err)
		}
		return "", envError(err, "keep %s", what)
	}
	digest := hex.EncodeToString(sum.Sum(nil))
	dst := s.Path(digest)
	dir := filepath.Dir(dst)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", envError(errors.Join(err, os.Remove(tmp.Name())), "keep %s", what)
	}
	if err := os.Rename(tmp.Name(), dst); err != nil {
		return "", envError(errors.Join(err, os.Remove(tmp.Name())), "keep %s", what)
	}
	return digest, errors.Join(syncDir(dir), syncDir(filepath.Dir(dir)))
}

// Path is where the artifact with this digest is, or would be. An ill-formed
// digest gives a path that cannot exist.
func (s *Store) Path(digest string) string {
	root := filepath.Join(s.home, "artifacts", "sha256")
	if !validDigest(digest) {
		return filepath.Join(root, "none", "ill-formed-digest")
	}
	return filepath.Join(root, digest[:2], digest)
}

// Verify reads the artifact and compares its bytes with its name.
func (s *Store) Verify(ctx context.Context, digest string) error {
	if !validDigest(digest) {
		return fmt.Errorf("artifact %q: want 64 lower-case hex digits: %w", digest, ErrNoArtifact)
	}
	f, err := os.Open(s.Path(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("artifact %s: %w", digest, ErrNoArtifact)
	}
	if err != nil {
		return envError(err, "verify artifact %s", digest)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, &contextReader{ctx: ctx, r: f}); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("verify artifact %s: %w", digest, err)
		}
		return envError(err, "verify artifact %s", digest)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != digest {
		return envError(fmt.Errorf("%w: its bytes hash to %s", ErrDamaged, got), "verify artifact %s at %s", digest, f.Name())
	}
	return nil
}

func validDigest(d string) bool {
	if len(d) != sha256.Size*2 {
		return false
	}
	return strings.Trim(d, "0123456789abcdef") == ""
}

// sweep removes temp files whose writer no longer exists. It is housekeeping:
// what it cannot remove stays for the next Open.
func sweep(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		head, _, ok := strings.Cut(e.Name(), "-")
		pid, err := strconv.Atoi(head)
		if !ok || err != nil || pid < 1 {
			continue
		}
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// contextReader ends a long copy when ctx does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
