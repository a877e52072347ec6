package reference

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"

	"tarbert/internal/reference/kernel"
	"tarbert/internal/tensor"
)

// Param is one trained tensor: the float32 master weight and its gradient,
// which an optimizer reads and changes in place.
type Param struct {
	Name       string // Hugging Face's
	Shape      []int64
	Data, Grad []float32
	Decay      bool // matrices decay; norms and biases do not
}

// Trainable is a model with gradients. It is not safe for concurrent use.
type Trainable struct {
	net    *network
	pool   *kernel.Pool
	params []Param
	biases []Param // e_score_correction_bias
	extra  []tensor.Tensor
	model  *Model
	acts   *activations // kept for the backward pass
	light  *activations // of passes without one
	grads  layerGrads
	head   headWork
	batch  batch
}

// NewTrainable makes a model with new weights: matrices normally distributed
// with c.InitializerRange (each from its own stream of the seed, by its name),
// norms one, biases zero. c is copied; it panics if c.Validate fails.
func NewTrainable(c *Config, seed uint64, threads int) *Trainable {
	if err := c.Validate(); err != nil {
		panic("reference: new model: " + err.Error())
	}
	own := *c
	own.Quantization, own.DType = "", "float32"
	return newTrainable(&own, threads, func(name string, shape ...int64) []float32 {
		w := make([]float32, elements(shape))
		switch {
		case len(shape) == 2:
			h := fnv.New64a()
			h.Write([]byte(name))
			r := rand.New(rand.NewPCG(seed, h.Sum64()))
			for i := range w {
				w[i] = float32(r.NormFloat64() * own.InitializerRange)
			}
		case !isBias(name):
			for i := range w {
				w[i] = 1
			}
		}
		return w
	})
}

func isBias(name string) bool {
	const suffix = "bias"
	return len(name) > len(suffix) && name[len(name)-len(suffix):] == suffix
}

func elements(shape []int64) int {
	n := 1
	for _, d := range shape {
		n *= int(d)
	}
	return n
}

// LoadTrainable reads a model directory with float weights (F32, BF16, F16 or
// FP8 blocks, all widened to float32). Multi-token-prediction layers are kept
// as they are and written again by SaveModel.
func LoadTrainable(dir string, threads int) (*Trainable, error) {
	c, err := ReadConfig(dir)
	if err != nil {
		return nil, fmt.Errorf("load model: %w", err)
	}
	s, err := openSource(dir, c)
	if err != nil {
		return nil, fmt.Errorf("load model: %w", err)
	}
	t, err := s.trainable(threads)
	if err := errors.Join(err, s.dir.Close()); err != nil {
		return nil, fmt.Errorf("load model %s: %w", dir, err)
	}
	return t, nil
}

func (s *fileSource) trainable(threads int) (*Trainable, error) {
	if s.quantised() {
		return nil, errors.New("int8 weights cannot be trained: load the checkpoint they were converted from")
	}
	if s.c.TieWordEmbeddings { // a repeated head must be the embeddings
		s.precision = F32
		n := s.c.VocabSize
		s.tied(s.table("model.embed_tokens.weight", n, s.c.HiddenSize), n, s.c.HiddenSize)
	}
	own := *s.c
	own.Quantization, own.DType = "", "float32"
	t := newTrainable(&own, threads, s.floats)
	for _, info := range s.dir.Infos() {
		if !s.used[info.Name] && s.c.PredictionLayer(info.Name) {
			s.keep(t, info)
		}
	}
	return t, s.finish()
}

// keep stores a tensor that no pass uses, so that saving does not lose it.
// FP8 is widened, for the saved config no longer declares it.
func (s *fileSource) keep(t *Trainable, info tensor.Info) {
	if info.DType == tensor.F8_E4M3 && len(info.Shape) == 2 {
		t.extra = append(t.extra, tensor.FromFloat32(info.Name, info.Shape, s.fp8(info.Name, int(info.Shape[0]), int(info.Shape[1])), tensor.F32))
		s.used[info.Name] = true
		t.extra = slices.DeleteFunc(t.extra, func(x tensor.Tensor) bool { return x.Name == info.Name+"_scale_inv" })
		return
	}
	data, err := s.dir.Bytes(info.Name)
	if err != nil {
		s.fail("%w", err)
		return
	}
	t.extra = append(t.extra, tensor.Tensor{Name: info.Name, DType: info.DType, Shape: info.Shape, Data: data})
}

func newTrainable(c *Config, threads int, fill func(name string, shape ...int64) []float32) *Trainable {
	t := &Trainable{pool: newPool(threads), acts: newActivations(true), light: newActivations(false), head: headWork{most: logitsMost}}
	t.net = c.build(&paramSource{t: t, fill: fill})
	t.model = newModel(t.net, F32, t.pool)
	return t
}

// paramSource supplies trained parameters and writes them down.
type paramSource struct {
	t    *Trainable
	fill func(name string, shape ...int64) []float32
}

func (s *paramSource) add(name string, decay bool, shape ...int64) vec {
	w := s.fill(name, shape...)
	v := vec{w: w, g: make([]float32, len(w))}
	s.t.params = append(s.t.params, Param{Name: name, Shape: shape, Data: v.w, Grad: v.g, Decay: decay})
	return v
}

func (s *paramSource) vector(name string, n int) vec {
	v := s.add(name, false, int64(n))
	v.part = &partials{}
	return v
}

func (s *paramSource) frozen(name string, n int) []float32 {
	w := s.fill(name, int64(n))
	s.t.biases = append(s.t.biases, Param{Name: name, Shape: []int64{int64(n)}, Data: w})
	return w
}

func (s *paramSource) table(name string, rows, cols int) vec {
	return s.add(name, true, int64(rows), int64(cols))
}

func (s *paramSource) router(name string, out, in int) *linear {
	return s.linear(name, out, in, false)
}

func (s *paramSource) linear(name string, out, in int, bias bool) *linear {
	l := &linear{in: in, out: out, weight: s.add(name+".weight", true, int64(out), int64(in))}
	if bias {
		l.bias = s.vector(name+".bias", out)
	}
	return l
}

func (s *paramSource) tied(table vec, out, in int) *linear {
	return &linear{in: in, out: out, weight: table}
}

// Config is the model's config. It must not be changed.
func (t *Trainable) Config() *Config { return t.net.c }

// Params lists the trained tensors in a fixed order. Data and Grad are the
// model's own memory.
func (t *Trainable) Params() []Param { return t.params }

// RouterBias lists e_score_correction_bias of the MoE layers in order, the
// same order as StepStats.ExpertLoad. They have no gradient; the balancing
// rule changes Data in place. Empty for other model types.
func (t *Trainable) RouterBias() []Param { return t.biases }

// ZeroGrad sets all gradients to zero.
func (t *Trainable) ZeroGrad() {
	t.pool.Run(len(t.params), func(i int) { clear(t.params[i].Grad) })
}

// Inference is the model for sampling and scoring, sharing the weights without
// a copy and computing the same bits as the training forward pass. After
// weights have changed, call it again: it refreshes the packed form, and
// sequences begun before are stale.
func (t *Trainable) Inference() *Model {
	t.refresh()
	return t.model
}

// refresh repacks every matrix from its current values.
func (t *Trainable) refresh() {
	all := t.net.linears()
	t.pool.Run(len(all), func(i int) { all[i].repack() })
}

// linears lists every linear of the network.
func (n *network) linears() []*linear {
	all := []*linear{n.head}
	mlps := func(m *mlp) {
		if m != nil {
			all = append(all, m.gate, m.up, m.down)
		}
	}
	for i := range n.layers {
		l := &n.layers[i]
		all = append(all, l.o)
		if l.mla != nil {
			all = append(all, l.mla.q, l.mla.qa, l.mla.qb, l.mla.kva, l.mla.kvb)
		} else {
			all = append(all, l.gqa.q, l.gqa.k, l.gqa.v)
		}
		mlps(l.mlp)
		if l.moe != nil {
			all = append(all, l.moe.router)
			for e := range l.moe.experts {
				mlps(&l.moe.experts[e])
			}
			mlps(l.moe.shared)
		}
	}
	return slices.DeleteFunc(all, func(l *linear) bool { return l == nil })
}
