package kernel

import (
	"fmt"
	"math"
)

// QuantizeE4M3 quantises one token's activations to E4M3 in groups of so many:
// scales[g] = MaxAbs(group)/448 and dst[i] = x[i]/scale, a true division, held
// within ±448 and rounded to E4M3, ties to even; dst holds the codes' values as
// float32. With powerOfTwo scales are raised to the next power of two, as
// "scale_fmt": "ue8m0" asks. A group whose scale is zero gives zeros. NaN stays.
func QuantizeE4M3(dst, x, scales []float32, group int, powerOfTwo bool) {
	quantizeE4M3(best, wideFastest(), dst, x, scales, group, powerOfTwo)
}

func quantizeE4M3(o *ops, w *wideOps, dst, x, scales []float32, group int, powerOfTwo bool) {
	sameLength("quantize to E4M3", len(dst), len(x))
	if group < 1 || len(scales) != (len(x)+group-1)/group {
		panic(fmt.Sprintf("kernel: %d scales for %d numbers in groups of %d", len(scales), len(x), group))
	}
	for g := range scales {
		from, to := g*group, min((g+1)*group, len(x))
		s := o.maxAbs(x[from:to]) / 448
		if powerOfTwo {
			s = nextPowerOfTwo(s)
		}
		scales[g] = s
		if s == 0 {
			clear(dst[from:to])
			continue
		}
		w.roundE4M3(dst[from:to], x[from:to], s)
	}
}

// nextPowerOfTwo is the least power of two that is not below x: 2^ceil(log2 x).
func nextPowerOfTwo(x float32) float32 {
	if f, e := math.Frexp(float64(x)); f != 0 && !math.IsInf(f, 0) {
		if f == 0.5 {
			e--
		}
		return float32(math.Ldexp(1, e))
	}
	return x
}

// roundE4M3Go adds and takes away a number whose last place is the spacing of
// E4M3 numbers of x's size.
func roundE4M3Go(dst, x []float32, scale float32) {
	const subnormal = 121 << 23 // the exponent below which the spacing stays
	for i, v := range x {
		q := v / scale
		if q > 448 {
			q = 448
		}
		if q < -448 {
			q = -448
		}
		unit := math.Float32frombits(max(math.Float32bits(q)&0x7f800000, subnormal) + (20<<23 | 1<<22))
		q += unit
		q -= unit
		dst[i] = q
	}
}

// addScaledGo is dst += x·scale·w.
func addScaledGo(dst, x, w []float32, scale float32) {
	for i, v := range x {
		v = float32(v * scale)
		v = float32(v * w[i])
		dst[i] += v
	}
}

// GemmE4M3 multiplies quantised activations with E4M3 weights block by block.
// a holds the codes' values, one row a token, quantised in groups as wide as
// b's blocks; scales are theirs, in rows. For each block along K, in order, the
// products of codes are summed by fused multiply-adds from zero in order of k;
// the sum is multiplied by the row's scale, then by the weights', and added to
// C, each step rounded to float32. C starts from zero.
func GemmE4M3(p *Pool, a Mat, scales []float32, b *Narrow, c Mat) {
	gemmE4M3(fastest(), wideFastest(), p, a, scales, b, c)
}

func gemmE4M3(o *ops, w *wideOps, p *Pool, a Mat, scales []float32, b *Narrow, c Mat) {
	if b.form != E4M3 || len(scales) != a.Rows*b.across {
		panic(fmt.Sprintf("kernel: %d scales of %d rows of %d blocks of form %d", len(scales), a.Rows, b.across, b.form))
	}
	g := narrowProduct{o: o, w: w, a: a, targets: []Target{{b, c}}, rowScales: scales}
	g.run(p)
}

// blocks computes the rows at hand of panels [p0, p1) block by block.
func (g *narrowProduct) blocks(s *scratch, t *Target, p0, p1 int) {
	block, rows := t.B.block[1], g.r1-g.r0
	piece := widePanels * min(block, g.a.Cols) * panelCols
	s.floats = grow(s.floats, piece+rows*widePanels*panelCols)
	for p := p0; p < p1; p += widePanels {
		for k := 0; k < g.a.Cols; k += block {
			g.sumBlock(s.floats[:piece], s.floats[piece:], t, p, min(p+widePanels, p1), k, min(block, g.a.Cols-k))
		}
	}
}

// sumBlock adds one block of K to the rows of a few panels.
func (g *narrowProduct) sumBlock(wide, sums []float32, t *Target, p0, p1, k, deep int) {
	cols := min(p1*panelCols, t.B.cols) - p0*panelCols
	done := g.rowSums(sums, t, p0, p1, k, deep) // of one row; what is left of it, and more rows, go through wide
	for p := p0 + done; p < p1; p++ {
		t.B.widenCodes(g.w, wide[(p-p0)*deep*panelCols:], p, k, k+deep)
	}
	for i := range g.strips {
		if p0+done == p1 {
			break
		}
		from, to, a := g.strip(i)
		x := t.block(from, to-from, p0+done, p1)
		x.a, x.ars, x.aks = a[k*(to-from):], 1, to-from
		x.b, x.bps, x.k = wide[done*deep*panelCols:], deep*panelCols, deep
		x.c, x.ldc = sums[(from-g.r0)*cols+done*panelCols:], cols
		g.o.block(x)
	}
	var scales [widePanels * panelCols]float32
	t.B.sameScales(scales[:cols], p0*panelCols, k, k+deep)
	for r := g.r0; r < g.r1; r++ {
		c := t.C.Data[r*t.C.Stride+p0*panelCols:][:cols]
		if k == 0 {
			clear(c)
		}
		g.w.addScaled(c, sums[(r-g.r0)*cols:][:cols], scales[:cols], g.rowScales[r*t.B.across+k/t.B.block[1]])
	}
}

// rowSums sums one block of K for a single row, widening in registers, and
// returns how many panels it did.
func (g *narrowProduct) rowSums(sums []float32, t *Target, p0, p1, k, deep int) (done int) {
	f, b := g.w.row(t.B), t.B
	if _, aks := g.a.steps(); f == nil || aks != 1 || g.r1-g.r0 != 1 {
		return 0
	}
	a, panel := &g.a.RowRange(g.r0, g.r1).Data[k], b.rows*panelCols
	for p := p0; p+g.w.rowPanels <= p1 && (p+g.w.rowPanels)*panelCols <= b.cols; p += g.w.rowPanels {
		f(a, &b.data[p*panel+k*panelCols], panel, &unitScales[0], &sums[done*panelCols], deep, false)
		done += g.w.rowPanels
	}
	return done
}

// unitScales are for codes that are not to be scaled yet. Never written to.
var unitScales = func() (x [4 * panelCols]float32) {
	for i := range x {
		x[i] = 1
	}
	return x
}()
