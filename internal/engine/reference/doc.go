// Package reference drives Tarbert's own engine: the model in plain Go,
// served by this very program ("tarbert serve") on a processor.
//
// Honesty tier: exercised. It is what the tests and the example run.
package reference
