// Package cpu is the processors of one node as a device: all of them together,
// as far as this process may use them (affinity and cgroup limits count).
//
// It reads /proc and /sys of Linux and runs nothing.
//
// Honesty tier: exercised on x86-64 (Xeon) under cgroup v1. The arm64 forms of
// /proc/cpuinfo and cgroup v2 are replayed from layout-faithful files.
package cpu
