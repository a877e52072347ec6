package train

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tarbert/internal/executor/local"
	"tarbert/internal/gate"
	"tarbert/internal/spec"
	"tarbert/internal/store"
	"tarbert/internal/tensor"
)

// groupInput is a run of the group trainer in dir.
func groupInput(dir string, p groupPlan) (Input, error) {
	if p.Ranks == 0 {
		p.Ranks = 3
	}
	if p.Pace == 0 {
		p.Pace = 2 * time.Millisecond
	}
	b, err := json.Marshal(p)
	if err != nil {
		return Input{}, err
	}
	if err := os.WriteFile(filepath.Join(dir, "plan.json"), b, 0o644); err != nil {
		return Input{}, err
	}
	return groupInputHere(dir), nil
}

// groupInputHere takes the plan that is there.
func groupInputHere(dir string) Input {
	var r spec.Recipe
	r.Train.SFT.Steps, r.Train.Checkpoint.Every, r.Train.Checkpoint.Keep, r.Train.Restarts = groupSteps, groupEvery, 3, 3
	ex := local.New(filepath.Join(dir, "tasks"), self("shim"), time.Now)
	ex.Interval = 5 * time.Millisecond
	return Input{
		Release: "g-1", Recipe: r, Dir: filepath.Join(dir, "stage"), Now: time.Now, Poll: 5 * time.Millisecond,
		Pool:   Pool{Name: "a", Argv: self("group", dir), Executor: ex, Price: 2},
		Limits: Limits{Floor: 1500 * time.Millisecond, Unit: 1500 * time.Millisecond, First: 20 * time.Second}, wide: 5,
	}
}

// twin is what an undisturbed run ends with, computed here.
func twin(p groupPlan) []byte {
	w := make([]float64, groupWidth)
	for i := range w {
		w[i] = 1 + float64(i)/groupWidth
	}
	ranks := max(p.Ranks, 1)
	if p.Ranks == 0 {
		ranks = 3
	}
	scale := 0.2
	for s := 1; s <= groupSteps; s++ {
		if slices.Contains(p.Skip, s) {
			continue
		}
		for i := range w {
			g := 0.0
			for r := range ranks {
				g += gradient(p.Seed, s, r, i, w[i])
			}
			w[i] -= scale * g / float64(ranks)
		}
	}
	b := make([]byte, 8*groupWidth)
	for i, x := range w {
		binary.LittleEndian.PutUint64(b[8*i:], math.Float64bits(x))
	}
	return b
}

func finalWeights(r *Report) ([]byte, error) {
	d, err := tensor.OpenDir(r.Final)
	if err != nil {
		return nil, err
	}
	b, err := d.Bytes("w")
	return b, errors.Join(err, d.Close())
}

func readTruth(dir string) ([]truth, error) {
	b, err := os.ReadFile(filepath.Join(dir, "truth.jsonl"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []truth
	for line := range bytes.Lines(b) {
		var x truth
		if err := json.Unmarshal(line, &x); err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, err
}

// scenario is a row of the matrix.
type scenario struct {
	row   int
	name  string
	plan  groupPlan
	setup func(*testing.T, string, *Input)
	ends  []Outcome                         // of the attempts, in order
	stops string                            // instead of a result: the gate's reason has it
	alarm string                            // an alarm of this kind is there
	skip  []int                             // steps that the supervisor asks to be left out: the twin does as well
	other bool                              // the final weights are not the twin's, by design
	check func(*testing.T, string, *Report) // what else must hold
}

func one(kind string, step, rank int) groupPlan {
	return groupPlan{Faults: []planted{{Kind: kind, Step: step, Rank: rank, Times: 1}}}
}

func with(p groupPlan, more ...planted) groupPlan {
	p.Faults = append(slices.Clone(p.Faults), more...)
	return p
}

// skipped expects a reason among the checkpoints passed over.
func skipped(reasons ...string) func(*testing.T, string, *Report) {
	return func(t *testing.T, _ string, r *Report) {
		var all strings.Builder
		for _, a := range r.Attempts {
			for _, s := range a.Skipped {
				all.WriteString(s.Reason + "\n")
			}
		}
		for _, want := range reasons {
			if !strings.Contains(all.String(), want) {
				t.Errorf("nothing was passed over for %q:\n%s", want, all.String())
			}
		}
	}
}

// stacked expects the stacks of a hung attempt.
func stacked(t *testing.T, _ string, r *Report) {
	b, err := os.ReadFile(r.Attempts[0].Stacks)
	if err != nil || !strings.Contains(string(b), "== process") || !strings.Contains(string(b), "thread") {
		t.Errorf("stacks %q, %v", b, err)
	}
}

// names expects the alarm of a kind to say so.
func names(kind, text string) func(*testing.T, string, *Report) {
	return func(t *testing.T, _ string, r *Report) {
		for _, a := range r.Alarms {
			if a.Kind == kind && strings.Contains(a.Text, text) {
				return
			}
		}
		t.Errorf("no alarm %q says %q: %+v", kind, text, r.Alarms)
	}
}

func scenarios() []scenario {
	hang := func(kind string, rank int) scenario {
		return scenario{row: 2, name: fmt.Sprintf("%s rank %d", kind, rank), plan: one(kind, 25, rank), ends: []Outcome{Hung, Done}, check: stacked}
	}
	var all []scenario
	for _, k := range []struct {
		kind string
		rank int
		step int
	}{{"kill", 0, 23}, {"kill", 1, 1}, {"kill", 2, 60}, {"segv", 1, 31}, {"abort", 0, 40}} {
		all = append(all, scenario{row: 1, name: fmt.Sprintf("%s rank %d at step %d", k.kind, k.rank, k.step), plan: one(k.kind, k.step, k.rank), ends: []Outcome{Crashed, Done}})
	}
	waits := planted{Kind: "waits-for-peers"}
	all = append(all,
		scenario{row: 1, name: "kill rank 1, its peers wait for it", plan: with(one("kill", 25, 1), waits), ends: []Outcome{RankLost, Done}},
		hang("stop", 0), hang("stop", 2), hang("busy", 1), hang("frozen", 0),
		scenario{row: 3, name: "one rank 10 % slow", plan: groupPlan{Faults: []planted{{Kind: "slow", Step: 5, Rank: 1, X: 1.1}}}, ends: []Outcome{Done}, alarm: alarmStraggler, check: names(alarmStraggler, "rank 1 ")},
		scenario{row: 3, name: "one rank 3 times slow", plan: groupPlan{Faults: []planted{{Kind: "slow", Step: 30, Rank: 2, X: 3}}}, ends: []Outcome{Done}, alarm: alarmStraggler, check: names(alarmStraggler, "rank 2 ")},
		scenario{row: 4, name: "disk full at a save, fatal", plan: one("file-limit", 28, 0), ends: []Outcome{Crashed, Done}, check: onlyWhole},
		scenario{row: 4, name: "disk full at a save, the trainer goes on", plan: with(one("file-limit", 18, 0), planted{Kind: "go-on"}, planted{Kind: "crash", Step: 45, Times: 1}), ends: []Outcome{Crashed, Done}, check: onlyWhole},
		scenario{row: 5, name: "truncated", plan: one("truncate", 30, 0), ends: []Outcome{Crashed, Done}, check: skipped("truncated or replaced")},
		scenario{row: 5, name: "one bit flipped", plan: one("bit-flip", 30, 0), ends: []Outcome{Crashed, Done}, check: skipped("sha256 is")},
		scenario{row: 5, name: "a file missing", plan: one("lost-shard", 30, 0), ends: []Outcome{Crashed, Done}, check: skipped("missing")},
		scenario{row: 5, name: "killed before the manifest", plan: one("half-renamed", 30, 0), ends: []Outcome{Crashed, Done}},
		scenario{row: 5, name: "of a step that nobody has done", plan: one("future", 30, 0), ends: []Outcome{Crashed, Done}, check: skipped("lies ahead of the run")},
		scenario{row: 5, name: "two bad in a row", plan: with(one("bit-flip", 30, 0), planted{Kind: "truncate", Step: 30, Times: 1}), ends: []Outcome{Crashed, Crashed, Done}, check: skipped("sha256 is", "truncated or replaced")},
		scenario{row: 6, name: "NaN on one rank, once", plan: one("nan", 25, 1), ends: []Outcome{NotFinite, Done}},
		scenario{row: 6, name: "NaN in the gradient norm only", plan: one("nan-norm", 25, 0), ends: []Outcome{NotFinite, Done}},
		scenario{row: 6, name: "NaN at the same data each time", plan: groupPlan{Faults: []planted{{Kind: "nan", Step: 25, Rank: 1}}}, ends: []Outcome{NotFinite, NotFinite, Done}, skip: []int{25}},
		scenario{row: 7, name: "loss × 10 for one step", plan: groupPlan{Faults: []planted{{Kind: "bad-batch", Step: 30}}}, ends: []Outcome{Done}, alarm: alarmSpike},
		scenario{row: 7, name: "loss that stays high", plan: groupPlan{Faults: []planted{{Kind: "spike", Step: 33}}}, ends: []Outcome{Spiked, Done}, alarm: alarmSpike, skip: []int{33}},
	)
	return append(all, moreScenarios()...)
}

func moreScenarios() []scenario {
	return []scenario{
		{row: 8, name: "25 lost polls", plan: groupPlan{}, setup: lostPolls(25), ends: []Outcome{Done}, alarm: alarmUnseen},
		{row: 9, name: "a chip falls off the bus", plan: one("chip", 25, 0), setup: chips, ends: []Outcome{ChipFailed, Done}, check: onSpare},
		{row: 9, name: "the vendor's tool loses a chip", plan: groupPlan{Pace: 8 * time.Millisecond}, setup: toolLosesChip, ends: []Outcome{ChipFailed, Done}, check: onSpare},
		{row: 9, name: "the vendor's tool hangs", plan: groupPlan{}, setup: toolHangs, ends: []Outcome{Done}, alarm: alarmDevice},
		{row: 9, name: "one fault on two chips at once", plan: one("program", 25, 0), setup: chips, stops: "the program does this"},
		{row: 10, name: "rank 0 exits 0 too early", plan: one("exit0", 25, 0), ends: []Outcome{Early, Done}},
		{row: 10, name: "another rank exits 0 too early", plan: one("exit0", 25, 2), ends: []Outcome{Crashed, Done}},
		{row: 11, name: "an orphan that ignores SIGTERM", plan: one("orphan", 25, 0), ends: []Outcome{Crashed, Done}, check: orphanGone},
		{row: 13, name: "fails at the same step always", plan: groupPlan{Faults: []planted{{Kind: "crash", Step: 25}}}, stops: "3 attempts in a row ended without a newer checkpoint"},
		{row: 13, name: "asks not to be restarted", plan: one("exit93", 25, 0), stops: "asks not to be restarted"},
		{row: 14, name: "the sampler lost its place", plan: with(one("crash", 25, 0), planted{Kind: "lost-sampler", Step: 20, Times: 1}), ends: []Outcome{Crashed, Done}, alarm: alarmData, other: true},
		{row: 14, name: "the weights are not those that were saved", plan: with(one("crash", 25, 0), planted{Kind: "wrong-weights", Step: 20, Times: 1}), ends: []Outcome{Crashed, BadResume, Done}, alarm: alarmResume},
		{row: 14, name: "no checkpoint resumes as it was", plan: with(one("crash", 25, 0), planted{Kind: "wrong-weights", Step: 20}, planted{Kind: "wrong-weights", Step: 10}), stops: "does not resume what it saves"},
		{row: 2, name: "a silent script hangs", plan: groupPlan{Silent: true, Faults: []planted{{Kind: "stop", Step: 25, Rank: 1}}}, setup: atOnce, ends: []Outcome{Hung, Hung}, stops: "1 attempts in a row", alarm: alarmDegraded},
		{row: 16, name: "killed, then NaN, then hung", plan: with(one("kill", 15, 1), planted{Kind: "nan", Step: 25, Rank: 1, Times: 1}, planted{Kind: "stop", Step: 44, Rank: 2, Times: 1}), ends: []Outcome{Crashed, NotFinite, Hung, Done}},
		{row: 16, name: "the clock jumps", plan: groupPlan{}, setup: jumpingClock, ends: []Outcome{Done}},
		{row: 16, name: "a flooded log", plan: one("flood", 25, 0), ends: []Outcome{Done}, check: boundedLog},
		{row: 16, name: "a spot notice", plan: one("spot", 25, 0), ends: []Outcome{Crashed, Done}, check: dyingGasp},
		{row: 0, name: "clean", plan: groupPlan{Seed: 1}, ends: []Outcome{Done}},
		{row: 0, name: "clean", plan: groupPlan{Seed: 2}, ends: []Outcome{Done}},
		{row: 0, name: "clean", plan: groupPlan{Seed: 3, Ranks: 1}, ends: []Outcome{Done}},
	}
}

// TestFaultMatrix injects every fault into real processes. The oracle is the
// undisturbed twin: same weights, to the bit.
func TestFaultMatrix(t *testing.T) {
	board := &scoreboard{}
	t.Run("rows", func(t *testing.T) {
		for _, sc := range scenarios() {
			t.Run(fmt.Sprintf("%d %s", sc.row, sc.name), func(t *testing.T) {
				t.Parallel()
				sc.run(t, board)
			})
		}
	})
	t.Log("\n" + board.table())
	if board.missed+board.false_ > 0 {
		t.Errorf("%d faults missed, %d restarts without one", board.missed, board.false_)
	}
}

func (sc scenario) run(t *testing.T, board *scoreboard) {
	dir := t.TempDir()
	in, err := groupInput(dir, sc.plan)
	if err != nil {
		t.Fatal(err)
	}
	if sc.setup != nil {
		sc.setup(t, dir, &in)
	}
	r := run(t, in)
	sound(t, dir, r)
	var ends []Outcome
	for _, a := range r.Attempts {
		ends = append(ends, a.Outcome)
	}
	if sc.ends != nil && !slices.Equal(ends, sc.ends) {
		t.Errorf("attempts ended %v, want %v\n%s", ends, sc.ends, r.Text())
	}
	if sc.stops != "" {
		if r.Gate.Verdict != gate.Fail || !strings.Contains(r.Gate.Reason, sc.stops) {
			t.Errorf("gate %+v, want fail with %q", r.Gate, sc.stops)
		}
	} else {
		sc.finished(t, r)
	}
	if sc.alarm != "" && !slices.ContainsFunc(r.Alarms, func(a Alarm) bool { return a.Kind == sc.alarm }) {
		t.Errorf("no alarm %q: %+v", sc.alarm, r.Alarms)
	}
	if sc.row == 0 && len(r.Alarms) > 0 {
		t.Errorf("alarms on a clean run: %+v", r.Alarms)
	}
	if sc.check != nil {
		sc.check(t, dir, r)
	}
	truths, err := readTruth(dir)
	if err != nil {
		t.Error(err)
	}
	board.score(sc, r, truths)
}

func (sc scenario) finished(t *testing.T, r *Report) {
	t.Helper()
	if r.Gate.Verdict != gate.Pass || r.Steps != groupSteps {
		t.Errorf("gate %+v at step %d\n%s", r.Gate, r.Steps, r.Text())
		return
	}
	p := sc.plan
	p.Skip = sc.skip
	got, err := finalWeights(r)
	if err != nil {
		t.Fatal(err)
	}
	if same := bytes.Equal(got, twin(p)); same == sc.other {
		t.Errorf("final weights equal to the twin's: %v, want %v", same, !sc.other)
	}
	if want := int64(64 * (groupSteps - len(sc.skip))); r.Tokens != want {
		t.Errorf("%d tokens, want %d: each step counts once", r.Tokens, want)
	}
}

// onlyWhole: no partial file was ever selected, and none of the old ones was touched.
func onlyWhole(t *testing.T, _ string, r *Report) {
	for _, a := range r.Attempts {
		if a.Resume != "" {
			if err := proveGood(a.Resume); err != nil && !errors.Is(err, fs.ErrNotExist) { // it may have been pruned since
				t.Errorf("attempt %d resumed %v", a.Number, err)
			}
		}
	}
}

// A writer that comes back from behind a partition writes into its own attempt's
// folder, and nothing of it is read.
func TestFencedWriterIsNotRead(t *testing.T) {
	dir := t.TempDir()
	in, err := groupInput(dir, one("kill", 25, 1))
	if err != nil {
		t.Fatal(err)
	}
	stale := filepath.Join(in.Dir, "checkpoints", "attempt-0001")
	planted := false
	in.written = func(p Phase) {
		if p != Ended || planted {
			return
		}
		planted = true
		// The stale writer's next checkpoint: whole, and one step past the last good one.
		g := &group{root: stale, step: 24, w: make([]float64, groupWidth), plan: groupPlan{Silent: true}}
		if err := g.save(); err != nil {
			t.Error(err)
		}
	}
	r := run(t, in)
	sound(t, dir, r)
	if r.Attempts[1].ResumeStep != 20 {
		t.Errorf("resumed from step %d, want 20", r.Attempts[1].ResumeStep)
	}
	skipped("its token is no longer valid")(t, dir, r)
	if got, err := finalWeights(r); err != nil || !bytes.Equal(got, twin(groupPlan{})) {
		t.Errorf("final weights differ from the twin's (%v)", err)
	}
}

// A folder that cannot be written is refused before anything is started.
func TestUnwritableStateIsRefused(t *testing.T) {
	dir := t.TempDir()
	in, err := groupInput(dir, groupPlan{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(in.Dir, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if r, err := Run(t.Context(), in); !errors.Is(err, store.ErrEnvironment) || r != nil {
		t.Errorf("Run = %v, %v; want the environment's error", r, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "tasks")); err == nil {
		t.Error("a task was started")
	}
}

func runGroupSupervisor(dir, killAt string) int {
	n, err := strconv.Atoi(killAt)
	if err != nil {
		return 2
	}
	in := groupInputHere(dir)
	if _, err := os.Stat(filepath.Join(dir, "fallback")); err == nil {
		withFallback(&in, dir, true)
	}
	in.written = dieAt(n)
	if _, err := Run(context.Background(), in); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// atOnce gives up after the first attempt without progress.
func atOnce(_ *testing.T, _ string, in *Input) { in.Recipe.Train.Restarts = 1 }

// A script that does not speak the contract and ends well is not called a
// success: nobody can tell what it made.
func TestSilentScriptIsInconclusive(t *testing.T) {
	dir := t.TempDir()
	in, err := groupInput(dir, groupPlan{Silent: true})
	if err != nil {
		t.Fatal(err)
	}
	in.Recipe.Train.Checkpoint.Every = 1000 // it writes none until the end, and that one is torn
	in.Pool.Argv = []string{"/bin/sh", "-c", `for i in $(seq 1 60); do echo "step: $i loss: 1.5 grad_norm: 0.3"; done`}
	r := run(t, in)
	sound(t, dir, r)
	if r.Gate.Verdict != gate.Inconclusive || !strings.Contains(r.Gate.Reason, "does not speak the contract") || !r.Attempts[0].Degraded || r.Attempts[0].LastStep != 60 {
		t.Errorf("gate %+v, attempts %+v", r.Gate, r.Attempts)
	}
}
