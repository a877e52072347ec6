package trainer

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// with runs like run, with an environment of its own.
func (f *fixture) with(name string, change func(*Env)) error {
	f.t.Helper()
	b, err := json.Marshal(f.recipe)
	if err != nil {
		f.t.Fatal(err)
	}
	f.write("recipe.json", b)
	env := Env{Events: f.events(name), Checkpoints: filepath.Join(f.dir, name), Recipe: filepath.Join(f.dir, "recipe.json")}
	change(&env)
	return Run(f.t.Context(), env)
}

func (f *fixture) replays(name string) []replayEvent {
	f.t.Helper()
	b, err := os.ReadFile(f.events(name))
	if err != nil {
		f.t.Fatal(err)
	}
	var out []replayEvent
	for line := range bytes.Lines(b) {
		var e replayEvent
		if err := json.Unmarshal(line, &e); err != nil {
			f.t.Fatal(err)
		}
		if e.Event == "replay" {
			out = append(out, e)
		}
	}
	return out
}

// Replayed batches are those that training takes next, and give the same bits.
func TestReplayIsTheNextStepsWithoutTheUpdate(t *testing.T) {
	f := newFixture(t)
	f.recipe.Train.Checkpoint.Keep = 9
	if err := f.run("base", "", 0); err != nil {
		t.Fatal(err)
	}
	stored := filepath.Join(f.dir, "stored")
	for _, name := range []string{"first", "again"} { // the second finds the batches stored
		if err := f.with(name, func(e *Env) { e.Resume, e.Replay = f.step("base", 4), stored }); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(f.dir, name)); err == nil {
			t.Error("a replay wrote checkpoints")
		}
	}
	got := f.replays("first")
	if d := cmp.Diff(got, f.replays("again")); d != "" || len(got) != replayBatches {
		t.Fatalf("%d batches; the second replay differs:\n%s", len(got), d)
	}
	for _, l := range f.lines("base") {
		if l.Event == "step" && l.Step == 5 && (l.Loss != got[0].Loss || l.GradNorm != got[0].GradNorm || l.Tokens != got[0].Tokens) {
			t.Errorf("step 5 had loss %v, norm %v, %d tokens; the replay %+v", l.Loss, l.GradNorm, l.Tokens, got[0])
		}
	}
	for _, e := range got {
		squares := 0.0
		for _, norm := range e.Layers {
			squares += norm * norm
		}
		if math.Abs(math.Sqrt(squares)-e.GradNorm) > 1e-6*e.GradNorm {
			t.Errorf("batch %d: layers make up %v of %v", e.Batch, math.Sqrt(squares), e.GradNorm)
		}
		for _, name := range []string{"model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "lm_head"} {
			if e.Layers[name] <= 0 {
				t.Errorf("batch %d: layer %s has norm %v", e.Batch, name, e.Layers[name])
			}
		}
	}
}

func TestReplayRefusesWhatTheModelCannotTake(t *testing.T) {
	f := newFixture(t)
	for name, line := range map[string]string{
		"token 9999 of a vocabulary": `{"batch":1,"sequences":[{"tokens":[1,9999],"from":1}]}`,
		"targets from 2":             `{"batch":1,"sequences":[{"tokens":[1,2],"from":2}]}`,
		"no sequences":               `{"batch":1}`,
		"no batches":                 ``,
	} {
		f.write("batches.jsonl", []byte(line))
		err := f.with("bad", func(e *Env) { e.Replay = f.dir })
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%q: %v, want %q", line, err, name)
		}
	}
}

// What a supervisor asks for is done at the steps it names, and the same after a resumption.
func TestAdjustments(t *testing.T) {
	f := newFixture(t)
	f.recipe.Train.Checkpoint.Keep = 9
	f.write("adjust.json", []byte(`{"skip":[[3,3],[8,8]],"lr":[{"from":5,"to":5,"scale":0.5}]}`))
	adjusted := func(e *Env) { e.Adjust = filepath.Join(f.dir, "adjust.json") }
	if err := f.run("plain", "", 0); err != nil {
		t.Fatal(err)
	}
	if err := f.with("whole", adjusted); err != nil {
		t.Fatal(err)
	}
	if err := f.with("parts", func(e *Env) { adjusted(e); e.Resume = f.step("whole", 4) }); err != nil {
		t.Fatal(err)
	}
	read := func(name string, step int) []byte {
		b, err := os.ReadFile(filepath.Join(f.step(name, step), "model.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if bytes.Equal(read("plain", 10), read("whole", 10)) || !bytes.Equal(read("whole", 10), read("parts", 10)) {
		t.Error("adjusted weights must differ from plain ones, and not depend on a resumption")
	}
	b, err := os.ReadFile(f.events("whole"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"step":3,"stage":"sft","tokens":0`, `"step":8,"stage":"grpo","tokens":0`, `"adjusted":"skip"`, `"adjusted":"lr"`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no event has %s", want)
		}
	}
	f.write("adjust.json", []byte(`{"lr":[{"from":1,"to":2,"scale":2}]}`))
	if err := f.with("bad", adjusted); err == nil || !strings.Contains(err.Error(), "scaled by 2") {
		t.Errorf("a raised learning rate: %v", err)
	}
}
