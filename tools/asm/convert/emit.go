package main

import (
	"math"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/gotypes"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// isa is an instruction set with vectors of so many bytes.
type isa struct {
	name  string // ending of the functions' names
	bytes int
}

var (
	avx512 = isa{"AVX512", 64}
	avx2   = isa{"AVX2", 32}
)

func (s isa) wide() bool   { return s.bytes == 64 }
func (s isa) floats() int  { return s.bytes / 4 }
func (s isa) doubles() int { return s.bytes / 8 }

// vec allocates a vector register; half allocates one of half the size.
func (s isa) vec(c *build.Context) reg.VecVirtual {
	if s.wide() {
		return c.ZMM()
	}
	return c.YMM()
}

func (s isa) half(c *build.Context) reg.VecVirtual {
	if s.wide() {
		return c.YMM()
	}
	return c.XMM()
}

// zero clears v.
func (s isa) zero(c *build.Context, v reg.VecVirtual) {
	if s.wide() {
		c.VPXORD(v, v, v)
	} else {
		c.VPXOR(v, v, v)
	}
}

// and leaves a & b in dst.
func (s isa) and(c *build.Context, a operand.Op, b, dst reg.VecVirtual) {
	if s.wide() {
		c.VPANDD(a, b, dst)
	} else {
		c.VPAND(a, b, dst)
	}
}

// copies fills a register with a 32-bit or a 64-bit constant.
func (s isa) words(c *build.Context, name string, v uint32) reg.VecVirtual {
	m := c.StaticGlobal(name + s.name)
	c.DataAttributes(attr.RODATA | attr.NOPTR)
	c.AddDatum(0, operand.U32(v))
	r := s.vec(c)
	c.VPBROADCASTD(m, r)
	return r
}

func (s isa) quads(c *build.Context, name string, v uint64) reg.VecVirtual {
	m := c.StaticGlobal(name + s.name)
	c.DataAttributes(attr.RODATA | attr.NOPTR)
	c.AddDatum(0, operand.U64(v))
	r := s.vec(c)
	c.VPBROADCASTQ(m, r)
	return r
}

func (s isa) double(c *build.Context, name string, v float64) reg.VecVirtual {
	return s.quads(c, name, math.Float64bits(v))
}

// function starts a leaf function that keeps none of its pointers.
func function(c *build.Context, name, signature, doc string) {
	c.Function(name)
	c.Attributes(attr.NOSPLIT)
	c.SignatureExpr(signature)
	c.Pragma("noescape")
	c.Doc(doc)
}

// load brings an argument into a register.
func load(c *build.Context, p gotypes.Component) reg.GPVirtual {
	r := c.GP64()
	c.Load(p, r)
	return r
}

// loop emits body with an index that rises by step to the multiple of step in n.
func loop(c *build.Context, label string, n reg.GPVirtual, step int, body func(i reg.GPVirtual)) {
	i := c.GP64()
	c.XORQ(i, i)
	c.Label(label)
	c.CMPQ(i, n)
	c.JGE(operand.LabelRef(label + "Done"))
	body(i)
	c.ADDQ(operand.I32(step), i)
	c.JMP(operand.LabelRef(label))
	c.Label(label + "Done")
}

// at is base + scale×index + disp.
func at(base, index reg.Register, scale uint8, disp int) operand.Mem {
	return operand.Mem{Base: base, Index: index, Scale: scale, Disp: disp}
}
