package main

import (
	"math"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// wides emits what turns a piece of a panel in its stored width into float32:
// so many k, 32 numbers each, one after another in both.
func wides(c *build.Context) {
	f := &wideFile{file: newFile(c, "one"), bytes: data(c, "wideBytes", 0x007f007f), signs: data(c, "wideSigns", 0x00800080), two8: data(c, "wideTwo8", 0x43800000)}
	f.consts["most"] = data(c, "e4m3Most", math.Float32bits(448))
	f.consts["least"] = data(c, "e4m3Least", math.Float32bits(-448))
	f.consts["exponent"] = data(c, "e4m3Exponent", 0x7f800000)
	f.consts["lowest"] = data(c, "e4m3Lowest", 121<<23)
	f.consts["toUnit"] = data(c, "e4m3ToUnit", 20<<23)
	f.consts["half"] = data(c, "e4m3Half", 1<<22)
	for _, s := range []isa{avx512, avx2} {
		f.plain(s, "widenBF16", "widens bfloat16.", f.bf16)
		f.plain(s, "widenF16", "widens IEEE half precision.", f.f16)
		f.scaled(s, "widenE4M3", "widens E4M3 without NaN and multiplies by a scale per column.", f.e4m3)
		f.scaled(s, "widenInt8", "widens int8 and multiplies by a scale per column.", f.int8)
		f.blockwise(s)
		f.count(s, "countAbove", "counts what is greater than t.", greater)
		f.count(s, "countFrom", "counts what is t or greater.", greaterEqual)
		f.row(s, "narrowRowBF16", 2, false, f.bf16)
		f.row(s, "narrowRowE4M3", 1, true, f.e4m3)
		f.row(s, "narrowRowInt8", 1, true, f.int8)
	}
}

type wideFile struct {
	*file
	bytes, signs, two8 operand.Mem
}

// widener emits the conversion of one vector.
type widener func(s isa, from operand.Mem, to reg.VecVirtual)

// plain is a loop over k of two-byte numbers.
func (f *wideFile) plain(s isa, name, doc string, convert widener) {
	c := f.c
	function(c, name+s.name, "func(dst *float32, src *byte, ks int)", name+s.name+" "+doc)
	dst, src, ks := load(c, c.Param("dst")), load(c, c.Param("src")), load(c, c.Param("ks"))
	align(c)
	c.Label("next")
	for v := range 32 / s.lanes {
		x := s.vec(c)
		convert(s, operand.Mem{Base: src, Disp: 2 * v * s.lanes}, x)
		c.VMOVUPS(x, operand.Mem{Base: dst, Disp: 4 * v * s.lanes})
	}
	c.ADDQ(operand.Imm(64), src)
	c.SUBQ(operand.I32(-128), dst)
	c.DECQ(ks)
	c.JNZ(operand.LabelRef("next"))
	c.VZEROUPPER()
	c.RET()
}

// scaled is a loop over k of one-byte numbers with a scale per column.
func (f *wideFile) scaled(s isa, name, doc string, convert widener) {
	c := f.c
	function(c, name+s.name, "func(dst *float32, src *byte, scales *float32, ks int)", name+s.name+" "+doc)
	dst, src, ks := load(c, c.Param("dst")), load(c, c.Param("src")), load(c, c.Param("ks"))
	from := load(c, c.Param("scales"))
	scales := make([]reg.VecVirtual, 32/s.lanes)
	for v := range scales {
		scales[v] = s.vec(c)
		c.VMOVUPS(operand.Mem{Base: from, Disp: v * s.bytes()}, scales[v])
	}
	align(c)
	c.Label("next")
	for v := range scales {
		x := s.vec(c)
		convert(s, operand.Mem{Base: src, Disp: v * s.lanes}, x)
		c.VMULPS(scales[v], x, x)
		c.VMOVUPS(x, operand.Mem{Base: dst, Disp: v * s.bytes()})
	}
	c.ADDQ(operand.Imm(32), src)
	c.SUBQ(operand.I32(-128), dst)
	c.DECQ(ks)
	c.JNZ(operand.LabelRef("next"))
	c.VZEROUPPER()
	c.RET()
}

// blockwise emits what products of E4M3 blocks need beside products.
func (f *wideFile) blockwise(s isa) {
	c := f.c
	l := f.elementwise(s, "roundE4M3", "func(dst, x []float32, scale float32)", "sets dst to x/scale, held within ±448 and rounded to E4M3.")
	l.slices("dst", "x")
	scale, most, least := l.scalar("scale"), l.copyOf(l.constant("most")), l.copyOf(l.constant("least"))
	l.walk(func() {
		x, m := l.read("x"), l.vec(c)
		c.VDIVPS(scale, x, x)
		c.VMINPS(x, most, x) // a NaN stays
		c.VMAXPS(x, least, x)
		l.and(l.constant("exponent"), x, m)
		c.VPMAXSD(l.constant("lowest"), m, m)
		c.VPADDD(l.constant("toUnit"), m, m)
		c.VPADDD(l.constant("half"), m, m)
		c.VADDPS(m, x, x)
		c.VSUBPS(m, x, x)
		l.write(x, "dst")
	})
	l.end()

	l = f.elementwise(s, "addScaled", "func(dst, x, w []float32, scale float32)", "adds x·scale·w, each product rounded, to dst.")
	l.slices("dst", "x", "w")
	scale = l.scalar("scale")
	l.walk(func() {
		x := l.read("x")
		c.VMULPS(scale, x, x)
		c.VMULPS(l.read("w"), x, x)
		c.VADDPS(l.read("dst"), x, x)
		l.write(x, "dst")
	})
	l.end()
}

// Predicates of comparisons that are false for NaN.
const (
	greater      = 0x1e
	greaterEqual = 0x1d
)

// count emits a reduction that adds ones: exact up to 2^24 of them.
func (f *wideFile) count(s isa, name, doc string, predicate uint64) {
	c := f.c
	l := f.reduction(s, name, "func(x []float32, t float32) float32", doc)
	l.slices("x")
	t := l.scalar("t")
	acc := l.accumulators("")
	l.walk(func() {
		x, n := l.read("x"), l.vec(c)
		if l.wide() {
			k := c.K()
			c.VCMPPS(operand.Imm(predicate), t, x, k)
			c.VMOVUPS_Z(l.constant("one"), k, n)
		} else {
			c.VCMPPS(operand.Imm(predicate), t, x, n)
			c.VANDPS(l.constant("one"), n, n)
		}
		c.VADDPS(acc[l.sub], n, n)
		l.into(n, acc[l.sub])
	})
	l.sumTree(acc)
}

// bf16 is the upper half of a float32.
func (f *wideFile) bf16(_ isa, from operand.Mem, to reg.VecVirtual) {
	f.c.VPMOVZXWD(from, to)
	f.c.VPSLLD(operand.Imm(16), to, to)
}

func (f *wideFile) f16(_ isa, from operand.Mem, to reg.VecVirtual) {
	f.c.VCVTPH2PS(from, to)
}

// int8 is exact in float32.
func (f *wideFile) int8(_ isa, from operand.Mem, to reg.VecVirtual) {
	f.c.VPMOVSXBD(from, to)
	f.c.VCVTDQ2PS(to, to)
}

// e4m3 goes through half precision, whose bias is larger by eight: magnitude
// and sign move to their places, subnormals included, and the value is 2^8
// times too small.
func (f *wideFile) e4m3(s isa, from operand.Mem, to reg.VecVirtual) {
	c := f.c
	if s.wide() {
		half, sign := c.YMM(), c.YMM()
		c.VPMOVZXBW(from, half)
		c.VPAND(f.signs, half, sign)
		c.VPAND(f.bytes, half, half)
		c.VPSLLW(operand.Imm(7), half, half)
		c.VPSLLW(operand.Imm(8), sign, sign)
		c.VPOR(sign, half, half)
		c.VCVTPH2PS(half, to)
	} else {
		half, sign := c.XMM(), c.XMM()
		c.VPMOVZXBW(from, half)
		c.VPAND(f.signs, half, sign)
		c.VPAND(f.bytes, half, half)
		c.VPSLLW(operand.Imm(7), half, half)
		c.VPSLLW(operand.Imm(8), sign, sign)
		c.VPOR(sign, half, half)
		c.VCVTPH2PS(half, to)
	}
	c.VMULPS(f.two8, to, to)
}

// ahead is how many k before its use a line of B is asked for: B comes from
// memory, and the hardware does not look past a page.
const ahead = 16

// row is one row of A times as many whole panels as eight accumulators span,
// widened in registers: what decoding spends its time on.
func (f *wideFile) row(s isa, name string, size int, scaled bool, convert widener) {
	c, vecs, perPanel := f.c, 8, 32/s.lanes
	function(c, name+s.name, "func(a *float32, b *byte, bps int, scales, c *float32, k int, load bool)",
		name+s.name+label(" computes 1×%d of C; bps is in bytes.", vecs*s.lanes))
	a, b, bps := load(c, c.Param("a")), load(c, c.Param("b")), load(c, c.Param("bps"))
	out, k, bps3 := load(c, c.Param("c")), load(c, c.Param("k")), c.GP64()
	c.LEAQ(operand.Mem{Base: bps, Index: bps, Scale: 2}, bps3)
	at := func(v, disp int) operand.Mem {
		m := operand.Mem{Base: b, Disp: v%perPanel*s.lanes*size + disp}
		switch panel := v / perPanel; panel {
		case 0:
		case 3:
			m.Index, m.Scale = bps3, 1
		default:
			m.Index, m.Scale = bps, uint8(panel)
		}
		return m
	}
	scales := c.GP64()
	if scaled {
		c.Load(c.Param("scales"), scales)
	}
	acc := make([]reg.VecVirtual, vecs)
	for v := range acc {
		acc[v] = s.vec(c)
		s.zero(c, acc[v])
	}
	c.CMPB(address(c.Param("load")), operand.Imm(0))
	c.JE(operand.LabelRef("next"))
	for v := range acc {
		c.VMOVUPS(operand.Mem{Base: out, Disp: v * s.bytes()}, acc[v])
	}
	align(c)
	c.Label("next")
	x := s.vec(c)
	c.VBROADCASTSS(operand.Mem{Base: a}, x)
	for v := range acc {
		if v%perPanel == 0 {
			c.PREFETCHT0(at(v, ahead*32*size))
		}
		w := s.vec(c)
		convert(s, at(v, 0), w)
		if scaled {
			c.VMULPS(operand.Mem{Base: scales, Disp: v * s.bytes()}, w, w)
		}
		c.VFMADD231PS(w, x, acc[v])
	}
	c.ADDQ(operand.Imm(4), a)
	c.ADDQ(operand.Imm(uint64(32*size)), b)
	c.DECQ(k)
	c.JNZ(operand.LabelRef("next"))
	for v := range acc {
		c.VMOVUPS(acc[v], operand.Mem{Base: out, Disp: v * s.bytes()})
	}
	c.VZEROUPPER()
	c.RET()
}
