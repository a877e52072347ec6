// Package train supervises a training run to its end through the trainer
// contract (docs/formats.md), whatever the trainer is; design.md beside this
// file says how each decision is made.
//
// The supervisor restarts from the newest checkpoint that counts, stops when
// attempts no longer make progress, and puts every device-second into exactly
// one class of the ledger. Success is the done event at the target step and a
// verified checkpoint of that step; an exit code of 0 alone is not.
//
// Each attempt goes through named states (Phase), on disk in supervisor.json
// before the act they announce, together with how far its events were read. So
// the supervisor may be killed at any moment: run again, it re-adopts a live
// attempt by the very task it had written down, and never starts a second
// writer: an attempt begins only after the last one's processes are surely gone.
// Its number is its fencing token: it writes its events and checkpoints into
// places of its own, which are sealed when it ends.
//
// Unknown is not failed: what the executor, a vendor's tool or the disk cannot
// tell restarts nothing. Time is taken from a clock that no adjustment moves.
//
// What to do next is decided by pure functions (Decide, blame, Budgets.spent,
// CompareReplays, plan.Consider); one goroutine owns the run.
package train
