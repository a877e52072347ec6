package train

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tarbert/internal/checkpoint"
	"tarbert/internal/executor/executortest"
	"tarbert/internal/gate"
	"tarbert/internal/progress"
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

// A trainer that names no sections is accounted for all the same.
func TestTrainerWithoutSections(t *testing.T) {
	in, _, dir := fakeRun(t, executortest.Behaviour{})
	r := run(t, in)
	finished(t, dir, r)
	if r.Ledger.Classes[classStep] <= 0 {
		t.Errorf("ledger %v", r.Ledger.Classes)
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
