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
	"strconv"
	"strings"
	"time"

	"tarbert/internal/checkpoint"
	"tarbert/internal/gate"
	"tarbert/internal/plan"
	"tarbert/internal/progress"
	"tarbert/internal/reference"
	"tarbert/internal/reference/trainer"
	"tarbert/internal/spec"
	"tarbert/internal/store"
	"tarbert/internal/train"
)

// Names of the checks of a trainer by its contract.
const (
	checkParity     = "parity"
	checkTwin       = "convergence twin"
	checkCheckpoint = "checkpoint"
	checkSpeed      = "speed"
)

// Trainer is what would train in the pool, where that is not the reference trainer.
type Trainer struct {
	Name string // "torchrun", "command"
	Pool train.Pool
	// Arithmetic is what it computes in; empty where nobody says.
	Arithmetic string
	Task       string        // prefix of its tasks' names
	Limit      time.Duration // of one run; 0 = train's own
	// Plan forecasts the whole run from the speed measured here; nil: the speed is only reported.
	Plan *plan.Plan
	// Memory of the machine that judges; 0 = not known.
	Memory int64
}

// lossShare is how far a step's loss may be from the reference's, as a share of the
// first loss: a wrong optimizer or schedule moves it by more within a few steps,
// rounding by less. What nobody says the arithmetic of is held to the coarsest.
func lossShare(arithmetic string) float64 {
	if arithmetic == "float32" {
		return 0.001
	}
	return 0.02
}

// Against is the trainer's first steps beside the reference trainer's, from the same
// weights on the same data.
type Against struct {
	Trainer    string    `json:"trainer"`
	Arithmetic string    `json:"arithmetic,omitempty"`
	Losses     []float64 `json:"losses"`
	Reference  []float64 `json:"reference"`
	Apart      float64   `json:"apart"` // largest |Δ loss|, nats
	Step       int       `json:"step"`  // where
	Tolerance  float64   `json:"tolerance"`
	// SameData says that both named the same data for every step.
	SameData bool `json:"same_data"`
	// Saved and Twin are the loss of the stored batches at the weights in the
	// trainer's checkpoint and in the reference's own.
	Saved float64 `json:"saved,omitempty"`
	Twin  float64 `json:"twin,omitempty"`
}

// Speed is what was measured in those steps, and what it means for the whole run.
type Speed struct {
	Tokens          float64    `json:"tokens"`
	Seconds         float64    `json:"seconds"`
	TokensPerSecond float64    `json:"tokens_per_second"`
	Time            *plan.Time `json:"time,omitempty"`
	Training        *plan.Time `json:"training,omitempty"` // of Time, what samples nothing
}

// trial is one qualification of a trainer.
type trial struct {
	in     Input
	r      *Report
	dir    string // absolute
	stamp  string
	recipe string // file
	start  string // checkpoint of step 0
	steps  int
	limit  time.Duration
	now    func() time.Time
	tell   func(done float64, note string)

	want []train.Replay // the reference's, at the start
	ours string         // the reference twin's last checkpoint
}

// byContract tries the trainer where it would train, by the contract that it will
// be supervised by.
func byContract(ctx context.Context, in Input, r *Report, now func() time.Time) (checks []gate.Check, err error) {
	t := in.Trainer
	if need := 16 * r.Parameters; t.Memory > 0 && need > t.Memory {
		why := fmt.Sprintf("not run: the reference that judges takes %v for this model, and this machine has %v; qualify a release of the same config.json with fewer layers",
			plan.Bytes(need), plan.Bytes(t.Memory))
		for _, name := range []string{checkParity, checkTwin, checkCheckpoint, checkSpeed} {
			checks = append(checks, gate.Check{Name: name, Verdict: gate.Inconclusive, Detail: why})
		}
		return checks, nil
	}
	x := &trial{in: in, r: r, now: now, steps: min(max(in.Settings.TwinSteps, 2), in.Recipe.Train.SFT.Steps), limit: t.Limit}
	total := 3 + 2*float64(x.steps)
	x.tell = func(done float64, note string) {
		in.Progress.Report(progress.Update{Stage: "qualify", Done: done, Total: total, Unit: "probes", Note: note})
	}
	if err := x.prepare(); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, x.clean()) }()
	parity, err := x.parity(ctx)
	if err != nil {
		return nil, err
	}
	rest, err := x.twin(ctx)
	x.tell(total, "")
	return append([]gate.Check{parity}, rest...), err
}

// prepare makes the folder, the twin's recipe and the checkpoint that both sides begin from.
func (x *trial) prepare() error {
	old, err := filepath.Glob(filepath.Join(x.in.Dir, "trial-*")) // of a stage that was killed
	if err != nil {
		return err
	}
	for _, dir := range old {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove an earlier trial: %w: %w", store.ErrEnvironment, err)
		}
	}
	x.stamp = strconv.FormatInt(x.now().UnixNano(), 36)
	if x.dir, err = filepath.Abs(filepath.Join(x.in.Dir, "trial-"+x.stamp)); err != nil {
		return err
	}
	if err := os.MkdirAll(x.dir, 0o755); err != nil {
		return fmt.Errorf("make a folder for the trial: %w: %w", store.ErrEnvironment, err)
	}
	recipe := x.in.Recipe
	recipe.Train.SFT.Steps, recipe.Train.GRPO.Steps = x.steps, 0
	recipe.Train.Checkpoint = spec.Checkpoint{Every: x.steps, Keep: 1}
	b, err := json.MarshalIndent(recipe, "", "  ")
	if err != nil {
		return err
	}
	x.recipe = filepath.Join(x.dir, "recipe.json")
	if err := os.WriteFile(x.recipe, b, 0o644); err != nil {
		return fmt.Errorf("prepare the trial: %w: %w", store.ErrEnvironment, err)
	}
	x.start, err = trainer.WriteStart(x.env("start", "", ""))
	return err
}

// clean leaves the events and the stored batches, which are evidence, and removes the rest.
func (x *trial) clean() error {
	entries, err := os.ReadDir(x.dir)
	for _, e := range entries {
		if e.IsDir() && e.Name() != "replay" {
			err = errors.Join(err, os.RemoveAll(filepath.Join(x.dir, e.Name())))
		}
	}
	return err
}

func (x *trial) replayDir() string { return filepath.Join(x.dir, "replay") }

// env is the contract's environment for the reference side.
func (x *trial) env(side, resume, replay string) trainer.Env {
	return trainer.Env{
		Events: filepath.Join(x.dir, side+".jsonl"), Checkpoints: filepath.Join(x.dir, side), Recipe: x.recipe, Resume: resume, Replay: replay,
	}
}

// try runs the trainer once in its pool.
func (x *trial) try(ctx context.Context, side, replay string, step func(int)) (*train.Tried, error) {
	e := x.env(side, x.start, replay)
	return x.in.Trainer.Pool.Try(ctx, train.Trial{
		Task: fmt.Sprintf("%s-%s-%s", x.in.Trainer.Task, x.stamp, side), Dir: x.dir, Events: e.Events, Checkpoints: e.Checkpoints,
		Resume: e.Resume, Recipe: e.Recipe, Replay: replay, Limit: x.limit, Now: x.now, Step: step,
	})
}

// judge replays the stored batches on the reference, at a checkpoint's weights.
func (x *trial) judge(ctx context.Context, side, at string) ([]train.Replay, string, error) {
	e := x.env(side, at, x.replayDir())
	if err := trainer.Run(ctx, e); err != nil {
		return nil, e.Events, err
	}
	return train.ReadReplays(e.Events), e.Events, nil
}

// parity replays stored batches at the run's first weights on both sides.
func (x *trial) parity(ctx context.Context) (gate.Check, error) {
	c := gate.Check{Name: checkParity, Verdict: gate.Inconclusive}
	x.tell(0, "the reference replays stored batches")
	want, wantFile, err := x.judge(ctx, "reference-replay", x.start)
	if err != nil {
		return c, err
	}
	x.want = want
	x.tell(1, fmt.Sprintf("the %s trainer replays them in pool %s", x.in.Trainer.Name, x.in.Pool))
	got, err := x.try(ctx, "trainer-replay", x.replayDir(), nil)
	if err != nil {
		return c, err
	}
	const unchecked = ": whether its gradients are right was not checked"
	const how = "; let it replay (docs/howto/bring-your-trainer.md)"
	switch {
	case got.NotFinite != "":
		c.Verdict, c.Detail = gate.Fail, fmt.Sprintf("replaying the first weights in pool %s, %s is not finite", x.in.Pool, strings.TrimSuffix(got.NotFinite, " at step 0"))
		return c, nil
	case got.Trained:
		c.Detail = "the trainer does not know TARBERT_REPLAY, and trains instead" + unchecked + how
		return c, nil
	case got.Silent || len(got.Replays) == 0:
		c.Detail = "the trainer replayed nothing (" + got.End() + ")" + unchecked + how
		return c, nil
	case !got.Done:
		c.Detail = fmt.Sprintf("the trainer replayed %d batches of %d and did not finish (%s)", len(got.Replays), len(want), got.End()) + unchecked
		return c, nil
	}
	p := train.CompareReplays(want, got.Replays, x.in.Trainer.Arithmetic)
	p.Judge, p.Other, p.JudgeSaid, p.OtherSaid = "reference", x.in.Pool, wantFile, x.env("trainer-replay", "", "").Events
	if x.r.Parity = &p; p.Failed {
		c.Verdict = gate.Fail
	} else if p.Passed {
		c.Verdict = gate.Pass
	}
	c.Detail = strings.Join(p.Reasons, "; ")
	return c, nil
}

// twin trains the first steps on both sides: losses, checkpoint and speed.
func (x *trial) twin(ctx context.Context) ([]gate.Check, error) {
	twin := gate.Check{Name: checkTwin, Verdict: gate.Inconclusive}
	saved := gate.Check{Name: checkCheckpoint, Verdict: gate.Inconclusive, Detail: "not checked: the steps before it were not finished"}
	x.tell(2, "convergence twin on the reference")
	e := x.env("reference-twin", x.start, "")
	switch err := trainer.Run(ctx, e); {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, trainer.ErrNotFinite): // the recipe's fault, whatever trains
		twin.Verdict, twin.Detail = gate.Fail, "on the reference: "+err.Error()
		return []gate.Check{twin, saved, {Name: checkSpeed, Verdict: gate.Inconclusive, Detail: "not measured"}}, nil
	case err != nil:
		return nil, err
	}
	want, err := train.ReadSteps(e.Events, x.now())
	if err != nil {
		return nil, err
	}
	if x.ours, _, err = checkpoint.Newest(e.Checkpoints); err != nil {
		return nil, err
	}
	x.tell(2+float64(x.steps), fmt.Sprintf("the same steps in pool %s", x.in.Pool))
	got, err := x.try(ctx, "trainer-twin", "", func(step int) {
		x.tell(2+float64(x.steps+min(step, x.steps)), fmt.Sprintf("step %d in pool %s", step, x.in.Pool))
	})
	if err != nil {
		return nil, err
	}
	switch {
	case got.NotFinite != "":
		twin.Verdict, twin.Detail = gate.Fail, got.NotFinite+" is not finite; the reference's is"
	case !got.Done || got.DoneStep != x.steps || len(got.Steps) != x.steps:
		twin.Detail = fmt.Sprintf("the trainer reported %d steps of %d and did not finish them by the contract (%s)", len(got.Steps), x.steps, got.End())
		if got.Late {
			twin.Detail += "; train.supervise.first_limit sets that limit"
		}
	default:
		x.r.Against = against(x.in.Trainer, want, got.Steps)
		twin = x.r.Against.judge()
	}
	if got.Done {
		if saved, err = x.saved(ctx, filepath.Join(x.dir, "trainer-twin")); err != nil {
			return nil, err
		}
	}
	return []gate.Check{twin, saved, x.speed(got.Steps)}, nil
}

// against sets two runs' losses side by side. It is pure.
func against(t *Trainer, want, got []train.TriedStep) *Against {
	a := &Against{Trainer: t.Name, Arithmetic: t.Arithmetic, SameData: true}
	for _, w := range want {
		i := slices.IndexFunc(got, func(g train.TriedStep) bool { return g.Step == w.Step })
		loss, data := math.MaxFloat64, ""
		if i >= 0 && !math.IsNaN(got[i].Loss) {
			loss, data = got[i].Loss, got[i].Data
		}
		a.SameData = a.SameData && data != "" && data == w.Data
		a.Reference, a.Losses = append(a.Reference, w.Loss), append(a.Losses, loss)
		if d := distance(loss, w.Loss); d > a.Apart || a.Step == 0 {
			a.Apart, a.Step = d, w.Step
		}
	}
	if len(want) > 0 {
		a.Tolerance = lossShare(t.Arithmetic) * math.Abs(want[0].Loss)
	}
	return a
}

func (a *Against) judge() gate.Check {
	c := gate.Check{Name: checkTwin, Verdict: gate.Pass}
	if a.Apart == math.MaxFloat64 { // null and NaN are said to be not finite before
		c.Verdict, c.Detail = gate.Inconclusive, fmt.Sprintf("the trainer reported no loss at step %d", a.Step)
		return c
	}
	c.Detail = fmt.Sprintf("%d steps by %s%s: losses within %.2g of the reference's (step %d), allowed %.2g; %.3f → %.3f",
		len(a.Losses), a.Trainer, in(a.Arithmetic), a.Apart, a.Step, a.Tolerance, a.Losses[0], a.Losses[len(a.Losses)-1])
	if a.Apart <= a.Tolerance {
		return c
	}
	c.Verdict = gate.Fail
	c.Detail = fmt.Sprintf("step %d by %s%s: the loss is %.6g, the reference's %.6g; %.2g apart, allowed %.2g",
		a.Step, a.Trainer, in(a.Arithmetic), a.Losses[a.Step-1], a.Reference[a.Step-1], a.Apart, a.Tolerance)
	if !a.SameData {
		c.Verdict = gate.Inconclusive
		c.Detail += "; it did not say that it had the same data in every step (`data` of its step events), so its losses may be right"
	}
	return c
}

func in(arithmetic string) string {
	if arithmetic == "" {
		return ""
	}
	return " in " + arithmetic
}

// saved checks the checkpoint that the trainer's twin left: whole, of the last
// step, and for the reference the model that was trained.
func (x *trial) saved(ctx context.Context, root string) (gate.Check, error) {
	c := gate.Check{Name: checkCheckpoint, Verdict: gate.Fail}
	dir, skipped, err := checkpoint.Newest(root)
	if err != nil {
		return c, err
	}
	if dir == "" {
		if c.Detail = "it left none, and training counts as done by a checkpoint alone"; len(skipped) > 0 {
			c.Detail = fmt.Sprintf("it left none that verifies: %s: %s", filepath.Base(skipped[0].Dir), skipped[0].Reason)
		}
		return c, nil
	}
	state, err := checkpoint.ReadState(dir)
	if err != nil {
		return c, err
	}
	if state.Step != x.steps {
		c.Detail = fmt.Sprintf("the newest that verifies is of step %d, the last step was %d", state.Step, x.steps)
		return c, nil
	}
	if _, err := reference.LoadTrainable(dir, x.in.Recipe.Threads); err != nil {
		c.Detail = fmt.Sprintf("the reference cannot load it: %v", err)
		return c, nil
	}
	theirs, _, err := x.judge(ctx, "reference-saved", dir)
	switch {
	case ctx.Err() != nil:
		return c, ctx.Err()
	case err != nil:
		c.Verdict, c.Detail = gate.Inconclusive, fmt.Sprintf("its weights load in the reference, but it could not go on from it: %v", err)
		return c, nil
	}
	ours, _, err := x.judge(ctx, "reference-twin-replay", x.ours)
	if err != nil {
		return c, err
	}
	c.Verdict, c.Detail = gate.Pass, fmt.Sprintf("step %d verifies, and the reference goes on from it", state.Step)
	a := x.r.Against
	if a == nil || !a.SameData || a.Apart > a.Tolerance {
		return c, nil // other steps, other weights
	}
	a.Saved, a.Twin = meanLoss(theirs), meanLoss(ours)
	c.Detail += fmt.Sprintf("; stored batches have a loss of %.4f at its weights, %.4f at the reference's own", a.Saved, a.Twin)
	if d := distance(a.Saved, a.Twin); d > a.Tolerance {
		c.Verdict = gate.Fail
		c.Detail += fmt.Sprintf(": %.2g apart, allowed %.2g: it does not hold what was trained", d, a.Tolerance)
	}
	return c, nil
}

func meanLoss(batches []train.Replay) float64 {
	sum := 0.0
	for _, b := range batches {
		sum += b.Loss / float64(len(batches))
	}
	return sum
}

// speed is tokens over time between the first step and the last, and whether the
// whole run meets its deadline at that.
func (x *trial) speed(steps []train.TriedStep) gate.Check {
	c := gate.Check{Name: checkSpeed, Verdict: gate.Inconclusive, Detail: "not measured: it needs two steps that say how many `tokens` they had"}
	s := Speed{}
	for _, step := range steps[min(1, len(steps)):] {
		s.Tokens += step.Tokens
	}
	if !(s.Tokens > 0) {
		return c
	}
	// A look comes late by up to one interval: the rate is never taken for higher than it was.
	s.Seconds = (steps[len(steps)-1].At.Sub(steps[0].At) + train.TrialPoll).Seconds()
	s.TokensPerSecond = s.Tokens / s.Seconds
	x.r.Speed = &s
	c.Verdict, c.Detail = gate.Pass, fmt.Sprintf("%.0f tokens/s over %d steps", s.TokensPerSecond, len(steps)-1)
	p := x.in.Trainer.Plan
	if p == nil {
		return c
	}
	if s.Time, s.Training = p.AtRate(s.TokensPerSecond); s.Time == nil {
		return c
	}
	c.Detail += fmt.Sprintf("; the whole run at that: %v, the deadline is %v", *s.Time, p.Deadline)
	switch {
	case s.Training.P50 > p.Deadline:
		c.Verdict = gate.Fail
		c.Detail += fmt.Sprintf(", and its %v without sampling are over it", s.Training.P50)
	case s.Time.P90 > p.Deadline:
		c.Verdict = gate.Inconclusive
		c.Detail += fmt.Sprintf(", and P90 %v is over it (how fast it samples was not measured)", s.Time.P90)
	}
	return c
}
