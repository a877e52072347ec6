package main

import (
	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// losses accumulates what some rounding cost, in float64: sixteen lanes of sums in
// as many registers as that takes, and the largest error and bound.
type losses struct {
	isa
	first         int // lane of the first sum
	signal, noise []reg.VecVirtual
	most, bounds  reg.VecVirtual
	magnitude     reg.VecVirtual
	bad           reg.VecVirtual // AVX2: a mask
	badK, someK   reg.OpmaskVirtual
}

// newLosses clears the sums of lanes first to first+n.
func newLosses(c *build.Context, s isa, name string, first, n int) losses {
	l := losses{isa: s, first: first, most: s.vec(c), bounds: s.vec(c), magnitude: s.quads(c, name+"Magnitude", 1<<63-1)}
	for range n / s.doubles() {
		l.signal, l.noise = append(l.signal, s.vec(c)), append(l.noise, s.vec(c))
	}
	for _, v := range append(append([]reg.VecVirtual{l.most, l.bounds}, l.signal...), l.noise...) {
		s.zero(c, v)
	}
	if s.wide() {
		l.badK, l.someK = c.K(), c.K()
		c.KXORB(l.badK, l.badK, l.badK)
	} else {
		l.bad = s.vec(c)
		s.zero(c, l.bad)
	}
	return l
}

// add takes a group of elements in: value, decoded and bound are overwritten.
func (l losses) add(c *build.Context, group int, value, decoded, bound reg.VecVirtual) {
	c.VSUBPD(decoded, value, decoded)
	c.VANDPD(l.magnitude, decoded, decoded)
	c.VMAXPD(decoded, l.most, l.most)
	c.VMAXPD(bound, l.bounds, l.bounds)
	const notLessOrEqual = 0x16 // unordered counts
	if l.wide() {
		c.VCMPPD(operand.U8(notLessOrEqual), bound, decoded, l.someK)
		c.KORB(l.someK, l.badK, l.badK)
	} else {
		c.VCMPPD(operand.U8(notLessOrEqual), bound, decoded, bound)
		c.VORPD(bound, l.bad, l.bad)
	}
	c.VMULPD(value, value, value)
	c.VADDPD(value, l.signal[group], l.signal[group])
	c.VMULPD(decoded, decoded, decoded)
	c.VADDPD(decoded, l.noise[group], l.noise[group])
}

// store writes the partial sums to out: signal and noise, sixteen each, then the
// largest error and bound in eight lanes each, then what is not zero if one was bad.
func (l losses) store(c *build.Context, out reg.GPVirtual) {
	for i := range l.signal {
		c.VMOVUPD(l.signal[i], operand.Mem{Base: out, Disp: 8*l.first + l.bytes*i})
		c.VMOVUPD(l.noise[i], operand.Mem{Base: out, Disp: 128 + 8*l.first + l.bytes*i})
	}
	c.VMOVUPD(l.most, operand.Mem{Base: out, Disp: 256 + 4*l.first})
	c.VMOVUPD(l.bounds, operand.Mem{Base: out, Disp: 320 + 4*l.first})
	r := c.GP32()
	if l.wide() {
		c.KMOVB(l.badK, r)
	} else {
		c.VMOVMSKPD(l.bad, r)
	}
	c.ORL(r, operand.Mem{Base: out, Disp: 384})
}

// passes calls body for all lanes at once, or where registers are few for half of
// them at a time, each going over the whole row.
func passes(s isa, name string, body func(name string, first, n int)) {
	if s.wide() {
		body(name, 0, 16)
		return
	}
	body(name+"Low", 0, 8)
	body(name+"High", 8, 8)
}

// steps computes half the distance of bfloat16 values.
type steps struct {
	isa
	exponent, eighth, least reg.VecVirtual
}

func newSteps(c *build.Context, s isa, name string) steps {
	return steps{s, s.quads(c, name+"Exponent", 0x7ff0000000000000), s.double(c, name+"Eighth", 0x1p-8), s.double(c, name+"Least", 0x1p-134)}
}

// half leaves half a step at |x| in dst.
func (h steps) half(c *build.Context, x, dst reg.VecVirtual) {
	c.VANDPD(h.exponent, x, dst)
	c.VMULPD(h.eighth, dst, dst)
	c.VMAXPD(h.least, dst, dst)
}

// roundLoss measures BF16 against float32.
func roundLoss(c *build.Context, s isa) {
	name := "roundLoss" + s.name
	function(c, name, "func(x *float32, rounded *byte, n int, out *float64)", name+" measures n values, a multiple of 16.")
	src, rounded, n, out := load(c, c.Param("x")), load(c, c.Param("rounded")), load(c, c.Param("n")), load(c, c.Param("out"))
	passes(s, name, func(name string, lane, lanes int) {
		l, h := newLosses(c, s, name, lane, lanes), newSteps(c, s, name)
		loop(c, name+"Loop", n, 16, func(i reg.GPVirtual) {
			for g := range l.signal {
				first := lane + g*s.doubles()
				value, decoded, bound, bits := s.vec(c), s.vec(c), s.vec(c), s.half(c)
				c.VCVTPS2PD(at(src, i, 4, 4*first), value)
				c.VPMOVZXWD(at(rounded, i, 2, 2*first), bits)
				c.VPSLLD(operand.U8(16), bits, bits)
				c.VCVTPS2PD(bits, decoded)
				h.half(c, value, bound)
				l.add(c, g, value, decoded, bound)
			}
		})
		l.store(c, out)
	})
	c.VZEROUPPER()
	c.RET()
}

// int8Loss measures codes against float32. The bound is written out in int8Bound.
func int8Loss(c *build.Context, s isa) {
	name := "int8Loss" + s.name
	function(c, name, "func(x *float32, codes *byte, n int, b *float64, out *float64)", name+" measures n values, a multiple of 16.")
	src, codes, n := load(c, c.Param("x")), load(c, c.Param("codes")), load(c, c.Param("n"))
	b, out := load(c, c.Param("b")), load(c, c.Param("out"))
	passes(s, name, func(name string, lane, lanes int) {
		int8LossLanes(c, s, name, lane, lanes, src, codes, n, b, out)
	})
	c.VZEROUPPER()
	c.RET()
}

// int8LossLanes goes over the row for some of the lanes.
func int8LossLanes(c *build.Context, s isa, name string, lane, lanes int, src, codes, n, b, out reg.GPVirtual) {
	l, h := newLosses(c, s, name, lane, lanes), newSteps(c, s, name)
	given := func(i int) reg.VecVirtual { // member i of int8Bound
		r := s.vec(c)
		c.VBROADCASTSD(operand.Mem{Base: b, Disp: 8 * i}, r)
		return r
	}
	var kept [8]reg.VecVirtual
	if s.wide() {
		for i := range kept {
			kept[i] = given(i)
		}
	}
	member := func(i int) reg.VecVirtual {
		if s.wide() {
			return kept[i]
		}
		return given(i) // sixteen registers are not enough to keep it
	}
	const scale, inverse, quotient, source, slope, half, top, clip = 0, 1, 2, 3, 4, 5, 6, 7
	loop(c, name+"Loop", n, 16, func(i reg.GPVirtual) {
		for g := range l.signal {
			first := lane + g*s.doubles()
			value, decoded, bound, ints := s.vec(c), s.vec(c), s.vec(c), s.half(c)
			c.VCVTPS2PD(at(src, i, 4, 4*first), value)
			t, step := s.vec(c), s.vec(c)
			c.VANDPD(l.magnitude, value, t)
			c.VMULPD(member(inverse), t, t)
			c.VMULPD(member(slope), t, bound)
			c.VADDPD(member(half), bound, bound)
			h.half(c, t, step)
			c.VMULPD(member(quotient), step, step)
			c.VADDPD(step, bound, bound)
			c.VSUBPD(member(top), t, t)
			c.VMINPD(member(clip), t, t)
			c.VMAXPD(t, bound, bound)
			c.VMULPD(member(scale), bound, bound)
			h.half(c, value, step)
			c.VMULPD(member(source), step, step)
			c.VADDPD(step, bound, bound)
			c.VPMOVSXBD(at(codes, i, 1, first), ints)
			c.VCVTDQ2PD(ints, decoded)
			c.VMULPD(member(scale), decoded, decoded)
			l.add(c, g, value, decoded, bound)
		}
	})
	l.store(c, out)
}

// e4m3Loss measures E4M3 codes against float32. The bound is written out in e4m3Bound.
func e4m3Loss(c *build.Context, s isa) {
	name := "e4m3Loss" + s.name
	function(c, name, "func(x *float32, codes *byte, n int, b *float64, out *float64)", name+" measures n values, a multiple of 16.")
	src, codes, n := load(c, c.Param("x")), load(c, c.Param("codes")), load(c, c.Param("n"))
	b, out := load(c, c.Param("b")), load(c, c.Param("out"))
	passes(s, name, func(name string, lane, lanes int) {
		e4m3LossLanes(c, s, name, lane, lanes, src, codes, n, b, out)
	})
	c.VZEROUPPER()
	c.RET()
}

// e4m3LossLanes goes over the row for some of the lanes. A code without its sign,
// shifted to where a float32 has exponent and mantissa, is its value × 2^-120,
// subnormals included.
func e4m3LossLanes(c *build.Context, s isa, name string, lane, lanes int, src, codes, n, b, out reg.GPVirtual) {
	l := newLosses(c, s, name, lane, lanes)
	exponent := s.quads(c, name+"Exponent", 0x7ff0000000000000)
	member := func(i int) reg.VecVirtual {
		r := s.vec(c)
		c.VBROADCASTSD(operand.Mem{Base: b, Disp: 8 * i}, r)
		return r
	}
	const scale, inverse, sixteenth, least, slope = 0, 1, 2, 3, 4
	m := c.StaticGlobal(name + "Power")
	c.DataAttributes(attr.RODATA | attr.NOPTR)
	c.AddDatum(0, operand.U32(0x7b800000)) // 2^120
	power := s.half(c)
	c.VPBROADCASTD(m, power)
	loop(c, name+"Loop", n, 16, func(i reg.GPVirtual) {
		for g := range l.signal {
			first := lane + g*s.doubles()
			value, decoded, bound, t := s.vec(c), s.vec(c), s.vec(c), s.vec(c)
			c.VCVTPS2PD(at(src, i, 4, 4*first), value)
			c.VANDPD(l.magnitude, value, t)
			c.VMULPD(member(inverse), t, t)
			c.VANDPD(exponent, t, bound)
			c.VMULPD(member(sixteenth), bound, bound)
			c.VMAXPD(member(least), bound, bound)
			c.VMULPD(member(slope), t, t)
			c.VADDPD(t, bound, bound)
			c.VMULPD(member(scale), bound, bound)
			code, sign := s.half(c), s.half(c)
			c.VPMOVZXBD(at(codes, i, 1, first), code)
			c.VPSRLD(operand.U8(7), code, sign)
			c.VPSLLD(operand.U8(31), sign, sign)
			c.VPSLLD(operand.U8(25), code, code) // the sign falls off
			c.VPSRLD(operand.U8(5), code, code)
			c.VMULPS(power, code, code)
			c.VPOR(sign, code, code)
			c.VCVTPS2PD(code, decoded)
			c.VMULPD(member(scale), decoded, decoded)
			l.add(c, g, value, decoded, bound)
		}
	})
	l.store(c, out)
}

// int8Noise sums the squares of quotient less code, in float32, sixteen lanes.
func int8Noise(c *build.Context, s isa) {
	name := "int8Noise" + s.name
	function(c, name, "func(x *float32, codes *byte, n int, inverse float32, lanes *float32)", name+" adds to sixteen lanes what n values give, a multiple of 16.")
	src, codes, n, out := load(c, c.Param("x")), load(c, c.Param("codes")), load(c, c.Param("n")), load(c, c.Param("lanes"))
	inverse := spread(c, s, "inverse")
	var sums []reg.VecVirtual
	for range 16 / s.floats() {
		v := s.vec(c)
		s.zero(c, v)
		sums = append(sums, v)
	}
	loop(c, name+"Loop", n, 16, func(i reg.GPVirtual) {
		for g, sum := range sums {
			first := g * s.floats()
			q, code := s.vec(c), s.vec(c)
			c.VPMOVSXBD(at(codes, i, 1, first), code)
			c.VCVTDQ2PS(code, code)
			c.VMULPS(at(src, i, 4, 4*first), inverse, q)
			c.VSUBPS(code, q, q)
			c.VMULPS(q, q, q)
			c.VADDPS(q, sum, sum)
		}
	})
	for g, sum := range sums {
		c.VMOVUPS(sum, operand.Mem{Base: out, Disp: g * s.bytes})
	}
	c.VZEROUPPER()
	c.RET()
}
