package convert

import (
	"fmt"
	"math"

	"tarbert/internal/tensor"
)

// The decoders here serve Check alone. They share nothing with those that wrote
// the data: fields are taken apart and put together by arithmetic in float64,
// from the formats' definitions, so that a mistake in one is not made twice.

// decoder turns the bytes of one element type into exact float64 values.
type decoder struct {
	width  int
	decode func(b []byte) float64
}

func decoderOf(d tensor.DType) (decoder, error) {
	switch d {
	case tensor.F32:
		return decoder{4, decodeF32}, nil
	case tensor.BF16:
		return decoder{2, decodeBF16}, nil
	case tensor.F16:
		return decoder{2, decodeF16}, nil
	case tensor.I8:
		return decoder{1, decodeI8}, nil
	case tensor.F8_E4M3:
		return decoder{1, decodeE4M3}, nil
	case tensor.F8_E8M0:
		return decoder{1, decodeE8M0}, nil
	}
	return decoder{}, fmt.Errorf("%s is not checked", d)
}

// assemble puts a value together: (-1)^sign × 2^(exponent-bias) × 1.mantissa, or
// 0.mantissa × 2^(1-bias) where the exponent is zero.
func assemble(sign, exponent, mantissa, bias, digits, top int) float64 {
	v := math.NaN()
	fraction := float64(mantissa)
	switch {
	case exponent == top && mantissa == 0:
		v = math.Inf(1)
	case exponent == top:
	case exponent == 0:
		v = fraction * math.Pow(2, float64(1-bias-digits))
	default:
		// The exponent field of a float64 is its own power of two: no rounding, no table.
		power := math.Float64frombits(uint64(exponent-bias+1023) << 52)
		v = power + power*fraction/float64(int(1)<<digits)
	}
	if sign == 1 {
		v = -v
	}
	return v
}

func decodeF32(b []byte) float64 {
	return assemble(int(b[3]>>7), int(b[3]&0x7f)*2+int(b[2]>>7), int(b[2]&0x7f)<<16+int(b[1])<<8+int(b[0]), 127, 23, 255)
}

func decodeBF16(b []byte) float64 {
	return assemble(int(b[1]>>7), int(b[1]&0x7f)*2+int(b[0]>>7), int(b[0]&0x7f), 127, 7, 255)
}

func decodeF16(b []byte) float64 {
	return assemble(int(b[1]>>7), int(b[1]>>2&0x1f), int(b[1]&3)<<8+int(b[0]), 15, 10, 31)
}

func decodeI8(b []byte) float64 {
	v := int(b[0])
	if v > 127 {
		v -= 256
	}
	return float64(v)
}

// elements is what a decoder reads from.
type elements interface {
	ReadAt(name string, p []byte, off int64) error
}

// bf16HalfStep is half the distance of bfloat16 values around x, from the
// exponent that Frexp finds.
func bf16HalfStep(x float64) float64 {
	_, e := math.Frexp(x) // |x| = f × 2^e with f in [0.5, 1)
	return math.Ldexp(1, max(e-9, -134))
}

// e4m3HalfStep is half the distance of E4M3 values around x: a sixteenth of the
// power of two below, 2^-10 among subnormals.
func e4m3HalfStep(x float64) float64 {
	_, e := math.Frexp(x)
	return math.Ldexp(1, max(e-5, -10))
}
