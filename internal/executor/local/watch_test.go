package local

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"tarbert/internal/executor"
)

// A watcher does not have to look to learn of the end: it is woken by the shim's,
// whether that recorded the task's end or was killed.
func TestWatchIsWokenByTheEnd(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(t *testing.T, ex *Executor, mark string)
		code int
	}{
		{"the task exits", func(t *testing.T, _ *Executor, mark string) {
			if err := os.WriteFile(mark+".go", nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}, 12},
		{"the shim is killed", func(t *testing.T, ex *Executor, _ string) {
			if err := shimOf(t, ex, "marks").signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ex := fresh(t)
			mark := filepath.Join(t.TempDir(), "mark")
			if err := ex.Start(t.Context(), markTask(mark)); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := ex.Stop(context.Background(), "marks", 0); err != nil {
					t.Error(err)
				}
			})
			until(t, ex, "marks", executor.Running)
			slow := New(ex.dir, self(), time.Now)
			slow.Interval = time.Hour
			for st, err := range slow.Watch(t.Context(), "marks") {
				if err != nil {
					t.Fatal(err)
				}
				switch st.State {
				case executor.Running:
					tt.end(t, ex, mark)
				case executor.Exited:
					if st.ExitCode != tt.code {
						t.Errorf("status %+v, want exit code %d", st, tt.code)
					}
				default:
					t.Errorf("status %+v", st)
				}
			}
		})
	}
}

// Asking for the end of a process that is gone, or whose pid is another's now, is answered at once.
func TestEndOfWhatIsGone(t *testing.T) {
	me, err := identify(os.Getpid(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	other := me
	other.Start++
	for name, p := range map[string]process{"no such process": {Pid: 1 << 22, Start: 1, Boot: me.Boot}, "another's pid": other} {
		ended, release, err := p.ends()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		<-ended
		release()
	}
	ended, release, err := me.ends()
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
		t.Error("this process is said to have ended")
	default:
	}
	release() // does not wait for the end
}

// What still runs of some processes is told by pid and start time.
func TestAlive(t *testing.T) {
	ex := fresh(t)
	start(t, ex, "a", "sleep 1000")
	until(t, ex, "a", executor.Running)
	all, err := ex.Processes(t.Context(), "a")
	if err != nil || len(all) == 0 {
		t.Fatalf("processes %+v, %v", all, err)
	}
	other := all[0]
	other.Start++
	got, err := ex.Alive(t.Context(), []executor.Process{all[0], other, {Pid: 1 << 22, Start: 1}})
	if err != nil || len(got) != 1 || got[0] != all[0] {
		t.Errorf("alive %+v, %v; want only %+v", got, err, all[0])
	}
	if err := ex.Stop(t.Context(), "a", 0); err != nil {
		t.Fatal(err)
	}
	if got, err := ex.Alive(t.Context(), all); err != nil || len(got) != 0 {
		t.Errorf("after the end: %+v, %v", got, err)
	}
}
