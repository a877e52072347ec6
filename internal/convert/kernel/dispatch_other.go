//go:build !amd64 && !arm64

package kernel

// available lists what this processor can run, fastest first.
func available() []*ops { return []*ops{goOps()} }
