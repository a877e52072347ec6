package main

import (
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

const peakAccumulators = 12 // enough to hide the latency, and AVX2 has sixteen registers

// peaks emits loops of multiply-adds that touch no memory: the rate nothing exceeds.
func peaks(c *build.Context) {
	for _, s := range []isa{avx512, avx2} {
		name := "peak" + s.name
		function(c, name, "func(n int)", name+label(" runs n rounds of %d multiply-adds of %d lanes.", peakAccumulators, s.lanes))
		n := load(c, c.Param("n"))
		x := s.vec(c)
		s.zero(c, x)
		acc := make([]reg.VecVirtual, peakAccumulators)
		for i := range acc {
			acc[i] = s.vec(c)
			s.zero(c, acc[i])
		}
		align(c)
		c.Label("round")
		for _, a := range acc {
			c.VFMADD231PS(x, x, a)
		}
		c.DECQ(n)
		c.JNZ(operand.LabelRef("round"))
		c.VZEROUPPER()
		c.RET()
	}
}
