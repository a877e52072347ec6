package executortest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarbert/internal/executor"
)

func states(t *testing.T, f *Fake, name string) []executor.State {
	t.Helper()
	var got []executor.State
	for st, err := range f.Watch(t.Context(), name) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, st.State)
	}
	return got
}

func TestFakeDoesAsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFake(time.Now)
		broken := errors.New("no room")
		f.On("refused", Behaviour{StartError: broken})
		f.On("blind", Behaviour{Unknown: 25, ExitCode: 4})
		f.On("hangs", Behaviour{Hang: true})
		f.On("works", Behaviour{Body: func(ctx context.Context, task executor.Task, log io.Writer) int {
			_, _ = io.WriteString(log, "hello from "+task.Name)
			return 8
		}})
		if err := f.Start(t.Context(), executor.Task{Name: "refused"}); !errors.Is(err, broken) {
			t.Errorf("Start = %v, want the error asked for", err)
		}
		for _, n := range []string{"blind", "hangs", "works", "works"} {
			if err := f.Start(t.Context(), executor.Task{Name: n}); err != nil {
				t.Fatal(err)
			}
		}
		if want := []string{"blind", "hangs", "works"}; !slices.Equal(f.Started(), want) {
			t.Errorf("started %v, want %v", f.Started(), want)
		}
		synctest.Wait()
		got := states(t, f, "blind")
		if len(got) != 26 || got[24] != executor.Unknown || got[25] != executor.Exited {
			t.Errorf("states %v, want 25 unknown and exited", got)
		}
		if err := f.Stop(t.Context(), "hangs", 0); err != nil {
			t.Fatal(err)
		}
		if got := states(t, f, "hangs"); !slices.Equal(got, []executor.State{executor.Exited}) {
			t.Errorf("states %v, want exited", got)
		}
		var log bytes.Buffer
		if err := f.Logs(t.Context(), "works", &log); err != nil || log.String() != "hello from works" {
			t.Errorf("logs %q, %v", log.String(), err)
		}
		if err := f.Start(t.Context(), executor.Task{Name: "works", Dir: "/"}); !errors.Is(err, executor.ErrDifferent) {
			t.Errorf("Start = %v, want ErrDifferent", err)
		}
		if err := f.Stop(t.Context(), "nobody", 0); !errors.Is(err, executor.ErrNoTask) {
			t.Errorf("Stop = %v, want ErrNoTask", err)
		}
	})
}
