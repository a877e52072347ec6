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
	quantizeE4M3(best, wideBest, dst, x, scales, group, powerOfTwo)
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
	gemmE4M3(best, wideBest, p, a, scales, b, c)
}

func gemmE4M3(o *ops, w *wideOps, p *Pool, a Mat, scales []float32, b *Narrow, c Mat) {
	if b.form != E4M3 || len(scales) != a.Rows*b.across {
		panic(fmt.Sprintf("kernel: %d scales of %d rows of %d blocks of form %d", len(scales), a.Rows, b.across, b.form))
	}
	g := narrowProduct{o: o, w: w, a: a, b: b, c: c, rowScales: scales}
	g.run(p)
}

// blocks computes rows [r, r+rows) of panels [p0, p1) block by block; packed
// rows and widened codes have room for one block, sums for all of C's.
func (g *narrowProduct) blocks(s *scratch, r0, r1, p0, p1 int) {
	deepest := min(g.b.block[1], g.a.Cols)
	piece, strips := widePanels*deepest*panelCols, min(wideRows, r1-r0)*deepest+packSlack
	s.floats = grow(s.floats, piece+strips+min(wideRows, r1-r0)*widePanels*panelCols)
	wide, packed, sums := s.floats[:piece], s.floats[piece:piece+strips], s.floats[piece+strips:]
	for r := r0; r < r1; {
		rows := slice(r1-r, wideRows)
		for k := 0; k < g.a.Cols; k += g.b.block[1] {
			deep := min(g.b.block[1], g.a.Cols-k)
			g.pack(packed, r, rows, k, deep)
			for p := p0; p < p1; p += widePanels {
				g.sumBlock(wide, packed, sums, r, rows, p, min(p+widePanels, p1), k, deep)
			}
		}
		r += rows
	}
}

// sumBlock adds one block of K to rows of a few panels.
func (g *narrowProduct) sumBlock(wide, packed, sums []float32, r, rows, p0, p1, k, deep int) {
	for p := p0; p < p1; p++ {
		g.b.widenCodes(g.w, wide[(p-p0)*deep*panelCols:], p, k, k+deep)
	}
	cols := min(p1*panelCols, g.c.Cols) - p0*panelCols
	for at := 0; at < rows; {
		height := slice(rows-at, g.w.tall)
		g.o.block(block{
			a: packed[at*deep:], ars: 1, aks: height, b: wide, bks: panelCols, bps: deep * panelCols,
			c: sums[at*cols:], ldc: cols, rows: height, cols: cols, k: deep,
		})
		at += height
	}
	var scales [widePanels * panelCols]float32
	g.b.sameScales(scales[:cols], p0*panelCols, k, k+deep)
	for i := range rows {
		c := g.c.Data[(r+i)*g.c.Stride+p0*panelCols:][:cols]
		if k == 0 {
			clear(c)
		}
		g.w.addScaled(c, sums[i*cols:][:cols], scales[:cols], g.rowScales[(r+i)*g.b.across+k/g.b.block[1]])
	}
}
