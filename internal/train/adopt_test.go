package train

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"tarbert/internal/executor"
	"tarbert/internal/progress"
)

// The supervisor is killed right after each of its writes in turn; the next one
// takes over. The trainer never runs twice at once, never more often than
// without the kill, and the weights are those of an undisturbed run.
func TestSupervisorIsKilledAtEachState(t *testing.T) {
	for script, most := range map[string]int{"clean": 1, "crash@5": 2} {
		t.Run(script, func(t *testing.T) {
			t.Parallel()
			killed := 0
			for n := 1; ; n++ {
				if n > 50 {
					t.Fatal("the supervisor never gets through")
				}
				dir := t.TempDir()
				var stderr bytes.Buffer
				cmd := exec.Command(self()[0], "supervisor", dir, script, strconv.Itoa(n))
				cmd.Stderr = &stderr
				err := cmd.Run()
				alive := err == nil
				if !alive && !killedBy(cmd, syscall.SIGKILL) {
					t.Fatalf("kill %d: %v\n%s", n, err, stderr.String())
				}
				r := run(t, input(dir, script))
				finished(t, dir, r)
				if got := len(runs(t, dir)); got != most {
					t.Errorf("kill %d: the trainer ran %d times, want %d: %+v", n, got, most, r.Attempts)
				}
				if r.Supervisors != 2 {
					t.Errorf("kill %d: %d supervisors, want 2", n, r.Supervisors)
				}
				if alive {
					break
				}
				killed++
			}
			// Starting, watching, stopping, ended for each attempt, and the report.
			if want := 4*most + 1; killed < want {
				t.Errorf("killed at %d writes, want at least %d", killed, want)
			}
		})
	}
}

func killedBy(cmd *exec.Cmd, sig syscall.Signal) bool {
	ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && ws.Signaled() && ws.Signal() == sig
}

// A supervisor that was killed while the trainer worked finds it at work, reads
// on where it stopped, and books the gap as its own.
func TestLiveTrainerIsAdopted(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(self()[0], "supervisor", dir, "waits@5", "2") // dies once it watches
	if err := cmd.Run(); err == nil || !killedBy(cmd, syscall.SIGKILL) {
		t.Fatalf("supervisor: %v", err)
	}
	in := input(dir, "waits@5")
	in.Pool.Argv = self("trainer", "something-else-now", dir) // a new binary must not matter to a live attempt
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	in.Progress = func(u progress.Update) {
		if u.Done == 5 { // the live trainer waits for us here
			if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
				cancel(err)
			}
		}
	}
	r, err := Run(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	finished(t, dir, r)
	if len(r.Attempts) != 1 || len(runs(t, dir)) != 1 {
		t.Errorf("attempts %+v: want the one that was alive", r.Attempts)
	}
	if r.Ledger.Classes[classSupervision] <= 0 {
		t.Errorf("ledger %v: the gap is in no class", r.Ledger.Classes)
	}
}

// A person's interruption ends the trainer, even a stopped one; the same command goes on.
func TestInterruption(t *testing.T) {
	for _, script := range []string{"waits@5", "stopped@5"} {
		t.Run(script, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			in := input(dir, script)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			in.Progress = func(u progress.Update) {
				if u.Done == 5 {
					cancel()
				}
			}
			if r, err := Run(ctx, in); !errors.Is(err, context.Canceled) || r != nil {
				t.Fatalf("Run = %v, %v; want canceled", r, err)
			}
			if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			in.Progress = nil
			r := run(t, in)
			finished(t, dir, r)
			if len(r.Attempts) != 2 || r.Attempts[0].Outcome != Interrupted || r.Attempts[1].ResumeStep != 4 {
				t.Errorf("attempts %+v", r.Attempts)
			}
		})
	}
}

// Another run's task under the same name is ended and left alone; ours takes the next number.
func TestForeignTaskOfTheSameName(t *testing.T) {
	dir := t.TempDir()
	in := input(dir, "clean")
	if err := in.Pool.Executor.Start(t.Context(), executor.Task{Name: "r-1-train-1", Argv: []string{"/bin/sh", "-c", "sleep 1000"}}); err != nil {
		t.Fatal(err)
	}
	r := run(t, in)
	finished(t, dir, r)
	if len(r.Attempts) != 1 || r.Attempts[0].Task != "r-1-train-2" {
		t.Errorf("attempts %+v, want task r-1-train-2", r.Attempts)
	}
	for st, err := range in.Pool.Executor.Watch(t.Context(), "r-1-train-1") {
		if err != nil || st.State != executor.Exited {
			t.Errorf("the other task is %s, %v", st.State, err)
		}
	}
}
