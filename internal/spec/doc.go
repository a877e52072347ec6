// Package spec is the release file: its types, defaults, strict decoding with
// line numbers, validation and JSON Schema.
//
// New, decode, defaults, validate are separate steps. What holds for single
// fields (required, range, choices, an example) is one table, rules.go, which
// the decoder's hints, the validation and the schema all draw on. A mistake
// prints the file, line and column, the offending line and a suggestion; all
// mistakes of a step are reported together.
package spec
