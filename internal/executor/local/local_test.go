package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tarbert/internal/device"
	"tarbert/internal/executor"
	"tarbert/internal/executor/executortest"
)

// The test binary is also the shim, and the second control process.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "shim" {
		os.Exit(Shim(os.Args[2]))
	}
	if len(os.Args) == 4 && os.Args[1] == "start" { // start DIR MARK, then die without goodbye
		if err := New(os.Args[2], self(), time.Now).Start(context.Background(), markTask(os.Args[3])); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	os.Exit(m.Run())
}

func self() []string {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return []string{exe, "shim"}
}

func markTask(mark string) executor.Task {
	return executor.Task{Name: "marks", Argv: []string{"/bin/sh", "-c", "echo $$ >> " + mark + "; while [ ! -e " + mark + ".go ]; do sleep 0.01; done; exit 12"}}
}

func fresh(t *testing.T) *Executor {
	t.Helper()
	ex := New(t.TempDir(), self(), time.Now)
	ex.Interval = 10 * time.Millisecond
	return ex
}

func TestConformance(t *testing.T) {
	executortest.Suite(t, func(t *testing.T) executortest.Harness {
		ex := fresh(t)
		return executortest.Harness{
			Executor: ex, Local: true,
			Again: func() executor.Executor { return New(ex.dir, self(), time.Now) },
		}
	})
}

func start(t *testing.T, ex *Executor, name, script string) {
	t.Helper()
	if err := ex.Start(t.Context(), executor.Task{Name: name, Argv: []string{"/bin/sh", "-c", script}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ex.Stop(context.Background(), name, 0); err != nil {
			t.Error(err)
		}
	})
}

func until(t *testing.T, ex *Executor, name string, state executor.State) executor.Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for st, err := range ex.Watch(ctx, name) {
		if err != nil {
			t.Fatal(err)
		}
		if st.State == state {
			return st
		}
	}
	t.Fatalf("task %s was never %s", name, state)
	return executor.Status{}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("never: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func lines(path string) int {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	return bytes.Count(b, []byte("\n"))
}

func shimOf(t *testing.T, ex *Executor, name string) process {
	t.Helper()
	f, err := ex.folder(name)
	if err != nil {
		t.Fatal(err)
	}
	var p process
	if err := f.read("shim.json", &p); err != nil {
		t.Fatal(err)
	}
	return p
}

// A killed shim takes the child with it, is reported as an end with a reason,
// and starting again starts nothing.
func TestKilledShim(t *testing.T) {
	ex := fresh(t)
	dir := t.TempDir()
	orphan := filepath.Join(dir, "orphan")
	start(t, ex, "headless", "setsid sh -c 'echo $$ > "+orphan+"; while :; do sleep 0.05; done' & echo x >> "+dir+"/runs; while :; do sleep 0.05; done")
	child := until(t, ex, "headless", executor.Running)
	eventually(t, "the grandchild is up", func() bool { return lines(orphan) == 1 })
	killed := time.Now()
	if err := shimOf(t, ex, "headless").signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	st := until(t, ex, "headless", executor.Exited)
	if took := time.Since(killed); took > time.Second {
		t.Errorf("noticed after %v, want within a second", took)
	}
	if st.ExitCode != -1 || !strings.Contains(st.Reason, "shim") {
		t.Errorf("status %+v, want -1 and a reason that names the shim", st)
	}
	b, err := os.ReadFile(orphan)
	if err != nil {
		t.Fatal(err)
	}
	grandchild, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	for what, pid := range map[string]int{"child": child.Pid, "grandchild": grandchild} {
		// The grandchild may wait as a corpse for init.
		if st, err := readStat(pid); err == nil && st.state != 'Z' {
			t.Errorf("the %s (process %d) is still there: %c", what, pid, st.state)
		}
	}
	start(t, New(ex.dir, self(), time.Now), "headless", "setsid sh -c 'echo $$ > "+orphan+"; while :; do sleep 0.05; done' & echo x >> "+dir+"/runs; while :; do sleep 0.05; done")
	if st := until(t, ex, "headless", executor.Exited); lines(dir+"/runs") != 1 {
		t.Errorf("%d runs, status %+v", lines(dir+"/runs"), st)
	}
}

// A shim that somebody stopped (SIGSTOP) still lets its task be ended.
func TestFrozenShim(t *testing.T) {
	ex := fresh(t)
	start(t, ex, "frozen", "sleep 1000")
	until(t, ex, "frozen", executor.Running)
	if err := shimOf(t, ex, "frozen").signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := ex.Stop(t.Context(), "frozen", 0); err != nil {
		t.Fatal(err)
	}
	if st := until(t, ex, "frozen", executor.Exited); st.Reason != "stopped" {
		t.Errorf("status %+v", st)
	}
}

// The starter may die at once: the task is not its child in any way that matters.
func TestTaskOutlivesItsStarter(t *testing.T) {
	ex := fresh(t)
	mark := filepath.Join(t.TempDir(), "mark")
	cmd := exec.Command(self()[0], "start", ex.dir, mark)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err == nil || cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("starter: %v, want killed", err)
	}
	t.Cleanup(func() {
		if err := ex.Stop(context.Background(), "marks", 0); err != nil {
			t.Error(err)
		}
	})
	if err := ex.Start(t.Context(), markTask(mark)); err != nil {
		t.Fatal(err)
	}
	until(t, ex, "marks", executor.Running)
	if err := os.WriteFile(mark+".go", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if st := until(t, ex, "marks", executor.Exited); st.ExitCode != 12 || lines(mark) != 1 {
		t.Errorf("status %+v after %d runs, want 12 after one", st, lines(mark))
	}
}

// Between the intent and the fork a starter may die: the next Start completes it.
func TestIntentWithoutShimIsCompleted(t *testing.T) {
	ex := fresh(t)
	mark := filepath.Join(t.TempDir(), "mark")
	task := markTask(mark)
	f, err := ex.folder(task.Name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(string(f), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := ex.intend(f, task); err != nil {
		t.Fatal(err)
	}
	if st := until(t, ex, task.Name, executor.Pending); st.Reason == "" {
		t.Errorf("status %+v, want pending with a reason", st)
	}
	if err := os.WriteFile(mark+".go", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := ex.Start(t.Context(), task); err != nil {
		t.Fatal(err)
	}
	if st := until(t, ex, task.Name, executor.Exited); st.ExitCode != 12 {
		t.Errorf("status %+v, want 12", st)
	}
	// And one that is stopped in that state never runs.
	other := executor.Task{Name: "never", Argv: []string{"/bin/sh", "-c", "echo ran > " + mark + ".never"}}
	g, err := ex.folder(other.Name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(string(g), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := ex.intend(g, other); err != nil {
		t.Fatal(err)
	}
	if err := ex.Stop(t.Context(), other.Name, 0); err != nil {
		t.Fatal(err)
	}
	if err := ex.Start(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if st := until(t, ex, other.Name, executor.Exited); !strings.Contains(st.Reason, "before it started") || lines(mark+".never") != 0 {
		t.Errorf("status %+v, ran %d times", st, lines(mark+".never"))
	}
}

func TestBrokenShimIsAnError(t *testing.T) {
	task := executor.Task{Name: "x", Argv: []string{"true"}}
	for name, shim := range map[string][]string{
		"missing":     {"/no/such/shim"},
		"says no":     {"/bin/sh", "-c", "echo the shim cannot >&2; exit 3"},
		"says little": {"/bin/true"},
	} {
		t.Run(name, func(t *testing.T) {
			ex := New(t.TempDir(), shim, time.Now)
			err := ex.Start(t.Context(), task)
			if err == nil || !strings.Contains(err.Error(), "shim") {
				t.Fatalf("err = %v, want one about the shim", err)
			}
			if name == "says no" && !strings.Contains(err.Error(), "the shim cannot") {
				t.Errorf("%v lacks the shim's own words", err)
			}
			// Nothing ran, so a working shim may still start it.
			mended := New(ex.dir, self(), time.Now)
			if err := mended.Start(t.Context(), task); err != nil {
				t.Fatal(err)
			}
			until(t, mended, "x", executor.Exited)
		})
	}
}

func TestShimIsNotForHands(t *testing.T) {
	ex := fresh(t)
	start(t, ex, "done", "true")
	until(t, ex, "done", executor.Exited)
	f, err := ex.folder("done")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(self()[0], "shim", string(f)).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "not by hand") {
		t.Errorf("shim by hand: %v, %q", err, out)
	}
}

// Trouble in reading what happened is Unknown, and passes.
func TestUnreadableStatusIsUnknown(t *testing.T) {
	ex := fresh(t)
	start(t, ex, "blurred", "sleep 1000")
	until(t, ex, "blurred", executor.Running)
	f, err := ex.folder("blurred")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.path("exit.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if st := until(t, ex, "blurred", executor.Unknown); !strings.Contains(st.Reason, "exit.json") {
		t.Errorf("status %+v, want the file in the reason", st)
	}
	if err := os.Remove(f.path("exit.json")); err != nil {
		t.Fatal(err)
	}
	until(t, ex, "blurred", executor.Running)
}

func TestLogIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l := &logFile{path: path, limit: 1000}
	for i := range 500 {
		if _, err := fmt.Fprintf(l, "line %03d ------------\n", i); err != nil {
			t.Fatal(err)
		}
	}
	l.close()
	var b bytes.Buffer
	if err := copyLogs(path, &b); err != nil {
		t.Fatal(err)
	}
	if b.Len() > 2000 || b.Len() < 1000 {
		t.Errorf("%d bytes kept, want between one and two limits", b.Len())
	}
	if !strings.HasSuffix(b.String(), "line 499 ------------\n") {
		t.Errorf("the log ends in %q", b.String()[max(0, b.Len()-40):])
	}
	kept := strings.Split(strings.TrimSpace(b.String()), "\n")
	for i, line := range kept {
		if want := fmt.Sprintf("line %03d ------------", 500-len(kept)+i); line != want {
			t.Fatalf("line %d is %q, want %q: the tail must have no hole", i, line, want)
		}
	}
}

func TestLogSurvivesAFullDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	l := &logFile{path: filepath.Join(dir, "log"), limit: 1000}
	if n, err := l.Write([]byte("lost\n")); n != 5 || err != nil {
		t.Errorf("Write = %d, %v: the task's output must never fail", n, err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Write([]byte("kept\n")); err != nil {
		t.Fatal(err)
	}
	l.close()
	b, err := os.ReadFile(l.path)
	if err != nil || string(b) != "[5 bytes of output were lost here]\nkept\n" {
		t.Errorf("log %q, %v", b, err)
	}
}

type vendor struct {
	name  device.Vendor
	found []device.Device
	err   error
}

func (v vendor) Vendor() device.Vendor                           { return v.name }
func (v vendor) Detect(context.Context) ([]device.Device, error) { return v.found, v.err }
func (v vendor) Sample(context.Context, []string) ([]device.Sample, error) {
	return nil, errors.New("not asked")
}
func (v vendor) Env([]device.Device) []string { return nil }

func TestNodesSaysWhatIsAbsent(t *testing.T) {
	ex := New(t.TempDir(), self(), time.Now,
		vendor{name: device.CPU, found: []device.Device{{ID: "cpu", Vendor: device.CPU}}},
		vendor{name: device.NVIDIA, err: fmt.Errorf("nvidia-smi not found in PATH: %w", device.ErrAbsent)})
	nodes, err := ex.Nodes(t.Context())
	if err != nil || len(nodes) != 1 {
		t.Fatalf("%d nodes, %v", len(nodes), err)
	}
	n := nodes[0]
	if len(n.Devices) != 1 || n.Devices[0].ID != "cpu" || !strings.Contains(n.Absent[device.NVIDIA], "nvidia-smi not found") {
		t.Errorf("node %+v", n)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("42 (a) b) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2"))
	f.Add([]byte("1 (x) R"))
	f.Add([]byte(")("))
	f.Fuzz(func(t *testing.T, b []byte) {
		st, err := parseStat(b)
		if err == nil && (st.pid == 0 && !bytes.Contains(b, []byte("0"))) {
			t.Errorf("parseStat(%q) = %+v", b, st)
		}
	})
}

func TestParseStatWithHostileName(t *testing.T) {
	st, err := parseStat([]byte("42 (a) R 7 (b) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2"))
	if want := (stat{pid: 42, parent: 1, state: 'S', start: 98765}); err != nil || st != want {
		t.Errorf("parseStat = %+v, %v; want %+v", st, err, want)
	}
}
