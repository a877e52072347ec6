package trainer

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"tarbert/internal/reference"
	"tarbert/internal/reference/tokenizer"
	"tarbert/internal/spec"
)

// tinyConfig is a deepseek_v3 of some thousand parameters.
const tinyConfig = `{"architectures":["DeepseekV3ForCausalLM"],"model_type":"deepseek_v3","vocab_size":258,"hidden_size":16,
"intermediate_size":32,"moe_intermediate_size":16,"num_hidden_layers":2,"num_attention_heads":2,"num_key_value_heads":2,
"n_routed_experts":4,"n_shared_experts":1,"num_experts_per_tok":2,"n_group":1,"topk_group":1,"norm_topk_prob":true,
"routed_scaling_factor":1.0,"first_k_dense_replace":1,"q_lora_rank":null,"kv_lora_rank":8,"qk_nope_head_dim":8,
"qk_rope_head_dim":8,"v_head_dim":8,"hidden_act":"silu","max_position_embeddings":64,"rms_norm_eps":1e-06,
"rope_theta":10000.0,"tie_word_embeddings":false,"attention_bias":false,"attention_dropout":0.0,"initializer_range":0.05,
"topk_method":"noaux_tc","scoring_func":"sigmoid","torch_dtype":"float32","eos_token_id":256,"bos_token_id":null,"pad_token_id":257,
"num_nextn_predict_layers":0,"use_cache":true}`

// fixture is a folder with a model, a dataset, problems and a recipe.
type fixture struct {
	t      *testing.T
	dir    string
	recipe recipe
}

// newFixture makes a run of 6 SFT and 4 GRPO steps: "answer with the digit".
func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: t.TempDir()}
	model := filepath.Join(f.dir, "model")
	if err := os.MkdirAll(model, 0o755); err != nil {
		t.Fatal(err)
	}
	f.write("model/config.json", []byte(tinyConfig))
	if err := tokenizer.WriteByteLevel(model, tokenizer.ByteLevelFiles{
		Added: []tokenizer.AddedToken{{Content: "<eos>", Special: true}, {Content: "<pad>", Special: true}},
		EOS:   "<eos>", PAD: "<pad>", ModelMax: 64,
	}); err != nil {
		t.Fatal(err)
	}
	var data, problems []byte
	for i := range 11 {
		data = fmt.Appendf(data, "{\"id\":\"e%d\",\"prompt\":\"%d=\",\"completion\":\"%d\"}\n", i, i%5, i%5)
	}
	for i := range 40 {
		problems = fmt.Appendf(problems, "{\"id\":\"p%d\",\"prompt\":\"%d=\",\"answer\":\"%d\"}\n", i, i%5, i%5)
	}
	f.write("data.jsonl", data)
	f.write("problems.jsonl", problems)
	adam := spec.Optimizer{LearningRate: 0.02, Warmup: 2, Floor: 0.2, Betas: [2]float64{0.9, 0.95}, Epsilon: 1e-8, WeightDecay: 0.1, Clip: 1}
	f.recipe.Recipe = spec.Recipe{
		Seed: 7, Dataset: filepath.Join(f.dir, "data.jsonl"), Threads: 1,
		Train: spec.Train{
			Model: model, DType: "float32",
			Checkpoint: spec.Checkpoint{Every: 4, Keep: 2},
			SFT:        spec.SFT{Steps: 6, Batch: 4, Optimizer: adam, RouterBias: 0.001},
			GRPO: spec.GRPO{Steps: 4, Problems: filepath.Join(f.dir, "problems.jsonl"), Reward: "answer", Prompts: 3, Samples: 4,
				MaxTokens: 6, Temperature: 1, ClipLow: 0.2, ClipHigh: 0.28, Objective: "grpo", Optimizer: adam},
		},
	}
	return f
}

// everyOption switches on all that a recipe can ask of this trainer.
var everyOption = Options{
	SFT: SFTOptions{ZLoss: 1e-3, RouterZLoss: 1e-2},
	GRPO: GRPOOptions{ZLoss: 1e-3, RouterZLoss: 1e-2, Rollout: reference.W8A8, Replay: true,
		Correction: Correction{Truncate: 2, MaskLow: 0.5, MaskHigh: 5, MaskLevel: Geometric}},
}

func (f *fixture) write(name string, b []byte) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), b, 0o644); err != nil {
		f.t.Fatal(err)
	}
}

// run trains into the folder name, from resume if it is not empty, up to a step.
func (f *fixture) run(name, resume string, stopAfter int) error {
	f.t.Helper()
	b, err := json.Marshal(f.recipe)
	if err != nil {
		f.t.Fatal(err)
	}
	f.write("recipe.json", b)
	return Run(f.t.Context(), Env{Events: f.events(name), Checkpoints: filepath.Join(f.dir, name), Resume: resume,
		Recipe: filepath.Join(f.dir, "recipe.json"), StopAfter: stopAfter})
}

func (f *fixture) events(name string) string { return filepath.Join(f.dir, name+".events") }

func (f *fixture) step(name string, step int) string {
	return filepath.Join(f.dir, name, fmt.Sprintf("step-%08d", step))
}

// line is any event.
type line struct {
	Event    string
	Step     int
	Stage    string
	Name     string
	Dir      string
	Loss     float64
	GradNorm float64 `json:"grad_norm"`
	Tokens   int
	Reward   *float64
	Gap      *float64 `json:"mean_abs_dlogp"`
	Most     *float64 `json:"max_abs_dlogp"`
	Far      *float64 `json:"share_over_0.1"`
	Weight   *float64
	Masked   *float64
	Rerouted *float64
	Z        float64 `json:"z_loss"`
	RouterZ  float64 `json:"router_z_loss"`
}

func (f *fixture) lines(name string) []line {
	f.t.Helper()
	file, err := os.Open(f.events(name))
	if err != nil {
		f.t.Fatal(err)
	}
	defer file.Close()
	var out []line
	for s := bufio.NewScanner(file); s.Scan(); {
		var l line
		if err := json.Unmarshal(s.Bytes(), &l); err != nil {
			f.t.Fatalf("event %q: %v", s.Text(), err)
		}
		out = append(out, l)
	}
	return out
}

// files reads a folder: name to content.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(b)
	}
	return out
}
