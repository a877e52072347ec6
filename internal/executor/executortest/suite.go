package executortest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tarbert/internal/executor"
)

// Harness is an executor under test. Tasks run /bin/sh and must see the files
// of the machine that runs the tests.
type Harness struct {
	Executor executor.Executor
	// Again gives another control process's view of the same tasks.
	Again func() executor.Executor
	// Local says that the tasks' pids are this machine's.
	Local bool
}

// wait bounds what should take milliseconds, on a slow machine.
const wait = 30 * time.Second

// Suite runs the conformance tests; each gets a fresh harness.
func Suite(t *testing.T, fresh func(t *testing.T) Harness) {
	for name, test := range map[string]func(*testing.T, Harness){
		"runs to the end":              testRuns,
		"starting is idempotent":       testIdempotent,
		"one name, one task":           testDifferent,
		"starts race":                  testRace,
		"no such task":                 testNoTask,
		"bad tasks are refused":        testRefused,
		"ends by signal":               testSignal,
		"cannot start":                 testCannotStart,
		"stop asks first":              testStopAsks,
		"stop insists":                 testStopInsists,
		"stop reaches everything":      testStopReaches,
		"stop before start":            testStopTwice,
		"stop ends a stopped process":  testStopStopped,
		"the end is everyone's end":    testEndOfAll,
		"watch ends with its context":  testWatchContext,
		"the control process returns":  testAgain,
		"a lease runs out":             testLeaseRunsOut,
		"a watched lease does not":     testLeaseIsKept,
		"environment and folder":       testEnvironment,
		"logs while running":           testLogsWhileRunning,
		"many watchers, one exit code": testManyWatchers,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, fresh(t))
		})
	}
}

func shell(name, script string) executor.Task {
	return executor.Task{Name: name, Argv: []string{"/bin/sh", "-c", script}}
}

func start(t *testing.T, ex executor.Executor, task executor.Task) {
	t.Helper()
	if err := ex.Start(t.Context(), task); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		defer cancel()
		if err := ex.Stop(ctx, task.Name, 0); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
}

// until watches until ok, and gives that status.
func until(t *testing.T, ex executor.Executor, name string, ok func(executor.Status) bool) executor.Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	var last executor.Status
	for st, err := range ex.Watch(ctx, name) {
		if err != nil {
			t.Fatal(err)
		}
		if last = st; ok(st) {
			return st
		}
	}
	t.Fatalf("task %s never got there; last seen %+v", name, last)
	return last
}

func exited(st executor.Status) bool  { return st.State == executor.Exited }
func running(st executor.Status) bool { return st.State == executor.Running }

// eventually polls a condition on the outside world.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("never: %s", what)
		case <-tick.C:
		}
	}
}

func content(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// gone reports whether the process whose pid a task wrote to path has ended.
func gone(t *testing.T, path string) bool {
	t.Helper()
	pid, err := strconv.Atoi(content(path))
	if err != nil {
		t.Fatalf("pid in %s: %v", path, err)
	}
	return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

func logs(t *testing.T, ex executor.Executor, name string) string {
	t.Helper()
	var b bytes.Buffer
	if err := ex.Logs(t.Context(), name, &b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func testRuns(t *testing.T, h Harness) {
	task := shell("runs", "echo out; echo err >&2; exit 7")
	task.Labels = map[string]string{"url": "http://127.0.0.1:1"}
	start(t, h.Executor, task)
	st := until(t, h.Executor, "runs", exited)
	if st.ExitCode != 7 || st.Signal != "" || st.Name != "runs" || st.Ended.IsZero() || st.Started.After(st.Ended) {
		t.Errorf("status %+v, want exit code 7 and times in order", st)
	}
	if d := cmp.Diff(task.Labels, st.Labels); d != "" {
		t.Error(d)
	}
	if got := logs(t, h.Executor, "runs"); got != "out\nerr\n" {
		t.Errorf("logs %q", got)
	}
}

func testIdempotent(t *testing.T, h Harness) {
	mark := filepath.Join(t.TempDir(), "mark")
	task := shell("idem", "echo x >> "+mark+"; while [ ! -e "+mark+".go ]; do sleep 0.01; done; exit 3")
	start(t, h.Executor, task)
	for range 2 {
		if err := h.Executor.Start(t.Context(), task); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "task has begun", func() bool { return content(mark) != "" })
	if err := os.WriteFile(mark+".go", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	until(t, h.Executor, "idem", exited)
	if err := h.Executor.Start(t.Context(), task); err != nil {
		t.Fatal(err)
	}
	if st := until(t, h.Executor, "idem", exited); st.ExitCode != 3 {
		t.Errorf("status %+v, want the first run's", st)
	}
	if got := content(mark); got != "x" {
		t.Errorf("the task ran %d times", strings.Count(got, "x"))
	}
}

func testDifferent(t *testing.T, h Harness) {
	base := shell("one", "exit 0")
	base.Env = []string{"A=1"}
	start(t, h.Executor, base)
	for what, change := range map[string]func(*executor.Task){
		"argv": func(o *executor.Task) { o.Argv = []string{"/bin/sh", "-c", "exit 1"} },
		"env":  func(o *executor.Task) { o.Env = []string{"A=2"} },
		"dir":  func(o *executor.Task) { o.Dir = "/" },
	} {
		other := base
		other.Argv = slices.Clone(base.Argv)
		change(&other)
		if err := h.Executor.Start(t.Context(), other); !errors.Is(err, executor.ErrDifferent) {
			t.Errorf("other %s: err = %v, want ErrDifferent", what, err)
		}
	}
	relabelled := base
	relabelled.Labels = map[string]string{"k": "v"}
	if err := h.Executor.Start(t.Context(), relabelled); err != nil {
		t.Errorf("other labels: %v; labels are not identity", err)
	}
}

func testRace(t *testing.T, h Harness) {
	mark := filepath.Join(t.TempDir(), "mark")
	task := shell("race", "echo x >> "+mark)
	executors := []executor.Executor{h.Executor, h.Again(), h.Again()}
	var wg sync.WaitGroup
	errs := make([]error, 12)
	for i := range errs {
		wg.Go(func() { errs[i] = executors[i%len(executors)].Start(t.Context(), task) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	start(t, h.Executor, task)
	until(t, h.Executor, "race", exited)
	if got := content(mark); got != "x" {
		t.Errorf("the task ran %d times", strings.Count(got, "x"))
	}
}

func testNoTask(t *testing.T, h Harness) {
	var got error
	for _, err := range h.Executor.Watch(t.Context(), "nobody") {
		got = err
	}
	if !errors.Is(got, executor.ErrNoTask) {
		t.Errorf("Watch: %v, want ErrNoTask", got)
	}
	if err := h.Executor.Logs(t.Context(), "nobody", &bytes.Buffer{}); !errors.Is(err, executor.ErrNoTask) {
		t.Errorf("Logs: %v, want ErrNoTask", err)
	}
	if err := h.Executor.Stop(t.Context(), "nobody", 0); !errors.Is(err, executor.ErrNoTask) {
		t.Errorf("Stop: %v, want ErrNoTask", err)
	}
}

func testRefused(t *testing.T, h Harness) {
	for _, name := range []string{"", "../up", "a/b", "Upper", "-dash", ".", "a b"} {
		if err := h.Executor.Start(t.Context(), shell(name, "true")); err == nil {
			t.Errorf("name %q was accepted", name)
		}
	}
	if err := h.Executor.Start(t.Context(), executor.Task{Name: "empty"}); err == nil {
		t.Error("a task without a command was accepted")
	}
}

func testSignal(t *testing.T, h Harness) {
	start(t, h.Executor, shell("signal", "kill -9 $$"))
	if st := until(t, h.Executor, "signal", exited); st.ExitCode != -1 || st.Signal != "killed" {
		t.Errorf("status %+v, want -1 and killed", st)
	}
}

func testCannotStart(t *testing.T, h Harness) {
	start(t, h.Executor, executor.Task{Name: "missing", Argv: []string{"/no/such/program"}})
	st := until(t, h.Executor, "missing", exited)
	if st.ExitCode == 0 || !strings.Contains(st.Reason, "/no/such/program") {
		t.Errorf("status %+v, want a reason that names the program", st)
	}
}

func testStopAsks(t *testing.T, h Harness) {
	mark := filepath.Join(t.TempDir(), "mark")
	start(t, h.Executor, shell("asks", "trap 'echo asked > "+mark+"; exit 5' TERM; echo up > "+mark+".up; while :; do sleep 0.01; done"))
	eventually(t, "task is up", func() bool { return content(mark+".up") != "" })
	if err := h.Executor.Stop(t.Context(), "asks", wait); err != nil {
		t.Fatal(err)
	}
	if got := content(mark); got != "asked" {
		t.Errorf("the task's handler wrote %q", got)
	}
	if st := until(t, h.Executor, "asks", exited); st.ExitCode != 5 || st.Reason == "" {
		t.Errorf("status %+v, want exit code 5 and a reason", st)
	}
}

func testStopInsists(t *testing.T, h Harness) {
	mark := filepath.Join(t.TempDir(), "mark")
	start(t, h.Executor, shell("insists", "trap '' TERM; echo up > "+mark+"; while :; do sleep 0.01; done"))
	eventually(t, "task is up", func() bool { return content(mark) != "" })
	if err := h.Executor.Stop(t.Context(), "insists", 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if st := until(t, h.Executor, "insists", exited); st.Signal != "killed" {
		t.Errorf("status %+v, want killed", st)
	}
}

// family is a script whose grandchildren ignore SIGTERM and leave its group,
// one of them with a cleaned environment; their pids go to dir.
func family(dir string) string {
	loop := `trap "" TERM; echo $$ > DIR/FILE; while :; do sleep 0.05; done`
	in := func(file string) string {
		return "'" + strings.NewReplacer("DIR", dir, "FILE", file).Replace(loop) + "'"
	}
	return "sh -c " + in("same") + " & " +
		"setsid sh -c " + in("session") + " & " +
		"env -i PATH=\"$PATH\" setsid setsid sh -c " + in("clean") + " & "
}

func familyUp(dir string) func() bool {
	return func() bool {
		return content(filepath.Join(dir, "same")) != "" && content(filepath.Join(dir, "session")) != "" && content(filepath.Join(dir, "clean")) != ""
	}
}

func familyGone(t *testing.T, dir string) {
	t.Helper()
	for _, who := range []string{"same", "session", "clean"} {
		if !gone(t, filepath.Join(dir, who)) {
			t.Errorf("the grandchild %q is still there", who)
		}
	}
}

func testStopReaches(t *testing.T, h Harness) {
	if !h.Local {
		t.Skip("needs the tasks' pids")
	}
	dir := t.TempDir()
	start(t, h.Executor, shell("reach", family(dir)+"wait"))
	eventually(t, "family is up", familyUp(dir))
	if err := h.Executor.Stop(t.Context(), "reach", 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	familyGone(t, dir)
}

func testEndOfAll(t *testing.T, h Harness) {
	if !h.Local {
		t.Skip("needs the tasks' pids")
	}
	dir := t.TempDir()
	start(t, h.Executor, shell("end", family(dir)+"while [ ! -e "+dir+"/go ]; do sleep 0.01; done; exit 4"))
	eventually(t, "family is up", familyUp(dir))
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if st := until(t, h.Executor, "end", exited); st.ExitCode != 4 {
		t.Errorf("status %+v, want the task's own exit code", st)
	}
	familyGone(t, dir)
}

func testStopTwice(t *testing.T, h Harness) {
	start(t, h.Executor, shell("twice", "sleep 1000"))
	until(t, h.Executor, "twice", running)
	for range 2 {
		if err := h.Executor.Stop(t.Context(), "twice", time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Again().Start(t.Context(), shell("twice", "sleep 1000")); err != nil {
		t.Fatal(err)
	}
	if st := until(t, h.Executor, "twice", exited); st.State != executor.Exited {
		t.Errorf("a stopped task came back: %+v", st)
	}
}

func testStopStopped(t *testing.T, h Harness) {
	start(t, h.Executor, shell("frozen", "kill -STOP $$; sleep 1000"))
	until(t, h.Executor, "frozen", running)
	if err := h.Executor.Stop(t.Context(), "frozen", 0); err != nil {
		t.Fatal(err)
	}
	until(t, h.Executor, "frozen", exited)
}

func testWatchContext(t *testing.T, h Harness) {
	start(t, h.Executor, shell("ctx", "sleep 1000"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for st, err := range h.Executor.Watch(ctx, "ctx") {
		if err != nil {
			t.Fatal(err)
		}
		if running(st) {
			cancel()
		}
	}
	if ctx.Err() == nil {
		t.Error("Watch ended before its context and before the task")
	}
}

func testAgain(t *testing.T, h Harness) {
	mark := filepath.Join(t.TempDir(), "mark")
	task := shell("again", "echo x >> "+mark+"; while [ ! -e "+mark+".go ]; do sleep 0.01; done; exit 9")
	start(t, h.Executor, task)
	first := until(t, h.Executor, "again", running)
	other := h.Again()
	if err := other.Start(t.Context(), task); err != nil {
		t.Fatal(err)
	}
	if st := until(t, other, "again", running); st.Pid != first.Pid {
		t.Errorf("pid %d after re-attaching, %d before", st.Pid, first.Pid)
	}
	if err := os.WriteFile(mark+".go", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if st := until(t, other, "again", exited); st.ExitCode != 9 {
		t.Errorf("status %+v, want exit code 9", st)
	}
}

func testLeaseRunsOut(t *testing.T, h Harness) {
	mark := filepath.Join(t.TempDir(), "pid")
	task := shell("lease", "echo $$ > "+mark+"; sleep 1000")
	task.Lease = 300 * time.Millisecond
	start(t, h.Executor, task)
	eventually(t, "task is up", func() bool { return content(mark) != "" })
	if h.Local {
		// Not Watch: that would keep the lease.
		eventually(t, "the unwatched task ends", func() bool { return gone(t, mark) })
	}
	if st := until(t, h.Executor, "lease", exited); !strings.Contains(st.Reason, "lease") {
		t.Errorf("status %+v, want the lease as the reason", st)
	}
}

func testLeaseIsKept(t *testing.T, h Harness) {
	mark := filepath.Join(t.TempDir(), "mark")
	task := shell("kept", "sleep 1.2; echo survived > "+mark+"; exit 6")
	task.Lease = 400 * time.Millisecond
	start(t, h.Executor, task)
	if st := until(t, h.Executor, "kept", exited); st.ExitCode != 6 || content(mark) != "survived" {
		t.Errorf("status %+v, file %q: a watched task must live", st, content(mark))
	}
}

func testEnvironment(t *testing.T, h Harness) {
	dir := t.TempDir()
	task := shell("env", `echo "$PWD|$GREETING|$TWICE"`)
	task.Dir, task.Env = dir, []string{"GREETING=good day", "TWICE=1", "TWICE=2"}
	start(t, h.Executor, task)
	until(t, h.Executor, "env", exited)
	if got, want := logs(t, h.Executor, "env"), dir+"|good day|2\n"; got != want {
		t.Errorf("task saw %q, want %q", got, want)
	}
}

func testLogsWhileRunning(t *testing.T, h Harness) {
	start(t, h.Executor, shell("talks", "echo early; sleep 1000"))
	eventually(t, "the log shows while the task runs", func() bool {
		return logs(t, h.Executor, "talks") == "early\n"
	})
}

func testManyWatchers(t *testing.T, h Harness) {
	mark := filepath.Join(t.TempDir(), "go")
	start(t, h.Executor, shell("many", "while [ ! -e "+mark+" ]; do sleep 0.01; done; exit 11"))
	codes := make([]int, 6)
	var wg sync.WaitGroup
	for i := range codes {
		ex := h.Executor
		if i%2 == 1 {
			ex = h.Again()
		}
		wg.Go(func() {
			for st, err := range ex.Watch(t.Context(), "many") {
				if err != nil {
					t.Error(err)
				}
				if exited(st) {
					codes[i] = st.ExitCode
				}
			}
		})
	}
	if err := os.WriteFile(mark, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if d := cmp.Diff([]int{11, 11, 11, 11, 11, 11}, codes); d != "" {
		t.Error(d)
	}
}
