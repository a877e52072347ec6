package train

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tarbert/internal/gate"
	"tarbert/internal/plan"
)

func soakOnly(t *testing.T) {
	t.Helper()
	if os.Getenv("TARBERT_SOAK") == "" {
		t.Skip("minutes: make soak")
	}
}

// soakNumber is a number from the environment.
func soakNumber(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s=%q: %v", name, text, err)
	}
	return n
}

// A hundred clean runs: not one restart, not one alarm.
func TestSoakCleanRuns(t *testing.T) {
	soakOnly(t)
	began := time.Now()
	restarts, alarms := 0, 0
	const runs = 100
	for seed := range uint64(runs) {
		dir := t.TempDir()
		p := groupPlan{Seed: 100 + seed, Ranks: 1 + int(seed%4)}
		in, err := groupInput(dir, p)
		if err != nil {
			t.Fatal(err)
		}
		in.Limits = Limits{} // as in production
		r := run(t, in)
		sound(t, dir, r)
		scenario{plan: p}.finished(t, r)
		restarts += len(r.Attempts) - 1
		alarms += len(r.Alarms)
	}
	t.Logf("%d clean runs of %d steps in %v: %d restarts, %d alarms", runs, groupSteps, time.Since(began).Round(time.Second), restarts, alarms)
	if restarts+alarms > 0 {
		t.Error("want none")
	}
}

// traced makes a plan of faults from a stretch of a real cluster's trace,
// compressed so that it fits into a run. What broke decides what is injected.
func traced(faults []plan.Fault, rng *rand.Rand) []planted {
	const most = 5
	from := rng.IntN(len(faults) - most)
	stretch := faults[from : from+1+rng.IntN(most)]
	begin, end := faults[from].Start, faults[from+most].Start
	var out []planted
	for _, f := range stretch {
		kinds := []string{"kill", "segv", "abort", "exit0", "crash"}
		switch {
		case strings.Contains(f.Class, "Cable"), strings.Contains(f.Class, "NIC"):
			kinds = []string{"stop", "stop", "kill"} // the others wait in vain
		case strings.Contains(f.Class, "GPU"):
			kinds = []string{"kill", "nan", "segv", "bit-flip"}
		}
		p := planted{Kind: kinds[rng.IntN(len(kinds))], Rank: rng.IntN(3), Times: 1}
		p.Step = 1 + int(float64(groupSteps-1)*float64(f.Start-begin)/float64(max(end-begin, 1e-9)))
		switch p.Kind {
		case "nan":
			p.Rank = 1 + rng.IntN(2)
		case "bit-flip": // of a checkpoint
			p.Rank, p.Step = 0, max(groupEvery, p.Step/groupEvery*groupEvery)
		case "exit0", "crash":
			p.Rank = 0
		}
		out = append(out, p)
	}
	return out
}

// Faults as a real cluster had them, compressed in time, on top of supervisors
// that are killed at random writes: the weights are the twin's, whatever happens.
func TestSoakTrace(t *testing.T) {
	soakOnly(t)
	trace, _, err := plan.DefaultTrace()
	if err != nil {
		t.Fatal(err)
	}
	seed := uint64(soakNumber(t, "TARBERT_SEED", int(time.Now().UnixNano()%1e9)))
	runs := soakNumber(t, "TARBERT_SOAK_RUNS", 60)
	t.Logf("seed %d (repeat with TARBERT_SEED=%d), %d runs, %d faults in the trace", seed, seed, runs, len(trace.Faults))
	faults := slices.SortedFunc(slices.Values(trace.Faults), func(a, b plan.Fault) int {
		return int(1e6 * float64(a.Start-b.Start))
	})
	injected, restarts, killed, left := 0, 0, 0, 0
	kinds := map[string]int{}
	for n := range runs {
		rng := rand.New(rand.NewPCG(seed, uint64(n)))
		p := groupPlan{Seed: seed + uint64(n), Ranks: 3, Faults: traced(faults, rng)}
		dir := t.TempDir()
		in, err := groupInput(dir, p)
		if err != nil {
			t.Fatal(err)
		}
		in.Recipe.Train.Restarts = 20 // several may strike between two checkpoints
		if !superviseUntil(t, dir, 1+rng.IntN(12)) {
			killed++
		}
		r := run(t, in)
		sound(t, dir, r)
		truths, err := readTruth(dir)
		if err != nil {
			t.Fatal(err)
		}
		// NaN twice at the same step is answered by leaving its update out: so does the twin.
		for _, k := range r.Adjust.Skip {
			p.Skip = append(p.Skip, k[0])
			left++
		}
		got, err := finalWeights(r)
		if r.Gate.Verdict != gate.Pass || err != nil || !bytes.Equal(got, twin(p)) {
			t.Errorf("seed %d, run %d: %v, weights equal to the twin's: %v (%v)\n%+v\n%s", seed, n, r.Gate, bytes.Equal(got, twin(p)), err, p.Faults, r.Text())
		}
		injected += len(truths)
		restarts += len(r.Attempts) - 1
		for _, x := range truths {
			kinds[x.Kind]++
		}
	}
	t.Logf("%d runs, %d faults injected %v, %d restarts, %d supervisors killed, %d updates left out on purpose; every run ended in the twin's weights: %v", runs, injected, kinds, restarts, killed, left, !t.Failed())
}

// The supervisor is killed at each of its writes while a run hangs and moves.
func TestSoakSupervisorIsKilledThroughAMove(t *testing.T) {
	soakOnly(t)
	killedThroughAMove(t, 1)
}

// A hang is found within three times the time that the section was seen to take.
func TestSoakHangIsFoundWithinThreeTimesTheLearnedTime(t *testing.T) {
	soakOnly(t)
	var rows []string
	for _, pace := range []time.Duration{200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond} {
		for _, kind := range []string{"stop", "frozen"} {
			dir := t.TempDir()
			in, err := groupInput(dir, groupPlan{Pace: pace, Faults: []planted{{Kind: kind, Step: 25, Times: 1}}})
			if err != nil {
				t.Fatal(err)
			}
			in.Recipe.Train.SFT.Steps = 30
			in.Limits = Limits{Floor: 100 * time.Millisecond, Unit: time.Minute, First: time.Minute}
			r := run(t, in)
			longest := time.Duration(0)
			for _, d := range readState(t, in.Dir).Learned["sft step"] {
				longest = max(longest, d)
			}
			ratio := r.Attempts[0].Noticed / longest.Seconds()
			rows = append(rows, fmt.Sprintf("%-7s steps of %-6v learned %-8v found after %.3f s = %.2f ×", kind, pace, longest.Round(time.Millisecond), r.Attempts[0].Noticed, ratio))
			if r.Attempts[0].Outcome != Hung || len(r.Attempts) != 2 || ratio > 3 {
				t.Errorf("%s: %s\n%s", rows[len(rows)-1], r.Attempts[0].Outcome, r.Text())
			}
		}
	}
	t.Log("\n" + strings.Join(rows, "\n"))
}

func readState(t *testing.T, dir string) *state {
	t.Helper()
	s, err := loadState(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
