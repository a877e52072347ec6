package kernel

import (
	"encoding/binary"
	"math"

	"tarbert/internal/tensor"
)

// Loss is what rounding some values cost.
type Loss struct {
	// Max is the largest |value - decoded|, Bound the largest that was allowed.
	Max   float64 `json:",omitempty"`
	Bound float64 `json:",omitempty"`
	// Signal is Σ value², Noise Σ (value - decoded)².
	Signal float64 `json:",omitempty"`
	Noise  float64 `json:",omitempty"`
	// Bad says that some value was outside its own bound, or not a number.
	Bad bool `json:",omitempty"`
}

// Add merges another measurement in. Sums depend on the order.
func (l *Loss) Add(o Loss) {
	l.Max, l.Bound = math.Max(l.Max, o.Max), math.Max(l.Bound, o.Bound)
	l.Signal += o.Signal
	l.Noise += o.Noise
	l.Bad = l.Bad || o.Bad
}

// lanes is how many partial sums a row is measured in.
const lanes = 16

// partial is a row's sums on their way: element i belongs to lane i modulo 16 of
// signal and noise, and to some lane of most and bounds. The assembly knows this
// layout.
type partial struct {
	signal, noise [lanes]float64
	most, bounds  [8]float64
	bad           uint32
}

// add takes one element in. The conversions keep compilers from fusing, and a
// comparison that a NaN fails marks the row as bad.
func (s *partial) add(i int, value, decoded, bound float64) {
	d := math.Abs(value - decoded)
	if d > s.most[0] {
		s.most[0] = d
	}
	if bound > s.bounds[0] {
		s.bounds[0] = bound
	}
	s.signal[i%lanes] += float64(value * value)
	s.noise[i%lanes] += float64(d * d)
	if !(d <= bound) {
		s.bad = 1
	}
}

func (s *partial) loss() Loss {
	l := Loss{Signal: tree(&s.signal), Noise: tree(&s.noise), Bad: s.bad != 0}
	for i := range s.most {
		l.Max, l.Bound = max(l.Max, s.most[i]), max(l.Bound, s.bounds[i])
	}
	return l
}

// tree adds sixteen lanes: l and l+8, then l+4, l+2, l+1.
func tree(x *[lanes]float64) float64 {
	y := *x
	for step := lanes / 2; step > 0; step /= 2 {
		for l := range step {
			y[l] += y[l+step]
		}
	}
	return y[0]
}

// halfStep is half the distance of bfloat16 values at x: 2^-8 of the power of two
// below |x|, and 2^-134 among subnormals.
func halfStep(x float64) float64 {
	power := math.Float64frombits(math.Float64bits(x) & 0x7ff0000000000000)
	return max(power*0x1p-8, 0x1p-134)
}

// Round writes x as BF16 bytes, ties to even.
func Round(dst []byte, x []float32) {
	if len(dst) != 2*len(x) {
		panic("kernel: Round: lengths disagree")
	}
	fastest.round(dst, x)
}

func roundGo(dst []byte, x []float32) {
	for i, v := range x {
		binary.LittleEndian.PutUint16(dst[2*i:], tensor.ToBF16(v))
	}
}

// RoundLoss measures BF16 bytes against the values that they were rounded from.
// Each may be off by half a step; infinity is outside any bound.
func RoundLoss(x []float32, rounded []byte) Loss {
	if len(rounded) != 2*len(x) {
		panic("kernel: RoundLoss: lengths disagree")
	}
	var s partial
	whole := len(x) &^ (lanes - 1)
	fastest.roundLoss(x[:whole], rounded[:2*whole], &s)
	roundLossGo(x[whole:], rounded[2*whole:], &s)
	return s.loss()
}

func roundLossGo(x []float32, rounded []byte, s *partial) {
	for i, v := range x {
		w := float64(v)
		decoded := float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(rounded[2*i:])) << 16))
		s.add(i, w, decoded, halfStep(w))
	}
}

// MaxAbs is the largest magnitude; a NaN counts as more than infinity, whose bits it exceeds.
func MaxAbs(x []float32) float32 { return math.Float32frombits(fastest.maxAbs(x)) }

// MaxAbs16 is MaxAbs of BF16 bytes.
func MaxAbs16(src []byte) float32 { return math.Float32frombits(fastest.maxAbs16(src)) }

func maxAbs16Go(src []byte) uint32 {
	var top uint16
	for i := 0; i+1 < len(src); i += 2 {
		top = max(top, binary.LittleEndian.Uint16(src[i:])&0x7fff)
	}
	return uint32(top) << 16
}

func maxAbsGo(x []float32) uint32 {
	var top uint32
	for _, v := range x { // magnitudes compare as their bits do
		top = max(top, math.Float32bits(v)&0x7fffffff)
	}
	return top
}

// FirstNonFinite returns the index of the first value that is NaN or infinite, or -1.
func FirstNonFinite(x []float32) int {
	if fastest.maxAbs(x) < 0x7f800000 {
		return -1
	}
	for i, v := range x {
		if math.Float32bits(v)&0x7f800000 == 0x7f800000 {
			return i
		}
	}
	return -1
}
