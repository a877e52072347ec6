package reference

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// edited is a golden config.json with fields set, or removed where nil stands
// for the field itself.
func edited(t testing.TB, name string, edit map[string]any, remove ...string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(goldenDir(name), "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var c map[string]any
	if err := json.Unmarshal(data, &c); err != nil {
		t.Fatal(err)
	}
	for k, v := range edit {
		c[k] = v
	}
	for _, k := range remove {
		delete(c, k)
	}
	out, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestConfigErrorsNameTheField plants one fault at a time.
func TestConfigErrorsNameTheField(t *testing.T) {
	yarn := map[string]any{"type": "yarn", "factor": 4.0}
	for _, c := range []struct {
		model  string
		edit   map[string]any
		remove string
		want   string
	}{
		{"qwen3", map[string]any{"frobnicate": 1}, "", `"frobnicate"`},
		{"qwen3", map[string]any{"n_routed_experts": 8}, "", `"n_routed_experts"`},
		{"qwen3", nil, "head_dim", `"head_dim" is missing`},
		{"qwen3", nil, "rope_parameters", `"rope_theta" is missing`},
		{"qwen3", map[string]any{"rope_theta": 5.0}, "", `"rope_theta"`},
		{"qwen3", map[string]any{"torch_dtype": "bfloat16"}, "", `"torch_dtype"`},
		{"qwen3", map[string]any{"hidden_act": "gelu"}, "", `"hidden_act"`},
		{"qwen3", map[string]any{"use_sliding_window": true}, "", `"use_sliding_window"`},
		{"qwen3", map[string]any{"layer_types": []string{"full_attention"}}, "", `"layer_types"`},
		{"qwen3", map[string]any{"layer_types": []string{"full_attention", "sliding_attention", "full_attention"}}, "", `"layer_types"`},
		{"qwen3", map[string]any{"architectures": []string{"LlamaForCausalLM"}}, "", `"architectures"`},
		{"qwen3", map[string]any{"model_type": "llama"}, "", `"model_type"`},
		{"qwen3", map[string]any{"num_key_value_heads": 3}, "", `"num_key_value_heads"`},
		{"qwen3", map[string]any{"hidden_size": -1}, "", `"hidden_size"`},
		{"qwen3", map[string]any{"hidden_size": 1 << 40}, "", `"hidden_size"`},
		{"qwen3", map[string]any{"num_hidden_layers": 100000, "layer_types": nil}, "", `"num_hidden_layers"`},
		{"qwen3", map[string]any{"vocab_size": "many"}, "", `"vocab_size"`},
		{"qwen3", map[string]any{"vocab_size": 3.5}, "", `"vocab_size"`},
		{"qwen3", map[string]any{"rms_norm_eps": 0}, "", `"rms_norm_eps"`},
		{"qwen3", map[string]any{"rope_scaling": yarn, "rope_parameters": map[string]any{"rope_type": "yarn", "factor": 8.0, "rope_theta": 1e6}}, "", `contradict`},
		{"qwen3", map[string]any{"rope_scaling": map[string]any{"type": "linear", "factor": 2.0}}, "", `"rope_scaling.rope_type"`},
		{"qwen3", map[string]any{"rope_scaling": map[string]any{"type": "yarn"}}, "", `"rope_scaling.factor" is missing`},
		{"qwen3", map[string]any{"rope_scaling": map[string]any{"type": "yarn", "rope_type": "default", "factor": 2.0}}, "", `"rope_scaling.rope_type"`},
		{"qwen3", map[string]any{"rope_scaling": map[string]any{"type": "yarn", "factor": 2.0, "twist": 1}}, "", `"rope_scaling.twist"`},
		{"qwen3", map[string]any{"rope_scaling": map[string]any{"type": "yarn", "factor": 0.5}}, "", `"rope_scaling.factor"`},
		{"qwen3-moe", map[string]any{"num_experts": 4}, "", `"num_experts"`},
		{"qwen3-moe", map[string]any{"num_experts_per_tok": 9}, "", `"num_experts_per_tok"`},
		{"qwen3-moe", map[string]any{"mlp_only_layers": []int{7}}, "", `"mlp_only_layers"`},
		{"qwen3-moe", map[string]any{"decoder_sparse_step": 0}, "", `"decoder_sparse_step"`},
		{"deepseek-v3", map[string]any{"num_key_value_heads": 2}, "", `"num_key_value_heads"`},
		{"deepseek-v3", map[string]any{"qk_head_dim": 40}, "", `"qk_head_dim"`},
		{"deepseek-v3", map[string]any{"head_dim": 24}, "", `"head_dim"`},
		{"deepseek-v3", map[string]any{"scoring_func": "softmax"}, "", `"scoring_func"`},
		{"deepseek-v3", map[string]any{"topk_method": "greedy"}, "", `"topk_method"`},
		{"deepseek-v3", map[string]any{"moe_layer_freq": 2}, "", `"moe_layer_freq"`},
		{"deepseek-v3", map[string]any{"n_group": 3}, "", `"n_group"`},
		{"deepseek-v3", map[string]any{"n_group": 8}, "", `"n_group"`},
		{"deepseek-v3", map[string]any{"topk_group": 2}, "", `"topk_group"`},
		{"deepseek-v3", nil, "q_lora_rank", `"q_lora_rank" is missing`},
		{"deepseek-v3", nil, "norm_topk_prob", `"norm_topk_prob" is missing`},
		{"deepseek-v3", map[string]any{"quantization_config": map[string]any{"quant_method": "fp8", "fmt": "e5m2"}}, "", `"quantization_config.fmt"`},
		{"deepseek-v3", map[string]any{"quantization_config": map[string]any{"bits": 4}}, "", `"quantization_config.quant_method"`},
		{"deepseek-v3", map[string]any{"quantization_config": map[string]any{"quant_method": "fp8", "weight_block_size": []int{0, 128}}}, "", `"quantization_config.weight_block_size"`},
	} {
		var remove []string
		if c.remove != "" {
			remove = []string{c.remove}
		}
		_, err := ParseConfig(edited(t, c.model, c.edit, remove...))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s with %v without %q: error %v, want one that says %s", c.model, c.edit, c.remove, err, c.want)
		}
	}
}

func TestConfigSyntax(t *testing.T) {
	for text, want := range map[string]string{
		"":                         "EOF",
		"[]":                       "object",
		`{"model_type":"qwen3"} x`: "",
		`{"vocab_size":1,"model_type":"qwen3","vocab_size":2}`: `"vocab_size" is given twice`,
		`{"model_type":"qwen3","vocab_size":`:                  "vocab_size",
	} {
		if _, err := ParseConfig([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one about %q", text, err, want)
		}
	}
	if _, err := ReadConfig(t.TempDir()); err == nil {
		t.Error("an empty directory has a config")
	}
}

// TestSpellingsMean the same: what is written in the published spelling reads
// back equal, and so does every golden config however it is spelled.
func TestConfigRoundTrip(t *testing.T) {
	for _, name := range goldenModels {
		c, err := ReadConfig(goldenDir(name))
		if err != nil {
			t.Fatal(err)
		}
		c.EOS = append(c.EOS, 3, 4)
		c.Quantization, c.QuantizationBlock = "", [2]int{}
		data, err := c.JSON()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseConfig(data)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(c.MLPOnlyLayers) == 0 {
			c.MLPOnlyLayers, again.MLPOnlyLayers = nil, nil
		}
		if diff := cmp.Diff(c, again); diff != "" {
			t.Errorf("%s: written and read (-want +got):\n%s", name, diff)
		}
		for _, field := range []string{`"rope_theta"`, `"rope_scaling"`, `"torch_dtype"`} {
			if !strings.Contains(string(data), field) {
				t.Errorf("%s: %s is not written", name, field)
			}
		}
		if c.ModelType == DeepseekV3 && (!strings.Contains(string(data), `"topk_method": "noaux_tc"`) || !strings.Contains(string(data), `"scoring_func": "sigmoid"`)) {
			t.Errorf("%s: topk_method or scoring_func is not written", name)
		}
	}
	bad := &Config{ModelType: Qwen3}
	if _, err := bad.JSON(); err == nil {
		t.Error("an invalid config was written")
	}
}

// TestTensorsAreTheFiles compares what a config implies with what transformers
// wrote.
func TestTensorsAreTheFiles(t *testing.T) {
	for _, name := range goldenModels {
		m, err := ReadConfig(goldenDir(name))
		if err != nil {
			t.Fatal(err)
		}
		s, err := openSource(goldenDir(name), m)
		if err != nil {
			t.Fatal(err)
		}
		implied := map[string][]int64{}
		for _, spec := range m.Tensors() {
			implied[spec.Name] = spec.Shape
		}
		for _, info := range s.dir.Infos() {
			if m.PredictionLayer(info.Name) || strings.HasSuffix(info.Name, "_scale_inv") {
				continue
			}
			if diff := cmp.Diff(info.Shape, implied[info.Name]); diff != "" {
				t.Errorf("%s: %s (-file +implied):\n%s", name, info.Name, diff)
			}
			delete(implied, info.Name)
		}
		if len(implied) > 0 {
			t.Errorf("%s: implied but not in the files: %v", name, implied)
		}
		if err := s.dir.Close(); err != nil {
			t.Error(err)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	for _, name := range goldenModels {
		f.Add(edited(f, name, nil))
	}
	f.Add(editedCompressed(f, []any{"lm_head", "re:.*mlp.gate$"}, "ignore"))
	f.Add([]byte(`{"model_type":"deepseek_v3","rope_scaling":{"type":"yarn","factor":1e999}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseConfig(data)
		if err != nil {
			return
		}
		if err := c.Validate(); err != nil {
			t.Fatalf("read a config that is invalid: %v", err)
		}
		out, err := c.JSON()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseConfig(out); err != nil {
			t.Fatalf("wrote a config that cannot be read: %v\n%s", err, out)
		}
	})
}
