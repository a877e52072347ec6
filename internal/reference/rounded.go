package reference

import (
	"fmt"
	"strings"

	"tarbert/internal/reference/kernel"
	"tarbert/internal/tensor"
)

// Rounded is a copy of the model as it is now, in another profile: what an
// inference engine of that precision would sample from after the weights were
// handed over to it. BF16 rounds every weight. W8A8 quantises linears as
// msmodelslim does (per-channel scales and quotients in bf16), leaves the
// embeddings, the output head, the router and kv_b_proj float, and rounds what
// is float to bf16, as tarbert convert writes it. F32 is Inference, not a copy.
func (t *Trainable) Rounded(p Precision) (*Model, error) {
	if p == F32 {
		return t.Inference(), nil
	}
	if p != BF16 && p != W8A8 {
		return nil, fmt.Errorf("copy of the model in precision %q: known are f32, bf16 and w8a8", p)
	}
	s := &roundedSource{precision: p, weights: map[string][]float32{}}
	for _, x := range t.params {
		s.weights[x.Name] = x.Data
	}
	for _, x := range t.biases {
		s.weights[x.Name] = x.Data
	}
	n := t.net.c.build(s)
	if s.err != nil {
		return nil, fmt.Errorf("copy of the model in precision %s: %w", p, s.err)
	}
	if p == BF16 {
		n.bf16, n.rope.bf16 = true, true
	}
	return newModel(n, p, t.pool), nil
}

// roundedSource supplies rounded copies of trained parameters.
type roundedSource struct {
	precision Precision
	weights   map[string][]float32
	err       error
}

func (s *roundedSource) copy(name string) []float32 {
	w := append([]float32(nil), s.weights[name]...)
	kernel.RoundBF16(w)
	return w
}

func (s *roundedSource) vector(name string, _ int) vec { return vec{w: s.copy(name)} }

func (s *roundedSource) frozen(name string, _ int) []float32 {
	return append([]float32(nil), s.weights[name]...)
}

func (s *roundedSource) table(name string, _, _ int) vec { return vec{w: s.copy(name)} }

func (s *roundedSource) router(name string, out, in int) *linear {
	return s.pack(s.copy(name+".weight"), out, in, false)
}

func (s *roundedSource) tied(table vec, out, in int) *linear {
	return s.pack(table.w, out, in, s.precision == BF16)
}

func (s *roundedSource) pack(w []float32, out, in int, bf16 bool) *linear {
	return &linear{in: in, out: out, bf16: bf16, packed: kernel.Pack(kernel.Dense(w, out, in).Transpose())}
}

func (s *roundedSource) linear(name string, out, in int, bias bool) *linear {
	w := s.copy(name + ".weight")
	var l *linear
	if s.precision == W8A8 && name != "lm_head" && !strings.HasSuffix(name, ".kv_b_proj") {
		l = s.quantised(name, w, out, in)
	} else {
		l = s.pack(w, out, in, s.precision == BF16)
	}
	if bias {
		l.bias = s.vector(name+".bias", out)
	}
	return l
}

// quantised makes int8 weights of w, whose values are bf16's.
func (s *roundedSource) quantised(name string, w []float32, out, in int) *linear {
	l := &linear{in: in, out: out, scale: make([]float32, out)}
	if in > kernel.MaxInt8K {
		s.err = fmt.Errorf("tensor %s.weight has rows of %d, more than the %d whose int8 sums fit 32 bits", name, in, kernel.MaxInt8K)
		return l
	}
	codes := make([]int8, len(w))
	for o := range out {
		row := w[o*in:][:in]
		l.scale[o] = max(tensor.FromBF16(tensor.ToBF16(kernel.MaxAbs(row)/127)), smallestScale)
		quantiseBF16(codes[o*in:][:in], row, l.scale[o])
	}
	l.int8 = kernel.PackInt8(codes, out, in)
	return l
}

// smallestScale is msmodelslim's floor, the distance of float32 values at one.
const smallestScale = 0x1p-23

// quantiseBF16 rounds the quotients to bf16, then to the nearest integers.
func quantiseBF16(codes []int8, row []float32, scale float32) {
	const toInteger = 0x1.8p23 // added and subtracted: to the nearest, ties to even
	for i, v := range row {
		q := tensor.FromBF16(tensor.ToBF16(v / scale))
		q += toInteger
		q -= toInteger
		codes[i] = int8(min(max(q, -128), 127))
	}
}
