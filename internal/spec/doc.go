// Package spec is the release file: its types, defaults, strict decoding with
// line numbers, validation and JSON Schema. It imports nothing of ours.
//
// New, decode, defaults, validate are separate steps. A mistake prints the
// file, line and column, the offending line and a suggestion.
package spec
