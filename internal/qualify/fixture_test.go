package qualify

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"tarbert/internal/device"
	"tarbert/internal/gate"
	"tarbert/internal/reference/tokenizer"
	"tarbert/internal/spec"
)

const tinyConfig = `{"architectures":["DeepseekV3ForCausalLM"],"model_type":"deepseek_v3","vocab_size":258,"hidden_size":16,
"intermediate_size":32,"moe_intermediate_size":16,"num_hidden_layers":2,"num_attention_heads":2,"num_key_value_heads":2,
"n_routed_experts":4,"n_shared_experts":1,"num_experts_per_tok":2,"n_group":1,"topk_group":1,"norm_topk_prob":true,
"routed_scaling_factor":1.0,"first_k_dense_replace":1,"q_lora_rank":null,"kv_lora_rank":8,"qk_nope_head_dim":8,
"qk_rope_head_dim":8,"v_head_dim":8,"hidden_act":"silu","max_position_embeddings":64,"rms_norm_eps":1e-06,
"rope_theta":10000.0,"tie_word_embeddings":false,"attention_bias":false,"attention_dropout":0.0,"initializer_range":0.05,
"topk_method":"noaux_tc","scoring_func":"sigmoid","torch_dtype":"float32","eos_token_id":256,"bos_token_id":null,"pad_token_id":257,
"num_nextn_predict_layers":0,"use_cache":true}`

// newInput is a small model with data on this machine's processors.
func newInput(t *testing.T) Input {
	t.Helper()
	dir := t.TempDir()
	model := filepath.Join(dir, "model")
	write := func(path string, b []byte) string {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write(filepath.Join(model, "config.json"), []byte(tinyConfig))
	if err := tokenizer.WriteByteLevel(model, tokenizer.ByteLevelFiles{
		Added: []tokenizer.AddedToken{{Content: "<eos>", Special: true}, {Content: "<pad>", Special: true}},
		EOS:   "<eos>", PAD: "<pad>", ModelMax: 64,
	}); err != nil {
		t.Fatal(err)
	}
	var data []byte
	for i := range 20 {
		data = fmt.Appendf(data, "{\"id\":\"e%d\",\"prompt\":\"%d+1=\",\"completion\":\"%d\"}\n", i, i, i+1)
	}
	adam := spec.Optimizer{LearningRate: 0.01, Warmup: 2, Floor: 0.2, Betas: [2]float64{0.9, 0.95}, Epsilon: 1e-8, Clip: 1}
	return Input{
		Pool:   "local",
		Device: device.Device{ID: "cpu", Vendor: device.CPU, Model: "any processor"},
		Recipe: spec.Recipe{Seed: 3, Dataset: write(filepath.Join(dir, "data.jsonl"), data), Threads: 2,
			Train: spec.Train{Model: model, DType: "float32", SFT: spec.SFT{Steps: 20, Batch: 8, Optimizer: adam, RouterBias: 0.001}}},
		Settings: spec.Qualify{TwinSteps: 8, GradientTolerance: 1e-2},
		Dir:      filepath.Join(dir, "work"),
	}
}

// verdict finds a check by name.
func verdict(t *testing.T, r *Report, name string) gate.Check {
	t.Helper()
	for _, c := range r.Gate.Checks {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no check %q in %+v", name, r.Gate)
	return gate.Check{}
}
