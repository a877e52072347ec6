package plan

import "strings"

// ModelShape is the sizes that decide how much work a model is, by the names of
// config.json. ReadShape fills it from a model folder; it can be written by hand
// for a model that is not at hand.
type ModelShape struct {
	Type         string `json:"model_type"` // "deepseek_v3", "qwen3", "qwen3_moe"
	Layers       int    `json:"num_hidden_layers"`
	Hidden       int    `json:"hidden_size"`
	Vocabulary   int    `json:"vocab_size"`
	Tied         bool   `json:"tie_word_embeddings"`
	Intermediate int    `json:"intermediate_size"` // of dense MLPs

	Heads   int `json:"num_attention_heads"`
	KVHeads int `json:"num_key_value_heads"`
	QK      int `json:"qk_head_dim"` // width of a head's query and key
	V       int `json:"v_head_dim"`  // width of a head's value
	// Multi-head latent attention, if KVLoraRank is positive; else grouped-query
	// attention with normed queries and keys.
	QLoraRank  int  `json:"q_lora_rank"`
	KVLoraRank int  `json:"kv_lora_rank"`
	QKRope     int  `json:"qk_rope_head_dim"`
	Bias       bool `json:"attention_bias"`

	MoELayers          int  `json:"moe_layers"` // how many of the layers are mixtures of experts
	Experts            int  `json:"n_routed_experts"`
	ExpertsPerToken    int  `json:"num_experts_per_tok"`
	SharedExperts      int  `json:"n_shared_experts"`
	ExpertIntermediate int  `json:"moe_intermediate_size"`
	RouterBias         bool `json:"router_bias"` // a correction bias per expert

	MTPLayers int `json:"num_nextn_predict_layers"` // kept in checkpoints, not trained by the reference trainer

	// Window is how many tokens back attention looks; 0 = all of them.
	Window int `json:"sliding_window,omitempty"`
	// MLPMatrices is how many matrices a dense MLP has: 3 gated (also what 0
	// means), 2 in the GPT family.
	MLPMatrices int `json:"mlp_matrices,omitempty"`
}

// mlp is the weights of a dense MLP.
func (s ModelShape) mlp() int64 {
	matrices := int64(s.MLPMatrices)
	if matrices == 0 {
		matrices = 3
	}
	return matrices * int64(s.Hidden) * int64(s.Intermediate)
}

// Parameters counts a model's weights.
type Parameters struct {
	// Total is every weight of the main model: embedding, head and norms included,
	// multi-token-prediction layers not.
	Total int64 `json:"total"`
	// Active is the weights that multiply a token: attention, dense MLPs, router,
	// shared and chosen experts, and the head, also where it is tied to the
	// embedding. The embedding is a look-up and does not count, nor do norms.
	Active int64 `json:"active"`
	// Embedding is the input embedding alone. Some published active counts include it.
	Embedding int64 `json:"embedding"`
	// MTP is the multi-token-prediction layers, without the embedding and head that they share.
	MTP int64 `json:"mtp"`
}

// Params counts the weights of a model of this shape.
func Params(s ModelShape) Parameters {
	h := int64(s.Hidden)
	attention, norms := s.attention()
	dense := s.mlp()
	expert := 3 * h * int64(s.ExpertIntermediate)
	router := h * int64(s.Experts)
	always := router + int64(s.SharedExperts)*expert // of a mixture layer, per token
	mixture := always + int64(s.Experts)*expert
	if s.RouterBias {
		mixture += int64(s.Experts)
	}
	chosen := always + int64(s.ExpertsPerToken)*expert

	layers, moe := int64(s.Layers), int64(s.MoELayers)
	embedding := int64(s.Vocabulary) * h
	p := Parameters{Embedding: embedding}
	p.Active = layers*attention + (layers-moe)*dense + moe*chosen + embedding // the head has the embedding's size
	p.Total = layers*(attention+norms+2*h) + (layers-moe)*dense + moe*mixture + embedding + h
	if !s.Tied {
		p.Total += embedding
	}
	if s.MTPLayers > 0 {
		block := dense
		if moe > 0 {
			block = mixture
		}
		// Two norms and the projection that join embedding and hidden state, and the norm before the shared head.
		p.MTP = int64(s.MTPLayers) * (attention + norms + 2*h + block + 2*h*h + 3*h)
	}
	return p
}

// attention counts one layer's attention: what multiplies tokens (biases with
// it), and its inner norms.
func (s ModelShape) attention() (multiply, norms int64) {
	h, heads, qk, v := int64(s.Hidden), int64(s.Heads), int64(s.QK), int64(s.V)
	if s.KVLoraRank == 0 {
		kv := int64(s.KVHeads)
		multiply = h*heads*qk + h*kv*qk + h*kv*v + heads*v*h
		if s.Bias {
			multiply += heads*qk + kv*qk + kv*v
			if s.Type != "qwen2" { // its output has none
				multiply += h
			}
		}
		if strings.HasPrefix(s.Type, "qwen3") {
			return multiply, 2 * qk // of queries and of keys
		}
		return multiply, 0
	}
	ql, kvl, rope := int64(s.QLoraRank), int64(s.KVLoraRank), int64(s.QKRope)
	multiply = h*(kvl+rope) + kvl*heads*(qk-rope+v) + heads*v*h
	norms = kvl
	if ql > 0 {
		multiply += h*ql + ql*heads*qk
		norms += ql
	} else {
		multiply += h * heads * qk
	}
	if s.Bias { // the down projections and the output have one
		multiply += kvl + rope + h + ql
	}
	return multiply, norms
}
