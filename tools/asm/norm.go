package main

import (
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// norms emits what RMSNorm and AdamW are made of.
func norms(c *build.Context) {
	f := newFile(c)
	for _, s := range []isa{avx512, avx2} {
		f.norm(s)
		f.normBackward(s)
		f.adamw(s)
	}
}

func (f *file) norm(s isa) {
	c := f.c
	l := f.elementwise(s, "norm", "func(dst, x, w []float32, rstd float32)", "sets dst to x·rstd·w.")
	l.slices("dst", "x", "w")
	rstd := l.scalar("rstd")
	l.walk(func() {
		x := l.read("x")
		c.VMULPS(rstd, x, x)
		c.VMULPS(l.read("w"), x, x)
		l.write(x, "dst")
	})
	l.end()

	l = f.reduction(s, "normDot", "func(x, w, dy []float32, rstd float32) float32", "adds dy·w · x·rstd.")
	l.slices("x", "w", "dy")
	rstd = l.scalar("rstd")
	acc := l.accumulators("")
	l.walk(func() {
		g, x := l.read("dy"), l.read("x")
		c.VMULPS(l.read("w"), g, g)
		c.VMULPS(rstd, x, x)
		l.multiplyAdd(g, x, acc[l.sub])
	})
	l.sumTree(acc)
}

func (f *file) normBackward(s isa) {
	c := f.c
	l := f.elementwise(s, "normBack", "func(dx, dw, x, w, dy []float32, rstd, mean float32)", "adds to dx and dw.")
	l.slices("dx", "dw", "x", "w", "dy")
	rstd, mean := l.scalar("rstd"), l.scalar("mean")
	l.walk(func() {
		unit, dy := l.read("x"), l.read("dy")
		c.VMULPS(rstd, unit, unit)
		dw := l.read("dw")
		c.VFMADD231PS(dy, unit, dw)
		l.write(dw, "dw")
		c.VMULPS(l.read("w"), dy, dy)
		c.VFNMADD231PS(mean, unit, dy) // dy·w - unit·mean
		dx := l.read("dx")
		c.VFMADD231PS(rstd, dy, dx)
		l.write(dx, "dx")
	})
	l.end()
}

// adamw reads its scalars, nine float32, from memory each step: AVX2 has no
// registers for them.
func (f *file) adamw(s isa) {
	c := f.c
	l := f.elementwise(s, "adamw", "func(p, g, m, v []float32, h *float32)", "takes an optimiser step.")
	l.slices("p", "g", "m", "v")
	h := load(c, c.Param("h"))
	scalar := func(i int) reg.VecVirtual {
		t := l.vec(c)
		c.VBROADCASTSS(operand.Mem{Base: h, Disp: 4 * i}, t)
		return t
	}
	const gradScale, beta1, rest1, beta2, rest2, rootCorrection, eps, step, decay = 0, 1, 2, 3, 4, 5, 6, 7, 8
	l.walk(func() {
		grad := l.read("g")
		c.VMULPS(scalar(gradScale), grad, grad)
		m := l.read("m")
		c.VMULPS(scalar(beta1), m, m)
		c.VFMADD231PS(scalar(rest1), grad, m)
		l.write(m, "m")
		v := l.read("v")
		c.VMULPS(scalar(beta2), v, v)
		t := scalar(rest2)
		c.VMULPS(grad, t, t)
		c.VFMADD231PS(grad, t, v)
		l.write(v, "v")
		root := l.vec(c)
		c.VSQRTPS(v, root)
		e := scalar(eps)
		c.VFMADD231PS(scalar(rootCorrection), root, e)
		c.VDIVPS(e, m, m)
		p := l.read("p")
		c.VMULPS(scalar(decay), p, p)
		c.VFMADD231PS(scalar(step), m, p)
		l.write(p, "p")
	})
	l.end()
}
