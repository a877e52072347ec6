package main

import (
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// wides emits what turns a piece of a panel in its stored width into float32:
// so many k, 32 numbers each, one after another in both.
func wides(c *build.Context) {
	f := &wideFile{c: c, bytes: data(c, "wideBytes", 0x007f007f), signs: data(c, "wideSigns", 0x00800080), two8: data(c, "wideTwo8", 0x43800000)}
	for _, s := range []isa{avx512, avx2} {
		f.plain(s, "widenBF16", "widens bfloat16.", f.bf16)
		f.plain(s, "widenF16", "widens IEEE half precision.", f.f16)
		f.scaled(s, "widenE4M3", "widens E4M3 without NaN and multiplies by a scale per column.", f.e4m3)
		f.scaled(s, "widenInt8", "widens int8 and multiplies by a scale per column.", f.int8)
	}
}

type wideFile struct {
	c                  *build.Context
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
