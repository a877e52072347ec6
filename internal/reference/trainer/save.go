package trainer

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"tarbert/internal/checkpoint"
	"tarbert/internal/reference"
	"tarbert/internal/reference/kernel"
)

// extra is what state.json keeps for this trainer alone.
type extra struct {
	Run identity `json:"run"`
}

// writer is this trainer's name in state.json.
const writer = "reference"

// optimizerSteps is the entry of state.json's schedule that counts the updates
// behind the moments: AdamW's bias correction needs it.
const optimizerSteps = "optimizer_steps"

// companions are the files beside the weights that whoever serves them needs.
// Only the first must be there.
var companions = [...]string{"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json",
	"generation_config.json", "added_tokens.json", "vocab.json", "merges.txt"}

// save commits a checkpoint of the steps done, reports it and prunes old ones.
// Its content is a function of the run alone: writing it twice gives the same
// bytes.
func (t *training) save(root string) error {
	if err := t.events.enter("checkpoint"); err != nil {
		return err
	}
	w, err := checkpoint.Begin(root, t.step)
	if err != nil {
		return err
	}
	dir, err := t.commit(w)
	if err != nil {
		return errors.Join(fmt.Errorf("checkpoint of step %d: %w", t.step, err), w.Abort())
	}
	if err := t.events.write(checkpointEvent{Event: "checkpoint", Step: t.step, Dir: dir}); err != nil {
		return err
	}
	all, err := checkpoint.List(root)
	if err != nil {
		return err
	}
	keep := kept(t.recipe.Recipe, all)
	_, err = checkpoint.Prune(root, func(e checkpoint.Entry) bool { return keep[e.Step] })
	return err
}

func (t *training) commit(w *checkpoint.Writer) (string, error) {
	if err := t.model.SaveModel(w.Dir()); err != nil {
		return "", err
	}
	if err := t.opt.save(w.Dir()); err != nil {
		return "", err
	}
	for _, name := range companions {
		b, err := os.ReadFile(filepath.Join(t.recipe.Train.Model, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(w.Dir(), name), b, 0o644)
		}
		if err != nil {
			return "", fmt.Errorf("copy %s: %w", name, err)
		}
	}
	own, err := json.Marshal(extra{Run: t.id})
	if err != nil {
		return "", err
	}
	return w.Commit(checkpoint.State{
		Step: t.step, Tokens: t.tokens, Stage: stage(t.recipe.Recipe, t.step), Cursor: t.cursor(),
		Schedule: map[string]float64{optimizerSteps: float64(t.opt.steps)},
		Writer:   checkpoint.Identity{Trainer: writer, Vendor: "cpu", Device: kernel.Describe(), DType: "float32"},
		Extra:    own,
	})
}

// cursor says where the next step's data begin. The run itself needs only the
// step; this is for another trainer that takes over.
func (t *training) cursor() checkpoint.Cursor {
	if t.step < t.recipe.Train.SFT.Steps {
		next, n := int64(t.step)*int64(t.order.batch), int64(t.order.n)
		return checkpoint.Cursor{Epoch: next / n, Position: next % n}
	}
	return checkpoint.Cursor{Position: int64(t.step-t.recipe.Train.SFT.Steps) * int64(t.recipe.Train.GRPO.Prompts)}
}

// resume goes on from a checkpoint, once it has proven to be whole and of this
// run.
func (t *training) resume(dir string) error {
	if _, err := checkpoint.Verify(dir); err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	state, err := checkpoint.ReadState(dir)
	if err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	if err := t.sameRun(state); err != nil {
		return fmt.Errorf("resume %s: %w", dir, err)
	}
	if state.Step < 0 || state.Step > t.recipe.Steps() {
		return fmt.Errorf("resume %s: step %d is outside the recipe's %d steps", dir, state.Step, t.recipe.Steps())
	}
	if t.model, err = reference.LoadTrainable(dir, t.recipe.Threads); err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	t.opt = newOptimizer(t.model.Params(), kernel.NewPool(t.recipe.Threads))
	if err := t.opt.load(dir, updates(state, t.recipe.Train.SFT.Steps)); err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	t.step, t.tokens = state.Step, state.Tokens
	return nil
}

// sameRun refuses a checkpoint of another recipe. A trainer that keeps nothing of
// its recipe that could be compared is believed; whoever gave it answers for that.
func (t *training) sameRun(state checkpoint.State) error {
	var own struct {
		Run *identity `json:"run"`
	}
	if len(state.Extra) == 0 {
		return nil
	}
	if err := json.Unmarshal(state.Extra, &own); err != nil {
		if state.Writer.Trainer != writer {
			return nil // somebody else's, in a form of their own
		}
		return fmt.Errorf("state.json: extra: %w", err)
	}
	if own.Run == nil {
		return nil
	}
	if what := t.id.differs(*own.Run); what != "" {
		return fmt.Errorf("it is of another run: %s differs; start anew with empty checkpoints or restore the recipe", what)
	}
	return nil
}

// updates is how many updates lie behind a checkpoint's moments: as it says, else
// the steps of its stage.
func updates(s checkpoint.State, sftSteps int) int {
	if n, ok := s.Schedule[optimizerSteps]; ok && n >= 0 && n <= float64(s.Step) {
		return int(n)
	}
	if s.Stage == stageGRPO {
		return max(s.Step-sftSteps, 0)
	}
	return s.Step
}
