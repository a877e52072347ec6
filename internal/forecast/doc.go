// Package forecast says when a whole release is launched, and what holds it:
// the stages of a plan file on a critical path with calendars, brought up to
// date by what has happened since. Every update is a value that is kept, so
// that the forecast's own history can be drawn, and scored once the launch is
// known.
//
// What happened comes as evidence: lines of JSON, from the journal, a file or
// both. Evidence narrows ranges; it never replaces what nobody saw.
package forecast
