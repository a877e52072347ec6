//go:build amd64 || arm64 || loong64 || riscv64

package tensor

import "unsafe"

// bytesToFloat32 copies float32 values from little-endian bytes, which is how these
// processors keep them.
func bytesToFloat32(dst []float32, src []byte) {
	if len(dst) > 0 {
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&dst[0])), 4*len(dst)), src)
	}
}
