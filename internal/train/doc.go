// Package train supervises a training run to its end through the trainer
// contract (docs/formats.md), whatever the trainer is.
//
// The supervisor restarts from the newest checkpoint that verifies and is
// finite, stops when attempts no longer make progress, and counts every second
// of wall time in exactly one class of the ledger. Success is the done event at
// the target step and a verified checkpoint of that step; an exit code of 0
// alone is not.
//
// Each attempt goes through named states (Phase), on disk in supervisor.json
// before the act they announce, together with how far its events were read. So
// the supervisor may be killed at any moment: run again, it re-adopts a live
// attempt by the very task it had written down, and never starts a second
// writer: an attempt begins only after the last one's processes are surely gone.
// Unknown is not failed: what the executor cannot see restarts nothing.
//
// What to do next is Decide, a pure function; one goroutine owns the run.
package train
