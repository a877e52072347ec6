package qualify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tarbert/internal/device"
	"tarbert/internal/gate"
	"tarbert/internal/progress"
	"tarbert/internal/reference/trainer"
)

func TestTheReferenceQualifiesItself(t *testing.T) {
	in := newInput(t)
	var notes []string
	in.Progress = func(u progress.Update) { notes = append(notes, u.Note) }
	r, err := Run(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Gate.Passed() {
		t.Fatalf("gate %+v", r.Gate)
	}
	// Far inside the tolerances: float32 rounding is all that may differ.
	if r.Forward.Difference > 1e-5*r.Forward.Spread || r.Backward.Error > 1e-4 {
		t.Errorf("forward %+v, backward error %g (%s)", r.Forward, r.Backward.Error, r.Backward.Worst)
	}
	var names []string
	for _, d := range r.Backward.Directions {
		names = append(names, d.Name)
		if d.Slope == 0 || d.Gradient == 0 {
			t.Errorf("direction %+v says nothing", d)
		}
	}
	for _, want := range []string{"all weights 1", "embeddings", "layer 0 attention", "layer 0 mlp", "layer 1 router", "layer 1 experts", "layer 1 norms", "head and last norm"} {
		if !slices.Contains(names, want) {
			t.Errorf("no direction %q in %q", want, names)
		}
	}
	if tw := r.Twin; tw.Steps != 8 || len(tw.Losses) != 8 || !tw.Identical || tw.Threads != [2]int{2, 3} || tw.First <= tw.Last {
		t.Errorf("twin %+v", tw)
	}
	if len(notes) < 4 {
		t.Errorf("progress %q", notes)
	}
	if b, err := json.Marshal(r); err != nil || !strings.Contains(string(b), `"gate"`) {
		t.Errorf("report as JSON: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(in.Dir, "*")); err != nil || len(left) > 0 {
		t.Errorf("it left %q", left)
	}
}

// TestAWrongGradientIsSeen scales the gradient of one expert's matrix by 1.2: a
// fault of the kind that a ported kernel has.
func TestAWrongGradientIsSeen(t *testing.T) {
	o, err := newOperators(newInput(t).Recipe)
	if err != nil {
		t.Fatal(err)
	}
	batch, err := o.firmSamples()
	if err != nil || len(batch) == 0 {
		t.Fatalf("%d samples, error %v", len(batch), err)
	}
	if _, err := o.model.ForwardBackward(t.Context(), batch, trainer.MeanLoss(batch)); err != nil {
		t.Fatal(err)
	}
	for _, p := range o.model.Params() {
		if p.Name == "model.layers.1.self_attn.kv_b_proj.weight" {
			for i := range p.Grad {
				p.Grad[i] *= 1.2
			}
		}
	}
	b, err := o.compareGradient(t.Context(), batch, 2)
	if err != nil {
		t.Fatal(err)
	}
	b.Tolerance = 1e-2
	if c := b.judge(); c.Verdict != gate.Fail || b.Worst != "layer 1 attention" {
		t.Errorf("worst %q with error %g: %+v", b.Worst, b.Error, c)
	}
}

// TestAWrongForwardIsSeen moves one weight after the oracle took its copy.
func TestAWrongForwardIsSeen(t *testing.T) {
	o, err := newOperators(newInput(t).Recipe)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range o.model.Params() {
		if p.Name == "model.layers.0.mlp.up_proj.weight" {
			p.Data[0] += 0.1
		}
	}
	f, c, err := o.forward(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if c.Verdict != gate.Fail {
		t.Errorf("%+v: %+v", f, c)
	}
}

func TestTwinVerdicts(t *testing.T) {
	// fake trains in so far as it leaves what a trainer leaves: the real one's
	// events and checkpoints, bent.
	real := func(bend func(env trainer.Env, run int) error) func(context.Context, trainer.Env) error {
		run := 0
		return func(ctx context.Context, env trainer.Env) error {
			run++
			err := trainer.Run(ctx, env)
			if !errors.Is(err, trainer.ErrStopped) {
				return err
			}
			return bend(env, run)
		}
	}
	rewrite := func(env trainer.Env, edit func(string) string) error {
		b, err := os.ReadFile(env.Events)
		if err != nil {
			return err
		}
		return os.WriteFile(env.Events, []byte(edit(string(b))), 0o644)
	}
	for _, c := range []struct {
		name  string
		train func(context.Context, trainer.Env) error
		want  gate.Verdict
		says  string
	}{
		{"a loss that differs", real(func(env trainer.Env, run int) error {
			if run == 1 {
				return nil
			}
			return rewrite(env, func(s string) string { return strings.Replace(s, `"loss":`, `"loss":1`, 1) })
		}), gate.Fail, "the loss of step 1"},
		{"other weights", real(func(env trainer.Env, run int) error {
			if run == 1 {
				return nil
			}
			if err := os.RemoveAll(env.Checkpoints); err != nil {
				return err
			}
			b, err := os.ReadFile(env.Recipe)
			if err != nil {
				return err
			}
			b = []byte(strings.Replace(string(b), `"seed":3`, `"seed":4`, 1))
			env.Recipe += ".other"
			events := env.Events
			env.Events += ".other"
			if err := os.WriteFile(env.Recipe, b, 0o644); err != nil {
				return err
			}
			err = trainer.Run(t.Context(), env)
			env.Events = events
			return err
		}), gate.Fail, "model.safetensors"},
		{"no learning", real(func(env trainer.Env, _ int) error {
			n := 0
			return rewrite(env, func(s string) string {
				lines := strings.Split(s, "\n")
				for i, l := range lines {
					if strings.Contains(l, `"loss"`) {
						n++
						lines[i] = fmt.Sprintf(`{"event":"step","step":%d,"loss":%d}`, n, n)
					}
				}
				return strings.Join(lines, "\n")
			})
		}), gate.Fail, "did not fall"},
		{"a step too few", real(func(env trainer.Env, _ int) error {
			return rewrite(env, func(s string) string { return strings.Replace(s, `"event":"step"`, `"event":"stop"`, 1) })
		}), gate.Inconclusive, "reported 7 steps of 8"},
		{"a crash", func(context.Context, trainer.Env) error { return errors.New("device lost") }, gate.Inconclusive, "device lost"},
		{"no checkpoint", real(func(env trainer.Env, _ int) error { return os.RemoveAll(env.Checkpoints) }), gate.Inconclusive, "no checkpoint"},
		{"NaN", func(context.Context, trainer.Env) error { return fmt.Errorf("step 3: %w", trainer.ErrNotFinite) }, gate.Fail, "not finite"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := newInput(t)
			in.Train = c.train
			r, err := Run(t.Context(), in)
			if err != nil {
				t.Fatal(err)
			}
			if got := verdict(t, r, "convergence twin"); got.Verdict != c.want || !strings.Contains(got.Detail, c.says) || r.Gate.Verdict != c.want {
				t.Errorf("check %+v of gate %q, want %s with %q", got, r.Gate.Verdict, c.want, c.says)
			}
		})
	}
}

func TestCapability(t *testing.T) {
	table, err := capabilities()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range table {
		if row.vendor == "" || len(row.dtypes) == 0 || row.source == "" {
			t.Errorf("row %+v is incomplete", row)
		}
	}
	for _, c := range []struct {
		vendor device.Vendor
		model  string
		dtype  string
		want   gate.Verdict
	}{
		{device.CPU, "Intel(R) Xeon(R) Processor", "float32", gate.Pass},
		{device.CPU, "", "float32", gate.Pass},
		{device.CPU, "Intel(R) Xeon(R) Processor", "bfloat16", gate.Fail},
		{device.Ascend, "910B3", "bfloat16", gate.Pass},
		{device.Ascend, "Ascend910B2C", "float8_e4m3fn", gate.Fail},
		{device.Ascend, "910C", "float8_e4m3fn", gate.Fail},
		{device.Ascend, "310P3", "bfloat16", gate.Fail},
		{device.Ascend, "310P3", "float16", gate.Pass},
		{device.Ascend, "950PR", "float8_e4m3fn", gate.Pass},
		{device.Ascend, "910A", "bfloat16", gate.Inconclusive}, // not in the table
		{device.NVIDIA, "NVIDIA H100 80GB HBM3", "float8_e4m3fn", gate.Pass},
		{device.NVIDIA, "NVIDIA A100-SXM4-80GB", "float8_e4m3fn", gate.Fail},
		{device.NVIDIA, "Tesla V100-SXM2-32GB", "bfloat16", gate.Fail},
		{device.NVIDIA, "NVIDIA Z9", "bfloat16", gate.Inconclusive},
		{"other", "X", "float32", gate.Inconclusive},
	} {
		got := capability(table, device.Device{Vendor: c.vendor, Model: c.model}, c.dtype)
		if got.Verdict != c.want || got.Detail == "" {
			t.Errorf("%s %q in %s: %+v, want %s", c.vendor, c.model, c.dtype, got, c.want)
		}
	}
}

func TestChipsWithoutProbes(t *testing.T) {
	in := newInput(t)
	in.Device = device.Device{Vendor: device.Ascend, Model: "910B3"}
	r, err := Run(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if r.Gate.Verdict != gate.Inconclusive || verdict(t, r, "capability").Verdict != gate.Pass || verdict(t, r, "operators").Verdict != gate.Inconclusive {
		t.Errorf("gate %+v, want a capable chip and inconclusive probes", r.Gate)
	}
	in.Recipe.Train.DType = "float8_e4m3fn"
	if r, err = Run(t.Context(), in); err != nil || r.Gate.Verdict != gate.Fail {
		t.Errorf("FP8 on 910B: gate %+v, error %v", r.Gate, err)
	}
	in = newInput(t)
	in.Recipe.Train.SFT.Steps = 0
	if r, err = Run(t.Context(), in); err != nil || r.Gate.Verdict != gate.Inconclusive {
		t.Errorf("nothing to probe with: gate %+v, error %v", r.Gate, err)
	}
}

func TestInputThatCannotBeReadIsAnError(t *testing.T) {
	in := newInput(t)
	in.Recipe.Dataset += ".gone"
	if _, err := Run(t.Context(), in); err == nil || !strings.Contains(err.Error(), "data.jsonl.gone") {
		t.Errorf("missing dataset: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, newInput(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestJudgements(t *testing.T) {
	narrow := &Forward{Positions: 10, Skipped: 6}
	if c := narrow.judge(); c.Verdict != gate.Inconclusive {
		t.Errorf("mostly skipped: %+v", c)
	}
	kink := &Backward{Tolerance: 0.01, Directions: []Direction{{Name: "a", Error: 0.001}, {Name: "b", Kink: true}}}
	if c := kink.judge(); c.Verdict != gate.Inconclusive {
		t.Errorf("a direction that could not be measured: %+v", c)
	}
	kink.Directions[0].Error = 0.5
	if c := kink.judge(); c.Verdict != gate.Fail {
		t.Errorf("a wrong direction beside one that could not be measured: %+v", c)
	}
	if d := distance(math.NaN(), 1); d != math.MaxFloat64 {
		t.Errorf("distance from NaN is %g", d)
	}
}
