package trainer

import "math/bits"

// Streams keep draws for different purposes apart.
const (
	streamShuffle uint64 = 1 + iota
	streamSample
)

// draw gives 64 random bits that depend on its key alone: a chain of
// splitmix64's finalizer (Steele, Lea, Flood 2014), one link per word.
func draw(key ...uint64) uint64 {
	h := uint64(0x9e3779b97f4a7c15)
	for _, k := range key {
		h += 0x9e3779b97f4a7c15 ^ k*0xd1342543de82ef95
		h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
		h = (h ^ h>>27) * 0x94d049bb133111eb
		h ^= h >> 31
	}
	return h
}

// uniform gives a number in [0, 1) with 53 random bits.
func uniform(key ...uint64) float64 { return float64(draw(key...)>>11) / (1 << 53) }

// permutation shuffles 0 … n-1 (Fisher and Yates) for one epoch.
func permutation(seed, epoch uint64, n int) []int {
	p := make([]int, n)
	for i := range p {
		j, _ := bits.Mul64(draw(seed, streamShuffle, epoch, uint64(i)), uint64(i+1))
		p[i] = p[j]
		p[j] = i
	}
	return p
}

// order says which examples a step takes. Epochs follow one another without a
// gap, so a batch may hold the end of one and the beginning of the next.
type order struct {
	seed  uint64
	n     int // examples
	batch int

	epoch int64 // of the permutation at hand
	perm  []int
}

// step lists the examples of step s, counted from 0.
func (o *order) step(s int) []int {
	out := make([]int, o.batch)
	first := int64(s) * int64(o.batch)
	for i := range out {
		epoch, at := (first+int64(i))/int64(o.n), (first+int64(i))%int64(o.n)
		if o.perm == nil || o.epoch != epoch {
			o.epoch, o.perm = epoch, permutation(o.seed, uint64(epoch), o.n)
		}
		out[i] = o.perm[at]
	}
	return out
}
