//go:build !amd64

package kernel

// wideFor is the widening of the same instruction set as o.
func wideFor(*ops) *wideOps { return plainWide() }
