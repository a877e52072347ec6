package reference

import "tarbert/internal/reference/kernel"

// Precision is a profile of where a computation rounds. All profiles
// accumulate products in float32 in one fixed order (int8 products: exactly,
// in int32).
//
//	operation                   f32        bf16                              w8a8
//	weights                     float32    rounded to bf16 on load           W8A8_DYNAMIC: int8, scale per output rounded to bf16;
//	                                                                         FLOAT: as stored
//	embedding                   –          exact (weights are bf16)          –
//	RMSNorm                     –          x·rstd rounded, then ·w rounded;  –
//	                                       mean square and rstd float32
//	linear                      –          result rounded, after the bias    input rows quantised (scale = absmax/127, nearest even),
//	                                                                         int32 sum · weight scale · row scale, in float32
//	rotary embedding            –          cosine and sine, each product     –
//	                                       and the sum rounded
//	scores, softmax             –          float32; probabilities rounded    –
//	attention output            –          rounded                           –
//	SiLU(gate)·up               –          SiLU rounded, product rounded     –
//	router                      float32    logits and scores float32, of     float32
//	                                       bf16 weights and input
//	sum of experts              –          weighted sum in float32, rounded; –
//	                                       then + shared, rounded
//	residual sum                –          rounded                           –
//	logits                      –          rounded                           –
//
// – stands for float32 without a further rounding. The bf16 column follows
// what vLLM's and transformers' bf16 kernels do: results of kernels are stored
// in bf16, the insides are float32. f32 and bf16 on a W8A8 directory use its
// weights dequantised, which tells an error of the weights from one of the
// activations.
type Precision string

// The profiles. The empty Precision is w8a8 for an AscendV1 W8A8 directory and
// f32 for anything else.
const (
	F32      Precision = "f32"
	BF16     Precision = "bf16"
	FP8Block Precision = "fp8-block"
	W8A8     Precision = "w8a8"
)

// round rounds x in place where the profile says so.
func (n *network) round(x []float32) {
	if n.bf16 {
		kernel.RoundBF16(x)
	}
}

// rmsNorm is RMSNorm on one row. In bf16 the normalised row is rounded before
// it is multiplied by the weight, as transformers and vLLM both do.
func (n *network) rmsNorm(dst, x, w []float32, eps float32, s *scratch) float32 {
	if !n.bf16 {
		return kernel.RMSNorm(dst, x, w, eps)
	}
	if len(s.ones) < len(x) {
		s.ones = make([]float32, len(x))
		for i := range s.ones {
			s.ones[i] = 1
		}
	}
	rstd := kernel.RMSNorm(dst, x, s.ones[:len(x)], eps)
	kernel.RoundBF16(dst)
	kernel.Mul(dst, w)
	kernel.RoundBF16(dst)
	return rstd
}

// siluMul is SiLU(gate)·up on one row.
func (n *network) siluMul(dst, gate, up []float32) {
	if !n.bf16 {
		kernel.SiLUMul(dst, gate, up)
		return
	}
	kernel.SiLU(dst, gate)
	kernel.RoundBF16(dst)
	kernel.Mul(dst, up)
	kernel.RoundBF16(dst)
}
