package convert

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"tarbert/internal/reference"
	"tarbert/internal/tensor/gguf"
)

// ggufFileType is llama.cpp's number (enum llama_ftype) for a file whose
// matrices have a type.
func ggufFileType(t gguf.Type) uint32 {
	switch t {
	case gguf.BF16:
		return 32 // MOSTLY_BF16
	case gguf.Q8_0:
		return 7 // MOSTLY_Q8_0
	}
	return 0 // ALL_F32
}

// ggufQuantVersion is GGML_QUANT_VERSION: of the blocks' layouts.
const ggufQuantVersion = 2

// ggufGeneral are the keys about the whole. They come first.
func ggufGeneral(arch string, config, generation []byte, outputs []ggufOutput) (gguf.Metadata, error) {
	m := gguf.Metadata{{Key: "general.architecture", Value: arch}, {Key: "general.type", Value: "model"}}
	if err := ggufSampling(&m, generation); err != nil {
		return nil, err
	}
	var names struct {
		Path string `json:"_name_or_path"`
	}
	if err := json.Unmarshal(config, &names); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	// A name on the hub, not a directory of whoever trained it.
	if name := names.Path; name != "" && strings.Count(name, "/") <= 1 && !strings.HasPrefix(name, ".") {
		_, last, _ := strings.Cut(name, "/")
		if last == "" {
			last = name
		}
		m.Set("general.name", last)
	}
	m.Set("general.size_label", ggufSizeLabel(outputs))
	return m, nil
}

// ggufSampling are generation_config.json's recommendations, which llama.cpp
// takes for defaults.
func ggufSampling(m *gguf.Metadata, generation []byte) error {
	if len(generation) == 0 {
		return nil
	}
	var g struct {
		TopK        *int32   `json:"top_k"`
		TopP        *float64 `json:"top_p"`
		MinP        *float64 `json:"min_p"`
		Temperature *float64 `json:"temperature"`
		Repetition  *float64 `json:"repetition_penalty"`
	}
	if err := json.Unmarshal(generation, &g); err != nil {
		return fmt.Errorf("generation_config.json: %w", err)
	}
	if g.TopK != nil {
		m.Set("general.sampling.top_k", *g.TopK)
	}
	for _, f := range []struct {
		key   string
		value *float64
	}{{"top_p", g.TopP}, {"min_p", g.MinP}, {"temp", g.Temperature}, {"penalty_repeat", g.Repetition}} {
		if f.value != nil {
			m.Set("general.sampling."+f.key, float32(*f.value))
		}
	}
	return nil
}

// ggufParameters are the model's own keys, in the order of llama.cpp's
// converter. c has no obstacle.
func ggufParameters(m *gguf.Metadata, arch string, c *reference.Config, t gguf.Type) {
	u := func(key string, v int) { m.Set(arch+"."+key, uint32(v)) }
	f := func(key string, v float64) { m.Set(arch+"."+key, float32(v)) }
	latent := c.ModelType == reference.DeepseekV3
	u("block_count", c.NumHiddenLayers)
	u("context_length", c.MaxPositionEmbeddings)
	u("embedding_length", c.HiddenSize)
	u("feed_forward_length", c.IntermediateSize)
	u("attention.head_count", c.NumAttentionHeads)
	kv := c.NumKeyValueHeads
	if latent {
		kv = 1 // multi-head latent attention runs as one key for all heads
	}
	u("attention.head_count_kv", kv)
	ggufRope(m, arch, c)
	f("rope.freq_base", c.RopeTheta)
	f("attention.layer_norm_rms_epsilon", c.RMSNormEps)
	if c.NumExperts > 0 {
		u("expert_count", c.NumExperts)
		u("expert_used_count", c.NumExpertsPerTok)
	}
	if latent {
		u("expert_group_count", c.NumGroup)
		u("expert_group_used_count", c.TopKGroup)
		// transformers 5 leaves scoring_func out, and so does llama.cpp's converter
		// then; without the key llama.cpp takes softmax, which is not the model's.
		u("expert_gating_func", 2) // sigmoid
		u("attention.key_length", c.KVLoraRank+c.QKRopeHeadDim)
		u("attention.value_length", c.KVLoraRank)
	} else {
		u("attention.key_length", c.HeadDim)
		u("attention.value_length", c.HeadDim)
	}
	m.Set("general.file_type", ggufFileType(t))
	switch c.ModelType {
	case reference.Qwen3MoE:
		u("expert_feed_forward_length", c.MoEIntermediateSize)
	case reference.DeepseekV3:
		ggufLatent(m, arch, c)
	}
	m.Set("general.quantization_version", uint32(ggufQuantVersion))
}

// ggufLatent are deepseek2's own keys.
func ggufLatent(m *gguf.Metadata, arch string, c *reference.Config) {
	u := func(key string, v int) { m.Set(arch+"."+key, uint32(v)) }
	u("leading_dense_block_count", c.FirstKDenseReplace)
	u("vocab_size", c.VocabSize)
	u("attention.q_lora_rank", c.QLoraRank) // 0 for none: llama.cpp's loader asks for the key
	u("attention.kv_lora_rank", c.KVLoraRank)
	u("attention.key_length_mla", c.QKHeadDim())
	u("attention.value_length_mla", c.VHeadDim)
	u("expert_feed_forward_length", c.MoEIntermediateSize)
	u("expert_shared_count", c.NumSharedExperts)
	m.Set(arch+".expert_weights_scale", float32(c.RoutedScalingFactor))
	if c.NormTopKProb {
		m.Set(arch+".expert_weights_norm", true)
	}
	u("rope.dimension_count", c.QKRopeHeadDim)
	if s := c.RopeScaling; s != nil && s.MScaleAllDim != 0 {
		// A tenth, for deepseek2 alone, by history: the loader multiplies by ten.
		m.Set(arch+".rope.scaling.yarn_log_multiplier", float32(0.1*s.MScaleAllDim))
	}
}

func ggufRope(m *gguf.Metadata, arch string, c *reference.Config) {
	s := c.RopeScaling
	if s == nil {
		return
	}
	prefix := arch + ".rope.scaling."
	m.Set(prefix+"type", "yarn")
	m.Set(prefix+"factor", float32(s.Factor))
	original := s.OriginalMax
	if original == 0 {
		original = c.MaxPositionEmbeddings
	}
	m.Set(prefix+"original_context_length", uint32(original))
	if s.BetaFast != 0 {
		m.Set(prefix+"yarn_beta_fast", float32(s.BetaFast))
	}
	if s.BetaSlow != 0 {
		m.Set(prefix+"yarn_beta_slow", float32(s.BetaSlow))
	}
}

// ggufSizeLabel is gguf-py's: "671B", or "256x20B" for experts times the
// parameters that one of them and everything else have.
func ggufSizeLabel(outputs []ggufOutput) string {
	var total, shared, expert, count, stacks int64
	for _, o := range outputs {
		n := gguf.Info{Shape: o.shape}.Elements()
		total += n
		if strings.Contains(o.name, "_exps.") && len(o.shape) == 3 {
			expert += n / o.shape[0]
			count += o.shape[0]
			stacks++
			continue
		}
		shared += n
	}
	if stacks == 0 {
		return roundedCount(total)
	}
	return fmt.Sprintf("%dx%s", count/stacks, roundedCount(shared+expert))
}

// roundedCount is model_weight_count_rounded_notation: two digits at least.
func roundedCount(n int64) string {
	scaled, suffix := float64(n)*1e-3, "K"
	switch {
	case n > 1e12:
		scaled, suffix = float64(n)*1e-12, "T"
	case n > 1e9:
		scaled, suffix = float64(n)*1e-9, "B"
	case n > 1e6:
		scaled, suffix = float64(n)*1e-6, "M"
	}
	digits := len(strings.TrimLeft(strconv.FormatFloat(math.RoundToEven(scaled), 'f', 0, 64), "0"))
	return strconv.FormatFloat(scaled, 'f', max(2-digits, 0), 64) + suffix
}
