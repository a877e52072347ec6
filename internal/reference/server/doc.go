// Package server answers HTTP in vLLM's dialect of OpenAI's API with the
// reference model behind it, so that code written against a real engine meets
// the same routes, shapes, status codes and error texts here.
//
// One goroutine, the scheduler, owns every running sequence and its KV cache.
// Each of its steps sends one ragged batch through the model: a token for every
// sequence that is generating and a chunk of every prompt that is not finished.
// Requests hand it jobs and read what it made from a mailbox, so a slow client
// never holds up another. A client that goes away takes its sequences with it
// at the next step.
//
// Sampling depends on the request alone: the model's bits do not depend on the
// batch, and the uniforms come from (seed, sample, position) by a counter, so
// a seeded request is answered the same at any concurrency, and a sequence
// whose cache was taken away is computed again to the same text.
package server
