package qualify

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"tarbert/internal/checkpoint"
	"tarbert/internal/gate"
	"tarbert/internal/reference/trainer"
	"tarbert/internal/spec"
)

// Twin is two runs of the first steps with one seed.
type Twin struct {
	Steps     int       `json:"steps"`
	Threads   [2]int    `json:"threads"`
	Losses    []float64 `json:"losses"` // of the first run
	First     float64   `json:"first"`  // mean loss of the first steps (a tenth of them)
	Last      float64   `json:"last"`   // and of as many last ones
	Identical bool      `json:"identical"`
	// Difference is the first thing that was not the same bits, empty if nothing.
	Difference string `json:"difference,omitempty"`
}

// runTwin trains twice and compares every loss and every byte of the checkpoint:
// weights and moments.
func runTwin(ctx context.Context, in Input, dir string, steps int, tick func(done int)) (*Twin, gate.Check, error) {
	threads := max(in.Recipe.Threads, 1)
	t := &Twin{Steps: steps, Threads: [2]int{threads, threads + 1}}
	check := gate.Check{Name: "convergence twin", Verdict: gate.Inconclusive}
	var losses [2][]float64
	var files [2]map[string]string
	for i, n := range t.Threads {
		r := runner{in: in, dir: filepath.Join(dir, fmt.Sprint(i+1)), steps: steps, threads: n}
		var err error
		losses[i], files[i], err = r.run(ctx)
		switch {
		case ctx.Err() != nil:
			return nil, check, ctx.Err()
		case errors.Is(err, trainer.ErrNotFinite):
			check.Verdict, check.Detail = gate.Fail, err.Error()
			return t, check, nil
		case err != nil:
			check.Detail = fmt.Sprintf("run %d of 2 did not finish: %v", i+1, err)
			return t, check, nil
		}
		tick((i + 1) * steps)
	}
	t.Losses = losses[0]
	t.compare(losses, files)
	return t, t.judge(), nil
}

// runner is one of the two runs.
type runner struct {
	in      Input
	dir     string
	steps   int
	threads int
}

func (r runner) run(ctx context.Context) ([]float64, map[string]string, error) {
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return nil, nil, err
	}
	recipe := r.in.Recipe
	recipe.Threads = r.threads
	recipe.Train.Checkpoint = spec.Checkpoint{Keep: 1} // the last one is all that is looked at
	b, err := json.Marshal(recipe)
	if err != nil {
		return nil, nil, err
	}
	env := trainer.Env{
		Events:      filepath.Join(r.dir, "events.jsonl"),
		Checkpoints: filepath.Join(r.dir, "checkpoints"),
		Recipe:      filepath.Join(r.dir, "recipe.json"),
		StopAfter:   r.steps,
	}
	if err := os.WriteFile(env.Recipe, b, 0o644); err != nil {
		return nil, nil, err
	}
	train := r.in.Train
	if train == nil {
		train = trainer.Run
	}
	if err := train(ctx, env); err != nil && !errors.Is(err, trainer.ErrStopped) {
		return nil, nil, err
	}
	losses, err := readLosses(env.Events)
	if err != nil {
		return nil, nil, err
	}
	if len(losses) != r.steps {
		return nil, nil, fmt.Errorf("it reported %d steps of %d", len(losses), r.steps)
	}
	last, skipped, err := checkpoint.Newest(env.Checkpoints)
	if err != nil {
		return nil, nil, err
	}
	if last == "" {
		return nil, nil, fmt.Errorf("it left no checkpoint that verifies (%d do not)", len(skipped))
	}
	m, err := checkpoint.Verify(last)
	if err != nil {
		return nil, nil, err
	}
	files := map[string]string{}
	for _, f := range m.Files {
		files[f.Name] = f.SHA256
	}
	return losses, files, nil
}

func readLosses(path string) ([]float64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []float64
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		var e struct {
			Event string   `json:"event"`
			Loss  *float64 `json:"loss"`
		}
		if err := json.Unmarshal(s.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if e.Event == "step" && e.Loss != nil {
			out = append(out, *e.Loss)
		}
	}
	return out, s.Err()
}

// compare fills in what the two runs say. It is pure.
func (t *Twin) compare(losses [2][]float64, files [2]map[string]string) {
	t.Identical = true
	differ := func(format string, a ...any) {
		if t.Identical {
			t.Identical, t.Difference = false, fmt.Sprintf(format, a...)
		}
	}
	for i := range losses[0] {
		if losses[0][i] != losses[1][i] {
			differ("the loss of step %d is %.17g and %.17g", i+1, losses[0][i], losses[1][i])
		}
	}
	for _, name := range []string{"model.safetensors", "optimizer.safetensors"} {
		if files[0][name] != files[1][name] {
			differ("%s", name)
		}
	}
	if len(files[0]) != len(files[1]) {
		differ("the checkpoints hold %d and %d files", len(files[0]), len(files[1]))
	}
	n := max(len(losses[0])/10, 1)
	for i := range n {
		t.First += losses[0][i] / float64(n)
		t.Last += losses[0][len(losses[0])-1-i] / float64(n)
	}
}

func (t *Twin) judge() gate.Check {
	c := gate.Check{Name: "convergence twin", Verdict: gate.Pass}
	c.Detail = fmt.Sprintf("%d steps twice (%d and %d threads): same bits, loss %.3f → %.3f", t.Steps, t.Threads[0], t.Threads[1], t.First, t.Last)
	switch {
	case !t.Identical:
		c.Verdict, c.Detail = gate.Fail, fmt.Sprintf("%d steps twice (%d and %d threads): not the same bits: %s", t.Steps, t.Threads[0], t.Threads[1], t.Difference)
	case !(t.Last < t.First):
		c.Verdict, c.Detail = gate.Fail, fmt.Sprintf("%d steps: the loss did not fall: %.3f → %.3f", t.Steps, t.First, t.Last)
	}
	return c
}
