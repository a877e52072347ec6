// Package enginetest is an endpoint in vLLM's dialect whose answers come from
// functions and which misbehaves on request, for the tests of everything that
// talks to an engine.
package enginetest
