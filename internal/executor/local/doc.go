// Package local runs tasks as process groups on this machine. It is for Linux.
//
// A task outlives the command that started it. Each one has a folder and a
// shim, which is the product's own binary in its own session:
//
//	DIR/<name>/task.json   what was asked for; written before anything is started
//	DIR/<name>/lock        flock'd by whoever decides about the task
//	DIR/<name>/alive       locked (OFD) by the shim for as long as it lives
//	DIR/<name>/shim.json   the shim's pid and start time; written before the child is forked
//	DIR/<name>/child.json  the child's
//	DIR/<name>/stop.json   a wish to end it, with the grace
//	DIR/<name>/lease       touched by watchers, where the task has a lease
//	DIR/<name>/log, log.1  what the task wrote, at most 64 MiB
//	DIR/<name>/exit.json   how it ended; written when nothing of it is left
//
// The shim is a subreaper and the parent of the task: whatever the task forks
// and abandons comes back to the shim, which ends it when the task ends. If the
// shim itself is killed, the kernel kills its child (parent-death signal), and
// the next look at the folder kills what else carries the task's token in its
// environment and records the end. A process is identified by pid and start
// time, never by pid alone; the shim's life by a lock that the kernel frees.
//
// Known limit: a process that leaves the session, clears its environment and
// loses its shim to a SIGKILL cannot be told from a stranger, and is left.
package local
