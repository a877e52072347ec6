package kernel

import "github.com/klauspost/cpuid/v2"

// available lists what this processor can run, fastest first.
func available() []*ops {
	cpu, list := cpuid.CPU, []*ops{goOps()}
	if cpu.Supports(cpuid.AVX2, cpuid.FMA3, cpuid.BMI2) {
		list = append([]*ops{avx2Ops()}, list...)
	}
	if cpu.Supports(cpuid.AVX512F, cpuid.AVX512DQ, cpuid.AVX512BW, cpuid.AVX512VL, cpuid.BMI2) {
		o := avx512Ops()
		list = append([]*ops{o}, list...)
		if cpu.Supports(cpuid.AVX512VNNI) {
			v := *o
			v.name, v.packInt8, v.blockInt8 = "avx512 (vnni)", packInt8VNNI, blockInt8VNNI
			list = append([]*ops{&v}, list...)
		}
	}
	return list
}

func avx2Ops() *ops {
	t := tilesAVX2()
	return &ops{
		name: "avx2", tiles: "avx2",
		block: t.block, packT: t.packT, packN: t.packN, strip: t.packS,
		sum: sumAVX2, max: maxAVX2, maxAbs: maxAbsAVX2, dot: dotAVX2,
		exp: expAVX2, sigmoid: sigmoidAVX2, silu: siluAVX2,
		expSum: expSumAVX2, expSumOnly: expSumOnlyAVX2,
		siluMul: siluMulAVX2, siluMulBack: siluMulBackAVX2,
		add: addAVX2, mul: mulAVX2, scale: scaleAVX2, axpy: axpyAVX2,
		norm: normAVX2, normDot: normDotAVX2, normBack: normBackAVX2,
		adamw:     func(p, g, m, v []float32, h *adamCoefficients) { adamwAVX2(p, g, m, v, &h.gradScale) },
		roundBF16: roundBF16AVX2,
		quantize: func(dst []int8, x []float32, scale float32) {
			whole := len(x) &^ 7 // the assembly stores eight bytes at a time
			quantizeAVX2(dst[:whole], x[:whole], scale)
			quantizeGo(dst[whole:], x[whole:], scale)
		},
		packInt8: packInt8AVX2, blockInt8: blockInt8AVX2,
		peak: peakAVX2, peakFlops: 2 * 12 * 8,
	}
}

func avx512Ops() *ops {
	t := tilesAVX512()
	return &ops{
		name: "avx512", tiles: "avx512",
		block: t.block, packT: t.packT, packN: t.packN, strip: t.packS,
		sum: sumAVX512, max: maxAVX512, maxAbs: maxAbsAVX512, dot: dotAVX512,
		exp: expAVX512, sigmoid: sigmoidAVX512, silu: siluAVX512,
		expSum: expSumAVX512, expSumOnly: expSumOnlyAVX512,
		siluMul: siluMulAVX512, siluMulBack: siluMulBackAVX512,
		add: addAVX512, mul: mulAVX512, scale: scaleAVX512, axpy: axpyAVX512,
		norm: normAVX512, normDot: normDotAVX512, normBack: normBackAVX512,
		adamw:     func(p, g, m, v []float32, h *adamCoefficients) { adamwAVX512(p, g, m, v, &h.gradScale) },
		roundBF16: roundBF16AVX512, quantize: quantizeAVX512,
		packInt8: packInt8AVX2, blockInt8: blockInt8AVX2,
		peak: peakAVX512, peakFlops: 2 * 12 * 16,
	}
}
