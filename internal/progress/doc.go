// Package progress carries what a stage is doing to whoever is watching: the
// terminal's bars today, the dashboard's event stream as well. It has no
// opinion on display and no state.
package progress
