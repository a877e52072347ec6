package qualify

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"tarbert/internal/device"
	"tarbert/internal/gate"
	"tarbert/internal/progress"
	"tarbert/internal/reference/trainer"
	"tarbert/internal/spec"
)

// Input is what the stage judges. Only Pool, Device, Recipe, Settings and Dir
// must be set.
type Input struct {
	Pool   string // name
	Device device.Device
	// Recipe is what would be trained: paths absolute, Threads set.
	Recipe   spec.Recipe
	Settings spec.Qualify
	// Dir is the stage's work folder. The twins' checkpoints are written below it
	// and removed.
	Dir string
	// Train runs a trainer by its contract; nil is the reference trainer.
	Train    func(context.Context, trainer.Env) error
	Now      func() time.Time // nil: time.Now
	Progress progress.Func
}

// Report is the stage's result.
type Report struct {
	Pool       string        `json:"pool"`
	Device     device.Device `json:"device"`
	DType      string        `json:"dtype"`
	Parameters int64         `json:"parameters"`
	Forward    *Forward      `json:"forward,omitempty"`
	Backward   *Backward     `json:"backward,omitempty"`
	Twin       *Twin         `json:"twin,omitempty"`
	Seconds    float64       `json:"seconds"`
	Gate       gate.Result   `json:"gate"`
}

// Run qualifies a pool's device for a recipe. It returns an error where the
// input cannot be read, the disk fails or ctx ends; everything that is said of
// the device is in the report's gate.
func Run(ctx context.Context, in Input) (*Report, error) {
	now := in.Now
	if now == nil {
		now = time.Now
	}
	begin := now()
	table, err := capabilities()
	if err != nil {
		return nil, err
	}
	r := &Report{Pool: in.Pool, Device: in.Device, DType: in.Recipe.Train.DType}
	if r.DType == "" {
		r.DType = "float32"
	}
	checks := []gate.Check{capability(table, in.Device, r.DType)}
	switch {
	case checks[0].Verdict == gate.Fail:
		// The other probes would compute in a dtype that it does not have.
	case in.Device.Vendor != device.CPU:
		for _, name := range []string{"forward", "backward", "convergence twin"} {
			checks = append(checks, gate.Check{Name: name, Verdict: gate.Inconclusive,
				Detail: fmt.Sprintf("not run: there is no probe for %s chips in this version", in.Device.Vendor)})
		}
	case in.Recipe.Train.SFT.Steps == 0:
		checks = append(checks, gate.Check{Name: "operators", Verdict: gate.Inconclusive, Detail: "not run: the recipe has no SFT steps, so no data to probe with"})
	default:
		more, err := probe(ctx, in, r)
		if err != nil {
			return nil, fmt.Errorf("qualify pool %s: %w", in.Pool, err)
		}
		checks = append(checks, more...)
	}
	r.Seconds = now().Sub(begin).Seconds()
	r.Gate = gate.Of(checks...)
	return r, nil
}

// The parts of the stage's progress, by what they cost.
const (
	partForward, partBackward = 1.0, 4.0
)

// probe runs the operators and the twin.
func probe(ctx context.Context, in Input, r *Report) ([]gate.Check, error) {
	steps := min(max(in.Settings.TwinSteps, 2), in.Recipe.Train.SFT.Steps)
	total := partForward + partBackward + 2*float64(steps)
	report := func(done float64, note string) {
		in.Progress.Report(progress.Update{Stage: "qualify", Done: done, Total: total, Unit: "probes", Note: note})
	}
	report(0, "forward pass against float64")
	o, err := newOperators(in.Recipe)
	if err != nil {
		return nil, err
	}
	for _, p := range o.model.Params() {
		r.Parameters += int64(len(p.Data))
	}
	var forward, backward gate.Check
	if r.Forward, forward, err = o.forward(ctx); err != nil {
		return nil, err
	}
	report(partForward, "gradients against float64 differences")
	if r.Backward, backward, err = o.backward(ctx, in.Settings.GradientTolerance, in.Recipe.Threads); err != nil {
		return nil, err
	}
	dir := filepath.Join(in.Dir, "twins")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil { // a killed stage may have left one
		return nil, fmt.Errorf("make a folder for the twins: %w", err)
	}
	twin, check, err := runTwin(ctx, in, dir, steps, func(done int) {
		report(partForward+partBackward+float64(done), fmt.Sprintf("convergence twin: step %d", done))
	})
	if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
		return nil, err
	}
	r.Twin = twin
	report(total, "")
	return []gate.Check{forward, backward, check}, nil
}
