package gguf

import "fmt"

// The most of everything that is read or written: far above any published file,
// far below what would exhaust the machine.
const (
	// MaxKey and MaxName are in bytes; a key's is docs/gguf.md's, a name's is
	// ggml's GGML_MAX_NAME less its terminating zero.
	MaxKey  = 1<<16 - 1
	MaxName = 63
	// MaxDims is ggml's GGML_MAX_DIMS.
	MaxDims = 4
	// MaxDepth is how deep arrays nest; llama.cpp itself reads no nested ones.
	MaxDepth   = 4
	MaxString  = 1 << 28
	MaxKeys    = 1 << 16
	MaxTensors = 1 << 20
	// MaxMetadata is all of what comes before the data, in bytes.
	MaxMetadata = 1 << 30
)

const (
	magic            = "GGUF"
	version          = 3
	headerBytes      = 24
	alignmentKey     = "general.alignment"
	defaultAlignment = 32
	maxAlignment     = 1 << 20
)

// Info is where a tensor lies.
type Info struct {
	Name string
	Type Type
	// Shape is in row-major order, the fastest dimension last, as PyTorch and
	// safetensors have it; the file spells it the other way round.
	Shape []int64
	// Offset is that of the first byte from the start of the file; Size is in
	// bytes, without the padding that follows.
	Offset, Size int64
}

// Elements is how many there are: 1 for a shape of no dimensions.
func (i Info) Elements() int64 {
	n := int64(1)
	for _, d := range i.Shape {
		n *= d
	}
	return n
}

// FormatError says what is wrong with a file, and where.
type FormatError struct {
	File   string
	Key    string // of the metadata; empty where none is at fault
	Tensor string // empty where no single tensor is at fault
	Offset int64  // from the start of the file
	Reason string
}

func (e *FormatError) Error() string {
	switch {
	case e.Tensor != "":
		return fmt.Sprintf("%s: tensor %q at byte %d: %s", e.File, e.Tensor, e.Offset, e.Reason)
	case e.Key != "":
		return fmt.Sprintf("%s: key %q at byte %d: %s", e.File, e.Key, e.Offset, e.Reason)
	}
	return fmt.Sprintf("%s: byte %d: %s", e.File, e.Offset, e.Reason)
}

// alignmentOf is the metadata's, or the default.
func alignmentOf(m Metadata) (int64, error) {
	v, ok := m.Get(alignmentKey)
	if !ok {
		return defaultAlignment, nil
	}
	a, ok := v.(uint32)
	if !ok {
		return 0, fmt.Errorf("it is a %T; the alignment is a uint32", v)
	}
	if a < 8 || a > maxAlignment || a&(a-1) != 0 {
		return 0, fmt.Errorf("alignment %d is not a power of two between 8 and %d", a, maxAlignment)
	}
	return int64(a), nil
}

// pad rounds n up to a multiple of the alignment.
func pad(n, alignment int64) int64 { return (n + alignment - 1) / alignment * alignment }
