// Package trainer is the reference trainer: it reads a recipe and fine-tunes a
// model of package reference, first on examples (SFT), then by reinforcement
// learning with a verifiable reward (GRPO, arXiv:2402.03300, with the changes of
// DAPO; or GSPO, arXiv:2507.18071). It speaks the trainer contract
// (docs/formats.md), so that its supervisor treats it like any other trainer.
//
// A step is a pure function of the weights, the moments and the step's number.
// The order of the data and every random draw come from a counter-based
// generator keyed by (seed, stream, step, …), which has no state to save: a run
// resumed from any checkpoint, with any number of threads, ends in the same bits
// as one that was never disturbed.
//
// Completions may be drawn in another precision than the weights are trained in
// (Options), as they are where another chip serves them. Then the policy that
// drew a token is not the one that learns from it; the mismatch meter shows how
// far they are apart, importance sampling weighs or leaves out what is too far,
// and routing replay trains the experts that the rollout used.
//
// It is the embedded default for small models, and never the way to train a
// real one: that is PyTorch's.
package trainer
