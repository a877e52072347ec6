package main

import (
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// vectors emits the vector operations; their order of operations is that of
// vector_go.go, function by function.
func vectors(c *build.Context) {
	f := newFile(c, "one", "expHighest", "expLowest", "log2e", "expMagic", "negLn2High", "negLn2Low",
		"expC5", "expC4", "expC3", "expC2", "expC1", "expC0", "negInf", "sign", "magnitude", "bias",
		"bit", "halfUlp", "upper", "nan", "most", "least")
	for _, s := range []isa{avx512, avx2} {
		f.reductions(s)
		f.exponentials(s)
		f.arithmetic(s)
		f.rounding(s)
		f.quantize(s)
	}
}

func (f *file) reductions(s isa) {
	c := f.c
	l := f.reduction(s, "sum", "func(x []float32) float32", "adds x.")
	l.slices("x")
	acc := l.accumulators("")
	l.walk(func() {
		t := l.vec(c)
		c.VADDPS(l.read("x"), acc[l.sub], t)
		l.into(t, acc[l.sub])
	})
	l.sumTree(acc)

	l = f.reduction(s, "dot", "func(x, y []float32) float32", "adds the products of x and y.")
	l.slices("x", "y")
	acc = l.accumulators("")
	l.walk(func() {
		l.multiplyAdd(l.read("x"), l.read("y"), acc[l.sub])
	})
	l.sumTree(acc)

	l = f.reduction(s, "max", "func(x []float32) float32", "is the largest of x.")
	l.slices("x")
	acc = l.accumulators("negInf")
	l.walk(func() {
		t := l.vec(c)
		c.VMAXPS(acc[l.sub], l.read("x"), t)
		l.into(t, acc[l.sub])
	})
	l.maxTree(acc)

	l = f.reduction(s, "maxAbs", "func(x []float32) float32", "is the largest magnitude in x.")
	l.slices("x")
	acc = l.accumulators("")
	l.walk(func() {
		x := l.read("x")
		l.and(l.constant("magnitude"), x, x)
		c.VMAXPS(acc[l.sub], x, x)
		l.into(x, acc[l.sub])
	})
	l.maxTree(acc)
}

// multiplyAdd adds x·y to the lanes of acc that are there. (Adding 0·0 to the
// others would not do: it turns -0 into 0.)
func (l *lanes) multiplyAdd(x, y, acc reg.VecVirtual) {
	switch {
	case !l.masked:
		l.c.VFMADD231PS(x, y, acc)
	case l.wide():
		l.c.VFMADD231PS(x, y, l.kmask, acc)
	default:
		t := l.copyOf(acc)
		l.c.VFMADD231PS(x, y, t)
		l.into(t, acc)
	}
}

// exp replaces x by its exponential: expOne, lane by lane.
func (l *lanes) exp(x reg.VecVirtual) reg.VecVirtual {
	c := l.c
	bounded := l.copyOf(l.constant("expHighest"))
	c.VMINPS(x, bounded, bounded) // gives x when x is a NaN
	low := l.copyOf(l.constant("expLowest"))
	c.VMAXPS(bounded, low, bounded)
	z := l.copyOf(l.constant("expMagic"))
	c.VFMADD231PS(l.constant("log2e"), bounded, z)
	n := l.vec(c)
	c.VSUBPS(l.constant("expMagic"), z, n)
	r := bounded
	c.VFMADD231PS(l.constant("negLn2High"), n, r)
	c.VFMADD231PS(l.constant("negLn2Low"), n, r)
	q := l.copyOf(l.constant("expC5"))
	for _, k := range []string{"expC4", "expC3", "expC2", "expC1", "expC0"} {
		c.VFMADD213PS(l.constant(k), r, q)
	}
	square := l.vec(c)
	c.VMULPS(r, r, square)
	c.VFMADD213PS(r, square, q)
	c.VADDPS(l.constant("one"), q, q)
	if l.wide() {
		c.VSCALEFPS(n, q, q) // rounds once, like the two exact steps below
		return q
	}
	c.VPSUBD(l.constant("expMagic"), z, z)
	half := c.YMM()
	c.VPSRAD(operand.Imm(1), z, half)
	c.VPSUBD(half, z, z)
	for _, e := range []reg.VecVirtual{half, z} {
		c.VPADDD(l.constant("bias"), e, e)
		c.VPSLLD(operand.Imm(23), e, e)
		c.VMULPS(e, q, q)
	}
	return q
}

// onePlusExpOfMinus is 1 + e^-x.
func (l *lanes) onePlusExpOfMinus(x reg.VecVirtual) reg.VecVirtual {
	t := l.vec(l.c)
	l.xor(l.constant("sign"), x, t)
	t = l.exp(t)
	l.c.VADDPS(l.constant("one"), t, t)
	return t
}

func (f *file) exponentials(s isa) {
	c := f.c
	l := f.elementwise(s, "exp", "func(dst, x []float32)", "sets dst to e^x.")
	l.slices("dst", "x")
	l.walk(func() { l.write(l.exp(l.read("x")), "dst") })
	l.end()

	for _, store := range []bool{true, false} {
		name, signature := "expSum", "func(dst, x []float32, shift float32) float32"
		if !store {
			name, signature = "expSumOnly", "func(x []float32, shift float32) float32"
		}
		l := f.reduction(s, name, signature, "adds e^(x-shift).")
		l.slices("x")
		if store {
			l.pointer("dst")
		}
		shift, acc := l.scalar("shift"), l.accumulators("")
		l.walk(func() {
			x := l.read("x")
			c.VSUBPS(shift, x, x)
			e := l.exp(x)
			if store {
				l.write(e, "dst")
			}
			c.VADDPS(e, acc[l.sub], e)
			l.into(e, acc[l.sub])
		})
		l.sumTree(acc)
	}

	l = f.elementwise(s, "sigmoid", "func(dst, x []float32)", "sets dst to 1/(1 + e^-x).")
	l.slices("dst", "x")
	l.walk(func() {
		t := l.onePlusExpOfMinus(l.read("x"))
		one := l.copyOf(l.constant("one"))
		c.VDIVPS(t, one, t)
		l.write(t, "dst")
	})
	l.end()

	l = f.elementwise(s, "silu", "func(dst, x []float32)", "sets dst to x/(1 + e^-x).")
	l.slices("dst", "x")
	l.walk(func() {
		x := l.read("x")
		t := l.onePlusExpOfMinus(x)
		c.VDIVPS(t, x, t)
		l.write(t, "dst")
	})
	l.end()

	l = f.elementwise(s, "siluMul", "func(dst, gate, up []float32)", "sets dst to gate/(1 + e^-gate)·up.")
	l.slices("dst", "gate", "up")
	l.walk(func() {
		x := l.read("gate")
		t := l.onePlusExpOfMinus(x)
		c.VDIVPS(t, x, t)
		c.VMULPS(l.read("up"), t, t)
		l.write(t, "dst")
	})
	l.end()

	l = f.elementwise(s, "siluMulBack", "func(dgate, dup, gate, up, dy []float32)", "sets dgate and dup.")
	l.slices("dgate", "dup", "gate", "up", "dy")
	l.walk(func() {
		gate := l.read("gate")
		s := l.onePlusExpOfMinus(gate)
		one := l.copyOf(l.constant("one"))
		c.VDIVPS(s, one, s)
		silu, slope := l.vec(c), l.vec(c)
		c.VMULPS(s, gate, silu)
		c.VSUBPS(s, one, slope)
		c.VFMADD213PS(l.constant("one"), gate, slope) // gate·(1-s) + 1
		c.VMULPS(s, slope, slope)
		dy := l.read("dy")
		dg := l.read("up")
		c.VMULPS(dy, dg, dg)
		c.VMULPS(slope, dg, dg)
		c.VMULPS(dy, silu, silu)
		l.write(silu, "dup")
		l.write(dg, "dgate")
	})
	l.end()
}

func (f *file) arithmetic(s isa) {
	c := f.c
	l := f.elementwise(s, "add", "func(dst, x []float32)", "adds x to dst.")
	l.slices("dst", "x")
	l.walk(func() {
		v := l.read("dst")
		c.VADDPS(l.read("x"), v, v)
		l.write(v, "dst")
	})
	l.end()

	l = f.elementwise(s, "mul", "func(dst, x []float32)", "multiplies dst by x.")
	l.slices("dst", "x")
	l.walk(func() {
		v := l.read("dst")
		c.VMULPS(l.read("x"), v, v)
		l.write(v, "dst")
	})
	l.end()

	l = f.elementwise(s, "scale", "func(dst []float32, s float32)", "multiplies dst by s.")
	l.slices("dst")
	factor := l.scalar("s")
	l.walk(func() {
		v := l.read("dst")
		c.VMULPS(factor, v, v)
		l.write(v, "dst")
	})
	l.end()

	l = f.elementwise(s, "axpy", "func(dst []float32, s float32, x []float32)", "adds s·x to dst.")
	l.slices("dst", "x")
	factor = l.scalar("s")
	l.walk(func() {
		v := l.read("dst")
		c.VFMADD231PS(l.read("x"), factor, v)
		l.write(v, "dst")
	})
	l.end()
}

func (f *file) rounding(s isa) {
	c := f.c
	l := f.elementwise(s, "roundBF16", "func(x []float32)", "rounds x to bfloat16.")
	l.slices("x")
	l.walk(func() {
		x := l.read("x")
		t := l.vec(c)
		c.VPSRLD(operand.Imm(16), x, t)
		l.and(l.constant("bit"), t, t)
		c.VPADDD(l.constant("halfUlp"), t, t)
		c.VPADDD(x, t, t)
		l.and(l.constant("upper"), t, t)
		const unordered = 3
		if l.wide() {
			k := c.K()
			c.VCMPPS(operand.Imm(unordered), x, x, k)
			c.VMOVUPS(l.constant("nan"), k, t)
		} else {
			m := c.YMM()
			c.VCMPPS(operand.Imm(unordered), x, x, m)
			c.VBLENDVPS(m, l.constant("nan"), t, t)
		}
		l.write(t, "x")
	})
	l.end()
}

// quantize writes a byte per lane. With AVX2 only whole vectors: the caller
// does the rest.
func (f *file) quantize(s isa) {
	c := f.c
	l := f.elementwise(s, "quantize", "func(dst []int8, x []float32, scale float32)", "sets dst to x/scale, rounded and held within ±127.")
	l.slices("dst", "x")
	scale, most, least := l.scalar("scale"), l.copyOf(l.constant("most")), l.copyOf(l.constant("least"))
	body := func() {
		x := l.read("x")
		c.VDIVPS(scale, x, x)
		c.VMAXPS(least, x, x) // a NaN gives the least
		c.VMINPS(most, x, x)
		c.VCVTPS2DQ(x, x)
		to := operand.Mem{Base: l.pointers["dst"], Index: l.i, Scale: 1}
		switch {
		case l.wide() && l.masked:
			c.VPMOVDB(x, l.kmask, to)
		case l.wide():
			c.VPMOVDB(x, to)
		case !l.masked:
			high := c.XMM()
			c.VEXTRACTI128(operand.Imm(1), x, high)
			c.VPACKSSDW(high, x.AsX(), high)
			c.VPACKSSWB(high, high, high)
			c.VMOVQ(high, to)
		}
	}
	l.walk(body)
	l.end()
}
