package kernel

// The functions of codes_arm64.s take n of at least what they work on at a time, in
// multiples of it: sixteen, but for those on single BF16 or float32 values, eight.

//go:noescape
func fp8NEON(dst, src *byte, n int, table *byte) uint64

//go:noescape
func fp4NEON(dst, src, exponents *byte, groups int, tables *byte)

//go:noescape
func expandNEON(dst, src, shifts *byte, groups int, tables *byte)

//go:noescape
func finiteNEON(src *byte, n int) uint64

//go:noescape
func widenNEON(dst *float32, src *byte, n int)

//go:noescape
func roundNEON(dst *byte, x *float32, n int)

//go:noescape
func maxAbsNEON(x *float32, n int) uint32

//go:noescape
func maxAbs16NEON(src *byte, n int) uint32

//go:noescape
func int8ExactF32NEON(dst *byte, x *float32, n int, scale, inverse float32)

//go:noescape
func int8NarrowF32NEON(dst *byte, x *float32, n int, scale, inverse float32)

//go:noescape
func int8ExactBF16NEON(dst, x *byte, n int, scale, inverse float32)

//go:noescape
func int8NarrowBF16NEON(dst, x *byte, n int, scale, inverse float32)

//go:noescape
func int8ShortNEON(dst, x *byte, n int, inverse float32)

//go:noescape
func int8NoiseNEON(x *float32, codes *byte, n int, inverse float32, lanes *float32)
