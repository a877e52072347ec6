package kernel

import (
	"strings"

	"github.com/klauspost/cpuid/v2"
)

// wideFor is the widening of the same instruction set as o.
func wideFor(o *ops) *wideOps {
	switch {
	case !cpuid.CPU.Supports(cpuid.F16C):
	case strings.HasPrefix(o.name, "avx512"):
		return &wideOps{tall: 12, above: countAboveAVX512, from: countFromAVX512, roundE4M3: roundE4M3AVX512, addScaled: addScaledAVX512, bf16: widenBF16AVX512, f16: widenF16AVX512, e4m3: widenE4M3AVX512, int8: widenInt8AVX512,
			rowPanels: 4, rowBF16: narrowRowBF16AVX512, rowE4M3: narrowRowE4M3AVX512, rowInt8: narrowRowInt8AVX512}
	case o.name == "avx2":
		return &wideOps{tall: 6, above: countAboveAVX2, from: countFromAVX2, roundE4M3: roundE4M3AVX2, addScaled: addScaledAVX2,
			bf16: widenBF16AVX2, f16: widenF16AVX2, e4m3: widenE4M3AVX2, int8: widenInt8AVX2,
			rowPanels: 2, rowBF16: narrowRowBF16AVX2, rowE4M3: narrowRowE4M3AVX2, rowInt8: narrowRowInt8AVX2}
	}
	return plainWide()
}
