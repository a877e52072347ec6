package trainer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tarbert/internal/checkpoint"
	"tarbert/internal/spec"
)

func TestRunSpeaksTheContract(t *testing.T) {
	f := newFixture(t)
	if err := f.run("a", "", 0); err != nil {
		t.Fatal(err)
	}
	var sections []string
	var steps, checkpoints, mismatches []int
	lines := f.lines("a")
	for i, l := range lines {
		switch l.Event {
		case "section":
			sections = append(sections, l.Name)
		case "step":
			steps = append(steps, l.Step)
			if want := map[bool]string{true: "sft", false: "grpo"}[l.Step <= 6]; l.Stage != want {
				t.Errorf("step %d has stage %q, want %q", l.Step, l.Stage, want)
			}
			if (l.Reward != nil) != (l.Stage == "grpo") {
				t.Errorf("step %d of %s: reward %v", l.Step, l.Stage, l.Reward)
			}
			if l.Tokens <= 0 || l.Stage == "sft" && (l.Loss <= 0 || l.GradNorm <= 0) {
				t.Errorf("step event %+v", l)
			}
		case "checkpoint":
			checkpoints = append(checkpoints, l.Step)
			if _, err := checkpoint.Verify(l.Dir); err != nil && l.Step > 4 {
				t.Errorf("checkpoint %s: %v", l.Dir, err)
			}
		case "mismatch":
			mismatches = append(mismatches, l.Step)
			if *l.Gap > 1e-7 {
				t.Errorf("step %d: rollout and trainer disagree by %g", l.Step, *l.Gap)
			}
		case "done":
			if i != len(lines)-1 || l.Step != 10 {
				t.Errorf("done at line %d of %d with step %d", i+1, len(lines), l.Step)
			}
		}
	}
	if want := []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}; !slices.Equal(steps, want) {
		t.Errorf("steps %v, want %v", steps, want)
	}
	if want := []int{4, 6, 8, 10}; !slices.Equal(checkpoints, want) {
		t.Errorf("checkpoints %v, want %v", checkpoints, want)
	}
	if want := []int{7, 8, 9, 10}; !slices.Equal(mismatches, want) {
		t.Errorf("mismatch events %v, want %v", mismatches, want)
	}
	want := []string{"setup", "step", "checkpoint", "step", "checkpoint", "rollout", "step", "rollout", "step", "checkpoint",
		"rollout", "step", "rollout", "step", "checkpoint"}
	if !slices.Equal(sections, want) {
		t.Errorf("sections %v,\nwant %v", sections, want)
	}
	if last := lines[len(lines)-1]; last.Event != "done" {
		t.Errorf("last event is %q", last.Event)
	}
}

// TestResumeIsBitIdentical stops a run after every step there is, goes on from
// what it left, with another number of threads, and compares every byte of the
// last checkpoint with an undisturbed run's.
func TestResumeIsBitIdentical(t *testing.T) {
	for _, objective := range []string{"grpo", "gspo", "every option"} {
		f := newFixture(t)
		if objective == "every option" {
			f.recipe.Options = everyOption
		} else {
			f.recipe.Train.GRPO.Objective = objective
		}
		if err := f.run("whole", "", 0); err != nil {
			t.Fatal(err)
		}
		want := files(t, f.step("whole", 10))
		for k := 1; k < 10; k++ {
			if objective == "every option" && k%3 == 1 {
				continue // a step of each stage and the border are left
			}
			name := fmt.Sprintf("cut-%d", k)
			f.recipe.Threads = 1
			if err := f.run(name, "", k); !errors.Is(err, ErrStopped) {
				t.Fatalf("stop after %d: got %v, want ErrStopped", k, err)
			}
			f.recipe.Threads = 3
			if err := f.run(name, f.step(name, k), 0); err != nil {
				t.Fatalf("resume after %d: %v", k, err)
			}
			got := files(t, f.step(name, 10))
			for file := range want {
				if got[file] != want[file] {
					t.Errorf("%s: stopped after step %d: %s differs from the undisturbed run's", objective, k, file)
				}
			}
			if len(got) != len(want) {
				t.Errorf("files %v, want %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
			}
		}
	}
}

// TestResumeFromAnOlderCheckpoint is what a killed process leaves: steps done
// after the last checkpoint are lost and done again.
func TestResumeFromAnOlderCheckpoint(t *testing.T) {
	f := newFixture(t)
	if err := f.run("a", "", 0); err != nil {
		t.Fatal(err)
	}
	want := files(t, f.step("a", 10))
	if err := f.run("b", f.step("a", 6), 0); err != nil {
		t.Fatal(err)
	}
	if got := files(t, f.step("b", 10)); !maps.Equal(got, want) {
		t.Error("resumed from the end of SFT, the run ends in other bytes")
	}
	before := f.lines("a")
	if err := f.run("a", f.step("a", 10), 0); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(files(t, f.step("a", 10)), want) {
		t.Error("a run that was complete changed its last checkpoint when resumed")
	}
	after := f.lines("a")[len(before):]
	if len(after) == 0 || after[len(after)-1].Event != "done" || slices.ContainsFunc(after, func(l line) bool { return l.Event == "step" }) {
		t.Errorf("a complete run, resumed, says %+v", after)
	}
}

func TestRetention(t *testing.T) {
	f := newFixture(t)
	f.recipe.Train.Checkpoint = spec.Checkpoint{Every: 1, Keep: 2}
	if err := f.run("a", "", 0); err != nil {
		t.Fatal(err)
	}
	all, err := checkpoint.List(filepath.Join(f.dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	var steps []int
	for _, e := range all {
		steps = append(steps, e.Step)
	}
	if want := []int{6, 9, 10}; !slices.Equal(steps, want) {
		t.Errorf("kept %v, want %v: the end of SFT and the two newest", steps, want)
	}
	state, err := checkpoint.ReadState(f.step("a", 6))
	if err != nil {
		t.Fatal(err)
	}
	if state.Stage != "sft" || state.Step != 6 || state.Cursor != (checkpoint.Cursor{}) || state.Tokens <= 0 {
		t.Errorf("state at the end of SFT: %+v", state)
	}
}

func TestStopsAtAStepBorder(t *testing.T) {
	f := newFixture(t)
	if err := f.run("warm", "", 1); !errors.Is(err, ErrStopped) { // writes the recipe file
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := Run(ctx, Env{Events: f.events("a"), Checkpoints: filepath.Join(f.dir, "a"), Resume: f.step("warm", 1), Recipe: filepath.Join(f.dir, "recipe.json")})
	if !errors.Is(err, ErrStopped) {
		t.Fatalf("got %v, want ErrStopped", err)
	}
	for _, l := range f.lines("a") {
		if l.Event == "step" || l.Event == "done" {
			t.Errorf("a run cancelled before it began reports %+v", l)
		}
	}
}

// TestTornEventLine: what a killed writer left of a line must not spoil the next one.
func TestTornEventLine(t *testing.T) {
	f := newFixture(t)
	f.write("a.events", []byte("{\"event\":\"step\",\"step\":3}\n{\"event\":\"st"))
	if err := f.run("a", "", 1); !errors.Is(err, ErrStopped) {
		t.Fatal(err)
	}
	b, err := os.ReadFile(f.events("a"))
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(string(b), "\n"); lines[1] != `{"event":"st` || lines[2] != `{"event":"section","name":"setup"}` {
		t.Errorf("events file %q", lines)
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name string
		bend func(f *fixture)
		want string
	}{
		{"too few problems", func(f *fixture) { f.recipe.Train.GRPO.Prompts = 11 }, "holds 40 problems and grpo needs 44"},
		{"float16", func(f *fixture) { f.recipe.Train.DType = "float16" }, `train.dtype is "float16"`},
		{"no steps", func(f *fixture) { f.recipe.Train.SFT.Steps, f.recipe.Train.GRPO.Steps = 0, 0 }, "no steps"},
		{"one sample", func(f *fixture) { f.recipe.Train.GRPO.Samples = 1 }, "samples is 1"},
		{"objective", func(f *fixture) { f.recipe.Train.GRPO.Objective = "ppo" }, `"ppo"`},
		{"rate", func(f *fixture) { f.recipe.Train.SFT.Optimizer.LearningRate = 0 }, "train.sft.optimizer.learning_rate is 0"},
		{"checker", func(f *fixture) { f.recipe.Train.GRPO.Reward = "vibes" }, "vibes"},
		{"z-loss", func(f *fixture) { f.recipe.Options.SFT.ZLoss = -1 }, "reference.sft.z_loss is -1"},
		{"rollout precision", func(f *fixture) { f.recipe.Options.GRPO.Rollout = "fp4" }, `rollout_precision is "fp4"`},
		{"level", func(f *fixture) { f.recipe.Options.GRPO.Correction.MaskLevel = "word" }, `mask_level is "word"`},
		{"truncation", func(f *fixture) { f.recipe.Options.GRPO.Correction.Truncate = -2 }, "truncate is -2"},
		{"mask", func(f *fixture) { f.recipe.Options.GRPO.Correction.MaskLow = 0.5 }, "mask_low 0.5, mask_high 0"},
		{"token level with gspo", func(f *fixture) {
			f.recipe.Train.GRPO.Objective = "gspo"
			f.recipe.Options.GRPO.Correction = Correction{Truncate: 2}
		}, "truncate_level is token"},
		{"no dataset", func(f *fixture) { f.recipe.Dataset += ".gone" }, "data.jsonl.gone"},
		{"broken line", func(f *fixture) {
			f.write("data.jsonl", []byte("{\"id\":\"a\",\"prompt\":\"1=\",\"completion\":\"1\"}\n{"))
		}, "data.jsonl:2"},
		{"empty completion", func(f *fixture) {
			f.write("data.jsonl", []byte("{\"id\":\"a\",\"prompt\":\"1=\",\"completion\":\"\"}\n"))
		}, `data.jsonl:1: example "a"`},
		{"long example", func(f *fixture) {
			f.write("data.jsonl", []byte("{\"id\":\"a\",\"prompt\":\"1=\",\"completion\":\""+strings.Repeat("1", 70)+"\"}\n"))
		}, "73 tokens, more than the model's 64 positions"},
		{"no room to answer", func(f *fixture) { f.recipe.Train.GRPO.MaxTokens = 63 }, "prompt of 2 tokens"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			c.bend(f)
			err := f.run("a", "", 0)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
			if all, _ := checkpoint.List(filepath.Join(f.dir, "a")); len(all) > 0 {
				t.Errorf("it left checkpoints: %v", all)
			}
		})
	}
}

func TestResumeRefusesAnotherRun(t *testing.T) {
	f := newFixture(t)
	if err := f.run("a", "", 2); !errors.Is(err, ErrStopped) {
		t.Fatal(err)
	}
	f.write("other.jsonl", []byte("{\"id\":\"a\",\"prompt\":\"1=\",\"completion\":\"2\"}\n"))
	other := filepath.Join(f.dir, "other.jsonl")
	for name, bend := range map[string]func(r *recipe){
		"seed":        func(r *recipe) { r.Seed++ },
		"train.sft":   func(r *recipe) { r.Train.SFT.Batch++ },
		"train.grpo":  func(r *recipe) { r.Train.GRPO.ClipLow = 0.1 },
		"the dataset": func(r *recipe) { r.Dataset = other },
		"reference":   func(r *recipe) { r.Options.GRPO.Replay = true },
	} {
		kept := f.recipe
		bend(&f.recipe)
		if err := f.run("b", f.step("a", 2), 0); err == nil || !strings.Contains(err.Error(), name+" ") {
			t.Errorf("%s changed: got %v", name, err)
		}
		f.recipe = kept
	}
	// A moved model and more threads are the same run.
	f.recipe.Threads = 2
	if err := f.run("b", f.step("a", 2), 3); !errors.Is(err, ErrStopped) {
		t.Errorf("other threads: got %v", err)
	}
	weights := filepath.Join(f.step("a", 2), "model.safetensors")
	b, err := os.ReadFile(weights)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-1] ^= 1
	if err := os.WriteFile(weights, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := f.run("c", f.step("a", 2), 0); err == nil || !strings.Contains(err.Error(), "model.safetensors") {
		t.Errorf("one flipped bit: got %v", err)
	}
}

// TestResumeOfAnotherTrainersCheckpoint: what a trainer on other chips wrote has
// the portable parts and nothing of ours.
func TestResumeOfAnotherTrainersCheckpoint(t *testing.T) {
	f := newFixture(t)
	if err := f.run("whole", "", 0); err != nil {
		t.Fatal(err)
	}
	for _, step := range []int{4, 8} {
		state, err := checkpoint.ReadState(f.step("whole", step))
		if errors.Is(err, os.ErrNotExist) { // pruned
			if err := f.run("part", "", step); !errors.Is(err, ErrStopped) {
				t.Fatal(err)
			}
			state, err = checkpoint.ReadState(f.step("part", step))
		} else if err == nil {
			err = os.CopyFS(f.step("part", step), os.DirFS(f.step("whole", step)))
		}
		if err != nil {
			t.Fatal(err)
		}
		foreign := filepath.Join(f.dir, "foreign")
		w, err := checkpoint.Begin(foreign, step)
		if err != nil {
			t.Fatal(err)
		}
		for name, content := range files(t, f.step("part", step)) {
			if name == "state.json" || name == "manifest.json" {
				continue
			}
			if err := os.WriteFile(filepath.Join(w.Dir(), name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		state.Writer, state.Extra, state.Schedule, state.RNG = checkpoint.Identity{Trainer: "pytorch", Vendor: "nvidia"}, nil, nil, nil
		if _, err := w.Commit(state); err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("resumed-%d", step)
		if err := f.run(name, f.step("foreign", step), 0); err != nil {
			t.Fatal(err)
		}
		got, want := files(t, f.step(name, 10)), files(t, f.step("whole", 10))
		for _, file := range []string{"model.safetensors", "optimizer.safetensors"} {
			if got[file] != want[file] {
				t.Errorf("resumed from another trainer's step %d: %s differs", step, file)
			}
		}
	}
}

func TestRunWithoutASupervisor(t *testing.T) {
	if err := Run(t.Context(), Env{Recipe: "r", Checkpoints: "c"}); err == nil || !strings.Contains(err.Error(), "TARBERT_EVENTS") {
		t.Errorf("got %v", err)
	}
}
