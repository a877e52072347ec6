package kernel

import (
	"fmt"
	"math"
)

// Sum adds the elements in sixteen lanes: lane l takes elements l, l+16, …
// in order, then lanes l and l+8, l+4, l+2, l+1 are added. 0 when empty.
func Sum(x []float32) float32 { return best.sum(x) }

// Dot is the sum of x[i]·y[i] by fused multiply-adds in the lanes of Sum.
func Dot(x, y []float32) float32 {
	sameLength("dot", len(x), len(y))
	return best.dot(x, y)
}

// SumSquares is Dot(x, x).
func SumSquares(x []float32) float32 { return best.dot(x, x) }

// MaxAbs is the largest |x[i]|, 0 when empty. NaNs are passed over.
func MaxAbs(x []float32) float32 { return best.maxAbs(x) }

// Max is the largest element, -Inf when empty. NaNs are passed over.
func Max(x []float32) float32 { return best.max(x) }

// Exp sets dst[i] = e^x[i]. The worst error over every float32 whose result is
// a normal number is 1.013 units in the last place. dst may be x.
func Exp(dst, x []float32) {
	sameLength("exp", len(dst), len(x))
	best.exp(dst, x)
}

// Sigmoid sets dst[i] = 1/(1 + e^-x[i]). dst may be x.
func Sigmoid(dst, x []float32) {
	sameLength("sigmoid", len(dst), len(x))
	best.sigmoid(dst, x)
}

// SiLU sets dst[i] = x[i]/(1 + e^-x[i]). dst may be x. SiLU(-Inf) is NaN, as
// in PyTorch.
func SiLU(dst, x []float32) {
	sameLength("silu", len(dst), len(x))
	best.silu(dst, x)
}

// SiLUMul sets dst[i] = SiLU(gate[i])·up[i]. dst may be gate or up.
func SiLUMul(dst, gate, up []float32) {
	sameLength("silu-mul", len(dst), len(gate), len(up))
	best.siluMul(dst, gate, up)
}

// SiLUMulBackward overwrites dgate and dup with the gradients of SiLUMul for
// the gradient dy of its result. dgate and dup may be any of the inputs.
func SiLUMulBackward(dgate, dup, gate, up, dy []float32) {
	sameLength("silu-mul backward", len(dgate), len(dup), len(gate), len(up), len(dy))
	best.siluMulBack(dgate, dup, gate, up, dy)
}

// Softmax sets dst = e^(x-max)/sum, dividing by multiplying with 1/sum, and
// returns the maximum and the sum, so that x[i] - max - log(sum) is a
// log-probability. dst may be x. A row of -Inf only gives NaN.
func Softmax(dst, x []float32) (max, sum float32) {
	sameLength("softmax", len(dst), len(x))
	return softmax(best, dst, x)
}

func softmax(o *ops, dst, x []float32) (max, sum float32) {
	max = o.max(x)
	sum = o.expSum(dst, x, max)
	o.scale(dst, 1/sum)
	return max, sum
}

// LogSumExp is log(Σ e^x[i]) computed as max + log(Σ e^(x[i]-max)), the outer
// two operations in float64. -Inf when empty.
func LogSumExp(x []float32) float32 { return logSumExp(best, x) }

func logSumExp(o *ops, x []float32) float32 {
	max := o.max(x)
	if math.IsInf(float64(max), 0) && len(x) == 0 {
		return max
	}
	return float32(float64(max) + logOf(float64(o.expSumOnly(x, max))))
}

// RMSNorm sets dst[i] = x[i]·rstd·w[i] with rstd = 1/√(mean(x²) + eps), which
// it returns for the backward pass. dst may be x.
func RMSNorm(dst, x, w []float32, eps float32) (rstd float32) {
	sameLength("rmsnorm", len(dst), len(x), len(w))
	return rmsNorm(best, dst, x, w, eps)
}

func rmsNorm(o *ops, dst, x, w []float32, eps float32) float32 {
	if len(x) == 0 {
		return 0
	}
	mean := o.dot(x, x) / float32(len(x))
	rstd := 1 / sqrt32(mean+eps)
	o.norm(dst, x, w, rstd)
	return rstd
}

// RMSNormBackward adds to dx and dw the gradients of RMSNorm for the gradient
// dy of its result and the rstd it returned:
//
//	dw += dy·x·rstd,  dx += rstd·(dy·w - x·rstd·mean(dy·w·x·rstd))
func RMSNormBackward(dx, dw, x, w, dy []float32, rstd float32) {
	sameLength("rmsnorm backward", len(dx), len(dw), len(x), len(w), len(dy))
	rmsNormBackward(best, dx, dw, x, w, dy, rstd)
}

func rmsNormBackward(o *ops, dx, dw, x, w, dy []float32, rstd float32) {
	if len(x) == 0 {
		return
	}
	mean := o.normDot(x, w, dy, rstd) / float32(len(x))
	o.normBack(dx, dw, x, w, dy, rstd, mean)
}

// Add sets dst[i] += x[i].
func Add(dst, x []float32) {
	sameLength("add", len(dst), len(x))
	best.add(dst, x)
}

// Mul sets dst[i] *= x[i].
func Mul(dst, x []float32) {
	sameLength("mul", len(dst), len(x))
	best.mul(dst, x)
}

// Scale sets dst[i] *= s.
func Scale(dst []float32, s float32) { best.scale(dst, s) }

// Axpy sets dst[i] = FMA(s, x[i], dst[i]).
func Axpy(dst []float32, s float32, x []float32) {
	sameLength("axpy", len(dst), len(x))
	best.axpy(dst, s, x)
}

// RoundBF16 rounds every element to the nearest bfloat16, ties to even. NaN
// becomes the quiet NaN 0x7fc00000.
func RoundBF16(x []float32) { best.roundBF16(x) }

// QuantizeRow quantises one token's activations symmetrically to int8:
// scale = MaxAbs(x)/127 and dst[i] = x[i]/scale, a true division, rounded to
// even and held within ±127. A row whose scale is zero gives zeros. x must be
// finite; an infinity gives zeros beside -127, a NaN gives -127.
func QuantizeRow(dst []int8, x []float32) (scale float32) {
	sameLength("quantize", len(dst), len(x))
	return quantizeRow(best, dst, x)
}

func quantizeRow(o *ops, dst []int8, x []float32) float32 {
	scale := o.maxAbs(x) / 127
	if scale == 0 {
		clear(dst)
		return 0
	}
	o.quantize(dst, x, scale)
	return scale
}

// sameLength panics unless all lengths agree: the assembly trusts them.
func sameLength(name string, n int, rest ...int) {
	for _, m := range rest {
		if m != n {
			panic(fmt.Sprintf("kernel: %s of slices of %d and %d elements", name, n, m))
		}
	}
}

func sqrt32(x float32) float32 { return float32(math.Sqrt(float64(x))) }
