package reference

import "tarbert/internal/reference/kernel"

// Precision is a profile of where a computation rounds. All profiles
// accumulate products in float32 in one fixed order (int8 products: exactly,
// in int32).
//
//	operation          f32      bf16                              fp8-block                   w8a8
//	weights            as       rounded to bf16                   E4M3 codes and block        int8 codes, scale per output
//	                   stored                                     scales; others as stored    rounded to bf16; others as stored
//	embedding          –        rounded to bf16                   –                           –
//	RMSNorm            –        x·rstd rounded, then ·w rounded;  –                           –
//	                            mean square and rstd float32
//	linear             –        result rounded, after the bias    of E4M3 weights: see (1)    of int8 weights: see (2)
//	rotary embedding   –        cosine and sine, each product     –                           –
//	                            and the sum rounded
//	scores, softmax    –        float32; probabilities rounded    –                           –
//	attention output   –        rounded                           –                           –
//	SiLU(gate)·up      –        SiLU rounded, product rounded     –                           –
//	router             float32  logits and scores float32, of     float32                     float32
//	                            bf16 weights and input
//	sum of experts     –        weighted sum in float32, rounded; –                           –
//	                            then + shared, rounded
//	residual sum       –        rounded                           –                           –
//	logits             –        rounded                           –                           –
//
// – stands for float32 without a further rounding. The bf16 column follows
// what vLLM's and transformers' bf16 kernels do: results of kernels are stored
// in bf16, the insides are float32.
//
// (1) As DeepSeek-V3's technical report (§3.3.2) and its inference/kernel.py
// have it: each row of the input in groups as wide as the weights' blocks (128),
// scale = absmax/448 (raised to a power of two where scale_fmt is ue8m0),
// code = x/scale rounded to E4M3, ties to even. For each block of k in order:
// sum = products of codes, which are exact, added in float32 in order of k, each
// addition rounded; sum·row scale rounded, ·weight scale rounded, added to the
// result, rounded. A group of zeros has scale 0 and codes 0.
//
// (2) Each row of the input: scale = absmax/127, code = x/scale to the nearest
// integer, ties to even; int32 sum, to float32, ·weight scale rounded, ·row scale
// rounded.
//
// f32 and bf16 on FP8 or int8 weights use code·scale, rounded to float32 (and in
// bf16 to bf16 after that), which tells an error of the weights from one of the
// activations. The scales are those stored, save that AscendV1's are rounded to
// bf16 in every profile, as vllm-ascend's loader does. However weights are
// stored, they are widened only while they are multiplied; that is exact and
// leaves the bits of a product as they are for float32 weights.
type Precision string

// The profiles. The empty Precision is w8a8 for int8 weights (AscendV1 W8A8 or
// compressed-tensors) and f32 for anything else.
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
