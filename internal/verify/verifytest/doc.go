// Package verifytest plants faults that deployments have had in the wild, to
// measure what the verification sees of them.
//
// Engine is a deployment in process: the reference model with hooks where
// engines go wrong. Catalogue lists the faults: some edit a copy of a model's
// files, the others hook into an Engine. Nothing here is used by the program
// itself.
package verifytest
