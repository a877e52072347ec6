package gguf

import (
	"encoding/binary"
	"fmt"
	"math"

	"tarbert/internal/tensor"
)

// q8Block is the elements of a Q8_0 block, q8Bytes its size: a half-precision
// scale, then the codes.
const (
	q8Block = 32
	q8Bytes = 34
	q8Max   = 127
)

// Encode encodes whole blocks of F32, F16, BF16 or Q8_0. len(dst) must be what
// len(src) elements take. What ggml leaves undefined, Q8_0 of infinities and
// NaN, has the code 0.
func Encode(dst []byte, src []float32, t Type) error {
	if err := fits(len(dst), len(src), t); err != nil {
		return err
	}
	switch t {
	case F32:
		for i, x := range src {
			binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(x))
		}
	case F16:
		for i, x := range src {
			binary.LittleEndian.PutUint16(dst[2*i:], toF16(x))
		}
	case BF16:
		for i, x := range src {
			binary.LittleEndian.PutUint16(dst[2*i:], toBF16(x))
		}
	case Q8_0:
		for i := 0; i < len(src); i += q8Block {
			quantise((*[q8Bytes]byte)(dst[i/q8Block*q8Bytes:]), (*[q8Block]float32)(src[i:]))
		}
	default:
		return fmt.Errorf("%v is not written from float32: only F32, F16, BF16 and Q8_0 are", t)
	}
	return nil
}

// Decode decodes whole blocks of F32, F16, BF16 or Q8_0. len(src) must be what
// len(dst) elements take.
func Decode(dst []float32, src []byte, t Type) error {
	if err := fits(len(src), len(dst), t); err != nil {
		return err
	}
	switch t {
	case F32:
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
		}
	case F16:
		for i := range dst {
			dst[i] = tensor.FromF16(binary.LittleEndian.Uint16(src[2*i:]))
		}
	case BF16:
		for i := range dst {
			dst[i] = tensor.FromBF16(binary.LittleEndian.Uint16(src[2*i:]))
		}
	case Q8_0:
		for i := 0; i < len(dst); i += q8Block {
			dequantise((*[q8Block]float32)(dst[i:]), (*[q8Bytes]byte)(src[i/q8Block*q8Bytes:]))
		}
	default:
		return fmt.Errorf("%v is not read as float32: only F32, F16, BF16 and Q8_0 are", t)
	}
	return nil
}

func fits(bytes, elements int, t Type) error {
	block, _ := t.Block()
	if block == 0 || int64(elements)%block != 0 || int64(bytes) != t.Bytes(int64(elements)) {
		return fmt.Errorf("%d bytes are not %d elements of %v", bytes, elements, t)
	}
	return nil
}

// toBF16 is ggml_compute_fp32_to_bf16: ties to even; a NaN keeps its sign and
// the payload's upper bits and becomes quiet (PyTorch has one NaN for all).
func toBF16(x float32) uint16 {
	b := math.Float32bits(x)
	if b&0x7fffffff > 0x7f800000 {
		return uint16(b>>16) | 0x40
	}
	return tensor.ToBF16(x)
}

// toF16 is what the processor's own conversion gives: ties to even; a NaN keeps
// its sign and the payload's upper bits and becomes quiet.
func toF16(x float32) uint16 {
	b := math.Float32bits(x)
	if b&0x7fffffff > 0x7f800000 {
		return uint16(b>>16&0x8000) | 0x7e00 | uint16(b>>13&0x1ff)
	}
	return tensor.ToF16(x)
}

// quantise is quantize_row_q8_0_ref: d = max|x| / 127 in float32, codes
// roundf(x × (1/d)) with that d, half away from zero, and d stored rounded to
// half precision. A block so small that 1/d is infinite has d = 0 as stored, and
// codes 0, as the x86 conversion of a NaN or an infinity gives.
func quantise(dst *[q8Bytes]byte, src *[q8Block]float32) {
	var top uint32
	for _, x := range src { // magnitudes compare as their bits do; a NaN counts for nothing
		if b := math.Float32bits(x) &^ (1 << 31); b > top && b <= 0x7f800000 {
			top = b
		}
	}
	d := math.Float32frombits(top) / q8Max
	inverse := float32(0)
	if d != 0 {
		inverse = 1 / d
	}
	if inverse > math.MaxFloat32 {
		inverse = 0
	}
	binary.LittleEndian.PutUint16(dst[:], toF16(d))
	for i, x := range src {
		dst[2+i] = byte(roundAway(x * inverse))
	}
}

// roundAway is C's roundf for |x| below 128, as an int8; 0 for a NaN. In float64
// x ± 0.5 is exact, so that truncation rounds half away from zero.
func roundAway(x float32) int8 {
	if x != x {
		return 0
	}
	const half = 0x3fe0000000000000 // 0.5; a branch on the sign would be mispredicted half the time
	sign := uint64(math.Float32bits(x)&(1<<31)) << 32
	return int8(int32(float64(x) + math.Float64frombits(sign|half)))
}

// dequantise is code × d, d widened.
func dequantise(dst *[q8Block]float32, src *[q8Bytes]byte) {
	d := tensor.FromF16(binary.LittleEndian.Uint16(src[:]))
	for i := range dst {
		dst[i] = float32(int8(src[2+i])) * d
	}
}
