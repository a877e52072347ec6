package trainer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"

	"tarbert/internal/spec"
)

// recipe is what the trainer is to do.
type recipe struct {
	spec.Recipe
	Options Options `json:"reference"`
}

// readRecipe reads the file that TARBERT_RECIPE names. An unknown field is an
// error: it would be a wish that nobody fulfils.
func readRecipe(path string) (recipe, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return recipe{}, fmt.Errorf("read the recipe: %w", err)
	}
	var r recipe
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return recipe{}, fmt.Errorf("recipe %s: %w", path, err)
	}
	if r.Threads <= 0 {
		r.Threads = runtime.GOMAXPROCS(0)
	}
	if err := check(r.Recipe); err != nil {
		return recipe{}, fmt.Errorf("recipe %s: %w", path, err)
	}
	if err := r.Options.check(r.Recipe); err != nil {
		return recipe{}, fmt.Errorf("recipe %s: %w", path, err)
	}
	return r, nil
}

// check refuses what would fail later or train nonsense.
func check(r spec.Recipe) error {
	t := r.Train
	if t.DType != "" && t.DType != "float32" {
		return fmt.Errorf("train.dtype is %q; the reference trainer computes in float32", t.DType)
	}
	if r.Steps() <= 0 {
		return errors.New("no steps: train.sft.steps and train.grpo.steps are zero")
	}
	if s := t.SFT; s.Steps < 0 || s.Steps > 0 && s.Batch < 1 {
		return fmt.Errorf("train.sft: %d steps of batch %d", s.Steps, s.Batch)
	}
	if t.SFT.Steps > 0 {
		if err := checkOptimizer("train.sft.optimizer", t.SFT.Optimizer); err != nil {
			return err
		}
	}
	g := t.GRPO
	if g.Steps == 0 {
		return nil
	}
	switch {
	case g.Steps < 0 || g.Prompts < 1 || g.MaxTokens < 1:
		return fmt.Errorf("train.grpo: %d steps, %d prompts, %d max_tokens", g.Steps, g.Prompts, g.MaxTokens)
	case g.Samples < 2:
		return fmt.Errorf("train.grpo.samples is %d; a group needs two or more to compare", g.Samples)
	case g.Temperature <= 0:
		return fmt.Errorf("train.grpo.temperature is %g; want above 0", g.Temperature)
	case g.ClipLow < 0 || g.ClipLow > 1 || g.ClipHigh < 0:
		return fmt.Errorf("train.grpo: clip_low %g, clip_high %g; want 0–1 and 0 or more", g.ClipLow, g.ClipHigh)
	case g.Objective != "grpo" && g.Objective != "gspo":
		return fmt.Errorf("train.grpo.objective is %q; want grpo or gspo", g.Objective)
	}
	return checkOptimizer("train.grpo.optimizer", g.Optimizer)
}

func checkOptimizer(name string, o spec.Optimizer) error {
	switch {
	case !(o.LearningRate > 0):
		return fmt.Errorf("%s.learning_rate is %g; want above 0", name, o.LearningRate)
	case o.Warmup < 0:
		return fmt.Errorf("%s.warmup is %d", name, o.Warmup)
	case !(o.Floor >= 0 && o.Floor <= 1):
		return fmt.Errorf("%s.floor is %g; want 0–1", name, o.Floor)
	case !(o.Betas[0] >= 0 && o.Betas[0] < 1 && o.Betas[1] >= 0 && o.Betas[1] < 1):
		return fmt.Errorf("%s.betas are %g; want each in 0–1, 1 excluded", name, o.Betas)
	case !(o.Epsilon > 0):
		return fmt.Errorf("%s.epsilon is %g; want above 0", name, o.Epsilon)
	case o.WeightDecay < 0 || o.Clip < 0:
		return fmt.Errorf("%s: weight_decay %g, clip %g; want 0 or more", name, o.WeightDecay, o.Clip)
	}
	return nil
}

// identity is what makes two runs the same run, wherever their files lie and
// however many threads they have. It is kept in every checkpoint, and a
// checkpoint of another run is not resumed.
type identity struct {
	Seed     uint64    `json:"seed"`
	Model    string    `json:"model_config_sha256"`
	Dataset  string    `json:"dataset_sha256,omitempty"`
	Problems string    `json:"problems_sha256,omitempty"`
	SFT      spec.SFT  `json:"sft"`
	GRPO     spec.GRPO `json:"grpo"`
	Options  Options   `json:"reference,omitzero"`
}

// identify digests what the recipe names.
func identify(r recipe, configPath string) (identity, error) {
	id := identity{Seed: r.Seed, SFT: r.Train.SFT, GRPO: r.Train.GRPO, Options: r.Options}
	id.GRPO.Problems = ""
	var err error
	if id.Model, err = fileDigest(configPath); err != nil {
		return identity{}, fmt.Errorf("read the model: %w", err)
	}
	if r.Train.SFT.Steps > 0 {
		if id.Dataset, err = fileDigest(r.Dataset); err != nil {
			return identity{}, fmt.Errorf("read the dataset: %w", err)
		}
	}
	if r.Train.GRPO.Steps > 0 {
		if id.Problems, err = fileDigest(r.Train.GRPO.Problems); err != nil {
			return identity{}, fmt.Errorf("read the problems: %w", err)
		}
	}
	return id, nil
}

// differs names the first thing in which two identities differ.
func (id identity) differs(other identity) string {
	switch {
	case id.Seed != other.Seed:
		return fmt.Sprintf("seed (%d, here %d)", other.Seed, id.Seed)
	case id.Model != other.Model:
		return "the model's config.json"
	case id.Dataset != other.Dataset:
		return "the dataset"
	case id.Problems != other.Problems:
		return "the problems"
	case id.SFT != other.SFT:
		return fmt.Sprintf("train.sft (%+v, here %+v)", other.SFT, id.SFT)
	case id.GRPO != other.GRPO:
		return fmt.Sprintf("train.grpo (%+v, here %+v)", other.GRPO, id.GRPO)
	case id.Options != other.Options:
		return fmt.Sprintf("reference (%+v, here %+v)", other.Options, id.Options)
	}
	return ""
}
