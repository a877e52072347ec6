// Package executortest holds what every executor must pass (Suite) and an
// executor in memory that misbehaves on request (Fake), for tests of whatever
// runs tasks.
package executortest
