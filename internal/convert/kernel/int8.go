package kernel

import (
	"math"

	"tarbert/internal/tensor"
)

// toInteger, added and subtracted, rounds a float32 below 2^22 to the nearest
// integer, ties to even.
const toInteger = 0x1.8p23

// Int8 writes the codes of x under a scale: x/scale, rounded to bfloat16 first if
// narrow is set, then to the nearest integer, ties to even, between -128 and 127.
// The division is a division: a product with the reciprocal differs in one of two
// thousand codes. x must be finite, scale positive, and the quotients below 2^22.
func Int8(dst []byte, x []float32, scale float32, narrow bool) {
	if len(dst) != len(x) {
		panic("kernel: Int8: lengths disagree")
	}
	fastest.int8s(dst, x, scale, narrow)
}

// Int8From16 is Int8 of BF16 bytes.
func Int8From16(dst, src []byte, scale float32, narrow bool) {
	if 2*len(dst) != len(src) {
		panic("kernel: Int8From16: lengths disagree")
	}
	fastest.int8s16(dst, src, scale, narrow)
}

// invertible reports whether dividing by a scale may be done by its reciprocal and
// two corrections: nothing overflows, and what is rounded off is no subnormal
// wherever the quotient is not far below one half.
func invertible(scale float32) bool { return scale >= 0x1p-60 && scale <= 0x1p60 }

// short reports whether a scale is a BF16 value.
func short(scale float32) bool { return math.Float32bits(scale)&0xffff == 0 }

func int8Go16(dst, src []byte, scale float32, narrow bool) {
	var x [256]float32
	for i := 0; i < len(dst); i += len(x) {
		n := min(len(x), len(dst)-i)
		widenGo(x[:n], src[2*i:2*(i+n)])
		int8Go(dst[i:i+n], x[:n], scale, narrow)
	}
}

func int8Go(dst []byte, x []float32, scale float32, narrow bool) {
	for i, w := range x {
		v := w / scale
		if narrow {
			v = tensor.FromBF16(tensor.ToBF16(v))
		}
		v += toInteger
		v -= toInteger
		dst[i] = byte(int8(min(max(v, -128), 127)))
	}
}

// Int8Loss measures codes under a scale against the values that they stand for.
// A value may be off by half a step of the code and by what rounding the quotient
// cost (narrow); if wide is set, also by what rounding the value itself to bfloat16
// cost. See the package convert's design.md.
func Int8Loss(x []float32, codes []byte, scale float32, narrow, wide bool) Loss {
	if len(codes) != len(x) {
		panic("kernel: Int8Loss: lengths disagree")
	}
	b := newInt8Bound(scale, narrow, wide)
	var s partial
	whole := len(x) &^ (lanes - 1)
	fastest.int8Loss(x[:whole], codes[:whole], b, &s)
	int8LossGo(x[whole:], codes[whole:], b, &s)
	return s.loss()
}

// int8Bound is what the bound of an element is made of:
//
//	scale × max(½ + |t| slope + quotient × halfstep(t), min(t - 127, clip)) + source × halfstep(x)
//
// with t = |x| × inverse, which is a little larger than |x| / scale. The assembly
// knows this layout.
type int8Bound struct{ scale, inverse, quotient, source, slope, half, top, clip float64 }

func newInt8Bound(scale float32, narrow, wide bool) *int8Bound {
	b := &int8Bound{scale: float64(scale), inverse: 1 / float64(scale) * (1 + 0x1p-20), slope: 0x1p-22, half: 0.5, top: 127, clip: 1 + 0x1p-9}
	if narrow {
		b.quotient = 1
		if wide {
			b.source = 1
			b.inverse = 1 / float64(scale) * (1 + 0x1p-7)
		}
	}
	return b
}

func int8LossGo(x []float32, codes []byte, b *int8Bound, s *partial) {
	for i, v := range x {
		w := float64(v)
		t := float64(math.Abs(w) * b.inverse)
		inner := float64(float64(t*b.slope)+b.half) + float64(b.quotient*halfStep(t))
		inner = max(inner, min(t-b.top, b.clip))
		bound := float64(b.scale*inner) + float64(b.source*halfStep(w))
		s.add(i, w, float64(float64(int8(codes[i]))*b.scale), bound)
	}
}

// noiseRun is how many values are summed in float32 before a float64 takes over.
const noiseRun = 4096

// Int8Noise is Σ (value - decoded)² of codes under a scale, to five digits: no
// bound is looked at. It is a fifth of the work of Int8Loss.
func Int8Noise(x []float32, codes []byte, scale float32) float64 {
	if len(codes) != len(x) {
		panic("kernel: Int8Noise: lengths disagree")
	}
	if !invertible(scale) {
		return Int8Loss(x, codes, scale, false, false).Noise
	}
	inverse, sum := 1/scale, 0.0
	for len(x) > 0 {
		n := min(len(x), noiseRun)
		whole := n &^ (lanes - 1)
		l := fastest.noise(x[:whole], codes[:whole], inverse)
		rest := int8NoiseGo(x[whole:n], codes[whole:n], inverse)
		for i := range l {
			sum += float64(l[i]) + float64(rest[i])
		}
		x, codes = x[n:], codes[n:]
	}
	return float64(sum*float64(scale)) * float64(scale)
}

func int8NoiseGo(x []float32, codes []byte, inverse float32) (l [lanes]float32) {
	for i, v := range x {
		d := float32(v*inverse) - float32(int8(codes[i]))
		l[i%lanes] += float32(d * d)
	}
	return l
}

// E4M3 writes the codes of x under a scale: x/scale, a float32 division, rounded
// to E4M3, ties to even, saturating at 448.
func E4M3(dst []byte, x []float32, scale float32) {
	if len(dst) != len(x) {
		panic("kernel: E4M3: lengths disagree")
	}
	fastest.e4m3(dst, x, scale)
}

func e4m3Go(dst []byte, x []float32, scale float32) {
	for i, w := range x {
		dst[i] = tensor.ToF8E4M3(w / scale)
	}
}

// E4M3Loss measures codes, which must be numbers, under a scale. A value may be off by half the distance
// of E4M3 values at its quotient.
func E4M3Loss(x []float32, codes []byte, scale float32) Loss {
	if len(codes) != len(x) {
		panic("kernel: E4M3Loss: lengths disagree")
	}
	b := newE4M3Bound(scale)
	var s partial
	whole := len(x) &^ (lanes - 1)
	fastest.e4m3Loss(x[:whole], codes[:whole], b, &s)
	e4m3LossGo(x[whole:], codes[whole:], b, &s)
	return s.loss()
}

// e4m3Bound is what the bound of an element is made of:
//
//	scale × (max(power of two below t × sixteenth, least) + t slope)
//
// with t = |x| × inverse, which is a little larger than |x| / scale. The assembly
// knows this layout.
type e4m3Bound struct{ scale, inverse, sixteenth, least, slope float64 }

func newE4M3Bound(scale float32) *e4m3Bound {
	return &e4m3Bound{scale: float64(scale), inverse: 1 / float64(scale) * (1 + 0x1p-22), sixteenth: 0x1p-4, least: 0x1p-10, slope: 0x1p-22}
}

func e4m3LossGo(x []float32, codes []byte, b *e4m3Bound, s *partial) {
	for i, v := range x {
		w := float64(v)
		t := float64(math.Abs(w) * b.inverse)
		power := math.Float64frombits(math.Float64bits(t) & 0x7ff0000000000000)
		half := max(float64(power*b.sixteenth), b.least)
		s.add(i, w, float64(float64(tensor.FromF8E4M3(codes[i]))*b.scale), float64(b.scale*float64(half+float64(t*b.slope))))
	}
}
