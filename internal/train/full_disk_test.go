package train

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"tarbert/internal/store"
)

// A disk that is really full: a file system of two MiB under the stage's folder,
// filled to the last byte while the trainer runs. The run ends with an error of
// the environment, nothing that was saved is lost or half-written, and with room
// again the same command goes on to the same weights.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	in := input(dir, "waits@4")
	small(t, in.Dir)

	ended := make(chan error, 1)
	go func() {
		_, err := Run(t.Context(), in)
		ended <- err
	}()
	appears(t, filepath.Join(attemptDir(in.Dir, 1), "step-00000004", "manifest.json"))
	ballast := fill(t, in.Dir)
	open(t, dir)
	err := <-ended
	t.Log(err)
	if !errors.Is(err, store.ErrEnvironment) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("error %v, want the environment's, about the full disk", err)
	}

	// As long as it is full, the same command says so again.
	if _, err := Run(t.Context(), in); !errors.Is(err, store.ErrEnvironment) {
		t.Errorf("error %v, want the environment's", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	r := run(t, in)
	sound(t, dir, r)
	finished(t, dir, r)
	t.Log("\n" + r.Text())
}

// small mounts a file system of two MiB, where that may be done.
func small(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tarbert-test", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("a small file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// fill writes until the disk is full.
func fill(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "ballast")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{4096, 1} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	return path
}

// open lets a trainer go on that waits.
func open(t *testing.T, dir string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

func appears(t *testing.T, path string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(path); err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s never came", path)
		}
	}
}

// A disk that is full for a while is no reason to leave a healthy trainer alone.
func TestFullDiskWhileTheTrainerIsHealthy(t *testing.T) {
	dir := t.TempDir()
	in := input(dir, "clean")
	s := newSupervisor(in)
	if err := s.open(); err != nil {
		t.Fatal(err)
	}
	if err := s.begin(Decision{}, nil); err != nil {
		t.Fatal(err)
	}
	a := s.state.running()
	if err := s.attach(a); err != nil {
		t.Fatal(err)
	}
	say := func(line string) {
		t.Helper()
		f, err := os.OpenFile(a.Events, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(line + "\n"); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	say(`{"event":"step","step":1,"loss":1,"grad_norm":1}`)
	s.Dir, s.saved = filepath.Join(dir, "nowhere"), time.Time{}
	if s.drain(t.Context(), a); a.LastStep != 1 {
		t.Errorf("step %d, want 1", a.LastStep)
	}
	if len(s.state.Alarms) != 1 || s.state.Alarms[0].Kind != alarmDisk {
		t.Errorf("alarms %+v", s.state.Alarms)
	}
	say(`{"event":"step","step":2,"loss":1,"grad_norm":1}`)
	s.Dir, s.saved = in.Dir, time.Time{} // there is room again
	s.drain(t.Context(), a)
	if kept, err := loadState(in.Dir); err != nil || kept.Attempts[0].LastStep != 2 {
		t.Errorf("kept %+v, %v", kept, err)
	}
}
