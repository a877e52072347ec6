package kernel

import "github.com/klauspost/cpuid/v2"

// available lists what this processor can run, fastest first.
func available() []*ops {
	cpu, list := cpuid.CPU, []*ops{goOps()}
	if cpu.Supports(cpuid.AVX2, cpuid.FMA3) {
		list = append([]*ops{avx2Ops()}, list...)
	}
	if cpu.Supports(cpuid.AVX512F, cpuid.AVX512DQ, cpuid.AVX512BW, cpuid.AVX512VL, cpuid.AVX512VBMI) {
		list = append([]*ops{avx512Ops()}, list...)
	}
	return list
}

func avx2Ops() *ops {
	o := goOps()
	o.name = "avx2"
	o.fp8 = func(dst, src []byte, t *Table) bool {
		ok := true
		if n := len(src) &^ 31; n > 0 {
			ok = fp8AVX2(&dst[0], &src[0], n, &t.low[0]) == 0
			dst, src = dst[2*n:], src[n:]
		}
		return fp8Go(dst, src, t) && ok
	}
	o.fp4, o.expand = fp4Vector, expandVector
	o.widen = func(dst []float32, src []byte) {
		if n := len(dst) &^ 15; n > 0 {
			widenAVX2(&dst[0], &src[0], n)
			dst, src = dst[n:], src[2*n:]
		}
		widenGo(dst, src)
	}
	o.round = func(dst []byte, x []float32) {
		if n := len(x) &^ 15; n > 0 {
			roundAVX2(&dst[0], &x[0], n)
			dst, x = dst[2*n:], x[n:]
		}
		roundGo(dst, x)
	}
	o.maxAbs = func(x []float32) (top uint32) {
		if n := len(x) &^ 15; n > 0 {
			top = maxAbsAVX2(&x[0], n)
			x = x[n:]
		}
		return max(top, maxAbsGo(x))
	}
	o.maxAbs16 = func(src []byte) (top uint32) {
		if n := len(src) / 2 &^ 31; n > 0 {
			top = maxAbs16AVX2(&src[0], n)
			src = src[2*n:]
		}
		return max(top, maxAbs16Go(src))
	}
	o.int8s = func(dst []byte, x []float32, scale float32, narrow bool) {
		if n := len(x) &^ 15; n > 0 && invertible(scale) {
			if narrow {
				int8NarrowF32AVX2(&dst[0], &x[0], n, scale, 1/scale)
			} else {
				int8ExactF32AVX2(&dst[0], &x[0], n, scale, 1/scale)
			}
			dst, x = dst[n:], x[n:]
		}
		int8Go(dst, x, scale, narrow)
	}
	o.int8s16 = func(dst, src []byte, scale float32, narrow bool) {
		if n := len(dst) &^ 15; n > 0 && invertible(scale) {
			switch {
			case narrow && short(scale):
				int8ShortAVX2(&dst[0], &src[0], n, 1/scale)
			case narrow:
				int8NarrowBF16AVX2(&dst[0], &src[0], n, scale, 1/scale)
			default:
				int8ExactBF16AVX2(&dst[0], &src[0], n, scale, 1/scale)
			}
			dst, src = dst[n:], src[2*n:]
		}
		int8Go16(dst, src, scale, narrow)
	}
	avx2Losses(o)
	return o
}

func avx2Losses(o *ops) {
	o.roundLoss = func(x []float32, rounded []byte, s *partial) {
		if len(x) > 0 {
			roundLossAVX2(&x[0], &rounded[0], len(x), &s.signal[0])
		}
	}
	o.int8Loss = func(x []float32, codes []byte, b *int8Bound, s *partial) {
		if len(x) > 0 {
			int8LossAVX2(&x[0], &codes[0], len(x), &b.scale, &s.signal[0])
		}
	}
	o.noise = func(x []float32, codes []byte, inverse float32) (l [lanes]float32) {
		if len(x) > 0 {
			int8NoiseAVX2(&x[0], &codes[0], len(x), inverse, &l[0])
		}
		return l
	}
	o.e4m3Loss = func(x []float32, codes []byte, b *e4m3Bound, s *partial) {
		if len(x) > 0 {
			e4m3LossAVX2(&x[0], &codes[0], len(x), &b.scale, &s.signal[0])
		}
	}
}

// fp4Vector and expandVector take groups of 32 columns; what is left is less than one.
func fp4Vector(dst, src, exponents []byte) {
	if n := len(src) / (fp4Group / 2); n > 0 {
		fp4AVX2(&dst[0], &src[0], &exponents[0], n, &fp4Tables[0][0][0])
		dst, src, exponents = dst[2*n*fp4Group:], src[n*fp4Group/2:], exponents[n:]
	}
	fp4Go(dst, src, exponents)
}

func expandVector(dst, src []byte, shifts []Shift) {
	if n := len(src) / (fp4Group / 2); n > 0 {
		expandAVX2(&dst[0], &src[0], (*byte)(&shifts[0]), n, &expansions.codes[0][0])
		dst, src, shifts = dst[n*fp4Group:], src[n*fp4Group/2:], shifts[n:]
	}
	expandGo(dst, src, shifts)
}

func avx512Ops() *ops {
	o := goOps()
	o.name = "avx512 (vbmi)"
	o.fp4, o.expand = fp4Vector, expandVector
	avx512Decoders(o)
	avx512Encoders(o)
	avx512Losses(o)
	return o
}

func avx512Decoders(o *ops) {
	o.fp8 = func(dst, src []byte, t *Table) bool {
		ok := true
		if n := len(src) &^ 63; n > 0 {
			ok = fp8AVX512(&dst[0], &src[0], n, &t.low[0]) == 0
			dst, src = dst[2*n:], src[n:]
		}
		return fp8Go(dst, src, t) && ok
	}
	o.finite = func(src []byte) bool {
		ok := true
		if n := len(src) / 2 &^ 31; n > 0 {
			ok = finiteAVX512(&src[0], n) == 0
			src = src[2*n:]
		}
		return ok && finiteGo(src)
	}
	o.widen = func(dst []float32, src []byte) {
		if n := len(dst) &^ 15; n > 0 {
			widenAVX512(&dst[0], &src[0], n)
			dst, src = dst[n:], src[2*n:]
		}
		widenGo(dst, src)
	}
	o.maxAbs = func(x []float32) (top uint32) {
		if n := len(x) &^ 15; n > 0 {
			top = maxAbsAVX512(&x[0], n)
			x = x[n:]
		}
		return max(top, maxAbsGo(x))
	}
	o.maxAbs16 = func(src []byte) (top uint32) {
		if n := len(src) / 2 &^ 31; n > 0 {
			top = maxAbs16AVX512(&src[0], n)
			src = src[2*n:]
		}
		return max(top, maxAbs16Go(src))
	}
}

func avx512Encoders(o *ops) {
	o.round = func(dst []byte, x []float32) {
		if n := len(x) &^ 15; n > 0 {
			roundAVX512(&dst[0], &x[0], n)
			dst, x = dst[2*n:], x[n:]
		}
		roundGo(dst, x)
	}
	o.int8s = func(dst []byte, x []float32, scale float32, narrow bool) {
		if n := len(x) &^ 15; n > 0 && invertible(scale) {
			if narrow {
				int8NarrowF32AVX512(&dst[0], &x[0], n, scale, 1/scale)
			} else {
				int8ExactF32AVX512(&dst[0], &x[0], n, scale, 1/scale)
			}
			dst, x = dst[n:], x[n:]
		}
		int8Go(dst, x, scale, narrow)
	}
	o.int8s16 = func(dst, src []byte, scale float32, narrow bool) {
		if n := len(dst) &^ 63; n > 0 && narrow && short(scale) && invertible(scale) {
			int8ShortAVX512(&dst[0], &src[0], n, 1/scale)
			dst, src = dst[n:], src[2*n:]
		}
		if n := len(dst) &^ 15; n > 0 && invertible(scale) {
			switch {
			case narrow:
				int8NarrowBF16AVX512(&dst[0], &src[0], n, scale, 1/scale)
			default:
				int8ExactBF16AVX512(&dst[0], &src[0], n, scale, 1/scale)
			}
			dst, src = dst[n:], src[2*n:]
		}
		int8Go16(dst, src, scale, narrow)
	}
	o.e4m3 = func(dst []byte, x []float32, scale float32) {
		if n := len(x) &^ 15; n > 0 {
			e4m3AVX512(&dst[0], &x[0], n, scale)
			dst, x = dst[n:], x[n:]
		}
		e4m3Go(dst, x, scale)
	}
}

func avx512Losses(o *ops) {
	o.roundLoss = func(x []float32, rounded []byte, s *partial) {
		if len(x) > 0 {
			roundLossAVX512(&x[0], &rounded[0], len(x), &s.signal[0])
		}
	}
	o.int8Loss = func(x []float32, codes []byte, b *int8Bound, s *partial) {
		if len(x) > 0 {
			int8LossAVX512(&x[0], &codes[0], len(x), &b.scale, &s.signal[0])
		}
	}
	o.noise = func(x []float32, codes []byte, inverse float32) (l [lanes]float32) {
		if len(x) > 0 {
			int8NoiseAVX512(&x[0], &codes[0], len(x), inverse, &l[0])
		}
		return l
	}
	o.e4m3Loss = func(x []float32, codes []byte, b *e4m3Bound, s *partial) {
		if len(x) > 0 {
			e4m3LossAVX512(&x[0], &codes[0], len(x), &b.scale, &s.signal[0])
		}
	}
}
