// Package plan decides where a release is trained and served, and forecasts
// what that takes. Make is a pure function from the spec, the inventory and
// what was measured to a plan that shows every option, also the rejected ones,
// with its reason and the arithmetic.
//
// Work is counted in model FLOPs with causal attention (design.md in this
// folder): nothing for recomputation, nothing for the masked half. Seconds come
// from a measured rate times a stated range of efficiency; a plan never rests
// on a vendor's figure.
package plan
