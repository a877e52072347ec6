package reference

import (
	"math"
	"sync"
	"sync/atomic"

	"tarbert/internal/tensor"
)

// rotary is the rotary position embedding (arXiv:2104.09864) with the
// frequencies of YaRN (arXiv:2309.00071) where the config asks for them,
// rounded as transformers rounds: frequencies, angles, cosines and sines are
// each float32.
type rotary struct {
	inverse    []float32 // [dim/2] radians per position
	factor     float32   // of cosine and sine: YaRN's attention factor
	interleave bool      // input pairs are (2i, 2i+1), not (i, i+dim/2)
	bf16       bool

	mu    sync.Mutex
	table atomic.Pointer[ropeTable]
}

// ropeTable holds cosine and sine for positions 0..n-1, [n, dim/2].
type ropeTable struct {
	n        int
	cos, sin []float32
}

func newRotary(c *Config) *rotary {
	dim := c.RopeDim()
	r := &rotary{inverse: make([]float32, dim/2), factor: 1, interleave: c.ModelType == DeepseekV3 && c.RopeInterleave}
	for i := range r.inverse {
		r.inverse[i] = float32(1 / math.Pow(c.RopeTheta, float64(2*i)/float64(dim)))
	}
	if c.RopeScaling != nil {
		r.yarn(c, c.RopeScaling)
	}
	return r
}

func or(v, absent float64) float64 {
	if v == 0 {
		return absent
	}
	return v
}

// yarn blends the frequencies: those that turn often inside the original
// context stay, slow ones are divided by the factor, with a ramp between.
func (r *rotary) yarn(c *Config, s *RopeScaling) {
	dim := float64(c.RopeDim())
	original := float64(s.OriginalMax)
	if original == 0 {
		original = float64(c.MaxPositionEmbeddings)
	}
	at := func(rotations float64) float64 {
		return dim * math.Log(original/(rotations*2*math.Pi)) / (2 * math.Log(c.RopeTheta))
	}
	low, high := at(or(s.BetaFast, 32)), at(or(s.BetaSlow, 1))
	if !s.NoTruncate {
		low, high = math.Floor(low), math.Ceil(high)
	}
	low, high = max(low, 0), min(high, dim-1)
	if low == high {
		high += 0.001
	}
	for i := range r.inverse {
		ramp := min(max((float64(i)-low)/(high-low), 0), 1)
		f := 1 / math.Pow(c.RopeTheta, float64(2*i)/dim)
		r.inverse[i] = float32(f/s.Factor*ramp + f*(1-ramp))
	}
	switch {
	case s.AttentionFactor != 0:
		r.factor = float32(s.AttentionFactor)
	case s.MScale != 0 && s.MScaleAllDim != 0:
		r.factor = float32(mscale(s.Factor, s.MScale) / mscale(s.Factor, s.MScaleAllDim))
	default:
		r.factor = float32(mscale(s.Factor, 1))
	}
}

func mscale(factor, m float64) float64 {
	if factor <= 1 {
		return 1
	}
	return 0.1*m*math.Log(factor) + 1
}

// attentionScale is what scores are multiplied by: one over the root of the
// head's width and, for deepseek_v3 with YaRN, mscale squared.
func attentionScale(c *Config) float32 {
	s := 1 / math.Sqrt(float64(c.QKHeadDim()))
	if c.ModelType == DeepseekV3 && c.RopeScaling != nil && c.RopeScaling.MScaleAllDim != 0 {
		m := mscale(c.RopeScaling.Factor, c.RopeScaling.MScaleAllDim)
		s *= m * m
	}
	return float32(s)
}

// upTo returns a table for at least n positions. Values depend on the position
// alone, so who grows the table, and when, does not matter.
func (r *rotary) upTo(n int) *ropeTable {
	if t := r.table.Load(); t != nil && t.n >= n {
		return t
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.table.Load(); t != nil && t.n >= n {
		return t
	}
	size := 256
	for size < n {
		size *= 2
	}
	half := len(r.inverse)
	t := &ropeTable{n: size, cos: make([]float32, size*half), sin: make([]float32, size*half)}
	for p := range size {
		for i, f := range r.inverse {
			angle := float64(float32(p) * f)
			t.cos[p*half+i] = r.roundAngle(float32(math.Cos(angle)) * r.factor)
			t.sin[p*half+i] = r.roundAngle(float32(math.Sin(angle)) * r.factor)
		}
	}
	r.table.Store(t)
	return t
}

func (r *rotary) roundAngle(x float32) float32 {
	if r.bf16 {
		return tensor.FromBF16(tensor.ToBF16(x))
	}
	return x
}

// rotate turns x (one head at one position) in place; the result has the two
// halves apart whatever the input's layout. Products are rounded before they
// are added (the conversions keep compilers from fusing them).
func (r *rotary) rotate(t *ropeTable, x []float32, pos int, tmp []float32) {
	half := len(r.inverse)
	cos, sin := t.cos[pos*half:][:half], t.sin[pos*half:][:half]
	a, b := x[:half], x[half:2*half]
	if r.interleave {
		a, b = tmp[:half], tmp[half:2*half]
		for i := range half {
			a[i], b[i] = x[2*i], x[2*i+1]
		}
	}
	if r.bf16 {
		rotateBF16(x, a, b, cos, sin)
		return
	}
	for i, c := range cos {
		u, v, s := a[i], b[i], sin[i]
		x[i] = float32(u*c) - float32(v*s)
		x[half+i] = float32(v*c) + float32(u*s)
	}
}

func rotateBF16(x, a, b, cos, sin []float32) {
	round := func(v float32) float32 { return tensor.FromBF16(tensor.ToBF16(v)) }
	half := len(cos)
	for i, c := range cos {
		u, v, s := a[i], b[i], sin[i]
		x[i] = round(round(u*c) - round(v*s))
		x[half+i] = round(round(v*c) + round(u*s))
	}
}

// back is the transpose of rotate, in place: from the gradient of the turned
// head to that of the head as it came.
func (r *rotary) back(t *ropeTable, dx []float32, pos int, tmp []float32) {
	half := len(r.inverse)
	cos, sin := t.cos[pos*half:][:half], t.sin[pos*half:][:half]
	for i, c := range cos {
		u, v, s := dx[i], dx[half+i], sin[i]
		dx[i] = float32(u*c) + float32(v*s)
		dx[half+i] = float32(v*c) - float32(u*s)
	}
	if !r.interleave {
		return
	}
	copy(tmp[:2*half], dx[:2*half])
	for i := range half {
		dx[2*i], dx[2*i+1] = tmp[i], tmp[half+i]
	}
}
