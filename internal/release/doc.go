// Package release owns the loop over the eight stages, their gates, the
// journal and what the certificate says.
//
// A release is a plain function over a list. Each stage has an input digest:
// what the result depends on, contents rather than paths. A stage whose digest
// has passed, and whose outputs are still byte for byte what they were, is not
// run again; so the same command resumes after any crash. Intent is journalled
// before the act. A gate that does not pass blocks the release.
package release
