package verifytest

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"tarbert/internal/reference/tokenizer"
	"tarbert/internal/reference/trainer"
	"tarbert/internal/spec"
)

// Specimen is a model to plant faults in, as a recipe that our trainer follows.
type Specimen struct {
	Name   string
	Config map[string]any // config.json
	Seed   uint64
	Steps  int
	Batch  int
	Rate   float64
}

// EndOfText is the id of the specimens' end-of-text token.
const EndOfText = 256

// Vocabulary is the specimens' size of it: bytes, end of text, padding, spare.
const Vocabulary = 264

// Latent is a deepseek_v3 of 2.6 million parameters: latent attention, a dense
// layer and three of 16 routed experts and a shared one.
func Latent(seed uint64) Specimen {
	return Specimen{Name: fmt.Sprintf("deepseek_v3 seed %d", seed), Seed: seed, Steps: 1000, Batch: 24, Rate: 3e-3, Config: map[string]any{
		"architectures": []string{"DeepseekV3ForCausalLM"}, "model_type": "deepseek_v3", "vocab_size": Vocabulary,
		"hidden_size": 128, "intermediate_size": 512, "moe_intermediate_size": 96, "num_hidden_layers": 4,
		"num_attention_heads": 4, "num_key_value_heads": 4, "n_routed_experts": 16, "n_shared_experts": 1,
		"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "norm_topk_prob": true, "routed_scaling_factor": 1.0,
		"first_k_dense_replace": 1, "q_lora_rank": nil, "kv_lora_rank": 48, "qk_nope_head_dim": 24, "qk_rope_head_dim": 16,
		"v_head_dim": 32, "hidden_act": "silu", "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
		"rope_scaling": nil, "tie_word_embeddings": false, "attention_bias": false, "attention_dropout": 0.0,
		"initializer_range": 0.06, "topk_method": "noaux_tc", "scoring_func": "sigmoid", "torch_dtype": "float32",
		"eos_token_id": EndOfText, "bos_token_id": nil, "pad_token_id": EndOfText + 1, "num_nextn_predict_layers": 0, "use_cache": true,
	}}
}

// Dense is a qwen3 of 2.2 million parameters: grouped-query attention with
// normed queries and keys.
func Dense(seed uint64) Specimen {
	return Specimen{Name: fmt.Sprintf("qwen3 seed %d", seed), Seed: seed, Steps: 1000, Batch: 24, Rate: 3e-3, Config: map[string]any{
		"architectures": []string{"Qwen3ForCausalLM"}, "model_type": "qwen3", "vocab_size": Vocabulary,
		"hidden_size": 192, "intermediate_size": 576, "num_hidden_layers": 5, "num_attention_heads": 6, "num_key_value_heads": 2,
		"head_dim": 32, "hidden_act": "silu", "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
		"rope_scaling": nil, "tie_word_embeddings": false, "attention_bias": false, "attention_dropout": 0.0,
		"initializer_range": 0.05, "torch_dtype": "float32", "eos_token_id": EndOfText, "bos_token_id": nil,
		"pad_token_id": EndOfText + 1, "use_cache": true,
	}}
}

// digest names everything that the weights depend on.
func (s Specimen) digest(c *Corpus) (string, error) {
	b, err := json.Marshal(struct {
		Specimen
		Corpus string
		Layout int // of what Grow writes
	}{s, c.Digest, 1})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))[:24], nil
}

// Grown is a trained specimen on disk.
type Grown struct {
	Dir   string // the model
	Stale string // the same run at nine tenths of its steps
}

// LabDir is where trained specimens are kept: TARBERT_LAB, else the user's cache.
func LabDir() (string, error) {
	if d := os.Getenv("TARBERT_LAB"); d != "" {
		return d, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the user's cache (or set TARBERT_LAB): %w", err)
	}
	return filepath.Join(cache, "tarbert", "verify-lab"), nil
}

// Grow trains a specimen, or finds the one that the same recipe and corpus
// made before.
func Grow(ctx context.Context, lab string, s Specimen, c *Corpus, threads int) (*Grown, error) {
	id, err := s.digest(c)
	if err != nil {
		return nil, err
	}
	home := filepath.Join(lab, id)
	g := &Grown{Dir: filepath.Join(home, "model"), Stale: filepath.Join(home, "stale")}
	if _, err := os.Stat(filepath.Join(g.Dir, "config.json")); err == nil {
		return g, nil
	}
	if err := os.MkdirAll(lab, 0o755); err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp(lab, "growing-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work) // a leftover is only disk space
	if err := s.train(ctx, work, c, threads); err != nil {
		return nil, fmt.Errorf("train %s: %w", s.Name, err)
	}
	done := filepath.Join(work, "done")
	if err := os.Mkdir(done, 0o755); err != nil {
		return nil, err
	}
	for name, step := range map[string]int{"model": s.Steps, "stale": s.stale()} {
		from := filepath.Join(work, "checkpoints", fmt.Sprintf("step-%08d", step))
		if err := os.Remove(filepath.Join(from, "optimizer.safetensors")); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		if err := os.Rename(from, filepath.Join(done, name)); err != nil {
			return nil, err
		}
	}
	if err := os.Rename(done, home); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	return g, nil
}

// stale is the step of the checkpoint before the last.
func (s Specimen) stale() int { return s.Steps * 9 / 10 }

// train carries out the recipe in dir.
func (s Specimen) train(ctx context.Context, dir string, c *Corpus, threads int) error {
	model := filepath.Join(dir, "initial")
	if err := os.Mkdir(model, 0o755); err != nil {
		return err
	}
	config, err := json.MarshalIndent(s.Config, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(model, "config.json"), config, 0o644); err != nil {
		return err
	}
	if err := tokenizer.WriteByteLevel(model, tokenizer.ByteLevelFiles{
		Added: []tokenizer.AddedToken{{Content: "<|eot|>", Special: true}, {Content: "<|pad|>", Special: true}}, EOS: "<|eot|>", PAD: "<|pad|>", ModelMax: 512,
	}); err != nil {
		return err
	}
	dataset := filepath.Join(dir, "dataset.jsonl")
	var lines []byte
	for i, t := range c.Train {
		b, err := json.Marshal(map[string]string{"id": fmt.Sprint(i), "prompt": t.Prompt, "completion": t.Rest})
		if err != nil {
			return err
		}
		lines = append(append(lines, b...), '\n')
	}
	if err := os.WriteFile(dataset, lines, 0o644); err != nil {
		return err
	}
	r := spec.Recipe{Seed: s.Seed, Dataset: dataset, Threads: threads, Train: spec.Train{
		Model: model, DType: "float32", Checkpoint: spec.Checkpoint{Every: s.stale(), Keep: 2},
		SFT: spec.SFT{Steps: s.Steps, Batch: s.Batch, RouterBias: 0.001, Optimizer: spec.Optimizer{
			LearningRate: s.Rate, Warmup: 20, Floor: 0.1, Betas: [2]float64{0.9, 0.95}, Epsilon: 1e-8, WeightDecay: 0.1, Clip: 1}},
	}}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	env := trainer.Env{Events: filepath.Join(dir, "events"), Checkpoints: filepath.Join(dir, "checkpoints"), Recipe: filepath.Join(dir, "recipe.json")}
	if err := os.WriteFile(env.Recipe, b, 0o644); err != nil {
		return err
	}
	return trainer.Run(ctx, env)
}
