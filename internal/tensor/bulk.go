package tensor

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Tensor is a tensor in memory: little-endian, row-major bytes.
type Tensor struct {
	Name  string
	DType DType
	Shape []int64
	Data  []byte
}

// FromFloat32 makes an F32, BF16 or F16 tensor, rounding to nearest, ties to
// even. It panics on any other type or where shape and x disagree: both are
// mistakes of the program, not of data.
func FromFloat32(name string, shape []int64, x []float32, d DType) Tensor {
	n, err := byteSize(d, shape)
	if err != nil || n*8/int64(max(d.Bits(), 1)) != int64(len(x)) {
		panic(fmt.Sprintf("tensor %q: %d values for shape %v of %s", name, len(x), shape, d))
	}
	t := Tensor{Name: name, DType: d, Shape: shape, Data: make([]byte, n)}
	if err := Narrow(t.Data, x, d); err != nil {
		panic(fmt.Sprintf("tensor %q: %v", name, err))
	}
	return t
}

// Widen decodes F32, BF16 or F16 bytes exactly. len(src) must be what len(dst)
// elements take.
func Widen(dst []float32, src []byte, d DType) error {
	if len(src) != len(dst)*d.Bits()/8 {
		return fmt.Errorf("%d bytes are not %d elements of %s", len(src), len(dst), d)
	}
	switch d {
	case F32:
		bytesToFloat32(dst, src)
	case BF16:
		for i := range dst {
			dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
		}
	case F16:
		for i := range dst {
			dst[i] = FromF16(binary.LittleEndian.Uint16(src[2*i:]))
		}
	default:
		return fmt.Errorf("%s is not read as float32: only F32, BF16 and F16 are", d)
	}
	return nil
}

// Narrow encodes as F32, BF16 or F16, ties to even. len(dst) must be what
// len(src) elements take.
func Narrow(dst []byte, src []float32, d DType) error {
	if len(dst) != len(src)*d.Bits()/8 {
		return fmt.Errorf("%d bytes are not %d elements of %s", len(dst), len(src), d)
	}
	switch d {
	case F32:
		for i, x := range src {
			binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(x))
		}
	case BF16:
		for i, x := range src {
			binary.LittleEndian.PutUint16(dst[2*i:], ToBF16(x))
		}
	case F16:
		for i, x := range src {
			binary.LittleEndian.PutUint16(dst[2*i:], ToF16(x))
		}
	default:
		return fmt.Errorf("%s is not written from float32: only F32, BF16 and F16 are", d)
	}
	return nil
}
