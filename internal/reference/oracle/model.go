package oracle

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"

	"tarbert/internal/tensor"
)

// Tensor is a weight in float64, row-major.
type Tensor struct {
	Shape []int64
	Data  []float64
}

// Model is an architecture with its weights under their Hugging Face names.
// It is immutable and safe for concurrent use.
type Model struct {
	c       config
	w       map[string]Tensor
	inv     []float64 // rotary frequencies
	turn    float64   // factor on cosine and sine
	softmax float64   // factor on q·k
	extra   Penalties // in the loss
}

// New makes a model of a config.json and its tensors. Tensors that the forward
// pass does not read are ignored; one that it needs and that is missing or
// misshapen is an error that names it.
func New(configJSON []byte, tensors map[string]Tensor) (*Model, error) {
	c, err := readConfig(configJSON)
	if err != nil {
		return nil, err
	}
	for name, want := range c.shapes() {
		t, ok := tensors[name]
		if !ok {
			return nil, fmt.Errorf("tensor %s is missing: config.json implies it with shape %v", name, want)
		}
		n := int64(1)
		for _, d := range want {
			n *= d
		}
		if !slices.Equal(t.Shape, want) || int64(len(t.Data)) != n {
			return nil, fmt.Errorf("tensor %s has shape %v and %d values, config.json implies %v", name, t.Shape, len(t.Data), want)
		}
	}
	m := &Model{c: c, w: tensors, softmax: c.softmaxScale()}
	m.inv, m.turn = c.frequencies()
	return m, nil
}

// Open reads a model directory: config.json and safetensors in F32, BF16 or F16.
func Open(dir string) (*Model, error) {
	b, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return nil, fmt.Errorf("read model %s: %w", dir, err)
	}
	files, err := tensor.OpenDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read model %s: %w", dir, err)
	}
	defer files.Close()
	tensors := map[string]Tensor{}
	for _, info := range files.Infos() {
		x, err := files.Float32(info.Name)
		if err != nil {
			return nil, fmt.Errorf("read model %s: tensor %s: %w", dir, info.Name, err)
		}
		t := Tensor{Shape: info.Shape, Data: make([]float64, len(x))}
		for i, v := range x {
			t.Data[i] = float64(v)
		}
		tensors[info.Name] = t
	}
	m, err := New(b, tensors)
	if err != nil {
		return nil, fmt.Errorf("read model %s: %w", dir, err)
	}
	return m, nil
}

// shapes lists every tensor that the forward pass reads, with its shape.
func (c config) shapes() map[string][]int64 {
	s := map[string][]int64{}
	put := func(name string, dims ...int) {
		shape := make([]int64, len(dims))
		for i, d := range dims {
			shape[i] = int64(d)
		}
		s[name] = shape
	}
	mlp := func(prefix string, size int) {
		put(prefix+"gate_proj.weight", size, c.Hidden)
		put(prefix+"up_proj.weight", size, c.Hidden)
		put(prefix+"down_proj.weight", c.Hidden, size)
	}
	put("model.embed_tokens.weight", c.Vocab, c.Hidden)
	put("model.norm.weight", c.Hidden)
	if !c.Tied {
		put("lm_head.weight", c.Vocab, c.Hidden)
	}
	for l := range c.Layers {
		p := fmt.Sprintf("model.layers.%d.", l)
		put(p+"input_layernorm.weight", c.Hidden)
		put(p+"post_attention_layernorm.weight", c.Hidden)
		c.attentionShapes(p+"self_attn.", put)
		if !c.sparse(l) {
			mlp(p+"mlp.", c.Intermediate)
			continue
		}
		put(p+"mlp.gate.weight", c.Routed, c.Hidden)
		for e := range c.Routed {
			mlp(fmt.Sprintf("%smlp.experts.%d.", p, e), c.ExpertSize)
		}
		if c.ModelType == deepseek {
			put(p+"mlp.gate.e_score_correction_bias", c.Routed)
			if c.Shared > 0 {
				mlp(p+"mlp.shared_experts.", c.ExpertSize*c.Shared)
			}
		}
	}
	return s
}

func (c config) attentionShapes(p string, put func(string, ...int)) {
	linear := func(name string, out, in int, bias bool) {
		put(p+name+".weight", out, in)
		if bias {
			put(p+name+".bias", out)
		}
	}
	if c.ModelType != deepseek {
		linear("q_proj", c.Heads*c.HeadDim, c.Hidden, c.Bias)
		linear("k_proj", c.KVHeads*c.HeadDim, c.Hidden, c.Bias)
		linear("v_proj", c.KVHeads*c.HeadDim, c.Hidden, c.Bias)
		linear("o_proj", c.Hidden, c.Heads*c.HeadDim, c.Bias)
		put(p+"q_norm.weight", c.HeadDim)
		put(p+"k_norm.weight", c.HeadDim)
		return
	}
	if c.QRank == nil {
		linear("q_proj", c.Heads*c.HeadDim, c.Hidden, false)
	} else {
		linear("q_a_proj", *c.QRank, c.Hidden, c.Bias)
		put(p+"q_a_layernorm.weight", *c.QRank)
		linear("q_b_proj", c.Heads*c.HeadDim, *c.QRank, false)
	}
	linear("kv_a_proj_with_mqa", c.KVRank+c.Rope, c.Hidden, c.Bias)
	put(p+"kv_a_layernorm.weight", c.KVRank)
	linear("kv_b_proj", c.Heads*(c.Nope+c.Value), c.KVRank, false)
	linear("o_proj", c.Hidden, c.Heads*c.Value, c.Bias)
}

// linear is W·x (+ b where the model has one).
func (m *Model) linear(name string, x []float64) []float64 {
	w := m.w[name+".weight"]
	y := make([]float64, w.Shape[0])
	bias, biased := m.w[name+".bias"]
	for i := range y {
		row := w.Data[i*len(x):][:len(x)]
		sum := 0.0
		for j, v := range x {
			sum += row[j] * v
		}
		if biased {
			sum += bias.Data[i]
		}
		y[i] = sum
	}
	return y
}

// norm is RMSNorm (arXiv:1910.07467).
func (m *Model) norm(name string, x []float64, eps float64) []float64 {
	sum := 0.0
	for _, v := range x {
		sum += v * v
	}
	scale := 1 / math.Sqrt(sum/float64(len(x))+eps)
	w := m.w[name+".weight"].Data
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = v * scale * w[i]
	}
	return y
}

// mlp is down(silu(gate(x)) ∘ up(x)).
func (m *Model) mlp(prefix string, x []float64) []float64 {
	gate, up := m.linear(prefix+"gate_proj", x), m.linear(prefix+"up_proj", x)
	for i, g := range gate {
		gate[i] = g / (1 + math.Exp(-g)) * up[i]
	}
	return m.linear(prefix+"down_proj", gate)
}
