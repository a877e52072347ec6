// Package internal holds no code: only the tests that keep the shape of the
// tree as docs/architecture.md draws it.
package internal
