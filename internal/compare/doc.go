// Package compare asks whether the released model is worse at its task than
// the checkpoint it came from, and by how much it differs from others.
//
// All candidates answer the same held-out problems, greedily and sampled at
// T = 1, and are scored by the reward checker. Answers are paired by problem:
// McNemar's exact test, a paired interval of the difference, and a
// non-inferiority gate against the spec's margin. A problem that a candidate
// could not be asked (a transport failure) is not a wrong answer; while there
// is one, the gate is inconclusive.
package compare
