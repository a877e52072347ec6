//go:build !linux

package kernel

// reserve gives b n zero bytes.
func (b *Narrow) reserve(n int) { b.data = make([]byte, n) }
