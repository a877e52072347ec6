package kernel

import "math"

// FMA returns a·b + c rounded once to float32 (IEEE 754 fusedMultiplyAdd).
//
// The product of two float32 values is exact in float64; only the sum rounds
// there, and rounding it a second time to float32 goes wrong only when the
// float64 sum lies on the midpoint of two float32 values, or when the result
// is subnormal and has fewer bits. Those cases go through roundToOdd.
func FMA(a, b, c float32) float32 {
	s := float64(a)*float64(b) + float64(c)
	if delicate(s) {
		return fmaExact(a, b, c)
	}
	return float32(s)
}

const (
	midpointMask = 1<<29 - 1                 // bits of a float64 below a float32's last bit
	midpoint     = 1 << 28                   // their pattern halfway between two float32 values
	smallest     = uint64(1023-126) << 53    // 2^-126 with the sign shifted out
	laneCount    = 16                        // lanes of every reduction
	maxInt8K     = (1<<31 - 1) / (128 * 128) // longest int8 dot product that cannot leave int32
)

// delicate reports whether rounding s again may differ from rounding once.
func delicate(s float64) bool {
	u := math.Float64bits(s)
	return u&midpointMask == midpoint || u<<1 < smallest
}

// fmaExact rounds a·b + c to odd in float64, which the second rounding to
// float32 cannot disturb: 53 bits are more than the two spare ones it needs.
// (Boldo, Melquiond: Emulation of FMA and correctly rounded sums, 2008.)
//
//go:noinline
func fmaExact(a, b, c float32) float32 {
	p, q := float64(a)*float64(b), float64(c)
	s := p + q
	t := s - p
	tail := (p - (s - t)) + (q - t) // s + tail is exactly p + q (Knuth's TwoSum)
	u := math.Float64bits(s)
	if tail != 0 && tail == tail && u&1 == 0 {
		if (tail > 0) == (s > 0) {
			u++
		} else {
			u--
		}
	}
	return float32(math.Float64frombits(u))
}
