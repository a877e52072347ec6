package trainer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"tarbert/internal/checkpoint"
)

// TestProcess is not a test: it is the trainer as a process of its own, which
// the tests below kill.
func TestProcess(t *testing.T) {
	if os.Getenv("TARBERT_TEST_TRAINER") == "" {
		t.Skip("the tests below start it")
	}
	err := Run(t.Context(), Env{Events: os.Getenv("TARBERT_EVENTS"), Checkpoints: os.Getenv("TARBERT_CHECKPOINTS"),
		Resume: os.Getenv("TARBERT_RESUME"), Recipe: os.Getenv("TARBERT_RECIPE")})
	if err != nil {
		t.Fatal(err)
	}
}

// runKilled trains in processes of which each is killed once it has written so
// many lines of events as next says (0: never), until one is done.
func (f *fixture) runKilled(name string, next func() int) (kills int) {
	f.t.Helper()
	b, err := json.Marshal(f.recipe)
	if err != nil {
		f.t.Fatal(err)
	}
	f.write("recipe.json", b)
	root := filepath.Join(f.dir, name)
	for {
		resume, _, err := checkpoint.Newest(root)
		if err != nil {
			f.t.Fatal(err)
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestProcess$")
		cmd.Env = append(os.Environ(), "TARBERT_TEST_TRAINER=1", "TARBERT_EVENTS="+f.events(name), "TARBERT_CHECKPOINTS="+root,
			"TARBERT_RESUME="+resume, "TARBERT_RECIPE="+filepath.Join(f.dir, "recipe.json"))
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		before := f.eventLines(name)
		if err := cmd.Start(); err != nil {
			f.t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		killed, err := f.killAfter(cmd, ended, name, before, next())
		switch {
		case killed:
			kills++
		case err != nil:
			f.t.Fatalf("the trainer ended by itself: %v\n%s", err, out.String())
		default:
			return kills
		}
	}
}

// killAfter waits for the process to end, or kills it once the events file has
// grown by so many lines.
func (f *fixture) killAfter(cmd *exec.Cmd, ended <-chan error, name string, before, lines int) (killed bool, err error) {
	f.t.Helper()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for {
		select {
		case err := <-ended:
			return false, err
		case <-poll.C:
			if lines > 0 && f.eventLines(name) >= before+lines {
				if err := cmd.Process.Kill(); err != nil {
					return false, <-ended // it was faster
				}
				err := <-ended
				return err != nil, err
			}
		}
	}
}

func (f *fixture) eventLines(name string) int {
	b, err := os.ReadFile(f.events(name))
	if err != nil {
		return 0
	}
	return bytes.Count(b, []byte("\n"))
}

// TestKilledRunsEndInTheSameBits kills the trainer's process four times where
// it happens to be and lets the next one go on from the newest checkpoint that
// verifies.
func TestKilledRunsEndInTheSameBits(t *testing.T) {
	f := newFixture(t)
	f.recipe.Options = everyOption
	killAtRandomPoints(t, f, 4, 10)
}

// TestSoakKilledTwentyTimes does so on a longer run, with both z-losses,
// quantised rollouts, importance sampling and routing replay.
func TestSoakKilledTwentyTimes(t *testing.T) {
	if os.Getenv("TARBERT_SOAK") == "" {
		t.Skip("a minute; make soak runs it")
	}
	f := newFixture(t)
	f.recipe.Options = everyOption
	f.recipe.Train.SFT.Steps, f.recipe.Train.GRPO.Steps = 100, 100
	var problems []byte
	for i := range 300 {
		problems = fmt.Appendf(problems, "{\"id\":\"p%d\",\"prompt\":\"%d=\",\"answer\":\"%d\"}\n", i, i%5, i%5)
	}
	f.write("problems.jsonl", problems)
	killAtRandomPoints(t, f, 20, 60)
}

func killAtRandomPoints(t *testing.T, f *fixture, kills, within int) {
	t.Helper()
	if err := f.run("whole", "", 0); err != nil {
		t.Fatal(err)
	}
	last := f.recipe.Steps()
	want := files(t, f.step("whole", last))
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	left := kills
	got := f.runKilled("killed", func() int {
		if left == 0 {
			return 0
		}
		left--
		return 1 + r.IntN(within)
	})
	t.Logf("killed %d times", got)
	if got == 0 {
		t.Error("every process ended before it was killed")
	}
	if !maps.Equal(files(t, f.step("killed", last)), want) {
		t.Errorf("killed %d times, the run ends in other bytes", got)
	}
}
