package reference

import (
	"fmt"
	"slices"
)

// The model types of config.json that this package computes.
const (
	DeepseekV3 = "deepseek_v3"
	Qwen3      = "qwen3"
	Qwen3MoE   = "qwen3_moe"
)

// Config is a model's config.json with the differences in spelling between
// published repositories and transformers 5 removed. Fields that the model
// type does not have are zero. Names follow config.json.
type Config struct {
	ModelType             string
	VocabSize             int
	HiddenSize            int
	IntermediateSize      int // of dense MLPs
	NumHiddenLayers       int
	NumAttentionHeads     int
	NumKeyValueHeads      int
	HeadDim               int // qwen3 only; see QKHeadDim
	MaxPositionEmbeddings int
	RMSNormEps            float64
	TieWordEmbeddings     bool
	AttentionBias         bool
	InitializerRange      float64 // standard deviation of new weights
	RopeTheta             float64
	RopeScaling           *RopeScaling // nil: plain rotary embedding
	DType                 string       // torch's name of the stored dtype, e.g. "bfloat16"; empty: not said
	BOS                   int          // -1: none
	EOS                   []int
	Pad                   int // -1: none

	// Mixture of experts (deepseek_v3, qwen3_moe).
	NumExperts          int
	NumExpertsPerTok    int
	MoEIntermediateSize int
	NormTopKProb        bool

	// deepseek_v3.
	NumSharedExperts      int
	FirstKDenseReplace    int
	NumGroup              int
	TopKGroup             int
	RoutedScalingFactor   float64
	QLoraRank             int // 0: q_proj without a low-rank factor
	KVLoraRank            int
	QKNopeHeadDim         int
	QKRopeHeadDim         int
	VHeadDim              int
	RopeInterleave        bool
	NumNextNPredictLayers int // multi-token-prediction layers after the last one: kept, never computed

	// qwen3_moe.
	DecoderSparseStep int
	MLPOnlyLayers     []int

	// Quantization is quantization_config's quant_method ("" if absent). For
	// "fp8", its block and scale_fmt ("" or "ue8m0": scales of activations are
	// powers of two); for "compressed-tensors", which linears are int8.
	Quantization            string
	QuantizationBlock       [2]int
	QuantizationScaleFormat string
	Compressed              *CompressedTensors
}

// RopeScaling is rope_scaling of type yarn (arXiv:2309.00071). Zero means that
// the field is absent and the default holds.
type RopeScaling struct {
	Factor          float64
	OriginalMax     int     // original_max_position_embeddings
	BetaFast        float64 // default 32
	BetaSlow        float64 // default 1
	MScale          float64
	MScaleAllDim    float64
	AttentionFactor float64 // 0: computed from the factor or the two mscales
	NoTruncate      bool    // "truncate": false: fractional correction range
}

// QKHeadDim is the width of one head's query and key.
func (c *Config) QKHeadDim() int {
	if c.ModelType == DeepseekV3 {
		return c.QKNopeHeadDim + c.QKRopeHeadDim
	}
	return c.HeadDim
}

// ValueHeadDim is the width of one head's value.
func (c *Config) ValueHeadDim() int {
	if c.ModelType == DeepseekV3 {
		return c.VHeadDim
	}
	return c.HeadDim
}

// RopeDim is the number of rotated dimensions of a head.
func (c *Config) RopeDim() int {
	if c.ModelType == DeepseekV3 {
		return c.QKRopeHeadDim
	}
	return c.HeadDim
}

// MoELayer says whether a layer's MLP is a mixture of experts.
func (c *Config) MoELayer(layer int) bool {
	switch c.ModelType {
	case DeepseekV3:
		return c.NumExperts > 0 && layer >= c.FirstKDenseReplace
	case Qwen3MoE:
		return c.NumExperts > 0 && !slices.Contains(c.MLPOnlyLayers, layer) && (layer+1)%c.DecoderSparseStep == 0
	}
	return false
}

// sizeLimit bounds every count read from a config, so that products of three
// of them stay far from overflow.
const (
	sizeLimit   = 1 << 20
	layerLimit  = 1 << 10
	expertLimit = 1 << 12
)

// Validate reports the first field that is out of range or contradicts
// another, by its name in config.json.
func (c *Config) Validate() error {
	if !slices.Contains([]string{DeepseekV3, Qwen3, Qwen3MoE}, c.ModelType) {
		return fmt.Errorf("config field \"model_type\" is %q: known are deepseek_v3, qwen3 and qwen3_moe", c.ModelType)
	}
	if err := c.checkSizes(); err != nil {
		return err
	}
	if !(c.RMSNormEps > 0 && c.RMSNormEps < 1) {
		return fmt.Errorf("config field \"rms_norm_eps\" is %v: want a value between 0 and 1", c.RMSNormEps)
	}
	if !(c.RopeTheta > 1 && c.RopeTheta < 1e15) {
		return fmt.Errorf("config field \"rope_theta\" is %v: want a value above 1", c.RopeTheta)
	}
	if c.RopeDim()%2 != 0 {
		return fmt.Errorf("rotary dimension %d is odd (head_dim or qk_rope_head_dim)", c.RopeDim())
	}
	if err := c.checkRopeScaling(); err != nil {
		return err
	}
	if c.ModelType == DeepseekV3 {
		if c.NumKeyValueHeads != c.NumAttentionHeads {
			return fmt.Errorf("config field \"num_key_value_heads\" is %d and contradicts \"num_attention_heads\" %d: multi-head latent attention has one key per head", c.NumKeyValueHeads, c.NumAttentionHeads)
		}
	} else if c.NumAttentionHeads%c.NumKeyValueHeads != 0 {
		return fmt.Errorf("config field \"num_attention_heads\" is %d, not a multiple of \"num_key_value_heads\" %d", c.NumAttentionHeads, c.NumKeyValueHeads)
	}
	return c.checkExperts()
}

type size struct {
	name string
	n    int
	min  int
}

func (c *Config) checkSizes() error {
	sizes := []size{
		{"vocab_size", c.VocabSize, 1}, {"hidden_size", c.HiddenSize, 1}, {"intermediate_size", c.IntermediateSize, 1},
		{"num_hidden_layers", c.NumHiddenLayers, 1}, {"num_attention_heads", c.NumAttentionHeads, 1},
		{"num_key_value_heads", c.NumKeyValueHeads, 1},
	}
	if c.MaxPositionEmbeddings < 1 || c.MaxPositionEmbeddings > 1<<24 {
		return fmt.Errorf("config field \"max_position_embeddings\" is %d: want 1 to %d", c.MaxPositionEmbeddings, 1<<24)
	}
	switch c.ModelType {
	case DeepseekV3:
		sizes = append(sizes, size{"kv_lora_rank", c.KVLoraRank, 1}, size{"q_lora_rank", c.QLoraRank, 0},
			size{"qk_nope_head_dim", c.QKNopeHeadDim, 1}, size{"qk_rope_head_dim", c.QKRopeHeadDim, 2},
			size{"v_head_dim", c.VHeadDim, 1}, size{"n_shared_experts", c.NumSharedExperts, 0},
			size{"first_k_dense_replace", c.FirstKDenseReplace, 0}, size{"num_nextn_predict_layers", c.NumNextNPredictLayers, 0})
	default:
		sizes = append(sizes, size{"head_dim", c.HeadDim, 2})
	}
	if c.ModelType == Qwen3MoE {
		sizes = append(sizes, size{"decoder_sparse_step", c.DecoderSparseStep, 1})
	}
	for _, s := range sizes {
		if s.n < s.min || s.n > sizeLimit {
			return fmt.Errorf("config field %q is %d: want %d to %d", s.name, s.n, s.min, sizeLimit)
		}
	}
	if c.NumHiddenLayers > layerLimit {
		return fmt.Errorf("config field \"num_hidden_layers\" is %d: want at most %d", c.NumHiddenLayers, layerLimit)
	}
	return nil
}

func (c *Config) checkRopeScaling() error {
	s := c.RopeScaling
	if s == nil {
		return nil
	}
	if !(s.Factor >= 1 && s.Factor < 1e6) {
		return fmt.Errorf("config field \"rope_scaling.factor\" is %v: want 1 or more", s.Factor)
	}
	if s.OriginalMax < 0 || s.OriginalMax > 1<<24 {
		return fmt.Errorf("config field \"rope_scaling.original_max_position_embeddings\" is %d: out of range", s.OriginalMax)
	}
	for _, f := range []struct {
		name string
		v    float64
	}{{"beta_fast", s.BetaFast}, {"beta_slow", s.BetaSlow}, {"mscale", s.MScale}, {"mscale_all_dim", s.MScaleAllDim}, {"attention_factor", s.AttentionFactor}} {
		if !(f.v >= 0 && f.v < 1e6) {
			return fmt.Errorf("config field \"rope_scaling.%s\" is %v: want 0 or more", f.name, f.v)
		}
	}
	return nil
}

func (c *Config) checkExperts() error {
	if c.ModelType == Qwen3 {
		if c.NumExperts != 0 {
			return fmt.Errorf("config field \"num_experts\" is %d: qwen3 has none", c.NumExperts)
		}
		return nil
	}
	for _, s := range []size{{"number of experts", c.NumExperts, 1}, {"num_experts_per_tok", c.NumExpertsPerTok, 1}, {"moe_intermediate_size", c.MoEIntermediateSize, 1}} {
		if s.n < s.min || s.n > sizeLimit {
			return fmt.Errorf("config field %q is %d: want %d to %d", s.name, s.n, s.min, sizeLimit)
		}
	}
	if c.NumExperts > expertLimit || c.NumHiddenLayers*c.NumExperts > 1<<18 {
		return fmt.Errorf("%d experts in %d layers: want at most %d, and %d in all", c.NumExperts, c.NumHiddenLayers, expertLimit, 1<<18)
	}
	if c.NumExpertsPerTok > c.NumExperts {
		return fmt.Errorf("config field \"num_experts_per_tok\" is %d, more than the %d experts", c.NumExpertsPerTok, c.NumExperts)
	}
	for _, l := range c.MLPOnlyLayers {
		if l < 0 || l >= c.NumHiddenLayers {
			return fmt.Errorf("config field \"mlp_only_layers\" names layer %d of %d", l, c.NumHiddenLayers)
		}
	}
	if c.ModelType != DeepseekV3 {
		return nil
	}
	return c.checkGroups()
}

func (c *Config) checkGroups() error {
	if c.NumGroup < 1 || c.NumExperts%c.NumGroup != 0 {
		return fmt.Errorf("config field \"n_group\" is %d: it must divide \"n_routed_experts\" %d", c.NumGroup, c.NumExperts)
	}
	if c.TopKGroup < 1 || c.TopKGroup > c.NumGroup {
		return fmt.Errorf("config field \"topk_group\" is %d: want 1 to \"n_group\" %d", c.TopKGroup, c.NumGroup)
	}
	perGroup := c.NumExperts / c.NumGroup
	if c.NumGroup > 1 && perGroup < 2 {
		return fmt.Errorf("config field \"n_group\" is %d: a group is scored by its two best experts and has %d", c.NumGroup, perGroup)
	}
	if c.TopKGroup*perGroup < c.NumExpertsPerTok {
		return fmt.Errorf("config field \"num_experts_per_tok\" is %d, more than the %d experts of \"topk_group\" %d groups", c.NumExpertsPerTok, c.TopKGroup*perGroup, c.TopKGroup)
	}
	if !(c.RoutedScalingFactor > 0 && c.RoutedScalingFactor < 1e6) {
		return fmt.Errorf("config field \"routed_scaling_factor\" is %v: want a value above 0", c.RoutedScalingFactor)
	}
	return nil
}
