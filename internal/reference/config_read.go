package reference

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// ReadConfig reads dir/config.json in either spelling (as published
// repositories have it, or as transformers 5 writes it). A field that is
// unknown, missing, out of range or in contradiction to another is an error
// that names it.
func ReadConfig(dir string) (*Config, error) {
	path := filepath.Join(dir, "config.json")
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read model config: %w", err)
	}
	c, err := ParseConfig(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// architectures names the only class that each model type may give.
var architectures = map[string]string{
	DeepseekV3: "DeepseekV3ForCausalLM",
	Qwen3:      "Qwen3ForCausalLM",
	Qwen3MoE:   "Qwen3MoeForCausalLM",
}

// ignoredFields are known and do not change what a forward pass computes:
// bookkeeping, dropout (always off here), and coefficients of auxiliary losses
// that are not used.
var ignoredFields = []string{
	"_name_or_path", "attention_dropout", "auto_map", "aux_loss_alpha", "chunk_size_feed_forward", "ep_size", "max_window_layers",
	"output_attentions", "output_hidden_states", "output_router_logits", "pretraining_tp", "quantize", "return_dict",
	"router_aux_loss_coef", "seq_aux", "sliding_window", "tokenizer_class", "transformers_version", "use_cache",
}

// ParseConfig is ReadConfig on the file's bytes.
func ParseConfig(data []byte) (*Config, error) {
	f, err := parseFields(data, "")
	if err != nil {
		return nil, err
	}
	f.ignore(ignoredFields...)
	c := &Config{ModelType: f.text("model_type"), BOS: -1, Pad: -1}
	class, known := architectures[c.ModelType]
	if !known {
		return nil, fmt.Errorf("config field \"model_type\" is %q: known are deepseek_v3, qwen3 and qwen3_moe", c.ModelType)
	}
	var classes []string
	if f.get("architectures", &classes) && !slices.Equal(classes, []string{class}) {
		f.fail("config field \"architectures\" is %v and contradicts \"model_type\" %q, whose class is %s", classes, c.ModelType, class)
	}
	c.readCommon(f)
	switch c.ModelType {
	case DeepseekV3:
		c.readDeepseek(f)
	case Qwen3:
		c.readQwen(f)
	case Qwen3MoE:
		c.readQwen(f)
		c.readQwenMoE(f)
	}
	c.readRope(f)
	c.readQuantization(f)
	if err := f.done(); err != nil {
		return nil, err
	}
	return c, c.Validate()
}

func (c *Config) readCommon(f *fields) {
	c.VocabSize = f.need("vocab_size")
	c.HiddenSize = f.need("hidden_size")
	c.IntermediateSize = f.need("intermediate_size")
	c.NumHiddenLayers = f.need("num_hidden_layers")
	c.NumAttentionHeads = f.need("num_attention_heads")
	c.MaxPositionEmbeddings = f.need("max_position_embeddings")
	c.RMSNormEps = f.needFloat("rms_norm_eps")
	c.TieWordEmbeddings = f.boolean("tie_word_embeddings", false)
	c.AttentionBias = f.boolean("attention_bias", false)
	c.InitializerRange = f.float("initializer_range", 0.02)
	f.must("hidden_act", "silu")
	f.must("partial_rotary_factor", 1)
	f.must("use_sliding_window", false)
	var types []string
	if f.get("layer_types", &types) {
		if len(types) != c.NumHiddenLayers {
			f.fail("config field \"layer_types\" has %d entries and contradicts \"num_hidden_layers\" %d", len(types), c.NumHiddenLayers)
		}
		for _, t := range types {
			if t != "full_attention" {
				f.fail("config field \"layer_types\" has %q: only full_attention is supported", t)
			}
		}
	}
	a, b := f.text("torch_dtype"), f.text("dtype")
	if a != "" && b != "" && a != b {
		f.fail("config fields \"torch_dtype\" (%s) and \"dtype\" (%s) contradict each other", a, b)
	}
	c.DType = a + b
	if a == b {
		c.DType = a
	}
	c.BOS = f.number("bos_token_id", -1)
	c.Pad = f.number("pad_token_id", -1)
	c.EOS = f.tokens("eos_token_id")
}

// tokens reads one token id or a list of them.
func (f *fields) tokens(name string) []int {
	f.read[name] = true
	if !f.has(name) {
		return nil
	}
	var one int
	if json.Unmarshal(f.raw[name], &one) == nil {
		return []int{one}
	}
	var many []int
	f.get(name, &many)
	return many
}

func (c *Config) readDeepseek(f *fields) {
	c.NumExperts = f.oneOf("n_routed_experts", "num_local_experts")
	c.NumExpertsPerTok = f.need("num_experts_per_tok")
	c.MoEIntermediateSize = f.need("moe_intermediate_size")
	c.NumSharedExperts = f.number("n_shared_experts", 0)
	c.FirstKDenseReplace = f.need("first_k_dense_replace")
	c.NumGroup = f.need("n_group")
	c.TopKGroup = f.need("topk_group")
	c.NormTopKProb = f.needBool("norm_topk_prob")
	c.RoutedScalingFactor = f.needFloat("routed_scaling_factor")
	c.QLoraRank = f.number("q_lora_rank", 0)
	if _, ok := f.raw["q_lora_rank"]; !ok {
		f.fail("config field \"q_lora_rank\" is missing (null means none)")
	}
	c.KVLoraRank = f.need("kv_lora_rank")
	c.QKNopeHeadDim = f.need("qk_nope_head_dim")
	c.QKRopeHeadDim = f.need("qk_rope_head_dim")
	c.VHeadDim = f.need("v_head_dim")
	c.NumKeyValueHeads = f.number("num_key_value_heads", c.NumAttentionHeads)
	c.RopeInterleave = f.boolean("rope_interleave", true)
	c.NumNextNPredictLayers = f.number("num_nextn_predict_layers", 0)
	f.must("scoring_func", "sigmoid")
	f.must("topk_method", "noaux_tc")
	f.must("moe_layer_freq", 1)
	sum := c.QKNopeHeadDim + c.QKRopeHeadDim
	if n := f.number("qk_head_dim", sum); n != sum {
		f.fail("config field \"qk_head_dim\" is %d and contradicts \"qk_nope_head_dim\" + \"qk_rope_head_dim\" = %d", n, sum)
	}
	// transformers writes the rotated width here; others the whole head's.
	if n := f.number("head_dim", c.QKRopeHeadDim); n != c.QKRopeHeadDim && n != sum {
		f.fail("config field \"head_dim\" is %d and contradicts \"qk_rope_head_dim\" %d", n, c.QKRopeHeadDim)
	}
}

func (c *Config) readQwen(f *fields) {
	c.NumKeyValueHeads = f.need("num_key_value_heads")
	c.HeadDim = f.need("head_dim")
}

func (c *Config) readQwenMoE(f *fields) {
	c.NumExperts = f.oneOf("num_experts", "num_local_experts")
	c.NumExpertsPerTok = f.need("num_experts_per_tok")
	c.MoEIntermediateSize = f.need("moe_intermediate_size")
	c.NormTopKProb = f.needBool("norm_topk_prob")
	c.DecoderSparseStep = f.need("decoder_sparse_step")
	f.get("mlp_only_layers", &c.MLPOnlyLayers)
}

// readRope merges rope_theta and rope_scaling with rope_parameters.
func (c *Config) readRope(f *fields) {
	var theta []float64
	if f.has("rope_theta") {
		theta = append(theta, f.needFloat("rope_theta"))
	}
	f.ignore("rope_theta", "rope_scaling", "rope_parameters")
	var found *RopeScaling
	for _, name := range []string{"rope_scaling", "rope_parameters"} {
		if !f.has(name) {
			continue
		}
		s, t, err := parseRope(f.raw[name], name+".")
		if err != nil {
			f.fail("%w", err)
			return
		}
		if t != 0 {
			theta = append(theta, t)
		}
		if s != nil && found != nil && *s != *found {
			f.fail("config fields \"rope_scaling\" and \"rope_parameters\" contradict each other")
		}
		if s != nil {
			found = s
		}
	}
	if len(theta) == 0 {
		f.fail("config field \"rope_theta\" is missing")
		return
	}
	for _, t := range theta[1:] {
		if t != theta[0] {
			f.fail("config field \"rope_theta\" is given as %v and as %v, which contradict each other", theta[0], t)
		}
	}
	c.RopeTheta, c.RopeScaling = theta[0], found
}

// parseRope reads rope_scaling or rope_parameters; a nil scaling means plain.
func parseRope(data []byte, prefix string) (s *RopeScaling, theta float64, err error) {
	f, err := parseFields(data, prefix)
	if err != nil {
		return nil, 0, fmt.Errorf("config field %q: %w", prefix[:len(prefix)-1], err)
	}
	theta = f.float("rope_theta", 0)
	f.must("partial_rotary_factor", 1)
	a, b := f.text("rope_type"), f.text("type")
	if a != "" && b != "" && a != b {
		f.fail("config fields %q (%s) and %q (%s) contradict each other", prefix+"rope_type", a, prefix+"type", b)
	}
	if a == "" {
		a = b
	}
	switch a {
	case "default":
		return nil, theta, f.done()
	case "yarn":
	default:
		return nil, 0, fmt.Errorf("config field %q is %q: only default and yarn are supported", prefix+"rope_type", a)
	}
	s = &RopeScaling{
		Factor: f.needFloat("factor"), OriginalMax: f.number("original_max_position_embeddings", 0),
		BetaFast: f.float("beta_fast", 0), BetaSlow: f.float("beta_slow", 0),
		MScale: f.float("mscale", 0), MScaleAllDim: f.float("mscale_all_dim", 0),
		AttentionFactor: f.float("attention_factor", 0), NoTruncate: !f.boolean("truncate", true),
	}
	return s, theta, f.done()
}
