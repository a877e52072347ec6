package kernel

// tile4x16NEON computes four rows and sixteen columns of C.
//
//go:noescape
func tile4x16NEON(a *float32, ars, aks int, b *float32, bks int, c *float32, ldc, k int, load bool)

// tile1x32NEON computes one row and a panel's columns of C.
//
//go:noescape
func tile1x32NEON(a *float32, aks int, b *float32, bks int, c *float32, k int, load bool)

// peakNEON multiplies and adds in registers, 64 times a round.
//
//go:noescape
func peakNEON(rounds int)

// dotNEON adds products of groups of sixteen elements to the lanes.
//
//go:noescape
func dotNEON(lanes *[16]float32, x, y *float32, groups int)

// sumNEON adds groups of sixteen elements to the lanes.
//
//go:noescape
func sumNEON(lanes *[16]float32, x *float32, groups int)

// axpyNEON sets dst = fma(s, x, dst) for groups of sixteen.
//
//go:noescape
func axpyNEON(dst, x *float32, s float32, groups int)

// mulNEON multiplies groups of sixteen elements of dst by those of x.
//
//go:noescape
func mulNEON(dst, x *float32, groups int)

// scaleNEON multiplies groups of sixteen elements of dst by s.
//
//go:noescape
func scaleNEON(dst *float32, s float32, groups int)

// int8Tile4SDOT multiplies four rows of A with four of B by SDOT.
//
//go:noescape
func int8Tile4SDOT(out *[16]int32, a *int8, ars int, b *int8, bjs, steps int)

// int8Tile1SDOT multiplies one row of A with four of B by SDOT.
//
//go:noescape
func int8Tile1SDOT(out *[4]int32, a *int8, ars int, b *int8, bjs, steps int)

// int8Tile4NEON is int8Tile4SDOT by widening multiplication.
//
//go:noescape
func int8Tile4NEON(out *[16]int32, a *int8, ars int, b *int8, bjs, steps int)

// int8Tile1NEON is int8Tile1SDOT by widening multiplication.
//
//go:noescape
func int8Tile1NEON(out *[4]int32, a *int8, ars int, b *int8, bjs, steps int)
