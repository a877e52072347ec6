//go:build !linux

package kernel

// WantHugePages asks for x to lie in huge pages; here it cannot.
func WantHugePages[T any]([]T) {}

// reserve gives b n zero bytes.
func (b *Narrow) reserve(n int) { b.data = make([]byte, n) }
