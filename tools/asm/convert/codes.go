package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// fp8 looks 64 codes up at a time in the two tables of 128 bytes, by VPERMI2B,
// whose index has seven bits: the eighth, the sign, is put in afterwards.
func fp8(c *build.Context) {
	function(c, "fp8AVX512", "func(dst, src *byte, n int, table *byte) uint64",
		"fp8AVX512 decodes n codes, a multiple of 64, and returns what is not zero if one is NaN.")
	dst, src, n, table := load(c, c.Param("dst")), load(c, c.Param("src")), load(c, c.Param("n")), load(c, c.Param("table"))
	var t [4]reg.VecVirtual // low 0-63, low 64-127, high 0-63, high 64-127
	for i := range t {
		t[i] = c.ZMM()
		c.VMOVDQU64(operand.Mem{Base: table, Disp: 64 * i}, t[i])
	}
	sign, nan := avx512.words(c, "fp8Sign", 0x80808080), c.ZMM()
	c.VPTERNLOGD(operand.U8(0xff), nan, nan, nan)
	order := c.StaticGlobal("fp8Order")
	c.DataAttributes(attr.RODATA | attr.NOPTR)
	for i, q := range []uint64{0, 4, 1, 5, 2, 6, 3, 7} {
		c.AddDatum(8*i, operand.U64(q))
	}
	spread := c.ZMM()
	c.VMOVDQU64(order, spread)
	bad, some := c.K(), c.K()
	c.KXORQ(bad, bad, bad)
	loop(c, "fp8Loop", n, 64, func(i reg.GPVirtual) {
		codes, low, high, signs := c.ZMM(), c.ZMM(), c.ZMM(), c.ZMM()
		// Spread the quadwords so that unpacking within 128 bits leaves them in order.
		c.VPERMQ(at(src, i, 1, 0), spread, codes)
		c.VPORD(sign, codes, signs)
		c.VPCMPEQB(nan, signs, some)
		c.KORQ(some, bad, bad)
		c.VMOVDQA64(codes, low)
		c.VPERMI2B(t[1], t[0], low)
		c.VMOVDQA64(codes, high)
		c.VPERMI2B(t[3], t[2], high)
		c.VPTERNLOGD(operand.U8(0xf8), sign, codes, high) // high | codes & sign
		first, second := c.ZMM(), c.ZMM()
		c.VPUNPCKLBW(high, low, first)
		c.VPUNPCKHBW(high, low, second)
		c.VMOVDQU64(first, at(dst, i, 2, 0))
		c.VMOVDQU64(second, at(dst, i, 2, 64))
	})
	r := c.GP64()
	c.KMOVQ(bad, r)
	c.VZEROUPPER()
	c.Store(r, c.ReturnIndex(0))
	c.RET()
}

// fp8Narrow is fp8 without VBMI: 32 codes at a time, in eight tables of sixteen. A
// code that is not of a table's sixteen is raised above 127, where VPSHUFB gives zero.
func fp8Narrow(c *build.Context) {
	function(c, "fp8AVX2", "func(dst, src *byte, n int, table *byte) uint64",
		"fp8AVX2 decodes n codes, a multiple of 32, and returns what is not zero if one is NaN.")
	dst, src, n, table := load(c, c.Param("dst")), load(c, c.Param("src")), load(c, c.Param("n")), load(c, c.Param("table"))
	mask, raise := avx2.words(c, "fp8Mask", 0x7f7f7f7f), avx2.words(c, "fp8Raise", 0x70707070)
	bad := c.YMM()
	c.VPXOR(bad, bad, bad)
	sixteens := c.StaticGlobal("fp8Sixteens")
	c.DataAttributes(attr.RODATA | attr.NOPTR)
	for k := range 8 {
		for i := range 4 {
			c.AddDatum(32*k+8*i, operand.U64(uint64(k)<<4*0x0101010101010101))
		}
	}
	loop(c, "fp8AVX2Loop", n, 32, func(i reg.GPVirtual) {
		codes, signs, low, high, nan := c.YMM(), c.YMM(), c.YMM(), c.YMM(), c.YMM()
		c.VMOVDQU(at(src, i, 1, 0), signs)
		c.VPAND(signs, mask, codes)
		c.VPCMPEQB(codes, mask, nan)
		c.VPOR(nan, bad, bad)
		c.VPANDN(signs, mask, signs)
		c.VPXOR(low, low, low)
		c.VMOVDQA(signs, high) // the sign is the upper byte's
		for k := range 8 {
			of, entries, found := c.YMM(), c.YMM(), c.YMM()
			c.VPXOR(sixteens.Offset(32*k), codes, of)
			c.VPADDUSB(of, raise, of)
			c.VBROADCASTI128(operand.Mem{Base: table, Disp: 16 * k}, entries)
			c.VPSHUFB(of, entries, found)
			c.VPOR(found, low, low)
			c.VBROADCASTI128(operand.Mem{Base: table, Disp: 128 + 16*k}, entries)
			c.VPSHUFB(of, entries, found)
			c.VPOR(found, high, high)
		}
		a, b, out := c.YMM(), c.YMM(), c.YMM()
		c.VPUNPCKLBW(high, low, a)
		c.VPUNPCKHBW(high, low, b)
		c.VPERM2I128(operand.U8(0x20), b, a, out)
		c.VMOVDQU(out, at(dst, i, 2, 0))
		c.VPERM2I128(operand.U8(0x31), b, a, out)
		c.VMOVDQU(out, at(dst, i, 2, 32))
	})
	r := c.GP32()
	c.VPMOVMSKB(bad, r)
	c.VZEROUPPER()
	c.Store(r.As64(), c.ReturnIndex(0))
	c.RET()
}

// fp4 takes a group of 32 columns at a time, 16 bytes: its codes, in the order of
// the columns, look up the two bytes of a BF16 value in tables of sixteen.
func fp4(c *build.Context) {
	function(c, "fp4AVX2", "func(dst, src, exponents *byte, groups int, tables *byte)", "fp4AVX2 decodes groups of 32 codes.")
	dst, src, exponents := load(c, c.Param("dst")), load(c, c.Param("src")), load(c, c.Param("exponents"))
	groups, tables := load(c, c.Param("groups")), load(c, c.Param("tables"))
	mask := avx2.words(c, "fp4Mask", 0x0f0f0f0f).AsX()
	loop(c, "fp4Loop", groups, 1, func(i reg.GPVirtual) {
		at32 := c.GP64()
		c.MOVBQZX(at(exponents, i, 1, 0), at32)
		c.SHLQ(operand.U8(5), at32)
		low, high := c.XMM(), c.XMM()
		c.VMOVDQU(at(tables, at32, 1, 0), low)
		c.VMOVDQU(at(tables, at32, 1, 16), high)
		for half, codes := range nibbles(c, src, mask) {
			a, b, out := c.XMM(), c.XMM(), c.XMM()
			c.VPSHUFB(codes, low, a)
			c.VPSHUFB(codes, high, b)
			c.VPUNPCKLBW(b, a, out)
			c.VMOVDQU(out, operand.Mem{Base: dst, Disp: 32 * half})
			c.VPUNPCKHBW(b, a, out)
			c.VMOVDQU(out, operand.Mem{Base: dst, Disp: 32*half + 16})
		}
		c.ADDQ(operand.U8(16), src)
		c.ADDQ(operand.U8(64), dst)
	})
	c.RET()
}

// expand is the same for E4M3, whose values have one byte.
func expand(c *build.Context) {
	function(c, "expandAVX2", "func(dst, src, shifts *byte, groups int, tables *byte)", "expandAVX2 maps groups of 32 codes.")
	dst, src, shifts := load(c, c.Param("dst")), load(c, c.Param("src")), load(c, c.Param("shifts"))
	groups, tables := load(c, c.Param("groups")), load(c, c.Param("tables"))
	mask := avx2.words(c, "expandMask", 0x0f0f0f0f).AsX()
	loop(c, "expandLoop", groups, 1, func(i reg.GPVirtual) {
		at16, table := c.GP64(), c.XMM()
		c.MOVBQZX(at(shifts, i, 1, 0), at16)
		c.SHLQ(operand.U8(4), at16)
		c.VMOVDQU(at(tables, at16, 1, 0), table)
		for half, codes := range nibbles(c, src, mask) {
			c.VPSHUFB(codes, table, codes)
			c.VMOVDQU(codes, operand.Mem{Base: dst, Disp: 16 * half})
		}
		c.ADDQ(operand.U8(16), src)
		c.ADDQ(operand.U8(32), dst)
	})
	c.RET()
}

// nibbles spreads 16 bytes into 32 codes, the lower half of each byte first.
func nibbles(c *build.Context, src, mask reg.Register) [2]reg.VecVirtual {
	low, high := c.XMM(), c.XMM()
	c.VMOVDQU(operand.Mem{Base: src}, high)
	c.VPAND(mask, high, low)
	c.VPSRLW(operand.U8(4), high, high)
	c.VPAND(mask, high, high)
	first, second := c.XMM(), c.XMM()
	c.VPUNPCKLBW(high, low, first)
	c.VPUNPCKHBW(high, low, second)
	return [2]reg.VecVirtual{first, second}
}

// finite tests 32 BF16 values at a time.
func finite(c *build.Context) {
	function(c, "finiteAVX512", "func(src *byte, n int) uint64", "finiteAVX512 returns what is not zero if one of n BF16 values, a multiple of 32, is not finite.")
	src, n := load(c, c.Param("src")), load(c, c.Param("n"))
	top := avx512.words(c, "finiteTop", 0x7f807f80)
	bad, some := c.K(), c.K()
	c.KXORD(bad, bad, bad)
	loop(c, "finiteLoop", n, 32, func(i reg.GPVirtual) {
		x := c.ZMM()
		c.VPANDD(at(src, i, 2, 0), top, x)
		c.VPCMPEQW(top, x, some)
		c.KORD(some, bad, bad)
	})
	r := c.GP64()
	c.KMOVQ(bad, r)
	c.VZEROUPPER()
	c.Store(r, c.ReturnIndex(0))
	c.RET()
}

// widen turns BF16 into float32.
func widen(c *build.Context, s isa) {
	name := "widen" + s.name
	function(c, name, "func(dst *float32, src *byte, n int)", name+" decodes n BF16 values, a multiple of 16.")
	dst, src, n := load(c, c.Param("dst")), load(c, c.Param("src")), load(c, c.Param("n"))
	loop(c, name+"Loop", n, s.floats(), func(i reg.GPVirtual) {
		x := s.vec(c)
		c.VPMOVZXWD(at(src, i, 2, 0), x)
		c.VPSLLD(operand.U8(16), x, x)
		c.VMOVUPS(x, at(dst, i, 4, 0))
	})
	c.VZEROUPPER()
	c.RET()
}

// rounder holds what rounding to BF16 takes.
type rounder struct {
	isa
	one, half reg.VecVirtual
}

func newRounder(c *build.Context, s isa, name string) rounder {
	return rounder{s, s.words(c, name+"One", 1), s.words(c, name+"Half", 0x7fff)}
}

// round adds half a step, less one where the last bit kept is zero: the upper half
// of each word is then the BF16 value. NaN is not looked after.
func (r rounder) round(c *build.Context, x reg.VecVirtual) {
	last := r.vec(c)
	c.VPSRLD(operand.U8(16), x, last)
	r.and(c, r.one, last, last)
	c.VPADDD(r.half, x, x)
	c.VPADDD(last, x, x)
}

// round turns float32 into BF16. NaN becomes 0x7fc0.
func round(c *build.Context, s isa) {
	name := "round" + s.name
	function(c, name, "func(dst *byte, x *float32, n int)", name+" rounds n values, a multiple of 16.")
	dst, src, n := load(c, c.Param("dst")), load(c, c.Param("x")), load(c, c.Param("n"))
	r := newRounder(c, s, name)
	quiet := s.words(c, name+"Quiet", 0x7fc00000)
	loop(c, name+"Loop", n, s.floats(), func(i reg.GPVirtual) {
		x := s.vec(c)
		c.VMOVUPS(at(src, i, 4, 0), x)
		if s.wide() {
			k := c.K()
			c.VCMPPS(operand.U8(3), x, x, k) // unordered: NaN
			r.round(c, x)
			c.VMOVDQA32(quiet, k, x)
			c.VPSRLD(operand.U8(16), x, x)
			c.VPMOVDW(x, at(dst, i, 2, 0))
			return
		}
		nan := c.YMM()
		c.VCMPPS(operand.U8(3), x, x, nan)
		r.round(c, x)
		c.VBLENDVPS(nan, quiet, x, x)
		c.VPSRLD(operand.U8(16), x, x)
		c.VPACKUSDW(x, x, x)
		c.VPERMQ(operand.U8(0x08), x, x)
		c.VMOVDQU(x.AsX(), at(dst, i, 2, 0))
	})
	c.VZEROUPPER()
	c.RET()
}

// maxAbs finds the largest magnitude by comparing bits.
func maxAbs(c *build.Context, s isa) {
	name := "maxAbs" + s.name
	function(c, name, "func(x *float32, n int) uint32", name+" looks at n values, a multiple of 16.")
	src, n := load(c, c.Param("x")), load(c, c.Param("n"))
	magnitude := s.words(c, name+"Mask", 0x7fffffff)
	top := s.vec(c)
	s.zero(c, top)
	loop(c, name+"Loop", n, s.floats(), func(i reg.GPVirtual) {
		x := s.vec(c)
		s.and(c, at(src, i, 4, 0), magnitude, x)
		c.VPMAXUD(x, top, top)
	})
	c.Store(highest(c, s, top), c.ReturnIndex(0))
	c.RET()
}

// highest is the largest unsigned word of v. It ends the use of vectors.
func highest(c *build.Context, s isa, v reg.VecVirtual) reg.GPVirtual {
	y := v.AsY()
	if s.wide() {
		h := c.YMM()
		c.VEXTRACTI64X4(operand.U8(1), v, h)
		c.VPMAXUD(h, y, y)
	}
	x, h := v.AsX(), c.XMM()
	c.VEXTRACTI128(operand.U8(1), y, h)
	c.VPMAXUD(h, x, x)
	for _, order := range []uint8{0x4e, 0xb1} {
		c.VPSHUFD(operand.U8(order), x, h)
		c.VPMAXUD(h, x, x)
	}
	r := c.GP32()
	c.VMOVD(x, r)
	c.VZEROUPPER()
	return r
}

// maxAbs16 is maxAbs of BF16, two to a word. The result is that of a float32.
func maxAbs16(c *build.Context, s isa) {
	name := "maxAbs16" + s.name
	function(c, name, "func(src *byte, n int) uint32", name+" looks at n BF16 values, a multiple of 32.")
	src, n := load(c, c.Param("src")), load(c, c.Param("n"))
	magnitude := s.words(c, name+"Mask", 0x7fff7fff)
	top := s.vec(c)
	s.zero(c, top)
	loop(c, name+"Loop", n, 2*s.floats(), func(i reg.GPVirtual) {
		x := s.vec(c)
		s.and(c, at(src, i, 2, 0), magnitude, x)
		c.VPMAXUW(x, top, top)
	})
	odd := s.vec(c)
	c.VPSLLD(operand.U8(16), top, odd)
	c.VPSRLD(operand.U8(16), top, top)
	c.VPSLLD(operand.U8(16), top, top)
	c.VPMAXUD(odd, top, top)
	c.Store(highest(c, s, top), c.ReturnIndex(0))
	c.RET()
}

// int8 divides, rounds to BF16 if narrow, and to integers, and saturates.
//
// The division is by the reciprocal and two corrections: with y = 1/s rounded to
// nearest, q0 = w y is within two units of the quotient, each step q + (w - q s) y
// with fused products brings it nearer, and the second gives the rounded quotient
// itself (Markstein 1990, theorem 8.2: the first is within one unit, and w - q s is
// exact). That takes scales whose products neither overflow nor lose bits below.
func int8(c *build.Context, s isa, from string, narrow bool) {
	name := "int8Exact" + from + s.name
	if narrow {
		name = "int8Narrow" + from + s.name
	}
	signature := "func(dst *byte, x *float32, n int, scale, inverse float32)"
	if from == "BF16" {
		signature = "func(dst, x *byte, n int, scale, inverse float32)"
	}
	function(c, name, signature, name+" writes the codes of n values, a multiple of 16.")
	dst, src, n := load(c, c.Param("dst")), load(c, c.Param("x")), load(c, c.Param("n"))
	scale, inverse := spread(c, s, "scale"), spread(c, s, "inverse")
	var r rounder
	var upper reg.VecVirtual
	if narrow {
		r, upper = newRounder(c, s, name), s.words(c, name+"Upper", 0xffff0000)
	}
	loop(c, name+"Loop", n, s.floats(), func(i reg.GPVirtual) {
		w, q, rest := s.vec(c), s.vec(c), s.vec(c)
		if from == "BF16" {
			c.VPMOVZXWD(at(src, i, 2, 0), w)
			c.VPSLLD(operand.U8(16), w, w)
		} else {
			c.VMOVUPS(at(src, i, 4, 0), w)
		}
		c.VMULPS(inverse, w, q)
		for range 2 {
			c.VMOVAPS(w, rest)
			c.VFNMADD231PS(scale, q, rest) // w - q s
			c.VFMADD231PS(inverse, rest, q)
		}
		if narrow {
			r.round(c, q)
			s.and(c, upper, q, q)
		}
		saturate(c, s, q, at(dst, i, 1, 0))
	})
	c.VZEROUPPER()
	c.RET()
}

// int8Short is int8Narrow for values and scales that are both BF16: of the
// division, one product with the reciprocal. Two mantissas of eight bits give no
// quotient within 2^-17 of its size of a tie between BF16 values, other than a
// value itself, and the product is within 2^-22: it rounds to the same BF16.
func int8Short(c *build.Context, s isa) {
	name := "int8Short" + s.name
	step := 16
	if s.wide() {
		step = 64 // packing four vectors at a time takes less than narrowing each
	}
	function(c, name, "func(dst, x *byte, n int, inverse float32)", fmt.Sprintf("%s writes the codes of n values, a multiple of %d.", name, step))
	dst, src, n := load(c, c.Param("dst")), load(c, c.Param("x")), load(c, c.Param("n"))
	inverse := spread(c, s, "inverse")
	r, upper := newRounder(c, s, name), s.words(c, name+"Upper", 0xffff0000)
	quotient := func(i reg.GPVirtual, first int) reg.VecVirtual {
		q := s.vec(c)
		c.VPMOVZXWD(at(src, i, 2, 2*first), q)
		c.VPSLLD(operand.U8(16), q, q)
		c.VMULPS(inverse, q, q)
		r.round(c, q)
		s.and(c, upper, q, q)
		return q
	}
	if !s.wide() {
		loop(c, name+"Loop", n, s.floats(), func(i reg.GPVirtual) { saturate(c, s, quotient(i, 0), at(dst, i, 1, 0)) })
		c.VZEROUPPER()
		c.RET()
		return
	}
	// Packing goes by 128 bits: this puts the words back in order.
	order := c.StaticGlobal(name + "Order")
	c.DataAttributes(attr.RODATA | attr.NOPTR)
	for d := range 16 {
		c.AddDatum(4*d, operand.U32(uint32(d%4*4+d/4)))
	}
	spread := c.ZMM()
	c.VMOVDQU32(order, spread)
	loop(c, name+"Loop", n, step, func(i reg.GPVirtual) {
		var q [4]reg.VecVirtual
		for v := range q {
			q[v] = quotient(i, 16*v)
			c.VCVTPS2DQ(q[v], q[v])
		}
		c.VPACKSSDW(q[1], q[0], q[0])
		c.VPACKSSDW(q[3], q[2], q[2])
		c.VPACKSSWB(q[2], q[0], q[0])
		c.VPERMD(q[0], spread, q[0])
		c.VMOVDQU32(q[0], at(dst, i, 1, 0))
	})
	c.VZEROUPPER()
	c.RET()
}

// saturate rounds to integers, ties to even, as Go leaves the control word, and
// stores them as bytes.
func saturate(c *build.Context, s isa, q reg.VecVirtual, to operand.Mem) {
	c.VCVTPS2DQ(q, q)
	if s.wide() {
		c.VPMOVSDB(q, to)
		return
	}
	h := c.XMM()
	c.VEXTRACTI128(operand.U8(1), q, h)
	c.VPACKSSDW(h, q.AsX(), h)
	c.VPACKSSWB(h, h, h)
	c.VMOVQ(h, to)
}

// spread fills a register with a float32 argument.
func spread(c *build.Context, s isa, name string) reg.VecVirtual {
	p, err := c.Param(name).Resolve()
	if err != nil {
		panic(err) // the signature has it
	}
	r := s.vec(c)
	c.VBROADCASTSS(p.Addr, r)
	return r
}

// e4m3 divides and rounds to E4M3. Normal results take the rounding of BF16 with
// twenty bits to lose; for subnormal ones an addition whose last bit is 2^-9 does it.
func e4m3(c *build.Context) {
	s := avx512
	function(c, "e4m3AVX512", "func(dst *byte, x *float32, n int, scale float32)", "e4m3AVX512 writes the codes of n values, a multiple of 16.")
	dst, src, n := load(c, c.Param("dst")), load(c, c.Param("x")), load(c, c.Param("n"))
	scale := spread(c, s, "scale")
	magnitude := s.words(c, "e4m3Magnitude", 0x7fffffff)
	most := s.words(c, "e4m3Most", 0x43e00000)     // 448
	normal := s.words(c, "e4m3Normal", 0x3c800000) // 2^-6
	bias := s.words(c, "e4m3Bias", 0xc407ffff)
	one := s.words(c, "e4m3One", 1)
	shift := s.words(c, "e4m3Shift", 0x46800000) // 2^14
	top := s.words(c, "e4m3Top", 0x7e)
	nan := s.words(c, "e4m3NaN", 0x7f)
	sign := s.words(c, "e4m3Sign", 0x80)
	loop(c, "e4m3Loop", n, 16, func(i reg.GPVirtual) {
		x, a, q, low := c.ZMM(), c.ZMM(), c.ZMM(), c.ZMM()
		c.VMOVUPS(at(src, i, 4, 0), x)
		c.VDIVPS(scale, x, x)
		c.VPANDD(magnitude, x, a)
		c.VPSRLD(operand.U8(20), a, q)
		c.VPANDD(one, q, q)
		c.VPADDD(bias, a, low)
		c.VPADDD(low, q, q)
		c.VPSRLD(operand.U8(20), q, q)
		small, large, not := c.K(), c.K(), c.K()
		c.VADDPS(shift, a, low)
		c.VPSUBD(shift, low, low)
		c.VPCMPUD(operand.U8(1), normal, a, small) // a < normal
		c.VMOVDQA32(low, small, q)
		c.VPCMPUD(operand.U8(5), most, a, large) // a >= most
		c.VMOVDQA32(top, large, q)
		c.VPSRLD(operand.U8(24), x, low)
		c.VPANDD(sign, low, low)
		c.VPORD(low, q, q)
		c.VCMPPS(operand.U8(3), x, x, not)
		c.VMOVDQA32(nan, not, q)
		c.VPMOVDB(q, at(dst, i, 1, 0))
	})
	c.VZEROUPPER()
	c.RET()
}
