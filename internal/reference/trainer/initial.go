package trainer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"tarbert/internal/checkpoint"
	"tarbert/internal/reference"
	"tarbert/internal/reference/tokenizer"
	"tarbert/internal/spec"
)

// Initial is what a recipe begins with: the model, with the weights beside its
// config or new ones drawn from the seed, and the SFT examples as samples. It is
// for judging both before the first step.
func Initial(r spec.Recipe) (*reference.Trainable, []reference.Sample, error) {
	config, err := reference.ReadConfig(r.Train.Model)
	if err != nil {
		return nil, nil, err
	}
	tok, err := tokenizer.Load(r.Train.Model)
	if err != nil {
		return nil, nil, fmt.Errorf("read the model's tokenizer: %w", err)
	}
	if err := fits(tok, config, r.Train.Model); err != nil {
		return nil, nil, err
	}
	samples, err := readExamples(r.Dataset, tok, config.MaxPositionEmbeddings)
	if err != nil {
		return nil, nil, err
	}
	model, err := fresh(r, config)
	return model, samples, err
}

// fits refuses a tokenizer that the model cannot be trained with.
func fits(tok *tokenizer.Tokenizer, config *reference.Config, dir string) error {
	if len(tok.EOS()) == 0 {
		return fmt.Errorf("the tokenizer in %s names no end-of-text token: set eos_token in tokenizer_config.json", dir)
	}
	if tok.Size() > config.VocabSize {
		return fmt.Errorf("the tokenizer in %s has %d tokens and config.json a vocab_size of %d", dir, tok.Size(), config.VocabSize)
	}
	return nil
}

// WriteInitial draws the weights that a recipe begins with and writes the model
// into dir, for a trainer that cannot draw them itself. It reports false, and
// writes nothing, where the recipe's model has weights of its own. What an
// earlier call completed is left alone.
func WriteInitial(r spec.Recipe, dir string) (bool, error) {
	has := func(folder string) (bool, error) {
		for _, name := range []string{"model.safetensors", "model.safetensors.index.json"} {
			if _, err := os.Stat(filepath.Join(folder, name)); err == nil {
				return true, nil
			} else if !errors.Is(err, os.ErrNotExist) {
				return false, fmt.Errorf("read the model: %w", err)
			}
		}
		return false, nil
	}
	if own, err := has(r.Train.Model); own || err != nil {
		return false, err
	}
	if done, err := has(dir); done || err != nil {
		return done, err
	}
	config, err := reference.ReadConfig(r.Train.Model)
	if err != nil {
		return false, err
	}
	threads := r.Threads
	if threads <= 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	if err := reference.NewTrainable(config, r.Seed, threads).SaveModel(dir); err != nil {
		return false, err
	}
	return true, nil
}

// WriteStart writes the checkpoint of step 0 into root: the weights that a recipe
// begins with and empty moments, for any trainer to begin from the very same.
func WriteStart(env Env) (dir string, err error) {
	r, err := readRecipe(env.Recipe)
	if err != nil {
		return "", err
	}
	ev, err := openEvents(env.Events)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, ev.close()) }()
	t, err := setup(env, r, ev)
	if err != nil {
		return "", err
	}
	w, err := checkpoint.Begin(env.Checkpoints, 0)
	if err != nil {
		return "", err
	}
	if dir, err = t.commit(w); err != nil {
		return "", errors.Join(fmt.Errorf("checkpoint of step 0: %w", err), w.Abort())
	}
	return dir, nil
}
