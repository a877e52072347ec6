package qualify

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"tarbert/internal/device"
	"tarbert/internal/gate"
	"tarbert/internal/plan"
	"tarbert/internal/progress"
	"tarbert/internal/reference/trainer"
	"tarbert/internal/spec"
	"tarbert/internal/train"
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
	// Trainer is what trains in the pool; nil is the reference trainer here.
	Trainer *Trainer
	// Train runs the reference trainer; nil is itself.
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
	// Of another trainer, by its contract.
	Parity  *train.Parity `json:"parity,omitempty"`
	Against *Against      `json:"against,omitempty"`
	Speed   *Speed        `json:"speed,omitempty"`
	// Waivers are those that were used, Unchecked what they let stay inconclusive.
	Waivers   []string    `json:"waivers,omitempty"`
	Unchecked []string    `json:"unchecked,omitempty"`
	Seconds   float64     `json:"seconds"`
	Gate      gate.Result `json:"gate"`
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
	if in.Trainer != nil && in.Trainer.Arithmetic != "" {
		r.DType = in.Trainer.Arithmetic
	}
	if r.DType == "" {
		r.DType = "float32"
	}
	able := capability(table, in.Device, r.DType)
	if in.Trainer != nil && in.Device.Vendor == device.CPU { // the table's processors are the reference trainer's
		able = gate.Check{Name: "capability", Verdict: gate.Pass, Detail: fmt.Sprintf("processors compute in what the %s trainer asks for", in.Trainer.Name)}
	}
	checks := []gate.Check{able}
	if able.Verdict != gate.Fail { // else the other probes would compute in a dtype that it does not have
		more, err := probes(ctx, in, r, now)
		if err != nil {
			return nil, fmt.Errorf("qualify pool %s: %w", in.Pool, err)
		}
		checks = append(checks, more...)
	}
	r.Seconds = now().Sub(begin).Seconds()
	r.Gate = r.waive(checks, in.Settings.Waivers)
	return r, nil
}

// probes asks what the pool's trainer can be asked.
func probes(ctx context.Context, in Input, r *Report, now func() time.Time) ([]gate.Check, error) {
	switch {
	case in.Recipe.Train.SFT.Steps == 0:
		return []gate.Check{{Name: "operators", Verdict: gate.Inconclusive, Detail: "not run: the recipe has no SFT steps, so no data to probe with"}}, nil
	case in.Trainer != nil:
		shape, err := plan.ReadShape(in.Recipe.Train.Model)
		if err != nil {
			return nil, err
		}
		r.Parameters = plan.Params(shape).Total
		return byContract(ctx, in, r, now)
	case in.Device.Vendor != device.CPU:
		return []gate.Check{{Name: "operators", Verdict: gate.Inconclusive, Detail: fmt.Sprintf("not run: the reference trainer does not run on %s chips", in.Device.Vendor)}}, nil
	}
	return probe(ctx, in, r)
}

// waive is the gate: a check that stayed inconclusive does not stop the release
// where somebody said so. It stays among the checks as it is.
func (r *Report) waive(checks []gate.Check, waivers []spec.CheckWaiver) gate.Result {
	var open []gate.Check
	for _, c := range checks {
		i := slices.IndexFunc(waivers, func(w spec.CheckWaiver) bool { return slices.Contains(w.Checks, c.Name) })
		if c.Verdict != gate.Inconclusive || i < 0 {
			open = append(open, c)
			continue
		}
		w := waivers[i]
		end := "without end"
		if !w.Until.IsZero() {
			end = "until " + w.Until.Format(time.DateOnly)
		}
		r.Waivers = append(r.Waivers, fmt.Sprintf("qualify's %s of pool %s waived by %s %s: %s", c.Name, r.Pool, w.By, end, w.Why))
		r.Unchecked = append(r.Unchecked, fmt.Sprintf("qualify's %s of pool %s: %s", c.Name, r.Pool, c.Detail))
	}
	g := gate.Of(open...)
	g.Checks = checks
	return g
}

// InForce are the waivers that hold at a moment; the last day counts.
func InForce(all []spec.CheckWaiver, now time.Time) (out []spec.CheckWaiver) {
	for _, w := range all {
		if w.Until.IsZero() || now.Before(w.Until.AddDate(0, 0, 1)) {
			out = append(out, w)
		}
	}
	return out
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
