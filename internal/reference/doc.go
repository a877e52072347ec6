// Package reference is a transformer language model in plain Go, in float32,
// for the Hugging Face architectures deepseek_v3, qwen3 and qwen3_moe.
//
// It has two uses. It is the judge: neither of two chips can say which of them
// is off, an independent implementation can, and its precision profiles (f32,
// bf16, fp8-block, w8a8) say how far rounding alone explains a difference. And
// it is the embedded default, which trains and serves small models with nothing
// else installed.
//
// Bits are a contract. Every logit is the same to the last bit for any number
// of threads, any composition of the batch, with or without a KV cache, in
// prefill or in decoding, and in the training forward pass. It holds because
// each dot product is one chain of fused multiply-adds in a fixed order
// (package kernel), softmax and norms reduce one row in an order that depends
// on its length only, and a token's experts are added in ascending order.
// Gradients are sums over the batch in a fixed order and the same for any
// number of threads.
//
// Weights stay in memory in the width they are stored in, outside Go's heap,
// and are widened piece by piece while they are multiplied. Score takes a text
// through one layer after another, so that it needs one layer's keys and values
// and a block of logits beside the weights, whatever the text's length.
//
// Rounding points of the profiles are listed in precision.go and, for users,
// in docs/formats.md.
package reference
