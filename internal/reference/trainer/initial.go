package trainer

import (
	"fmt"

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
