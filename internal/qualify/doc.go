// Package qualify is the qualify stage: may this pool train this model? It asks
// in the order of what the answers cost.
//
// Capability: does the chip compute in the recipe's dtype at all?
//
// Operators: the forward pass and the backward pass of the very model that is to
// be trained, on the very data, against an independent float64 implementation
// (reference/oracle): logits one by one, gradients by directional derivatives
// over all weights, and layer group by layer group. Published experience with
// moving a training between vendors says that a forward loss within one per cent
// proves nothing and that first-layer gradients tell.
//
// Convergence twin: the first steps of the real training, twice with one seed
// and different numbers of threads. Both must give the same bits, and learn.
//
// That is how the reference trainer qualifies on processors. Any other trainer is
// tried in its pool by the trainer contract: it replays stored batches at the first
// weights, trains a few steps and saves, and each is held against the reference.
//
// Each answer is a gate.Check of three values. A probe that could not run is
// inconclusive, never a fail: the chip was not shown to be unfit.
package qualify
