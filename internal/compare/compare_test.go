package compare

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tarbert/internal/gate"
	"tarbert/internal/progress"
	"tarbert/internal/spec"
)

// problemsFile has n problems "i+1=" with the answer i+1.
func problemsFile(t *testing.T, n int) string {
	t.Helper()
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"id":"h%d","prompt":"%d+1=","answer":"%d"}`+"\n", i, i, i+1)
	}
	path := filepath.Join(t.TempDir(), "held-out.jsonl")
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// solver answers problem i right unless wrong(i, greedy) says so.
func solver(name string, wrong func(i int, greedy bool) bool) Candidate {
	return Candidate{Name: name, Complete: func(_ context.Context, prompt string, s Sampling) (Completion, error) {
		var i int
		if _, err := fmt.Sscanf(prompt, "%d+1=", &i); err != nil {
			return Completion{}, err
		}
		if wrong(i, s.Temperature == 0) {
			return Completion{Text: "<think>hm", Truncated: true}, nil
		}
		return Completion{Text: fmt.Sprintf("<think>%d+1=%d;</think>%d", i, i+1, i+1)}, nil
	}}
}

func below(n int) func(int, bool) bool { return func(i int, _ bool) bool { return i < n } }

func input(t *testing.T, n int, candidates ...Candidate) Input {
	t.Helper()
	return Input{
		Spec: spec.Compare{Problems: problemsFile(t, n), Reward: "answer", NonInferiority: 0.05, MaxTokens: 32},
		Seed: 1, Candidates: candidates, OutDir: filepath.Join(t.TempDir(), "out"),
	}
}

func TestScores(t *testing.T) {
	in := input(t, 100,
		solver("w8a8", func(i int, greedy bool) bool { return i < 10 || !greedy && i < 30 }),
		solver("f32", below(12)),
		solver("sft", func(i int, _ bool) bool { return i%2 == 0 }),
	)
	var last atomic.Pointer[progress.Update]
	in.Progress = func(u progress.Update) { last.Store(&u) }
	r, err := Run(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	c := r.Candidates[0]
	if c.Greedy.Value != 0.9 || c.Greedy.Hits != 90 || c.Greedy.Of != 100 || c.Pass1.Value != 0.7 || c.Thinks.Value != 0.7 || c.GreedyThinks.Value != 0.9 {
		t.Errorf("greedy %+v, pass@1 %+v, thinks %+v", c.Greedy, c.Pass1, c.Thinks)
	}
	if c.Truncated.Hits != 40 || c.Truncated.Of != 200 || c.Failures != 0 {
		t.Errorf("truncated %+v, failures %d", c.Truncated, c.Failures)
	}
	if !(c.Greedy.Low < 0.9 && c.Greedy.High > 0.9) {
		t.Errorf("interval %+v", c.Greedy)
	}
	want := Difference{Problems: 100, Both: 88, OnlyA: 2, OnlyB: 0, Neither: 10, Value: 0.02, P: 0.5}
	got := *r.Pairs[0].Greedy
	got.Low, got.High, got.Bound, got.Detectable = 0, 0, 0, 0
	if diff := cmp.Diff(want, got); diff != "" || r.Pairs[0].B != "f32" {
		t.Errorf("pair with %s (-want +got):\n%s", r.Pairs[0].B, diff)
	}
	if !r.Gate.Passed() || r.Baseline != "f32" {
		t.Errorf("baseline %s, %s: %s", r.Baseline, r.Gate.Verdict, r.Gate.Reason)
	}
	if u := last.Load(); u == nil || u.Total != 600 || u.Unit != "answers" {
		t.Errorf("last progress %+v", u)
	}
	checkOutcomes(t, r)
}

func checkOutcomes(t *testing.T, r *Report) {
	t.Helper()
	f, err := os.Open(r.Outcomes)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines, right := 0, 0
	for sc := bufio.NewScanner(f); sc.Scan(); lines++ {
		var l struct {
			ID       string
			Answer   string
			Outcomes []struct {
				Candidate       string
				Greedy, Sampled struct{ Text, Failure string }
			}
		}
		if err := json.Unmarshal(sc.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		if len(l.Outcomes) != len(r.Candidates) {
			t.Fatalf("%s has %d outcomes", l.ID, len(l.Outcomes))
		}
		if strings.HasSuffix(l.Outcomes[0].Greedy.Text, "</think>"+l.Answer) {
			right++
		}
	}
	if lines != r.Problems || right != r.Candidates[0].Greedy.Hits {
		t.Errorf("%d lines with %d right, the report says %d and %d", lines, right, r.Problems, r.Candidates[0].Greedy.Hits)
	}
}

func TestGate(t *testing.T) {
	for _, c := range []struct {
		name     string
		problems int
		released func(int, bool) bool
		baseline func(int, bool) bool
		want     gate.Verdict
		reason   string
	}{
		{"as good", 200, below(10), below(10), gate.Pass, ""},
		{"better", 200, below(0), below(30), gate.Pass, ""},
		{"a little worse, within the margin", 200, below(13), below(10), gate.Pass, ""},
		{"much worse", 200, below(60), below(10), gate.Fail, "−0.25"},
		{"too few problems to tell", 20, below(1), below(1), gate.Inconclusive, "more held-out problems"},
		{"worse, but within the margin only by luck", 200, below(18), below(10), gate.Inconclusive, "more held-out problems"},
		{"sampled answers do not decide", 200, func(_ int, greedy bool) bool { return !greedy }, below(0), gate.Pass, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := Run(t.Context(), input(t, c.problems, solver("released", c.released), solver("f32", c.baseline)))
			if err != nil {
				t.Fatal(err)
			}
			if r.Gate.Verdict != c.want || !strings.Contains(strings.ReplaceAll(r.Gate.Reason, "-0.25", "−0.25"), c.reason) {
				t.Errorf("%s: %s", r.Gate.Verdict, r.Gate.Reason)
			}
		})
	}
}

// A question that could not be asked is not a wrong answer, and the gate waits for it.
func TestFailuresAreNotWrongAnswers(t *testing.T) {
	flaky := solver("released", below(0))
	right := flaky.Complete
	flaky.Complete = func(ctx context.Context, prompt string, s Sampling) (Completion, error) {
		if prompt == "7+1=" && s.Temperature == 0 {
			return Completion{}, errors.New("connection refused")
		}
		return right(ctx, prompt, s)
	}
	r, err := Run(t.Context(), input(t, 200, flaky, solver("f32", below(0))))
	if err != nil {
		t.Fatal(err)
	}
	c := r.Candidates[0]
	if c.Failures != 1 || c.Greedy.Of != 199 || c.Greedy.Value != 1 || c.FirstFailure != "connection refused" {
		t.Errorf("%+v, greedy %+v", c, c.Greedy)
	}
	if r.Pairs[0].Greedy.Problems != 199 || r.Gate.Verdict != gate.Inconclusive || !strings.Contains(r.Gate.Reason, "connection refused") {
		t.Errorf("%s: %s", r.Gate.Verdict, r.Gate.Reason)
	}
}

// An engine that is gone is not asked a thousand times.
func TestGivesUpOnADeadCandidate(t *testing.T) {
	var asked atomic.Int32
	dead := Candidate{Name: "released", Complete: func(context.Context, string, Sampling) (Completion, error) {
		asked.Add(1)
		return Completion{}, errors.New("no route to host")
	}}
	in := input(t, 500, dead, solver("f32", below(0)))
	in.Parallel = 4
	r, err := Run(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if n := asked.Load(); n < giveUp || n > giveUp+4 {
		t.Errorf("asked %d times", n)
	}
	c := r.Candidates[0]
	if c.Failures != 1000 || c.Greedy != nil || r.Pairs[0].Greedy != nil || r.Gate.Verdict != gate.Inconclusive {
		t.Errorf("%d failures, greedy %v, %s", c.Failures, c.Greedy, r.Gate.Verdict)
	}
	if b, err := json.Marshal(r); err != nil || !json.Valid(b) {
		t.Errorf("report: %v", err)
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	stuck := Candidate{Name: "released", Complete: func(ctx context.Context, _ string, _ Sampling) (Completion, error) {
		cancel()
		<-ctx.Done()
		return Completion{}, ctx.Err()
	}}
	in := input(t, 50, stuck, solver("f32", below(0)))
	if _, err := Run(ctx, in); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want canceled", err)
	}
	if _, err := os.Stat(in.OutDir); !os.IsNotExist(err) {
		t.Error("a cancelled run left outcomes")
	}
}

// Candidates share a problem's seed; problems do not; the order of the file does not matter.
func TestSeeds(t *testing.T) {
	seen := map[int64]string{}
	for _, id := range []string{"a", "b", "ab", "", "h0001"} {
		for _, seed := range []uint64{0, 1, math.MaxUint64} {
			s, key := seedOf(seed, id), fmt.Sprint(seed, id)
			if other, dup := seen[s]; s < 0 || dup {
				t.Errorf("seed %d of %s (as %s)", s, key, other)
			}
			seen[s] = key
		}
	}
	type asked struct {
		prompt string
		s      Sampling
	}
	record := func(into chan<- asked) Candidate {
		return Candidate{Complete: func(_ context.Context, prompt string, s Sampling) (Completion, error) {
			into <- asked{prompt, s}
			return Completion{Text: "1"}, nil
		}}
	}
	channels := [2]chan asked{make(chan asked, 20), make(chan asked, 20)}
	a, b := record(channels[0]), record(channels[1])
	a.Name, b.Name = "a", "b"
	in := input(t, 10, a, b)
	in.Parallel = 1 // so that the order is the file's
	if _, err := Run(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		x, y := <-channels[0], <-channels[1]
		if x != y || x.s.MaxTokens != 32 || x.s.Temperature != 0 && x.s.Temperature != 1 {
			t.Errorf("asked %+v and %+v", x, y)
		}
	}
}

func TestBadInput(t *testing.T) {
	a, b := solver("a", below(0)), solver("b", below(0))
	for _, c := range []struct {
		name string
		edit func(*Input)
		want string
	}{
		{"one candidate", func(in *Input) { in.Candidates = in.Candidates[:1] }, "at least two"},
		{"same name", func(in *Input) { in.Candidates[1].Name = "a" }, "different names"},
		{"no such baseline", func(in *Input) { in.Baseline = "f64" }, `baseline "f64"`},
		{"the released model as its own baseline", func(in *Input) { in.Baseline = "a" }, `baseline "a"`},
		{"no problems", func(in *Input) { in.Spec.Problems += "x" }, "no such file"},
		{"no such checker", func(in *Input) { in.Spec.Reward = "vibes" }, `"vibes"`},
	} {
		in := input(t, 5, a, b)
		c.edit(&in)
		if _, err := Run(t.Context(), in); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}
