package trainer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"tarbert/internal/checkpoint"
	"tarbert/internal/reference"
	"tarbert/internal/reference/kernel"
	"tarbert/internal/reference/tokenizer"
	"tarbert/internal/reward"
	"tarbert/internal/spec"
)

// Env is the trainer contract's environment.
type Env struct {
	Events      string // TARBERT_EVENTS: JSON lines are appended to this file
	Checkpoints string // TARBERT_CHECKPOINTS: directory
	Resume      string // TARBERT_RESUME: a checkpoint to go on from; empty: start anew
	Recipe      string // TARBERT_RECIPE: file with a spec.Recipe
	Adjust      string // TARBERT_ADJUST: file of steps to leave out or to take slower; may be empty
	Replay      string // TARBERT_REPLAY: folder of stored batches; set: replay them instead of training

	// StopAfter ends the run after that many steps (counted through), as a
	// signal would; 0 never does.
	StopAfter int
}

// ErrStopped is wrapped by Run when it was told to stop. What was done so far is
// in a checkpoint.
var ErrStopped = errors.New("stopped at a step border")

// ErrNotFinite is wrapped when the loss or the gradient is NaN or infinite. The
// step was not taken and no checkpoint was written after it.
var ErrNotFinite = errors.New("not finite")

// The stages of a recipe, as checkpoints and events name them.
const (
	stageSFT  = "sft"
	stageGRPO = "grpo"
)

// Run carries out a recipe. It returns nil when the last step is done and its
// checkpoint durable. When ctx ends, it finishes the step at hand, writes a
// checkpoint and returns an error that wraps ErrStopped.
func Run(ctx context.Context, env Env) error {
	for name, v := range map[string]string{"TARBERT_EVENTS": env.Events, "TARBERT_CHECKPOINTS": env.Checkpoints, "TARBERT_RECIPE": env.Recipe} {
		if v == "" {
			return fmt.Errorf("%s is not set: a trainer is started by its supervisor (docs/formats.md, trainer contract)", name)
		}
	}
	recipe, err := readRecipe(env.Recipe)
	if err != nil {
		return err
	}
	ev, err := openEvents(env.Events)
	if err != nil {
		return err
	}
	return errors.Join(run(ctx, env, recipe, ev), ev.close())
}

func run(ctx context.Context, env Env, recipe recipe, ev *events) error {
	if err := ev.enter("setup"); err != nil {
		return err
	}
	t, err := setup(env, recipe, ev)
	if err != nil {
		return err
	}
	if env.Replay != "" {
		return t.replay(ctx, env.Replay)
	}
	saved := t.step
	for t.step < recipe.Steps() {
		if ctx.Err() != nil || env.StopAfter > 0 && t.step >= env.StopAfter {
			if t.step > 0 && t.step != saved {
				err = t.save(env.Checkpoints)
			}
			return errors.Join(err, fmt.Errorf("training stopped after step %d of %d: %w", t.step, recipe.Steps(), ErrStopped))
		}
		// The step at hand is finished even when ctx ends.
		if err := t.next(context.WithoutCancel(ctx)); err != nil {
			return fmt.Errorf("step %d: %w", t.step+1, err)
		}
		if due(recipe.Recipe, t.step) {
			if err := t.save(env.Checkpoints); err != nil {
				return err
			}
			saved = t.step
		}
	}
	if saved != t.step || env.Resume != "" {
		// A resumed run may find nothing left to do; the checkpoint it came from
		// may lie elsewhere.
		if err := t.save(env.Checkpoints); err != nil {
			return err
		}
	}
	return ev.write(doneEvent{Event: "done", Step: t.step})
}

// training is a run between two steps.
type training struct {
	recipe   recipe
	id       identity
	events   *events
	model    *reference.Trainable
	opt      *optimizer
	tok      *tokenizer.Tokenizer
	examples []reference.Sample
	order    order
	problems []problem
	check    reward.Checker

	adjust adjustment

	step   int   // steps done
	tokens int64 // trained on so far
}

// setup reads everything that the recipe names.
func setup(env Env, r recipe, ev *events) (*training, error) {
	t := &training{recipe: r, events: ev}
	configPath := filepath.Join(r.Train.Model, "config.json")
	var err error
	if t.id, err = identify(r, configPath); err != nil {
		return nil, err
	}
	if t.tok, err = tokenizer.Load(r.Train.Model); err != nil {
		return nil, fmt.Errorf("read the model's tokenizer: %w", err)
	}
	config, err := reference.ReadConfig(r.Train.Model)
	if err != nil {
		return nil, err
	}
	if err := fits(t.tok, config, r.Train.Model); err != nil {
		return nil, err
	}
	if err := t.readData(config.MaxPositionEmbeddings); err != nil {
		return nil, err
	}
	if t.adjust, err = readAdjustment(env.Adjust); err != nil {
		return nil, err
	}
	if env.Resume != "" {
		return t, t.resume(env.Resume)
	}
	if t.model, err = fresh(r.Recipe, config); err != nil {
		return nil, err
	}
	t.opt = newOptimizer(t.model.Params(), kernel.NewPool(r.Threads))
	return t, nil
}

// fresh is the model that training begins with: the weights beside config.json
// where there are any, else new ones drawn from the seed.
func fresh(r spec.Recipe, c *reference.Config) (*reference.Trainable, error) {
	for _, name := range []string{"model.safetensors", "model.safetensors.index.json"} {
		if _, err := os.Stat(filepath.Join(r.Train.Model, name)); err == nil {
			return reference.LoadTrainable(r.Train.Model, r.Threads)
		} else if !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("read the model: %w", err)
		}
	}
	return reference.NewTrainable(c, r.Seed, r.Threads), nil
}

func (t *training) readData(positions int) error {
	var err error
	if sft := t.recipe.Train.SFT; sft.Steps > 0 {
		if t.examples, err = readExamples(t.recipe.Dataset, t.tok, positions); err != nil {
			return err
		}
		t.order = order{seed: t.recipe.Seed, n: len(t.examples), batch: sft.Batch}
	}
	g := t.recipe.Train.GRPO
	if g.Steps == 0 {
		return nil
	}
	if t.check, err = reward.NewChecker(g.Reward); err != nil {
		return fmt.Errorf("train.grpo.reward: %w", err)
	}
	t.problems, err = readProblems(g.Problems, t.tok, g.Steps*g.Prompts, positions-g.MaxTokens)
	return err
}

// next takes one step and reports it.
func (t *training) next(ctx context.Context) error {
	sft := t.recipe.Train.SFT.Steps
	if t.step == sft {
		t.opt.reset() // a new objective: the old moments would point its first steps the old way
	}
	if t.adjust.skips(t.step + 1) {
		t.step++
		return t.events.write(skipEvent{Event: "step", Step: t.step, Stage: stage(t.recipe.Recipe, t.step), Total: t.tokens, Adjusted: "skip"})
	}
	if t.step < sft {
		return t.nextSFT(ctx)
	}
	return t.nextGRPO(ctx, t.step-sft)
}

// stage names the stage that step number s (from 1) belongs to.
func stage(r spec.Recipe, s int) string {
	if s <= r.Train.SFT.Steps {
		return stageSFT
	}
	return stageGRPO
}

// finish clips, moves the weights, counts and reports. The loss and the
// gradients are those of the whole batch.
func (t *training) finish(h spec.Optimizer, rate float64, sum totals, tokens int, data string, m *meters) error {
	scale := t.adjust.scale(t.step + 1)
	rate *= scale
	norm := t.opt.norm()
	if math.IsNaN(sum.loss+norm) || math.IsInf(sum.loss+norm, 0) {
		if err := t.events.write(badEvent{Event: "step", Step: t.step + 1, Data: data}); err != nil {
			return err
		}
		return fmt.Errorf("loss %g, gradient norm %g: %w", sum.loss, norm, ErrNotFinite)
	}
	if m == nil || m.Kept > 0 { // without any signal even the moments stay as they are
		t.opt.step(h, rate, norm)
	}
	t.step++
	t.tokens += int64(tokens)
	e := stepEvent{Event: "step", Step: t.step, Stage: stage(t.recipe.Recipe, t.step), Loss: sum.loss, GradNorm: norm,
		Rate: rate, Tokens: tokens, Total: t.tokens, Data: data, Z: sum.z, RouterZ: sum.routerZ, meters: m}
	if scale != 1 {
		e.Adjusted = "lr"
	}
	return t.events.write(e)
}

// due says whether a checkpoint is written after a step: at the interval, at
// the end of each stage.
func due(r spec.Recipe, step int) bool {
	every := r.Train.Checkpoint.Every
	return step == r.Steps() || step == r.Train.SFT.Steps || every > 0 && step%every == 0
}

// kept says which checkpoints stay: the newest ones and the last of each stage.
func kept(r spec.Recipe, all []checkpoint.Entry) map[int]bool {
	keep := map[int]bool{r.Train.SFT.Steps: true, r.Steps(): true}
	for _, e := range all[max(0, len(all)-max(r.Train.Checkpoint.Keep, 1)):] {
		keep[e.Step] = true
	}
	return keep
}
