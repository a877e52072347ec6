package kernel

import "math"

// The functions of this file define the bits of the vector operations. Where
// a product is followed by a sum, either FMA says that they are fused or a
// conversion to float32 says that they are not: without it the Go compiler may
// fuse on some processors.

// tree adds sixteen lanes in the order every reduction ends with.
func tree(l *[laneCount]float32) float32 {
	for h := laneCount / 2; h > 0; h /= 2 {
		for i := range h {
			l[i] += l[i+h]
		}
	}
	return l[0]
}

func sumGo(x []float32) float32 {
	var l [laneCount]float32
	for i, v := range x {
		l[i%laneCount] += v
	}
	return tree(&l)
}

func dotGo(x, y []float32) float32 {
	var l [laneCount]float32
	for i, v := range x {
		l[i%laneCount] = FMA(v, y[i], l[i%laneCount])
	}
	return tree(&l)
}

func maxGo(x []float32) float32 {
	return maxLanes(x, float32(math.Inf(-1)), func(v float32) float32 { return v })
}

func maxAbsGo(x []float32) float32 { return maxLanes(x, 0, abs32) }

// maxLanes has lanes too: of two zeros the sign that survives depends on the order.
func maxLanes(x []float32, start float32, of func(float32) float32) float32 {
	var l [laneCount]float32
	for i := range l {
		l[i] = start
	}
	for i, v := range x {
		if v = of(v); v > l[i%laneCount] {
			l[i%laneCount] = v
		}
	}
	for h := laneCount / 2; h > 0; h /= 2 {
		for i := range h {
			if l[i+h] > l[i] {
				l[i] = l[i+h]
			}
		}
	}
	return l[0]
}

func abs32(v float32) float32 { return math.Float32frombits(math.Float32bits(v) &^ (1 << 31)) }

// Constants of exp. The polynomial is Cephes expf's (S. Moshier, 1989).
const (
	expHighest = 89                   // e^89 overflows
	expLowest  = -104                 // e^-104 rounds to zero
	log2e      = 1.44269504088896341  // 1/ln 2
	expMagic   = 12582912             // 1.5·2^23: adding it rounds to an integer
	ln2High    = 0.693147182464599609 // ln 2 to float32
	ln2Low     = -1.904654323148236e-09
	expC5      = 1.9875691500e-4
	expC4      = 1.3981999507e-3
	expC3      = 8.3334519073e-3
	expC2      = 4.1665795894e-2
	expC1      = 1.6666665459e-1
	expC0      = 5.0000001201e-1
)

// expOne is e^x: x = n·ln 2 + r with |r| ≤ ln 2 / 2, a polynomial in r, and a
// scaling by 2^n that rounds once, so subnormal results are rounded too.
// NaN gives NaN, +Inf and all above 88.72 give +Inf, -Inf gives 0.
func expOne(x float32) float32 {
	if x > expHighest {
		x = expHighest
	}
	if x < expLowest {
		x = expLowest
	}
	z := FMA(x, log2e, expMagic)
	n := z - expMagic
	r := FMA(n, -ln2High, x)
	r = FMA(n, -ln2Low, r)
	q := FMA(expC5, r, expC4)
	q = FMA(q, r, expC3)
	q = FMA(q, r, expC2)
	q = FMA(q, r, expC1)
	q = FMA(q, r, expC0)
	y := FMA(q, float32(r*r), r) + 1
	e := int32(math.Float32bits(z)) - int32(math.Float32bits(expMagic))
	half := e >> 1
	return float32(y*powerOfTwo(half)) * powerOfTwo(e-half)
}

// powerOfTwo is 2^e for a normal result.
func powerOfTwo(e int32) float32 { return math.Float32frombits(uint32(e+127) << 23) }

func expGo(dst, x []float32) {
	for i, v := range x {
		dst[i] = expOne(v)
	}
}

func expSumGo(dst, x []float32, shift float32) float32 {
	var l [laneCount]float32
	for i, v := range x {
		dst[i] = expOne(v - shift)
		l[i%laneCount] += dst[i]
	}
	return tree(&l)
}

func expSumOnlyGo(x []float32, shift float32) float32 {
	var l [laneCount]float32
	for i, v := range x {
		l[i%laneCount] += expOne(v - shift)
	}
	return tree(&l)
}

func sigmoidGo(dst, x []float32) {
	for i, v := range x {
		dst[i] = 1 / (1 + expOne(-v))
	}
}

func siluGo(dst, x []float32) {
	for i, v := range x {
		dst[i] = v / (1 + expOne(-v))
	}
}

func siluMulGo(dst, gate, up []float32) {
	for i, g := range gate {
		dst[i] = (g / (1 + expOne(-g))) * up[i]
	}
}

func siluMulBackGo(dgate, dup, gate, up, dy []float32) {
	for i, g := range gate {
		s := 1 / (1 + expOne(-g))
		silu := float32(g * s)
		slope := float32(s * FMA(g, 1-s, 1)) // d silu / d g
		dg := float32(float32(dy[i]*up[i]) * slope)
		dup[i] = float32(dy[i] * silu)
		dgate[i] = dg
	}
}

func addGo(dst, x []float32) {
	for i, v := range x {
		dst[i] += v
	}
}

func mulGo(dst, x []float32) {
	for i, v := range x {
		dst[i] *= v
	}
}

func scaleGo(dst []float32, s float32) {
	for i := range dst {
		dst[i] *= s
	}
}

func axpyGo(dst []float32, s float32, x []float32) {
	for i, v := range x {
		dst[i] = FMA(s, v, dst[i])
	}
}

func normGo(dst, x, w []float32, rstd float32) {
	for i, v := range x {
		dst[i] = float32(v*rstd) * w[i]
	}
}

func normDotGo(x, w, dy []float32, rstd float32) float32 {
	var l [laneCount]float32
	for i, v := range x {
		l[i%laneCount] = FMA(float32(dy[i]*w[i]), float32(v*rstd), l[i%laneCount])
	}
	return tree(&l)
}

func normBackGo(dx, dw, x, w, dy []float32, rstd, mean float32) {
	for i, v := range x {
		unit := float32(v * rstd)
		dw[i] = FMA(dy[i], unit, dw[i])
		dx[i] = FMA(rstd, FMA(-unit, mean, float32(dy[i]*w[i])), dx[i])
	}
}

func roundBF16Go(x []float32) {
	for i, v := range x {
		u := math.Float32bits(v)
		if v != v {
			u = 0x7fc00000
		} else {
			u = (u + 0x7fff + u>>16&1) &^ 0xffff
		}
		x[i] = math.Float32frombits(u)
	}
}

func quantizeGo(dst []int8, x []float32, scale float32) {
	for i, v := range x {
		q := v / scale
		if !(q > -127) { // NaN too
			q = -127
		}
		if q > 127 {
			q = 127
		}
		dst[i] = int8(math.RoundToEven(float64(q)))
	}
}
