package kernel

// ops is one implementation of the package: pure Go, AVX2 or AVX-512. A value
// is built once and never changes; every function below that takes one runs on
// it and no other, which is how the tests compare them in one process.
type ops struct {
	name  string
	tiles string // what block is made of

	block func(t block)                                        // a piece of a float32 product
	packT func(dst, src []float32, stride, rows, k, width int) // see packTGo
	packN func(dst, src []float32, stride, cols, k, width int) // see packNGo
	strip stripFunc

	sum, max, maxAbs func(x []float32) float32
	dot              func(x, y []float32) float32

	exp, sigmoid, silu func(dst, x []float32)
	expSum             func(dst, x []float32, shift float32) float32 // dst = exp(x-shift), and its sum
	expSumOnly         func(x []float32, shift float32) float32
	siluMul            func(dst, gate, up []float32)
	siluMulBack        func(dgate, dup, gate, up, dy []float32)

	add, mul func(dst, x []float32)
	scale    func(dst []float32, s float32)
	axpy     func(dst []float32, s float32, x []float32)

	norm      func(dst, x, w []float32, rstd float32)
	normDot   func(x, w, dy []float32, rstd float32) float32
	normBack  func(dx, dw, x, w, dy []float32, rstd, mean float32)
	adamw     func(p, g, m, v []float32, h *adamCoefficients)
	roundBF16 func(x []float32)
	quantize  func(dst []int8, x []float32, scale float32)

	packInt8  func(b *PackedInt8, raw []int8)
	blockInt8 func(t blockInt8)

	peak      func(rounds int) // multiply-adds in registers
	peakFlops float64          // of one round
}

// best is the implementation with the widest instructions this processor can
// run; for float32 products see fastest.
var best = available()[0]

// Describe names the instruction sets in use: "avx512 (vnni)", "avx512",
// "avx2", "neon (sdot)", "neon" or "go".
// Float32 products may run on another of them, see Products.
func Describe() string { return best.name }

// Products names the instruction set that float32 products run on, the fastest
// by a measurement at the first of them: "avx512", "avx2", "neon" or "go".
func Products() string { return fastest().tiles }

func goOps() *ops {
	return &ops{
		name: "go", tiles: "go",
		block: blockGo, packT: packTGo, packN: packNGo, strip: packStripsGo,
		sum: sumGo, max: maxGo, maxAbs: maxAbsGo, dot: dotGo,
		exp: expGo, sigmoid: sigmoidGo, silu: siluGo,
		expSum: expSumGo, expSumOnly: expSumOnlyGo,
		siluMul: siluMulGo, siluMulBack: siluMulBackGo,
		add: addGo, mul: mulGo, scale: scaleGo, axpy: axpyGo,
		norm: normGo, normDot: normDotGo, normBack: normBackGo,
		adamw: adamwGo, roundBF16: roundBF16Go, quantize: quantizeGo,
		packInt8: packInt8Go, blockInt8: blockInt8Go,
		peak: peakGo, peakFlops: 16,
	}
}
