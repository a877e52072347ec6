package checkpoint

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var errDied = errors.New("died here")

// dyingDisk does its first steps, half of the one at which it dies if that can
// be done by half, and nothing after.
type dyingDisk struct {
	left int
	real realDisk
}

func (d *dyingDisk) step() bool {
	d.left--
	return d.left >= 0
}

func (d *dyingDisk) write(path string, data []byte) error {
	if !d.step() {
		if d.left == -1 {
			os.WriteFile(path, data[:len(data)/2], 0o644)
		}
		return errDied
	}
	return d.real.write(path, data)
}

func (d *dyingDisk) sync(path string) error {
	if !d.step() {
		return errDied
	}
	return d.real.sync(path)
}

func (d *dyingDisk) rename(from, to string) error {
	if !d.step() {
		return errDied
	}
	return d.real.rename(from, to)
}

func (d *dyingDisk) removeAll(path string) error {
	if !d.step() {
		if entries, err := os.ReadDir(path); d.left == -1 && err == nil && len(entries) > 0 {
			os.RemoveAll(filepath.Join(path, entries[0].Name()))
		}
		return errDied
	}
	return d.real.removeAll(path)
}

// release drops the lock as the end of the process would.
func (w *Writer) release() {
	if w.hold != nil {
		w.hold.Close()
	}
}

// TestDeathBetweenAnyTwoSteps kills Commit at every step, over no checkpoint of
// that step, an identical one, a different one and a damaged one. Whatever is
// left, Newest finds a whole checkpoint, and the next writer succeeds.
func TestDeathBetweenAnyTwoSteps(t *testing.T) {
	existing := map[string]func(t *testing.T, root string){
		"nothing": func(*testing.T, string) {},
		"same":    func(t *testing.T, root string) { write(t, root, 2) },
		"other": func(t *testing.T, root string) {
			w, err := Begin(root, 2)
			if err != nil {
				t.Fatal(err)
			}
			fill(t, w.Dir(), 77)
			if _, err := w.Commit(state(2)); err != nil {
				t.Fatal(err)
			}
		},
		"damaged": func(t *testing.T, root string) {
			if err := os.Truncate(filepath.Join(write(t, root, 2), "model.safetensors"), 10); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, prepare := range existing {
		t.Run(name, func(t *testing.T) {
			before := t.TempDir()
			write(t, before, 1)
			prepare(t, before)
			for at := 0; ; at++ {
				root := clone(t, before)
				one := filepath.Join(root, stepName(1))
				w, err := Begin(root, 2)
				if err != nil {
					t.Fatal(err)
				}
				fill(t, w.Dir(), 2)
				disk := &dyingDisk{left: at}
				w.disk = disk
				dir, err := w.Commit(state(2))
				if err == nil && disk.left >= 0 {
					if at < 5 {
						t.Fatalf("Commit took only %d steps", at)
					}
					return // no step left to die at
				}
				w.release()
				newest, _, err2 := Newest(root)
				if err2 != nil || (newest != one && newest != filepath.Join(root, stepName(2))) {
					t.Fatalf("died at step %d (%v, %s): Newest = %q, %v", at, err, dir, newest, err2)
				}
				if two := write(t, root, 2); mustNewest(t, root) != two {
					t.Fatalf("died at step %d: the next Commit is not the newest", at)
				}
				if entries, err := os.ReadDir(root); err != nil || len(entries) != 2 {
					t.Fatalf("died at step %d: the root holds %v, %v", at, entries, err)
				}
			}
		})
	}
}

func mustNewest(t *testing.T, root string) string {
	t.Helper()
	dir, skipped, err := Newest(root)
	if err != nil || len(skipped) > 0 {
		t.Fatalf("Newest: %v, skipped %v", err, skipped)
	}
	return dir
}

// TestDeathWhilePruning: what is left is whole, and a second Prune finishes.
func TestDeathWhilePruning(t *testing.T) {
	keepNone := func(Entry) bool { return false }
	before := t.TempDir()
	for step := range 4 {
		write(t, before, step)
	}
	for at := 0; ; at++ {
		root := clone(t, before)
		disk := &dyingDisk{left: at}
		_, err := prune(root, keepNone, disk)
		if err == nil {
			return
		}
		left, err := List(root)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range left {
			if _, err := Verify(e.Dir); err != nil {
				t.Fatalf("died at step %d: %v", at, err)
			}
		}
		if left[len(left)-1].Step != 3 {
			t.Fatalf("died at step %d: the newest is gone", at)
		}
		write(t, root, 4) // sweeps
		if _, err := Prune(root, keepNone); err != nil {
			t.Fatal(err)
		}
		if entries, err := os.ReadDir(root); err != nil || len(entries) != 1 {
			t.Fatalf("died at step %d: the root holds %v, %v", at, entries, err)
		}
	}
}

func TestAFullDiskLeavesTheOldCheckpoint(t *testing.T) {
	root := t.TempDir()
	one := write(t, root, 1)
	w, err := Begin(root, 2)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, w.Dir(), 2)
	w.disk = &dyingDisk{left: 2}
	if _, err := w.Commit(state(2)); !errors.Is(err, errDied) {
		t.Fatalf("Commit: %v", err)
	}
	if err := w.Abort(); err != nil {
		t.Fatal(err)
	}
	if got := mustNewest(t, root); got != one {
		t.Errorf("Newest = %s", got)
	}
	if entries, err := os.ReadDir(root); err != nil || len(entries) != 1 {
		t.Errorf("the root holds %v, %v", entries, err)
	}
}

func TestALiveWriterIsLeftAlone(t *testing.T) {
	root := t.TempDir()
	w, err := Begin(root, 1)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, w.Dir(), 1)
	other, err := Begin(root, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Abort(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(state(1)); err != nil {
		t.Errorf("another Begin disturbed a live writer: %v", err)
	}
}

// TestMain is also the process that TestAKilledWriter kills.
func TestMain(m *testing.M) {
	if root := os.Getenv("CHECKPOINT_TEST_WRITER"); root != "" {
		w, err := Begin(root, 9)
		if err == nil {
			err = os.WriteFile(filepath.Join(w.Dir(), "half"), []byte("half"), 0o644)
		}
		fmt.Println("ready", err)
		io.Copy(io.Discard, os.Stdin) // until killed
	}
	os.Exit(m.Run())
}

func TestAKilledWriter(t *testing.T) {
	root := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "CHECKPOINT_TEST_WRITER="+root)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 64)
	n, err := out.Read(line)
	if err != nil || !strings.HasPrefix(string(line[:n]), "ready <nil>") {
		t.Fatalf("the writer said %q, %v", line[:n], err)
	}
	temps := func() int {
		found, err := filepath.Glob(filepath.Join(root, tempPrefix+"*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	write(t, root, 1)
	if temps() != 1 {
		t.Errorf("%d temporary directories while the writer lives, want 1", temps())
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait() // reports the kill
	if l, err := List(root); err != nil || len(l) != 1 {
		t.Errorf("a dead writer's directory is listed: %v %v", l, err)
	}
	write(t, root, 2)
	if temps() != 0 {
		t.Errorf("%d temporary directories after the writer died, want 0", temps())
	}
}
