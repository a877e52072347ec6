package plan

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// hfConfig is the fields of a Hugging Face config.json that decide how much
// work a model is. A field that an architecture does not have is zero.
type hfConfig struct {
	ModelType    string `json:"model_type"`
	Layers       int    `json:"num_hidden_layers"`
	Hidden       int    `json:"hidden_size"`
	Vocabulary   int    `json:"vocab_size"`
	Tied         *bool  `json:"tie_word_embeddings"`
	Intermediate int    `json:"intermediate_size"`
	Heads        int    `json:"num_attention_heads"`
	KVHeads      *int   `json:"num_key_value_heads"`
	HeadDim      *int   `json:"head_dim"`
	Bias         bool   `json:"attention_bias"`
	Window       *int   `json:"sliding_window"`
	UseWindow    *bool  `json:"use_sliding_window"`

	QLoraRank  *int `json:"q_lora_rank"`
	KVLoraRank int  `json:"kv_lora_rank"`
	QKNope     int  `json:"qk_nope_head_dim"`
	QKRope     int  `json:"qk_rope_head_dim"`
	V          int  `json:"v_head_dim"`

	Routed             int   `json:"n_routed_experts"`
	NumExperts         int   `json:"num_experts"`
	LocalExperts       int   `json:"num_local_experts"`
	PerToken           int   `json:"num_experts_per_tok"`
	Shared             *int  `json:"n_shared_experts"`
	ExpertIntermediate int   `json:"moe_intermediate_size"`
	FirstDense         int   `json:"first_k_dense_replace"`
	LayerFrequency     int   `json:"moe_layer_freq"`
	SparseStep         int   `json:"decoder_sparse_step"`
	MLPOnly            []int `json:"mlp_only_layers"`
	MTPLayers          int   `json:"num_nextn_predict_layers"`
}

// configLimit is longer than any config.json, in bytes.
const configLimit = 4 << 20

// architectures lists the values of model_type whose work can be counted.
var architectures = []string{"deepseek_v2", "deepseek_v3", "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe"}

// ReadShape reads the sizes from a config.json, or from the one of a folder.
func ReadShape(path string) (ModelShape, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, "config.json")
	}
	f, err := os.Open(path)
	if err != nil {
		return ModelShape{}, fmt.Errorf("sizes of the model: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, configLimit+1))
	if err != nil {
		return ModelShape{}, fmt.Errorf("sizes of the model: %w", err)
	}
	if len(b) > configLimit {
		return ModelShape{}, fmt.Errorf("%s is longer than %d MiB: is it a config.json?", path, configLimit>>20)
	}
	s, err := ParseShape(b)
	if err != nil {
		return ModelShape{}, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// ParseShape reads the sizes from the text of a config.json.
func ParseShape(b []byte) (ModelShape, error) {
	var c hfConfig
	if err := json.Unmarshal(b, &c); err != nil {
		return ModelShape{}, at(b, err)
	}
	if !slices.Contains(architectures, c.ModelType) {
		return ModelShape{}, fmt.Errorf("line %d: model_type is %q, whose work cannot be counted: known are %s; for another one write its sizes by hand under `sizes:`",
			lineOf(b, `"model_type"`), c.ModelType, strings.Join(architectures, ", "))
	}
	s := c.shape()
	if err := errors.Join(c.contradictions(), s.Check()); err != nil {
		return ModelShape{}, err
	}
	return s, nil
}

// at adds the line to a JSON error.
func at(b []byte, err error) error {
	offset := int64(-1)
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &kind):
		offset = kind.Offset
	}
	if offset < 0 || offset > int64(len(b)) {
		return err
	}
	return fmt.Errorf("line %d: %w", 1+strings.Count(string(b[:offset]), "\n"), err)
}

func lineOf(b []byte, text string) int {
	before, _, _ := strings.Cut(string(b), text)
	return 1 + strings.Count(before, "\n")
}

func (c hfConfig) shape() ModelShape {
	s := ModelShape{
		Type: c.ModelType, Layers: c.Layers, Hidden: c.Hidden, Vocabulary: c.Vocabulary, Intermediate: c.Intermediate, Heads: c.Heads, KVHeads: c.Heads,
		Bias: c.Bias || c.ModelType == "qwen2", MTPLayers: c.MTPLayers, ExpertsPerToken: c.PerToken, ExpertIntermediate: c.ExpertIntermediate,
		Experts: max(c.Routed, c.NumExperts, c.LocalExperts),
	}
	if c.Tied != nil {
		s.Tied = *c.Tied
	}
	if c.KVHeads != nil {
		s.KVHeads = *c.KVHeads
	}
	if c.Shared != nil {
		s.SharedExperts = *c.Shared
	}
	switch {
	case c.HeadDim != nil && *c.HeadDim > 0:
		s.QK = *c.HeadDim
	case c.Heads > 0:
		s.QK = c.Hidden / c.Heads
	}
	s.V = s.QK
	if c.Window != nil && (c.UseWindow == nil || *c.UseWindow) {
		s.Window = *c.Window
	}
	if c.latent() {
		s.QK, s.V, s.KVLoraRank, s.QKRope, s.RouterBias = c.QKNope+c.QKRope, c.V, c.KVLoraRank, c.QKRope, c.ModelType == "deepseek_v3"
		s.Window = 0
		if c.QLoraRank != nil {
			s.QLoraRank = *c.QLoraRank
		}
	}
	if c.ModelType == "mixtral" {
		s.ExpertIntermediate = c.Intermediate
	}
	for layer := range min(c.Layers, 1<<16) {
		if c.mixture(layer) {
			s.MoELayers++
		}
	}
	if s.MoELayers == 0 {
		s.Experts, s.ExpertsPerToken, s.SharedExperts, s.ExpertIntermediate, s.RouterBias = 0, 0, 0, 0, false
	}
	return s
}

func (c hfConfig) latent() bool { return strings.HasPrefix(c.ModelType, "deepseek") }

// mixture says whether a layer's MLP is a mixture of experts.
func (c hfConfig) mixture(layer int) bool {
	switch c.ModelType {
	case "deepseek_v2", "deepseek_v3":
		return c.Routed > 0 && layer >= c.FirstDense && layer%max(1, c.LayerFrequency) == 0
	case "qwen3_moe":
		return c.NumExperts > 0 && !slices.Contains(c.MLPOnly, layer) && (layer+1)%max(1, c.SparseStep) == 0
	case "mixtral":
		return c.LocalExperts > 0
	}
	return false
}

// contradictions is what a shape no longer shows.
func (c hfConfig) contradictions() error {
	var errs []error
	if c.HeadDim == nil && !c.latent() && c.Heads > 0 && c.Hidden%c.Heads != 0 {
		errs = append(errs, fmt.Errorf("hidden_size %d is not a multiple of num_attention_heads %d, and there is no head_dim", c.Hidden, c.Heads))
	}
	if c.latent() && c.KVLoraRank <= 0 {
		errs = append(errs, fmt.Errorf("kv_lora_rank is %d: %s needs it", c.KVLoraRank, c.ModelType))
	}
	if c.FirstDense > c.Layers {
		errs = append(errs, fmt.Errorf("first_k_dense_replace %d is more than num_hidden_layers %d", c.FirstDense, c.Layers))
	}
	if strings.HasSuffix(c.ModelType, "moe") && max(c.NumExperts, c.LocalExperts, c.Routed) == 0 {
		errs = append(errs, fmt.Errorf("num_experts is 0 in a %s", c.ModelType))
	}
	return errors.Join(errs...)
}
