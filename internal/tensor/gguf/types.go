package gguf

import (
	"errors"
	"fmt"
	"math/bits"
)

// Type is an element type as a tensor's description has it (enum ggml_type).
type Type uint32

// The types. F32, F16, BF16 and Q8_0 can be encoded and decoded, the others only
// be named and measured.
const (
	F32    Type = 0
	F16    Type = 1
	Q4_0   Type = 2
	Q4_1   Type = 3
	Q5_0   Type = 6
	Q5_1   Type = 7
	Q8_0   Type = 8
	Q8_1   Type = 9
	Q2K    Type = 10
	Q3K    Type = 11
	Q4K    Type = 12
	Q5K    Type = 13
	Q6K    Type = 14
	Q8K    Type = 15
	IQ2XXS Type = 16
	IQ2XS  Type = 17
	IQ3XXS Type = 18
	IQ1S   Type = 19
	IQ4NL  Type = 20
	IQ3S   Type = 21
	IQ2S   Type = 22
	IQ4XS  Type = 23
	I8     Type = 24
	I16    Type = 25
	I32    Type = 26
	I64    Type = 27
	F64    Type = 28
	IQ1M   Type = 29
	BF16   Type = 30
	TQ1_0  Type = 34
	TQ2_0  Type = 35
	MXFP4  Type = 39
	NVFP4  Type = 40
	Q1_0   Type = 41
	Q2_0   Type = 42
)

// traits holds, at each type, ggml's name, the elements of a block and its
// bytes (GGML_QUANT_SIZES of gguf-py). The holes are types that ggml removed.
var traits = [...]struct {
	name            string
	elements, bytes int64
}{
	F32: {"F32", 1, 4}, F16: {"F16", 1, 2}, BF16: {"BF16", 1, 2}, F64: {"F64", 1, 8},
	I8: {"I8", 1, 1}, I16: {"I16", 1, 2}, I32: {"I32", 1, 4}, I64: {"I64", 1, 8},
	Q4_0: {"Q4_0", 32, 18}, Q4_1: {"Q4_1", 32, 20}, Q5_0: {"Q5_0", 32, 22}, Q5_1: {"Q5_1", 32, 24},
	Q8_0: {"Q8_0", 32, 34}, Q8_1: {"Q8_1", 32, 36}, Q1_0: {"Q1_0", 128, 18}, Q2_0: {"Q2_0", 64, 18},
	Q2K: {"Q2_K", 256, 84}, Q3K: {"Q3_K", 256, 110}, Q4K: {"Q4_K", 256, 144}, Q5K: {"Q5_K", 256, 176},
	Q6K: {"Q6_K", 256, 210}, Q8K: {"Q8_K", 256, 292},
	IQ2XXS: {"IQ2_XXS", 256, 66}, IQ2XS: {"IQ2_XS", 256, 74}, IQ3XXS: {"IQ3_XXS", 256, 98}, IQ1S: {"IQ1_S", 256, 50},
	IQ4NL: {"IQ4_NL", 32, 18}, IQ3S: {"IQ3_S", 256, 110}, IQ2S: {"IQ2_S", 256, 82}, IQ4XS: {"IQ4_XS", 256, 136},
	IQ1M: {"IQ1_M", 256, 56}, TQ1_0: {"TQ1_0", 256, 54}, TQ2_0: {"TQ2_0", 256, 66},
	MXFP4: {"MXFP4", 32, 17}, NVFP4: {"NVFP4", 64, 36},
}

// Known reports whether t is one of the types above.
func (t Type) Known() bool { return uint64(t) < uint64(len(traits)) && traits[t].elements > 0 }

// String is ggml's name, "Q8_0".
func (t Type) String() string {
	if !t.Known() {
		return fmt.Sprintf("type %d", uint32(t))
	}
	return traits[t].name
}

// Block is the number of elements that are stored together, along a row, and the
// bytes that they take; 0 for a type that is not known.
func (t Type) Block() (elements, bytes int64) {
	if !t.Known() {
		return 0, 0
	}
	return traits[t].elements, traits[t].bytes
}

// Bytes is the size of n elements of whole blocks.
func (t Type) Bytes(n int64) int64 {
	elements, bytes := t.Block()
	return n / max(elements, 1) * bytes
}

// size is that of a tensor in bytes, refused where the type is not known, the
// shape is empty or overflows 63 bits, or a row does not fill whole blocks.
func size(t Type, shape []int64) (int64, error) {
	if !t.Known() {
		return 0, fmt.Errorf("%v is not known", t)
	}
	if len(shape) > MaxDims {
		return 0, fmt.Errorf("%d dimensions, more than %d", len(shape), MaxDims)
	}
	n := uint64(1)
	for _, d := range shape {
		if d < 1 {
			return 0, fmt.Errorf("shape %v: dimension %d", shape, d)
		}
		hi, lo := bits.Mul64(n, uint64(d))
		if hi != 0 {
			return 0, fmt.Errorf("shape %v overflows", shape)
		}
		n = lo
	}
	block, bytes := t.Block()
	if row := rowLength(shape); row%block != 0 {
		return 0, fmt.Errorf("shape %v: rows of %d elements do not fill whole blocks of %v, which have %d", shape, row, t, block)
	}
	hi, lo := bits.Mul64(n/uint64(block), uint64(bytes))
	if hi != 0 || lo > 1<<62 {
		return 0, errors.New("the tensor's size overflows")
	}
	return int64(lo), nil
}

func rowLength(shape []int64) int64 {
	if len(shape) == 0 {
		return 1
	}
	return shape[len(shape)-1]
}
