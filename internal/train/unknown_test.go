package train

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tarbert/internal/executor"
	"tarbert/internal/executor/executortest"
	"tarbert/internal/store"
)

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
