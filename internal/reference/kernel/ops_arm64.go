package kernel

import "golang.org/x/sys/cpu"

// available lists what this processor can run, fastest first.
func available() []*ops {
	list := []*ops{neonOps(), goOps()}
	if cpu.ARM64.HasASIMDDP {
		o := neonOps()
		o.name, o.blockInt8 = "neon (sdot)", blockInt8With(int8Tile4SDOT, int8Tile1SDOT)
		list = append([]*ops{o}, list...)
	}
	return list
}

// neonOps has the products and what else is only multiply-adds in NEON, and
// the rest in Go.
func neonOps() *ops {
	o := goOps()
	o.name, o.tiles, o.block = "neon", "neon", blockNEON
	o.sum, o.dot = sumLanesNEON, dotLanesNEON
	o.add, o.mul, o.scale, o.axpy = addWholeNEON, mulWholeNEON, scaleWholeNEON, axpyWholeNEON
	o.packInt8, o.blockInt8 = packInt8NEON, blockInt8With(int8Tile4NEON, int8Tile1NEON)
	o.peak, o.peakFlops = peakNEON, 2*16*4
	return o
}

// whole is how many groups of sixteen n elements fill, and where they end.
func whole(n int) (groups, end int) { return n / laneCount, n / laneCount * laneCount }

func dotLanesNEON(x, y []float32) float32 {
	var l [laneCount]float32
	groups, end := whole(len(x))
	if groups > 0 {
		dotNEON(&l, &x[0], &y[0], groups)
	}
	for i, v := range x[end:] {
		l[i] = FMA(v, y[end+i], l[i])
	}
	return tree(&l)
}

func sumLanesNEON(x []float32) float32 {
	var l [laneCount]float32
	groups, end := whole(len(x))
	if groups > 0 {
		sumNEON(&l, &x[0], groups)
	}
	for i, v := range x[end:] {
		l[i] += v
	}
	return tree(&l)
}

func addWholeNEON(dst, x []float32) {
	groups, end := whole(len(dst))
	if groups > 0 {
		axpyNEON(&dst[0], &x[0], 1, groups)
	}
	addGo(dst[end:], x[end:])
}

func mulWholeNEON(dst, x []float32) {
	groups, end := whole(len(dst))
	if groups > 0 {
		mulNEON(&dst[0], &x[0], groups)
	}
	mulGo(dst[end:], x[end:])
}

func scaleWholeNEON(dst []float32, s float32) {
	groups, end := whole(len(dst))
	if groups > 0 {
		scaleNEON(&dst[0], s, groups)
	}
	scaleGo(dst[end:], s)
}

func axpyWholeNEON(dst []float32, s float32, x []float32) {
	groups, end := whole(len(dst))
	if groups > 0 {
		axpyNEON(&dst[0], &x[0], s, groups)
	}
	axpyGo(dst[end:], s, x[end:])
}
