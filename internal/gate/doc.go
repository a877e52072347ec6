// Package gate holds the verdict that every stage of a release ends with.
//
// A verdict has three values. Inconclusive is not a weak pass: the release
// stops at it exactly as it stops at fail, and says what would settle it.
package gate
