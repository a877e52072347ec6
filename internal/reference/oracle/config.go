package oracle

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
)

// config is what the forward pass needs of a Hugging Face config.json, in the
// published and in transformers 5's spelling.
type config struct {
	ModelType    string  `json:"model_type"`
	Vocab        int     `json:"vocab_size"`
	Hidden       int     `json:"hidden_size"`
	Layers       int     `json:"num_hidden_layers"`
	Heads        int     `json:"num_attention_heads"`
	KVHeads      int     `json:"num_key_value_heads"`
	HeadDim      int     `json:"head_dim"`
	Intermediate int     `json:"intermediate_size"`
	Eps          float64 `json:"rms_norm_eps"`
	Tied         bool    `json:"tie_word_embeddings"`
	Bias         bool    `json:"attention_bias"`
	Activation   string  `json:"hidden_act"`

	// Multi-head latent attention. QRank nil: queries are not compressed.
	QRank      *int  `json:"q_lora_rank"`
	KVRank     int   `json:"kv_lora_rank"`
	Nope       int   `json:"qk_nope_head_dim"`
	Rope       int   `json:"qk_rope_head_dim"`
	Value      int   `json:"v_head_dim"`
	Interleave *bool `json:"rope_interleave"`

	// Experts.
	ExpertSize  int     `json:"moe_intermediate_size"`
	Routed      int     `json:"n_routed_experts"`
	NumExperts  int     `json:"num_experts"`
	LocalExpert int     `json:"num_local_experts"`
	PerToken    int     `json:"num_experts_per_tok"`
	Shared      int     `json:"n_shared_experts"`
	Groups      int     `json:"n_group"`
	TopGroups   int     `json:"topk_group"`
	NormTop     bool    `json:"norm_topk_prob"`
	Scaling     float64 `json:"routed_scaling_factor"`
	FirstDense  int     `json:"first_k_dense_replace"`
	SparseStep  int     `json:"decoder_sparse_step"`
	MLPOnly     []int   `json:"mlp_only_layers"`

	MaxPosition int     `json:"max_position_embeddings"`
	Theta       float64 `json:"rope_theta"`
	Scaled      *rope   `json:"rope_scaling"`
	Parameters  *rope   `json:"rope_parameters"`
}

// rope is config.json's rope_scaling or rope_parameters.
type rope struct {
	Type         string   `json:"type"`
	RopeType     string   `json:"rope_type"`
	Theta        float64  `json:"rope_theta"`
	Factor       float64  `json:"factor"`
	Original     int      `json:"original_max_position_embeddings"`
	BetaFast     float64  `json:"beta_fast"`
	BetaSlow     float64  `json:"beta_slow"`
	Mscale       float64  `json:"mscale"`
	MscaleAllDim float64  `json:"mscale_all_dim"`
	Attention    *float64 `json:"attention_factor"`
	Truncate     *bool    `json:"truncate"`
}

const (
	deepseek = "deepseek_v3"
	qwen     = "qwen3"
	qwenMoE  = "qwen3_moe"
)

func readConfig(b []byte) (config, error) {
	var c config
	if err := json.Unmarshal(b, &c); err != nil {
		return config{}, fmt.Errorf("parse config.json: %w", err)
	}
	switch c.ModelType {
	case deepseek, qwen, qwenMoE:
	default:
		return config{}, fmt.Errorf("config.json: model_type %q is not one of deepseek_v3, qwen3, qwen3_moe", c.ModelType)
	}
	if c.Activation != "" && c.Activation != "silu" {
		return config{}, fmt.Errorf("config.json: hidden_act %q is not silu", c.Activation)
	}
	c.Routed = max(c.Routed, c.NumExperts, c.LocalExpert)
	c.SparseStep = max(c.SparseStep, 1)
	if c.KVHeads == 0 {
		c.KVHeads = c.Heads
	}
	if c.ModelType == deepseek {
		c.HeadDim = c.Nope + c.Rope
	} else if c.HeadDim == 0 && c.Heads > 0 {
		c.HeadDim = c.Hidden / c.Heads
	}
	if c.Scaled == nil {
		c.Scaled = c.Parameters
	}
	if c.Scaled != nil && c.Scaled.Theta > 0 {
		c.Theta = c.Scaled.Theta
	}
	if c.Theta == 0 {
		c.Theta = 10000
	}
	return c, c.check()
}

// check refuses sizes that the loops would trip over.
func (c config) check() error {
	type size struct {
		name       string
		value, max int
	}
	sizes := []size{{"num_hidden_layers", c.Layers, 1 << 12}, {"vocab_size", c.Vocab, 1 << 24}, {"hidden_size", c.Hidden, 1 << 20},
		{"num_attention_heads", c.Heads, 1 << 16}, {"num_key_value_heads", c.KVHeads, 1 << 16}, {"head_dim", c.HeadDim, 1 << 16}}
	if c.ModelType == deepseek {
		sizes = append(sizes, size{"kv_lora_rank", c.KVRank, 1 << 20}, size{"v_head_dim", c.Value, 1 << 16}, size{"qk_rope_head_dim", c.Rope, 1 << 16})
	}
	for _, s := range sizes {
		if s.value <= 0 || s.value > s.max {
			return fmt.Errorf("config.json: %s is %d; want 1 to %d", s.name, s.value, s.max)
		}
	}
	if c.Heads%c.KVHeads != 0 {
		return fmt.Errorf("config.json: num_attention_heads %d is no multiple of num_key_value_heads %d", c.Heads, c.KVHeads)
	}
	if c.Scaled != nil {
		switch c.Scaled.kind() {
		case "default", "yarn":
		default:
			return fmt.Errorf("config.json: rope type %q is neither default nor yarn", c.Scaled.kind())
		}
	}
	return c.checkExperts()
}

func (c config) checkExperts() error {
	sparse := false
	for l := range c.Layers {
		sparse = sparse || c.sparse(l)
	}
	switch g := c.Groups; {
	case !sparse:
	case c.ExpertSize <= 0 || c.PerToken <= 0 || c.Shared < 0:
		return fmt.Errorf("config.json: moe_intermediate_size %d, num_experts_per_tok %d, n_shared_experts %d", c.ExpertSize, c.PerToken, c.Shared)
	case c.PerToken > c.Routed:
		return fmt.Errorf("config.json: num_experts_per_tok %d exceeds the %d experts", c.PerToken, c.Routed)
	case c.ModelType == deepseek && (g < 1 || c.TopGroups < 1 || c.TopGroups > g || c.Routed%g != 0):
		return fmt.Errorf("config.json: n_group %d and topk_group %d do not divide %d experts", g, c.TopGroups, c.Routed)
	case c.ModelType == deepseek && c.TopGroups*(c.Routed/g) < c.PerToken:
		return fmt.Errorf("config.json: topk_group %d leaves fewer experts than num_experts_per_tok %d", c.TopGroups, c.PerToken)
	}
	return nil
}

func (r *rope) kind() string {
	switch {
	case r.RopeType != "":
		return r.RopeType
	case r.Type != "":
		return r.Type
	}
	return "default"
}

// sparse says whether a layer routes to experts.
func (c config) sparse(layer int) bool {
	switch c.ModelType {
	case deepseek:
		return c.Routed > 0 && layer >= c.FirstDense
	case qwenMoE:
		return c.Routed > 0 && !slices.Contains(c.MLPOnly, layer) && (layer+1)%c.SparseStep == 0
	}
	return false
}

// rotary is the dimension that positions turn.
func (c config) rotary() int {
	if c.ModelType == deepseek {
		return c.Rope
	}
	return c.HeadDim
}

// frequencies are the angles per position of each rotated pair, and the factor
// on cosine and sine (YaRN's attention temperature; 1 without).
func (c config) frequencies() ([]float64, float64) {
	d := c.rotary()
	inv := make([]float64, d/2)
	for i := range inv {
		inv[i] = math.Pow(c.Theta, -2*float64(i)/float64(d))
	}
	r := c.Scaled
	if r == nil || r.kind() != "yarn" {
		return inv, 1
	}
	factor := c.yarnFactor()
	low, high := c.yarnRange(d)
	for i := range inv {
		// Below low a dimension turns often enough to extrapolate as it is;
		// above high it never completed a turn and is interpolated.
		ramp := min(max((float64(i)-low)/(high-low), 0), 1)
		inv[i] = inv[i]/factor*ramp + inv[i]*(1-ramp)
	}
	switch {
	case r.Attention != nil:
		return inv, *r.Attention
	case r.Mscale != 0 && r.MscaleAllDim != 0:
		return inv, mscale(factor, r.Mscale) / mscale(factor, r.MscaleAllDim)
	}
	return inv, mscale(factor, 1)
}

func (c config) yarnFactor() float64 {
	if c.Scaled.Factor != 0 {
		return c.Scaled.Factor
	}
	return float64(c.MaxPosition) / float64(c.Scaled.Original)
}

// yarnRange is YaRN's correction range: the dimensions whose wavelength fits
// beta_fast and beta_slow times into the original context.
func (c config) yarnRange(d int) (low, high float64) {
	r := c.Scaled
	fast, slow := r.BetaFast, r.BetaSlow
	if fast == 0 {
		fast = 32
	}
	if slow == 0 {
		slow = 1
	}
	at := func(turns float64) float64 {
		return float64(d) * math.Log(float64(r.Original)/(turns*2*math.Pi)) / (2 * math.Log(c.Theta))
	}
	low, high = at(fast), at(slow)
	if r.Truncate == nil || *r.Truncate {
		low, high = math.Floor(low), math.Ceil(high)
	}
	low, high = max(low, 0), min(high, float64(d-1))
	if low == high {
		high += 0.001
	}
	return low, high
}

func mscale(factor, m float64) float64 {
	if factor <= 1 {
		return 1
	}
	return 0.1*m*math.Log(factor) + 1
}

// softmaxScale multiplies q·k.
func (c config) softmaxScale() float64 {
	s := 1 / math.Sqrt(float64(c.HeadDim))
	if c.ModelType == deepseek && c.Scaled != nil && c.Scaled.kind() == "yarn" && c.Scaled.MscaleAllDim != 0 {
		m := mscale(c.yarnFactor(), c.Scaled.MscaleAllDim)
		s *= m * m
	}
	return s
}
