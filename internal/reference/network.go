package reference

import "fmt"

// vec is a parameter as it lies in memory, and its gradient in training.
type vec struct {
	w, g []float32
	part *partials // of vectors in training

	// A table that is not trained lies as it is stored, and w is nil.
	stored interface{ Row(dst []float32, i int) }
}

// row copies row i of a table.
func (v *vec) row(dst []float32, i int) {
	if v.stored != nil {
		v.stored.Row(dst, i)
		return
	}
	copy(dst, v.w[i*len(dst):])
}

// network is a model's weights in the form that the passes read. It is built
// by Config.build from any supplier.
type network struct {
	c      *Config
	bf16   bool // round activations to bf16 between operations
	embed  vec  // [vocab, hidden]
	layers []layer
	norm   vec
	head   *linear
	rope   *rotary
	scale  float32 // of attention scores
}

type layer struct {
	attnNorm, mlpNorm vec
	mla               *mla // deepseek_v3
	gqa               *gqa // qwen3, qwen3_moe
	o                 *linear
	mlp               *mlp // dense, or
	moe               *moe
}

// mla is multi-head latent attention (DeepSeek-V2, arXiv:2405.04434 §2.1), in
// the expanded form: keys and values are computed from the latent, per head.
type mla struct {
	q       *linear // without q_lora_rank; else
	qa, qb  *linear
	qaNorm  vec
	kva     *linear // hidden → latent and the rotated part, which heads share
	kvaNorm vec
	kvb     *linear // latent → per head: key without rotation, value
}

// gqa is grouped-query attention with normalised heads (Qwen3).
type gqa struct {
	q, k, v      *linear
	qNorm, kNorm vec
}

type mlp struct{ gate, up, down *linear }

type moe struct {
	order   int // among the MoE layers
	router  *linear
	bias    []float32 // e_score_correction_bias; nil: softmax routing
	experts []mlp
	shared  *mlp
}

// build asks a supplier for every tensor, in order of computation.
func (c *Config) build(s supplier) *network {
	n := &network{c: c, rope: newRotary(c), scale: attentionScale(c)}
	h, sparse := c.HiddenSize, 0
	n.embed = s.table("model.embed_tokens.weight", c.VocabSize, h)
	for i := range c.NumHiddenLayers {
		prefix := fmt.Sprintf("model.layers.%d.", i)
		l := layer{attnNorm: s.vector(prefix+"input_layernorm.weight", h)}
		if c.ModelType == DeepseekV3 {
			l.mla = c.buildMLA(s, prefix+"self_attn.")
		} else {
			l.gqa = c.buildGQA(s, prefix+"self_attn.")
		}
		l.o = s.linear(prefix+"self_attn.o_proj", h, c.NumAttentionHeads*c.ValueHeadDim(), c.AttentionBias)
		l.mlpNorm = s.vector(prefix+"post_attention_layernorm.weight", h)
		if c.MoELayer(i) {
			l.moe = c.buildMoE(s, prefix+"mlp.")
			l.moe.order = sparse
			sparse++
		} else {
			l.mlp = c.buildMLP(s, prefix+"mlp.", c.IntermediateSize)
		}
		n.layers = append(n.layers, l)
	}
	n.norm = s.vector("model.norm.weight", h)
	if c.TieWordEmbeddings {
		n.head = s.tied(n.embed, c.VocabSize, h)
	} else {
		n.head = s.linear("lm_head", c.VocabSize, h, false)
	}
	return n
}

func (c *Config) buildMLA(s supplier, prefix string) *mla {
	m := &mla{}
	h, heads := c.HiddenSize, c.NumAttentionHeads
	if c.QLoraRank == 0 {
		m.q = s.linear(prefix+"q_proj", heads*c.QKHeadDim(), h, false)
	} else {
		m.qa = s.linear(prefix+"q_a_proj", c.QLoraRank, h, c.AttentionBias)
		m.qaNorm = s.vector(prefix+"q_a_layernorm.weight", c.QLoraRank)
		m.qb = s.linear(prefix+"q_b_proj", heads*c.QKHeadDim(), c.QLoraRank, false)
	}
	m.kva = s.linear(prefix+"kv_a_proj_with_mqa", c.KVLoraRank+c.QKRopeHeadDim, h, c.AttentionBias)
	m.kvaNorm = s.vector(prefix+"kv_a_layernorm.weight", c.KVLoraRank)
	m.kvb = s.linear(prefix+"kv_b_proj", heads*(c.QKNopeHeadDim+c.VHeadDim), c.KVLoraRank, false)
	return m
}

func (c *Config) buildGQA(s supplier, prefix string) *gqa {
	h, d := c.HiddenSize, c.HeadDim
	return &gqa{
		q:     s.linear(prefix+"q_proj", c.NumAttentionHeads*d, h, c.AttentionBias),
		k:     s.linear(prefix+"k_proj", c.NumKeyValueHeads*d, h, c.AttentionBias),
		v:     s.linear(prefix+"v_proj", c.NumKeyValueHeads*d, h, c.AttentionBias),
		qNorm: s.vector(prefix+"q_norm.weight", d),
		kNorm: s.vector(prefix+"k_norm.weight", d),
	}
}

func (c *Config) buildMLP(s supplier, prefix string, width int) *mlp {
	return &mlp{
		gate: s.linear(prefix+"gate_proj", width, c.HiddenSize, false),
		up:   s.linear(prefix+"up_proj", width, c.HiddenSize, false),
		down: s.linear(prefix+"down_proj", c.HiddenSize, width, false),
	}
}

func (c *Config) buildMoE(s supplier, prefix string) *moe {
	m := &moe{router: s.router(prefix+"gate", c.NumExperts, c.HiddenSize)}
	if c.ModelType == DeepseekV3 {
		m.bias = s.frozen(prefix+"gate.e_score_correction_bias", c.NumExperts)
	}
	for e := range c.NumExperts {
		m.experts = append(m.experts, *c.buildMLP(s, fmt.Sprintf("%sexperts.%d.", prefix, e), c.MoEIntermediateSize))
	}
	if c.NumSharedExperts > 0 {
		m.shared = c.buildMLP(s, prefix+"shared_experts.", c.MoEIntermediateSize*c.NumSharedExperts)
	}
	return m
}
