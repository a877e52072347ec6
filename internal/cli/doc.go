// Package cli is the command line: one file per command, flags parsed, one
// function called, text or --json printed. It alone knows exit codes,
// terminals and progress bars, and drivers.go alone wires drivers.
//
// Rules of what it prints: results go to stdout, everything for people to
// stderr; with --json stdout is one JSON value and nothing else; errors say
// what happened, where, and what to type next; lines that move are only drawn
// on a terminal, elsewhere the same facts come as plain lines.
package cli
