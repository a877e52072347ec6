// Package serve puts the certified model behind an OpenAI-compatible endpoint
// and asks it whether it answers.
//
// Without a valid certificate nothing is started. The endpoint is an engine's
// task at the spec's address; a smoke prompt has to be answered on both
// completion routes, whole and streamed, and the speed on a small batch is
// measured. Then it is stopped, or, with Up, handed to the caller.
package serve
