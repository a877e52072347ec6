package kernel

import (
	"slices"
	"sync"
	"time"
)

// fastest is the implementation of float32 products that this machine runs
// fastest, measured once, at the first product: an instruction set with wider
// vectors is not always the faster one. The choice changes no bits.
var fastest = sync.OnceValue(func() *ops {
	list := candidates(available())
	return list[pick(timeProducts(list))]
})

// candidates are the implementations to try: one of those with the same
// tiles, and plain Go only if there is nothing else.
func candidates(list []*ops) []*ops {
	list = slices.CompactFunc(slices.Clone(list), func(a, b *ops) bool { return a.tiles == b.tiles })
	return list[:max(len(list)-1, 1)]
}

// clearly is what share of the time of the one that promises more another
// implementation may take at most to be preferred.
const clearly = 0.95

// pick chooses among implementations listed by promise.
func pick(times []time.Duration) int {
	best := 0
	for i, t := range times {
		if float64(t) < clearly*float64(times[best]) {
			best = i
		}
	}
	return best
}

// timeProducts times a small product on each implementation, in turns: the
// shortest of several, well under a millisecond in all. One alone is not timed.
func timeProducts(list []*ops) []time.Duration {
	const m, n, k, turns, repeat = 48, 64, 128, 8, 4
	times := make([]time.Duration, len(list))
	if len(list) == 1 {
		return times
	}
	a, c := Dense(make([]float32, m*k), m, k), Dense(make([]float32, m*n), m, n)
	b := Packed{rows: k, cols: n, data: make([]float32, packedSize(k, n))}
	for turn := range turns {
		for i, o := range list {
			for j := range repeat { // the first ones wake the vector units
				from := time.Now()
				gemmPacked(o, nil, a, &b, c, false)
				if took := time.Since(from); turn+j == 0 || took < times[i] {
					times[i] = took
				}
			}
		}
	}
	return times
}
