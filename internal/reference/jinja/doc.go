// Package jinja renders chat templates as transformers does: Jinja2 3.1 in its
// immutable sandbox with trim_blocks and lstrip_blocks, loop controls, the
// generation tag, and transformers' own tojson filter.
//
// A chat template decides which tokens a model sees, so a value must be written
// as Python writes it (None, True, 1e+16, 'it”s' with its quotes) and a method
// must do what Python's does (split with a limit, strip of every white space).
// What Python would refuse is an error here; what this package does not have
// (an inheritance tag, a filter) is an error that names it, never ignored.
//
// Templates come with models and are not trusted: rendering is bounded in
// steps, depth and size, and reads nothing but the given variables.
package jinja
