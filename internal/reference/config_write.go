package reference

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
)

// float writes a number with a point: transformers 5 checks field types and
// refuses 1 where it wants 1.0.
type float float64

// MarshalJSON writes it as Python would.
func (f float) MarshalJSON() ([]byte, error) {
	b, err := json.Marshal(float64(f))
	if err == nil && math.Trunc(float64(f)) == float64(f) && !bytes.ContainsAny(b, ".e") {
		b = append(b, ".0"...)
	}
	return b, err
}

// JSON is the model's config.json in the published spelling (rope_theta,
// rope_scaling, torch_dtype, num_experts), with topk_method and scoring_func,
// which vLLM and llama.cpp need. The quantization is not written: it describes
// files, not the model.
func (c *Config) JSON() ([]byte, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	out := map[string]any{
		"architectures": []string{architectures[c.ModelType]}, "model_type": c.ModelType,
		"vocab_size": c.VocabSize, "hidden_size": c.HiddenSize, "intermediate_size": c.IntermediateSize,
		"num_hidden_layers": c.NumHiddenLayers, "num_attention_heads": c.NumAttentionHeads,
		"num_key_value_heads": c.NumKeyValueHeads, "max_position_embeddings": c.MaxPositionEmbeddings,
		"rms_norm_eps": float(c.RMSNormEps), "tie_word_embeddings": c.TieWordEmbeddings, "attention_bias": c.AttentionBias,
		"attention_dropout": float(0), "hidden_act": "silu", "initializer_range": float(c.InitializerRange), "use_cache": true,
		"rope_theta": float(c.RopeTheta), "rope_scaling": c.ropeScalingJSON(),
		"bos_token_id": idOrNull(c.BOS), "pad_token_id": idOrNull(c.Pad), "eos_token_id": nil,
	}
	switch len(c.EOS) {
	case 0:
	case 1:
		out["eos_token_id"] = c.EOS[0]
	default:
		out["eos_token_id"] = c.EOS
	}
	if c.DType != "" {
		out["torch_dtype"] = c.DType
	}
	switch c.ModelType {
	case DeepseekV3:
		c.deepseekJSON(out)
	default:
		c.qwenJSON(out)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	if err := enc.Encode(out); err != nil {
		return nil, fmt.Errorf("encode config: %w", err)
	}
	return b.Bytes(), nil
}

func idOrNull(id int) any {
	if id < 0 {
		return nil
	}
	return id
}

func (c *Config) deepseekJSON(out map[string]any) {
	for k, v := range map[string]any{
		"n_routed_experts": c.NumExperts, "num_experts_per_tok": c.NumExpertsPerTok, "moe_intermediate_size": c.MoEIntermediateSize,
		"n_shared_experts": c.NumSharedExperts, "first_k_dense_replace": c.FirstKDenseReplace, "moe_layer_freq": 1,
		"n_group": c.NumGroup, "topk_group": c.TopKGroup, "norm_topk_prob": c.NormTopKProb,
		"routed_scaling_factor": float(c.RoutedScalingFactor), "scoring_func": "sigmoid", "topk_method": "noaux_tc",
		"q_lora_rank": nil, "kv_lora_rank": c.KVLoraRank, "qk_nope_head_dim": c.QKNopeHeadDim,
		"qk_rope_head_dim": c.QKRopeHeadDim, "v_head_dim": c.VHeadDim, "num_nextn_predict_layers": c.NumNextNPredictLayers,
		"pretraining_tp": 1,
	} {
		out[k] = v
	}
	if c.QLoraRank > 0 {
		out["q_lora_rank"] = c.QLoraRank
	}
	if !c.RopeInterleave {
		out["rope_interleave"] = false
	}
}

func (c *Config) qwenJSON(out map[string]any) {
	out["head_dim"] = c.HeadDim
	out["sliding_window"] = nil
	out["use_sliding_window"] = false
	out["max_window_layers"] = c.NumHiddenLayers
	if c.ModelType != Qwen3MoE {
		return
	}
	only := c.MLPOnlyLayers
	if only == nil {
		only = []int{}
	}
	for k, v := range map[string]any{
		"num_experts": c.NumExperts, "num_experts_per_tok": c.NumExpertsPerTok, "moe_intermediate_size": c.MoEIntermediateSize,
		"norm_topk_prob": c.NormTopKProb, "decoder_sparse_step": c.DecoderSparseStep, "mlp_only_layers": only,
		"output_router_logits": false, "router_aux_loss_coef": float(0.001),
	} {
		out[k] = v
	}
}

// ropeScalingJSON names the type as each family's published configs do.
func (c *Config) ropeScalingJSON() any {
	s := c.RopeScaling
	if s == nil {
		return nil
	}
	out := map[string]any{"factor": float(s.Factor)}
	if c.ModelType == DeepseekV3 {
		out["type"] = "yarn"
	} else {
		out["rope_type"] = "yarn"
	}
	if s.OriginalMax > 0 {
		out["original_max_position_embeddings"] = s.OriginalMax
	}
	if s.NoTruncate {
		out["truncate"] = false
	}
	for k, v := range map[string]float64{"beta_fast": s.BetaFast, "beta_slow": s.BetaSlow, "mscale": s.MScale, "mscale_all_dim": s.MScaleAllDim, "attention_factor": s.AttentionFactor} {
		if v != 0 {
			out[k] = float(v)
		}
	}
	return out
}
