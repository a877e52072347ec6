package convert

import (
	"encoding/binary"
	"math"

	"tarbert/internal/tensor"
)

// deviation accumulates how far a tensor's output is from its source. Bands are
// measured apart and merged in order, so the sums do not depend on who was first.
type deviation struct {
	max    float64 // largest |source - decoded|
	bound  float64 // largest that an element was allowed
	signal float64 // Σ source²
	noise  float64 // Σ (source - decoded)²
}

func (e *deviation) merge(o deviation) {
	e.max, e.bound = max(e.max, o.max), max(e.bound, o.bound)
	e.signal += o.signal
	e.noise += o.noise
}

// sqnr in dB; 0 where there is no noise.
func (e *deviation) sqnr() float64 {
	if e.noise == 0 || e.signal == 0 {
		return 0
	}
	return 10 * math.Log10(e.signal/e.noise)
}

// with adds one element and reports whether it lies within its bound. It is a
// value's method, and spells max out, so that the loops over millions of
// elements keep the sums in registers.
func (e deviation) with(source, decoded, bound float64) (deviation, bool) {
	d := math.Abs(source - decoded)
	if d > e.max {
		e.max = d
	}
	if bound > e.bound {
		e.bound = bound
	}
	// The conversions keep compilers from fusing: the report is the same on every processor.
	e.signal += float64(source * source)
	e.noise += float64(d * d)
	return e, d <= bound
}

const (
	// int8Max is what the largest magnitude of a channel is mapped to.
	int8Max = 127
	// epsilon is float32's: msmodelslim's floor for a scale, exact in bfloat16.
	epsilon = 0x1p-23
	// toInteger, added and subtracted, rounds a float32 below 2^22 to the nearest
	// integer, ties to even.
	toInteger = 0x1.8p23
)

// halfULP is half the distance of bfloat16 values at x: what rounding to nearest
// can cost. It is 2^-8 of the power of two below |x|, 2^-134 among subnormals.
func halfULP(x float32) float64 {
	b := max(math.Float32bits(x)&0x7f800000, 1<<23)
	return float64(math.Float32frombits(b)) * 0x1p-8
}

// firstNonFinite returns the index of the first element that is NaN or infinite, or -1.
func firstNonFinite(x []float32) int {
	for i, v := range x {
		if math.Float32bits(v)&0x7f800000 == 0x7f800000 {
			return i
		}
	}
	return -1
}

// toBF16 writes x rounded and returns the index of the first element outside its bound (an
// overflow to infinity), or -1.
func toBF16(dst []byte, x []float32, total *deviation) int {
	e, ok := *total, true
	for i, v := range x {
		u := tensor.ToBF16(v)
		binary.LittleEndian.PutUint16(dst[2*i:], u)
		if e, ok = e.with(float64(v), float64(tensor.FromBF16(u)), halfULP(v)); !ok {
			return i
		}
	}
	*total = e
	return -1
}

// channel is the scale of one row and what its elements may be off.
type channel struct {
	scale float32
	// wide says that the source has more precision than bfloat16, and that the
	// dialect rounds it away first.
	wide  bool
	exact bool
}

// scaleOf derives a row's scale. In the compatible dialect x holds bfloat16
// values and the quotient is rounded to bfloat16.
func scaleOf(x []float32, exact bool) float32 {
	var top uint32
	for _, v := range x { // magnitudes compare as their bits do
		top = max(top, math.Float32bits(v)&0x7fffffff)
	}
	scale := math.Float32frombits(top) / int8Max
	if exact {
		if top == 0 {
			return epsilon
		}
		return max(scale, 0x1p-126)
	}
	return max(tensor.FromBF16(tensor.ToBF16(scale)), epsilon)
}

// code is one element's: RNE(w/scale) between -128 and 127, where the compatible
// dialect rounds the quotient to bfloat16 first. w is finite.
func (c channel) code(w float32) (code int8, quotient float32) {
	t := w / c.scale
	v := t
	if !c.exact {
		v = tensor.FromBF16(tensor.ToBF16(t))
	}
	v += toInteger
	v -= toInteger
	return int8(min(max(v, -128), int8Max)), t
}

// bound is how far code×scale may be from the source element, whose quotient by
// the scale is t; see design.md.
func (c channel) bound(source, t float32) float64 {
	s, a := float64(c.scale), math.Abs(float64(t))
	b := float64(s * (0.5 + float64(a*0x1p-23)))
	if !c.exact {
		b += float64(s * halfULP(t))
		if c.wide {
			b += halfULP(source)
		}
	}
	return b
}

// quantiseRow writes a row's codes and returns its scale, and the index of the
// first element outside its bound or -1. Source is the row as stored; work has
// its length and is overwritten.
func quantiseRow(dst []byte, source, work []float32, c channel, total *deviation) (float32, int) {
	weights := source
	if c.wide && !c.exact {
		weights = work
		for i, v := range source {
			weights[i] = tensor.FromBF16(tensor.ToBF16(v))
		}
		if i := firstNonFinite(weights); i >= 0 {
			return 0, i
		}
	}
	c.scale = scaleOf(weights, c.exact)
	e, ok := *total, true
	for i, w := range weights {
		q, t := c.code(w)
		dst[i] = byte(q)
		if e, ok = e.with(float64(source[i]), float64(q)*float64(c.scale), c.bound(source[i], t)); !ok {
			return c.scale, i
		}
	}
	*total = e
	return c.scale, -1
}
