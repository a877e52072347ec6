// Package engine is an inference engine as a command line, a readiness rule
// and what it can report, and the client that speaks to any engine in vLLM's
// dialect of OpenAI's protocol.
package engine
