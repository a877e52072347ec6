package store

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func temps(t *testing.T, s *Store) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.home, "tmp"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestArtifactsAreNamedByContent(t *testing.T) {
	s := open(t, t.TempDir())
	content := bytes.Repeat([]byte("tarbert\n"), 50000)
	src := filepath.Join(t.TempDir(), "src")
	if err := os.WriteFile(src, content, 0o644); err != nil {
		t.Fatal(err)
	}
	want := sha256.Sum256(content)
	digest, err := s.PutFile(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	if digest != hex.EncodeToString(want[:]) {
		t.Errorf("digest %s, want %x", digest, want)
	}
	if same, err := s.PutBytes(t.Context(), content); err != nil || same != digest {
		t.Errorf("PutBytes = %s, %v; want %s", same, err, digest)
	}
	got, err := os.ReadFile(s.Path(digest))
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("kept %d bytes, %v", len(got), err)
	}
	info, err := os.Stat(s.Path(digest))
	if err != nil || info.Mode().Perm() != 0o444 {
		t.Errorf("mode %v, %v; want read-only", info.Mode(), err)
	}
	if err := s.Verify(t.Context(), digest); err != nil {
		t.Error(err)
	}
	if left := temps(t, s); len(left) != 0 {
		t.Errorf("temp files left: %v", left)
	}
}

func TestVerifyFindsOneChangedByteAndPutHealsIt(t *testing.T) {
	s := open(t, t.TempDir())
	content := []byte("the model that left")
	digest, err := s.PutBytes(t.Context(), content)
	if err != nil {
		t.Fatal(err)
	}
	spoiled := bytes.Clone(content)
	spoiled[3] ^= 1
	if err := os.Chmod(s.Path(digest), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Path(digest), spoiled, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), digest); !errors.Is(err, ErrDamaged) || !errors.Is(err, ErrEnvironment) {
		t.Fatalf("err = %v, want ErrDamaged", err)
	}
	if _, err := s.PutBytes(t.Context(), content); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), digest); err != nil {
		t.Errorf("after the same bytes were put again: %v", err)
	}
}

func TestArtifactsThatAreNotThere(t *testing.T) {
	s := open(t, t.TempDir())
	for _, d := range []string{strings.Repeat("0", 64), "", "../../etc/passwd", strings.Repeat("Z", 64)} {
		if err := s.Verify(t.Context(), d); !errors.Is(err, ErrNoArtifact) {
			t.Errorf("Verify(%q) = %v, want ErrNoArtifact", d, err)
		}
		if rel, err := filepath.Rel(s.home, s.Path(d)); err != nil || strings.HasPrefix(rel, "..") {
			t.Errorf("Path(%q) = %s leaves the home", d, s.Path(d))
		}
	}
	if _, err := s.PutFile(t.Context(), t.TempDir()); err == nil {
		t.Error("a directory was kept as a file")
	}
	if _, err := s.PutFile(t.Context(), filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) || errors.Is(err, ErrEnvironment) {
		t.Errorf("err = %v, want plain not-exist: a missing input is the user's", err)
	}
}

func TestFullDiskLeavesNoArtifact(t *testing.T) {
	home := t.TempDir()
	s := open(t, home)
	src := filepath.Join(t.TempDir(), "src")
	if err := os.WriteFile(src, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := helper(t, home, "put-limited:"+src).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "file size limit") {
		t.Fatalf("put under a limit: %v, %q", err, out)
	}
	if left := temps(t, s); len(left) != 0 {
		t.Errorf("temp files left: %v", left)
	}
	kept, err := filepath.Glob(filepath.Join(home, "artifacts", "sha256", "*", "*"))
	if err != nil || len(kept) != 0 {
		t.Errorf("artifacts %v, %v; want none", kept, err)
	}
}

func TestKilledPutLeavesNothingTrusted(t *testing.T) {
	home := t.TempDir()
	cmd := helper(t, home, "put-forever")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for range 10 {
		if !lines.Scan() {
			t.Fatal("the writer ended")
		}
	}
	// A live writer's temp file is left alone by a second process's Open.
	s := open(t, home)
	if left := temps(t, s); len(left) != 1 {
		t.Errorf("temp files %v, want the writer's", left)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	s = open(t, home)
	if left := temps(t, s); len(left) != 0 {
		t.Errorf("temp files %v after the writer died and the home was opened", left)
	}
	kept, err := filepath.Glob(filepath.Join(home, "artifacts", "sha256", "*", "*"))
	if err != nil || len(kept) != 0 {
		t.Errorf("artifacts %v, %v; want none", kept, err)
	}
}

func TestPutEndsWithItsContext(t *testing.T) {
	s := open(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.PutBytes(ctx, []byte("x")); !errors.Is(err, context.Canceled) || errors.Is(err, ErrEnvironment) {
		t.Errorf("err = %v, want canceled and not the environment", err)
	}
	if left := temps(t, s); len(left) != 0 {
		t.Errorf("temp files left: %v", left)
	}
}

func TestWriteFileReplacesWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.json")
	for _, want := range []string{"one", strings.Repeat("two", 10000), ""} {
		if err := WriteFile(path, []byte(want), 0o640); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Errorf("read %d bytes, %v; want %d", len(got), err, len(want))
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("%d files, %v; want the one", len(entries), err)
	}
	if err := WriteFile(filepath.Join(path, "below-a-file"), nil, 0o644); !errors.Is(err, ErrEnvironment) {
		t.Errorf("err = %v, want ErrEnvironment", err)
	}
}
