// Package verify asks whether a candidate deployment is the same model as a
// reference, by statistics on teacher-forced log-probabilities.
//
// Both are asked, over HTTP, for the log-probability of every token of the
// same token-id prompts and for the k likeliest tokens there. Per token, the
// Kullback-Leibler divergence of the two is bounded from below (kl.go). What
// counts as far is measured, not assumed: the floor is the reference's own
// distance to itself in another arithmetic on the same prompts. Means, tails,
// agreement and the signed change of the negative log-likelihood get intervals
// by resampling prompts, because tokens of one prompt are not independent
// (stats.go), and the verdict is on the bounds of those intervals: inconclusive
// when they straddle the margin (judge.go).
//
// Beside this prefill comparison, each where it is asked for: the contract of
// both endpoints first (contract.go), bets that end a run early (sequential.go),
// the decode path, the candidate's own samples, load and replicas, strata.
// Explain finds the tensor to blame where both sides are directories.
//
// design.md says which statistics and why, with what they measured.
//
// Run collects and writes one evidence file; everything after that is a pure
// function of the evidence, and Recompute is that function.
package verify
