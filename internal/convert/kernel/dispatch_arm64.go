package kernel

// available lists what this processor can run, fastest first. Every arm64 has NEON.
func available() []*ops { return []*ops{neonOps(), goOps()} }

// neonOps has the decoders and int8 in NEON. E4M3 and the measurements in float64,
// of which NEON has two lanes, are Go.
func neonOps() *ops {
	o := goOps()
	o.name = "neon"
	neonDecoders(o)
	neonEncoders(o)
	return o
}

func neonDecoders(o *ops) {
	o.fp8 = func(dst, src []byte, t *Table) bool {
		ok := true
		if n := len(src) &^ 15; n > 0 {
			ok = fp8NEON(&dst[0], &src[0], n, &t.low[0]) == 0
			dst, src = dst[2*n:], src[n:]
		}
		return fp8Go(dst, src, t) && ok
	}
	o.fp4 = func(dst, src, exponents []byte) {
		if n := len(src) / (fp4Group / 2); n > 0 {
			fp4NEON(&dst[0], &src[0], &exponents[0], n, &fp4Tables[0][0][0])
			dst, src, exponents = dst[2*n*fp4Group:], src[n*fp4Group/2:], exponents[n:]
		}
		fp4Go(dst, src, exponents)
	}
	o.expand = func(dst, src []byte, shifts []Shift) {
		if n := len(src) / (fp4Group / 2); n > 0 {
			expandNEON(&dst[0], &src[0], (*byte)(&shifts[0]), n, &expansions.codes[0][0])
			dst, src, shifts = dst[n*fp4Group:], src[n*fp4Group/2:], shifts[n:]
		}
		expandGo(dst, src, shifts)
	}
	o.finite = func(src []byte) bool {
		ok := true
		if n := len(src) / 2 &^ 7; n > 0 {
			ok = finiteNEON(&src[0], n) == 0
			src = src[2*n:]
		}
		return ok && finiteGo(src)
	}
	o.widen = func(dst []float32, src []byte) {
		if n := len(dst) &^ 7; n > 0 {
			widenNEON(&dst[0], &src[0], n)
			dst, src = dst[n:], src[2*n:]
		}
		widenGo(dst, src)
	}
	o.maxAbs = func(x []float32) (top uint32) {
		if n := len(x) &^ 7; n > 0 {
			top = maxAbsNEON(&x[0], n)
			x = x[n:]
		}
		return max(top, maxAbsGo(x))
	}
	o.maxAbs16 = func(src []byte) (top uint32) {
		if n := len(src) / 2 &^ 7; n > 0 {
			top = maxAbs16NEON(&src[0], n)
			src = src[2*n:]
		}
		return max(top, maxAbs16Go(src))
	}
}

func neonEncoders(o *ops) {
	o.round = func(dst []byte, x []float32) {
		if n := len(x) &^ 7; n > 0 {
			roundNEON(&dst[0], &x[0], n)
			dst, x = dst[2*n:], x[n:]
		}
		roundGo(dst, x)
	}
	o.int8s = func(dst []byte, x []float32, scale float32, narrow bool) {
		if n := len(x) &^ 15; n > 0 && invertible(scale) {
			if narrow {
				int8NarrowF32NEON(&dst[0], &x[0], n, scale, 1/scale)
			} else {
				int8ExactF32NEON(&dst[0], &x[0], n, scale, 1/scale)
			}
			dst, x = dst[n:], x[n:]
		}
		int8Go(dst, x, scale, narrow)
	}
	o.int8s16 = func(dst, src []byte, scale float32, narrow bool) {
		if n := len(dst) &^ 15; n > 0 && invertible(scale) {
			switch {
			case narrow && short(scale):
				int8ShortNEON(&dst[0], &src[0], n, 1/scale)
			case narrow:
				int8NarrowBF16NEON(&dst[0], &src[0], n, scale, 1/scale)
			default:
				int8ExactBF16NEON(&dst[0], &src[0], n, scale, 1/scale)
			}
			dst, src = dst[n:], src[2*n:]
		}
		int8Go16(dst, src, scale, narrow)
	}
	o.noise = func(x []float32, codes []byte, inverse float32) (l [lanes]float32) {
		if len(x) > 0 {
			int8NoiseNEON(&x[0], &codes[0], len(x), inverse, &l[0])
		}
		return l
	}
}
