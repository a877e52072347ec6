//go:build !(amd64 || arm64 || loong64 || riscv64)

package tensor

import (
	"encoding/binary"
	"math"
)

// bytesToFloat32 decodes float32 values from little-endian bytes.
func bytesToFloat32(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
	}
}
