// Package executor is a task as a value, and the seam to the places that run
// tasks: process groups on this machine (executor/local), Kubernetes later.
//
// Starting is idempotent by name, so that a control process that died and came
// back re-attaches by starting the same task again and watching it.
package executor
