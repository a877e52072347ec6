package train

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tarbert/internal/checkpoint"
	"tarbert/internal/executor"
	"tarbert/internal/executor/executortest"
	"tarbert/internal/gate"
	"tarbert/internal/progress"
	"tarbert/internal/store"
	"tarbert/internal/tensor"
)

func run(t *testing.T, in Input) *Report {
	t.Helper()
	r, err := Run(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// runs lists the checkpoints that the trainer's starts resumed from ("." = none).
func runs(t *testing.T, dir string) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "runs"))
	if err != nil {
		t.Fatal(err)
	}
	var from []string
	for line := range strings.Lines(string(b)) {
		_, resume, _ := strings.Cut(strings.TrimSpace(line), " ")
		from = append(from, resume)
	}
	return from
}

// sound checks what must hold of every report, however the run went.
func sound(t *testing.T, dir string, r *Report) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(dir, "two-writers")); err == nil {
		t.Error("two trainers wrote at once")
	}
	sum := 0.0
	for class, s := range r.Ledger.Classes {
		if s < 0 {
			t.Errorf("%s has %v s", class, s)
		}
		sum += s
	}
	if math.Abs(sum-r.Ledger.Wall) > 1e-6 {
		t.Errorf("classes sum to %v s of %v s", sum, r.Ledger.Wall)
	}
	for _, a := range r.Attempts {
		if a.Phase != Ended || a.Outcome == "" || a.Reason == "" {
			t.Errorf("attempt %+v is not judged", a)
		}
	}
	if r.Gate.Reason == "" {
		t.Error("a verdict without a reason")
	}
}

// finished checks a run that must have ended with the undisturbed run's weights.
func finished(t *testing.T, dir string, r *Report) {
	t.Helper()
	sound(t, dir, r)
	if r.Gate.Verdict != gate.Pass || r.Steps != 10 {
		t.Fatalf("gate %+v at step %d, want pass at 10\n%+v", r.Gate, r.Steps, r.Attempts)
	}
	if _, err := checkpoint.Verify(r.Final); err != nil {
		t.Error(err)
	}
	d, err := tensor.OpenDir(r.Final)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	got, err := d.Bytes("w")
	if err != nil || !bytes.Equal(got, wantWeights(10)) {
		t.Errorf("final weights %x, %v; want those of an undisturbed run", got, err)
	}
	if want := "step-00000006"; filepath.Base(r.SFT) != want {
		t.Errorf("sft checkpoint %q, want %q", r.SFT, want)
	}
	// A killed supervisor may have seen none of the steps' time: then there is no rate to tell.
	busy := r.Ledger.Classes[classStep] + r.Ledger.Classes[classRollout]
	if r.Tokens != 640 || (r.TokensPerSecond > 0) != (busy > 0) {
		t.Errorf("%d tokens at %v/s over %v s, want 640", r.Tokens, r.TokensPerSecond, busy)
	}
	for _, s := range r.Series {
		if s.Name == "loss" && (len(s.Points) != 10 || s.Points[9] != [2]float64{10, 1}) {
			t.Errorf("loss series %v", s.Points)
		}
	}
}

func TestCleanRun(t *testing.T) {
	dir := t.TempDir()
	in := input(dir, "clean")
	var seen []progress.Update
	in.Progress = func(u progress.Update) { seen = append(seen, u) }
	r := run(t, in)
	finished(t, dir, r)
	if len(r.Attempts) != 1 || r.Attempts[0].Outcome != Done || r.Supervisors != 1 {
		t.Errorf("attempts %+v by %d supervisors", r.Attempts, r.Supervisors)
	}
	if r.Ledger.Classes[classLost] != 0 || r.Ledger.Classes[classRecovery] != 0 || r.Ledger.Classes[classStep] <= 0 {
		t.Errorf("ledger %v", r.Ledger.Classes)
	}
	if r.MismatchMean != 0.25 || r.MismatchMax != 0.25 {
		t.Errorf("mismatch mean %v, max %v; want 0.25", r.MismatchMean, r.MismatchMax)
	}
	if len(seen) != 10 || seen[9].Done != 10 || seen[9].Total != 10 || seen[0].Values["loss"] != 10 {
		t.Errorf("%d updates, %+v", len(seen), seen)
	}
	// The same again: nothing runs, the answer is the same.
	again := run(t, in)
	finished(t, dir, again)
	if n := len(runs(t, dir)); n != 1 || again.FinalDigest != r.FinalDigest {
		t.Errorf("%d runs, digest %s then %s", n, r.FinalDigest, again.FinalDigest)
	}
}

// Each misfortune strikes once and costs one restart from the right place.
func TestRestarts(t *testing.T) {
	const none = "."
	tests := []struct {
		script  string
		runs    []string
		outcome Outcome
		reason  string
	}{
		{"crash@5", []string{none, "step-00000004"}, Crashed, "exit code 7"},
		{"crash@1", []string{none, none}, Crashed, "exit code 7"},
		{"kill@5", []string{none, "step-00000004"}, Crashed, "signal: killed"},
		{"exit0@5", []string{none, "step-00000004"}, Early, "exit code 0 without the done event"},
		{"half-line@5", []string{none, "step-00000004"}, Crashed, "exit code 7"},
		{"torn@4", []string{none, "step-00000002"}, Crashed, "exit code 7"},
		{"poisoned@5", []string{none, "step-00000004"}, Crashed, "exit code 7"},
		{"torn-final", []string{none, "step-00000008"}, Done, "done at step 10"},
	}
	for _, tt := range tests {
		t.Run(tt.script, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			r := run(t, input(dir, tt.script))
			finished(t, dir, r)
			if d := cmp.Diff(tt.runs, runs(t, dir)); d != "" {
				t.Errorf("runs resumed from\n%s", d)
			}
			first := r.Attempts[0]
			if first.Outcome != tt.outcome || !strings.Contains(first.Reason, tt.reason) {
				t.Errorf("first attempt: %s (%s), want %s (%s)", first.Outcome, first.Reason, tt.outcome, tt.reason)
			}
			if first.Outcome != Done && !strings.Contains(first.Log, "trainer is up") {
				t.Errorf("the log's end is missing: %q", first.Log)
			}
			if strings.HasPrefix(tt.script, "torn") || strings.HasPrefix(tt.script, "poisoned") {
				if skipped := r.Attempts[1].Skipped; len(skipped) != 1 || skipped[0].Reason == "" {
					t.Errorf("skipped %+v, want the bad checkpoint with its reason", skipped)
				}
			}
			if strings.HasPrefix(tt.script, "half-line") && (r.Malformed != 1 || r.Torn != 1 || !strings.Contains(r.FirstBad, "not json")) {
				t.Errorf("%d malformed (%s), %d torn; want one each", r.Malformed, r.FirstBad, r.Torn)
			}
			if r.Ledger.Classes[classRecovery] <= 0 {
				t.Errorf("ledger %v has no recovery", r.Ledger.Classes)
			}
		})
	}
}

// What cannot come good ends with a verdict, not with an error and not forever.
func TestRunsThatEndBadly(t *testing.T) {
	tests := []struct {
		script   string
		attempts int
		last     Outcome
		reason   string
	}{
		{"crash-always@5", 4, Crashed, "3 attempts in a row ended without a newer checkpoint"}, // the first one got to step 4
		{"crash-always@0", 3, Crashed, "3 attempts in a row"},
		{"no-restart@5", 1, DoNotRetry, "asks not to be restarted"},
		{"nan@5", 4, NotFinite, "loss is not finite at step 5, again after a retry, without that update and at half the rate"},
	}
	for _, tt := range tests {
		t.Run(tt.script, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			r := run(t, input(dir, tt.script))
			sound(t, dir, r)
			if r.Gate.Verdict != gate.Fail || !strings.Contains(r.Gate.Reason, tt.reason) {
				t.Errorf("gate %+v, want fail with %q", r.Gate, tt.reason)
			}
			if len(r.Attempts) != tt.attempts || r.Attempts[len(r.Attempts)-1].Outcome != tt.last {
				t.Errorf("%d attempts, want %d: %+v", len(r.Attempts), tt.attempts, r.Attempts)
			}
			if r.Final != "" {
				t.Errorf("a failed run has a final checkpoint: %s", r.Final)
			}
			if strings.HasPrefix(tt.script, "crash-always@5") && !strings.Contains(r.Attempts[3].Log, "it happened again") {
				t.Errorf("log %q", r.Attempts[3].Log)
			}
		})
	}
}

// After a verdict of no, asking again gives the trainer a fresh set of attempts.
func TestAskedAgainAfterAFailure(t *testing.T) {
	dir := t.TempDir()
	in := input(dir, "crash-always@5")
	if r := run(t, in); r.Gate.Verdict != gate.Fail {
		t.Fatalf("gate %+v", r.Gate)
	}
	in.Pool.Argv = self("trainer", "clean", dir) // the cause was mended
	r := run(t, in)
	finished(t, dir, r)
	if from := runs(t, dir); len(from) != 5 || from[4] != "step-00000004" {
		t.Errorf("runs resumed from %v", from)
	}
}

func TestTrainerThatDoesNotExit(t *testing.T) {
	dir := t.TempDir()
	in := input(dir, "lingers")
	in.Farewell = 50 * time.Millisecond
	r := run(t, in)
	finished(t, dir, r)
	if len(r.Attempts) != 1 || !strings.Contains(r.Attempts[0].Reason, "done at step 10") {
		t.Errorf("attempts %+v", r.Attempts)
	}
}

func TestBadExitAfterAllIsDoneIsNoted(t *testing.T) {
	dir := t.TempDir()
	r := run(t, input(dir, "bad-exit"))
	finished(t, dir, r)
	if len(r.Attempts) != 1 || !strings.Contains(r.Attempts[0].Reason, "exit code 5") {
		t.Errorf("attempts %+v", r.Attempts)
	}
}

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

// fakeRun is a run on an executor that misbehaves, with a trainer in its goroutine.
func fakeRun(t *testing.T, b executortest.Behaviour) (Input, *executortest.Fake, string) {
	dir := t.TempDir()
	in := input(dir, "")
	f := executortest.NewFake(time.Now)
	b.Body = func(_ context.Context, task executor.Task, _ io.Writer) int {
		tr := &trainer{notes: dir, recipe: in.Recipe, weights: []float32{1, 2, 3, 4}}
		var err error
		for _, kv := range task.Env {
			if path, ok := strings.CutPrefix(kv, "TARBERT_EVENTS="); ok {
				tr.events, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
			}
			if path, ok := strings.CutPrefix(kv, "TARBERT_CHECKPOINTS="); ok {
				tr.root = path
			}
		}
		if err != nil {
			return 90
		}
		defer tr.events.Close()
		for tr.step < in.Recipe.Steps() {
			tr.next(false)
			if tr.step%2 == 0 && tr.save() != nil {
				return 91
			}
		}
		tr.say(`{"event":"done","step":%d}`, tr.step)
		return 0
	}
	f.On("", b)
	in.Pool.Executor = f
	return in, f, dir
}

// The regression that matters most: 25 lost polls on a healthy run restart nothing.
func TestUnknownRestartsNothing(t *testing.T) {
	in, f, dir := fakeRun(t, executortest.Behaviour{Unknown: 25})
	r := run(t, in)
	finished(t, dir, r)
	if got := f.Started(); len(got) != 1 {
		t.Errorf("started %v, want one task", got)
	}
	if len(r.Attempts) != 1 || r.Attempts[0].Unknown != 25 {
		t.Errorf("attempts %+v, want one with 25 unknown", r.Attempts)
	}
	if got := f.Stopped(); len(got) != 1 {
		t.Errorf("stopped %v, want once, after the end", got)
	}
}

// A trainer that names no sections is accounted for all the same.
func TestTrainerWithoutSections(t *testing.T) {
	in, _, dir := fakeRun(t, executortest.Behaviour{})
	r := run(t, in)
	finished(t, dir, r)
	if r.Ledger.Classes[classStep] <= 0 {
		t.Errorf("ledger %v", r.Ledger.Classes)
	}
}

// Where the executor fails, there is no verdict; asking again goes on.
func TestExecutorTroubleIsTheEnvironments(t *testing.T) {
	broken := errors.New("no room")
	for what, b := range map[string]executortest.Behaviour{
		"start": {StartError: broken}, "watch": {WatchError: broken}, "stop": {StopError: broken},
	} {
		t.Run(what, func(t *testing.T) {
			in, f, _ := fakeRun(t, b)
			if r, err := Run(t.Context(), in); !errors.Is(err, broken) || !errors.Is(err, store.ErrEnvironment) {
				t.Fatalf("Run = %v, %v; want the executor's error as the environment's", r, err)
			}
			if n := len(f.Started()); n > 1 {
				t.Errorf("%d tasks were started", n)
			}
			if what != "start" {
				return
			}
			// The attempt was written down before the start: where the executor works again, it goes on.
			mended, _, _ := fakeRun(t, executortest.Behaviour{})
			mended.Dir = in.Dir
			if r := run(t, mended); len(r.Attempts) != 1 || r.Supervisors != 2 {
				t.Errorf("attempts %+v by %d supervisors, want the one that was written down", r.Attempts, r.Supervisors)
			}
		})
	}
}

func TestStateThatIsNotOurs(t *testing.T) {
	for name, text := range map[string]string{
		"torn": `{"version":1,`, "newer": `{"version":99}`, "no clock": `{"version":1,"attempts":[]}`,
		"no task": `{"version":1,"attempts":[{"number":1,"phase":"watching"}],"clock":{"classes":{},"attempt":{},"marks":{}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			in := input(t.TempDir(), "clean")
			if err := os.MkdirAll(in.Dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(in.Dir, "supervisor.json"), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			r, err := Run(t.Context(), in)
			if err == nil || !strings.Contains(err.Error(), "move the folder away") {
				t.Errorf("Run = %v, %v; want a refusal that says what to do", r, err)
			}
		})
	}
}

func TestThinKeepsTheMean(t *testing.T) {
	var p [][2]float64
	for i := range 12345 {
		p = append(p, [2]float64{float64(i + 1), float64(i % 10)})
	}
	got := thin(p, mostPoints)
	if len(got) != mostPoints || got[len(got)-1][0] != 12345 {
		t.Fatalf("%d points, last %v", len(got), got[len(got)-1])
	}
	sum := 0.0
	for _, q := range got {
		sum += q[1]
	}
	if mean := sum / mostPoints; math.Abs(mean-4.5) > 0.1 {
		t.Errorf("mean %v, want about 4.5", mean)
	}
	if got := thin(p[:mostPoints], mostPoints); len(got) != mostPoints || got[0] != p[0] {
		t.Errorf("a short series was changed: %v", got[0])
	}
}

func TestTailSkipsALineWithoutEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events")
	text := `{"event":"step","step":1}` + "\n" + strings.Repeat("x", 3<<20) + "\n" + `{"event":"step","step":2}` + "\n"
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	tl := &tail{path: path}
	var steps []string
	for {
		events, err := tl.read()
		if err != nil {
			t.Fatal(err)
		}
		if len(events) == 0 {
			break
		}
		for _, e := range events {
			steps = append(steps, fmt.Sprint(e.Step))
		}
	}
	if strings.Join(steps, " ") != "1 2" || tl.malformed != 1 || tl.offset != int64(len(text)) {
		t.Errorf("steps %v, %d malformed, offset %d of %d", steps, tl.malformed, tl.offset, len(text))
	}
}
