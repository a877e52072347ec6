package kernel

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hugePage is the common size; where it is another, the wish below asks for
// less than it could.
const hugePage = 2 << 20

// WantHugePages asks for x, just allocated and large, to lie in huge pages, so
// that walking down columns does not cost a look-up per row. Refusal costs speed
// only.
func WantHugePages[T any](x []T) {
	size := cap(x) * int(unsafe.Sizeof(*new(T)))
	if size < 2*hugePage {
		return
	}
	all := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), size)
	skip := int(-uintptr(unsafe.Pointer(&all[0])) % hugePage)
	_ = unix.Madvise(all[skip:][:(size-skip)/hugePage*hugePage], unix.MADV_HUGEPAGE)
}

// mappedFrom is the size from which a matrix has memory of its own.
const mappedFrom = 1 << 20

// reserve gives b n zero bytes. Large matrices lie outside Go's heap: inside,
// the collector would let garbage grow as large as all weights before it
// looked, and small pages would cost every product its look-ups. The memory
// goes back when b is no longer reachable, so whoever reads it keeps b alive.
func (b *Narrow) reserve(n int) {
	if n >= mappedFrom {
		data, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err == nil {
			_ = unix.Madvise(data, unix.MADV_HUGEPAGE) // a wish: refusal costs speed only
			b.data = data
			runtime.AddCleanup(b, func(data []byte) { _ = unix.Munmap(data) }, data)
			return
		}
	}
	b.data = make([]byte, n)
}
