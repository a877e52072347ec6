package main

import (
	"fmt"
	"math"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// lanes is a function over slices under construction. It walks them in steps
// of subs vectors; the last step is masked.
//
// Elementwise functions take one vector a step. Reductions take sixteen lanes
// a step, two vectors with AVX2, so that every instruction set adds the same
// numbers in the same order.
type lanes struct {
	isa
	*file
	subs     int
	i, n     reg.GPVirtual // elements done, elements left
	pointers map[string]reg.GPVirtual

	sub     int  // vector of the step that is being emitted
	masked  bool // in the last step
	kmask   reg.OpmaskVirtual
	maskptr reg.GPVirtual
}

// file is an assembly file with the read-only vectors its functions share.
type file struct {
	c      *build.Context
	masks  operand.Mem
	consts map[string]operand.Mem
}

// numbers are the constants by name; expGo and its neighbours say what for.
var numbers = map[string]uint32{
	"one":        math.Float32bits(1),
	"expHighest": math.Float32bits(89),
	"expLowest":  math.Float32bits(-104),
	"log2e":      math.Float32bits(math.Log2E),
	"expMagic":   math.Float32bits(12582912),
	"negLn2High": math.Float32bits(-0.693147182464599609),
	"negLn2Low":  math.Float32bits(1.904654323148236e-09),
	"expC5":      math.Float32bits(1.9875691500e-4),
	"expC4":      math.Float32bits(1.3981999507e-3),
	"expC3":      math.Float32bits(8.3334519073e-3),
	"expC2":      math.Float32bits(4.1665795894e-2),
	"expC1":      math.Float32bits(1.6666665459e-1),
	"expC0":      math.Float32bits(5.0000001201e-1),
	"negInf":     0xff800000,
	"most":       math.Float32bits(127),
	"least":      math.Float32bits(-127),
	"sign":       1 << 31,
	"magnitude":  1<<31 - 1,
	"bias":       127,
	"bit":        1,
	"halfUlp":    0x7fff,
	"upper":      0xffff0000,
	"nan":        0x7fc00000,
}

func newFile(c *build.Context, constants ...string) *file {
	f := &file{c: c, masks: maskTable(c, "masks"), consts: map[string]operand.Mem{}}
	for _, name := range constants {
		word, ok := numbers[name]
		if !ok {
			panic(fmt.Sprintf("no constant %q", name))
		}
		f.consts[name] = data(c, name, word)
	}
	return f
}

// constant is a read-only vector of equal words.
func (f *file) constant(name string) operand.Mem {
	m, ok := f.consts[name]
	if !ok {
		panic(fmt.Sprintf("constant %q is not in this file", name))
	}
	return m
}

// elementwise starts a function that takes one vector a step.
func (f *file) elementwise(s isa, name, signature, doc string) *lanes {
	return f.lanes(s, 1, name, signature, doc)
}

// reduction starts a function that takes sixteen lanes a step.
func (f *file) reduction(s isa, name, signature, doc string) *lanes {
	return f.lanes(s, 16/s.lanes, name, signature, doc)
}

func (f *file) lanes(s isa, subs int, name, signature, doc string) *lanes {
	function(f.c, name+s.name, signature, name+s.name+" "+doc)
	return &lanes{isa: s, file: f, subs: subs, i: f.c.GP64(), n: f.c.GP64(),
		pointers: map[string]reg.GPVirtual{}}
}

// slices loads the base of each slice; the first also gives the length.
func (l *lanes) slices(names ...string) {
	for _, name := range names {
		l.pointer(name)
	}
	l.c.Load(l.c.Param(names[0]).Len(), l.n)
}

func (l *lanes) pointer(name string) {
	p := l.c.GP64()
	l.c.Load(l.c.Param(name).Base(), p)
	l.pointers[name] = p
}

// scalar spreads a float32 argument over a vector.
func (l *lanes) scalar(name string) reg.VecVirtual {
	v := l.vec(l.c)
	l.c.VBROADCASTSS(address(l.c.Param(name)), v)
	return v
}

// walk emits body once for whole steps and once, masked, for what is left.
func (l *lanes) walk(body func()) {
	c, step := l.c, uint64(l.subs*l.isa.lanes)
	c.XORQ(l.i, l.i)
	c.SUBQ(operand.Imm(step), l.n)
	c.JL(operand.LabelRef("rest"))
	c.Label("whole")
	l.emit(body)
	c.ADDQ(operand.Imm(step), l.i)
	c.SUBQ(operand.Imm(step), l.n)
	c.JGE(operand.LabelRef("whole"))
	c.Label("rest")
	c.ADDQ(operand.Imm(step), l.n)
	c.JE(operand.LabelRef("done"))
	l.mask()
	l.masked = true
	l.emit(body)
	l.masked = false
	c.Label("done")
}

func (l *lanes) emit(body func()) {
	for l.sub = range l.subs {
		body()
	}
}

// end leaves the function.
func (l *lanes) end() {
	l.c.VZEROUPPER()
	l.c.RET()
}

func (l *lanes) mask() {
	c := l.c
	if l.wide() {
		ones := c.GP64()
		l.kmask = c.K()
		c.MOVQ(operand.I32(-1), ones)
		c.BZHIQ(l.n, ones, ones)
		c.KMOVW(ones.As32(), l.kmask)
		return
	}
	l.maskptr = c.GP64()
	c.LEAQ(l.masks.Offset(64), l.maskptr)
	c.NEGQ(l.n)
	c.LEAQ(operand.Mem{Base: l.maskptr, Index: l.n, Scale: 4}, l.maskptr)
}

// maskVector is AVX2's mask of this vector.
func (l *lanes) maskVector() reg.VecVirtual {
	m := l.c.YMM()
	l.c.VMOVUPS(operand.Mem{Base: l.maskptr, Disp: l.sub * l.bytes()}, m)
	return m
}

func (l *lanes) at(slice string) operand.Mem {
	return operand.Mem{Base: l.pointers[slice], Index: l.i, Scale: 4, Disp: l.sub * l.bytes()}
}

// read loads this vector of a slice; missing lanes are zero.
func (l *lanes) read(slice string) reg.VecVirtual {
	v := l.vec(l.c)
	switch {
	case !l.masked:
		l.c.VMOVUPS(l.at(slice), v)
	case l.wide():
		l.c.VMOVUPS_Z(l.at(slice), l.kmask, v)
	default:
		l.c.VMASKMOVPS(l.at(slice), l.maskVector(), v)
	}
	return v
}

// write stores this vector of a slice, but for missing lanes.
func (l *lanes) write(v reg.VecVirtual, slice string) {
	switch {
	case !l.masked:
		l.c.VMOVUPS(v, l.at(slice))
	case l.wide():
		l.c.VMOVUPS(v, l.kmask, l.at(slice))
	default:
		l.c.VMASKMOVPS(v, l.maskVector(), l.at(slice))
	}
}

// into replaces acc by v, but for missing lanes.
func (l *lanes) into(v, acc reg.VecVirtual) {
	switch {
	case !l.masked:
		l.c.VMOVAPS(v, acc)
	case l.wide():
		l.c.VMOVAPS(v, l.kmask, acc)
	default:
		l.c.VBLENDVPS(l.maskVector(), v, acc, acc)
	}
}

// accumulators are a reduction's sixteen lanes, all zero or a constant.
func (l *lanes) accumulators(start string) []reg.VecVirtual {
	acc := make([]reg.VecVirtual, l.subs)
	for i := range acc {
		acc[i] = l.vec(l.c)
		if start == "" {
			l.zero(l.c, acc[i])
		} else {
			l.c.VMOVUPS(l.constant(start), acc[i])
		}
	}
	return acc
}

// tree folds sixteen lanes, l with l+8, l+4, l+2, l+1, and returns the result.
func (l *lanes) tree(acc []reg.VecVirtual, fold func(high, low, to operand.Op)) {
	c := l.c
	y := c.YMM()
	if l.wide() {
		c.VEXTRACTF64X4(operand.Imm(1), acc[0], y)
		fold(y, acc[0].AsY(), y)
	} else {
		fold(acc[1], acc[0], y)
	}
	x, z := c.XMM(), c.XMM()
	c.VEXTRACTF128(operand.Imm(1), y, x)
	fold(x, y.AsX(), x)
	c.VPERMILPS(operand.Imm(0x0e), x, z) // lanes 2, 3 to 0, 1
	fold(z, x, x)
	c.VPERMILPS(operand.Imm(0x01), x, z)
	fold(z, x, x)
	c.Store(x, c.ReturnIndex(0))
	l.end()
}

func (l *lanes) sumTree(acc []reg.VecVirtual) {
	l.tree(acc, func(high, low, to operand.Op) { l.c.VADDPS(high, low, to) })
}

// maxTree keeps low unless high is greater, as the loops do.
func (l *lanes) maxTree(acc []reg.VecVirtual) {
	l.tree(acc, func(high, low, to operand.Op) { l.c.VMAXPS(low, high, to) })
}

// copyOf is v in a register of its own.
func (l *lanes) copyOf(v operand.Op) reg.VecVirtual {
	t := l.vec(l.c)
	l.c.VMOVUPS(v, t)
	return t
}

// xor and and work on bits; AVX-512 names them differently.
func (l *lanes) xor(m operand.Op, v, to reg.VecVirtual) {
	if l.wide() {
		l.c.VPXORD(m, v, to)
	} else {
		l.c.VPXOR(m, v, to)
	}
}

func (l *lanes) and(m operand.Op, v, to reg.VecVirtual) {
	if l.wide() {
		l.c.VPANDD(m, v, to)
	} else {
		l.c.VPAND(m, v, to)
	}
}
