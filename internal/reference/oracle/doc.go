// Package oracle computes the architectures' forward pass once more, in
// float64, with plain loops over scalars, from their definitions: the
// DeepSeek-V2 and V3 reports (arXiv:2405.04434 §2.1, 2412.19437 §2.1), YaRN
// (2309.00071), the Qwen3 report (2505.09388) and what transformers 5 computes
// where those leave room. It shares no code with package reference: no
// kernels, no config reader, no layout.
//
// That is its worth. The float32 model is fast and therefore intricate; when
// the two agree to rounding, neither has a slip that the other does not have
// by chance. It judges the forward pass by its logits and the backward pass
// by directional derivatives, which central differences in float64 give to
// about nine digits.
//
// It is slow (about a million multiply-adds a millisecond) and meant for some
// hundred tokens of small models.
package oracle
