package kernel

import (
	"encoding/binary"
	"math"
	"sync"
)

// wideOps is one instruction set's widening of so many k of a panel, 32
// numbers each, one after another in dst as in src. nil where there is none:
// then number by number, which is the definition.
type wideOps struct {
	tall       int // rows of the tallest tile, for which packing leaves no gaps
	bf16, f16  func(dst *float32, src *byte, ks int)
	e4m3, int8 func(dst *float32, src *byte, scales *float32, ks int)

	above, from func(x []float32, t float32) float32 // counts

	roundE4M3 func(dst, x []float32, scale float32)
	addScaled func(dst, x, w []float32, scale float32)

	// One row times rowPanels whole panels, widened in registers.
	rowPanels                 int
	rowBF16, rowE4M3, rowInt8 rowFunc
}

// rowFunc sets, or with load adds to, rowPanels·32 numbers of C from k numbers
// of A. bps is from one panel of B to the next, in bytes.
type rowFunc func(a *float32, b *byte, bps int, scales, c *float32, k int, load bool)

// row is the function for one row of A, nil if there is none for the form.
func (w *wideOps) row(b *Narrow) rowFunc {
	switch {
	case b.round || b.nan.Load():
		return nil
	case b.form == BF16:
		return w.rowBF16
	case b.form == E4M3:
		return w.rowE4M3
	case b.form == Int8:
		return w.rowInt8
	}
	return nil
}

// plainWide is the definition.
func plainWide() *wideOps {
	return &wideOps{tall: 6, above: countAboveGo, from: countFromGo, roundE4M3: roundE4M3Go, addScaled: addScaledGo}
}

// wideFastest goes with fastest.
var wideFastest = sync.OnceValue(func() *wideOps { return wideFor(fastest()) })

// widen fills dst with k0 ≤ k < k1 of panel p, 32 numbers for each k; beyond
// the last column they are finite if the matrix is.
func (b *Narrow) widen(o *ops, w *wideOps, dst []float32, p, k0, k1 int) {
	dst = dst[:(k1-k0)*panelCols]
	src := b.data[(p*b.rows+k0)*panelCols*b.form.Bytes():][:len(dst)*b.form.Bytes()]
	if len(dst) == 0 {
		return
	}
	switch {
	case b.form == BF16 && w.bf16 != nil:
		w.bf16(&dst[0], &src[0], k1-k0)
	case b.form == F16 && w.f16 != nil:
		w.f16(&dst[0], &src[0], k1-k0)
	case b.form == E4M3 && w.e4m3 != nil && !b.nan.Load():
		b.widenScaled(w.e4m3, dst, src, p, k0, k1)
	case b.form == Int8 && w.int8 != nil:
		b.widenScaled(w.int8, dst, src, p, k0, k1)
	default:
		b.widenGo(dst, src, p, k0)
	}
	if b.round {
		o.roundBF16(dst)
	}
}

// widenCodes is widen of E4M3 codes without their scales.
func (b *Narrow) widenCodes(w *wideOps, dst []float32, p, k0, k1 int) {
	dst = dst[:(k1-k0)*panelCols]
	src := b.data[(p*b.rows+k0)*panelCols:][:len(dst)]
	if len(dst) > 0 && w.e4m3 != nil && !b.nan.Load() {
		w.e4m3(&dst[0], &src[0], &unitScales[0], k1-k0)
		return
	}
	for i, c := range src {
		dst[i] = fromE4M3(c)
	}
}

// widenScaled calls f once for each run of k that has the same scales.
func (b *Narrow) widenScaled(f func(dst *float32, src *byte, scales *float32, ks int), dst []float32, src []byte, p, k0, k1 int) {
	var scales [panelCols]float32
	for k := k0; k < k1; {
		end := b.sameScales(scales[:min(panelCols, b.cols-p*panelCols)], p*panelCols, k, k1)
		at := (k - k0) * panelCols
		f(&dst[at], &src[at], &scales[0], end-k)
		k = end
	}
}

// sameScales sets the scales at column k of W of as many rows of it, from row
// j on, and returns to where along K, at most limit, they hold.
func (b *Narrow) sameScales(scales []float32, j, k, limit int) (end int) {
	switch b.form {
	case Int8:
		copy(scales, b.scales[j:])
	case E4M3:
		limit = min(limit, (k/b.block[1]+1)*b.block[1])
		for i := 0; i < len(scales); {
			s := b.scale(j+i, k)
			for n := b.block[0] - (j+i)%b.block[0]; n > 0 && i < len(scales); n-- {
				scales[i] = s
				i++
			}
		}
	}
	return limit
}

// scale is that of row j of W at column k.
func (b *Narrow) scale(j, k int) float32 {
	if b.form == Int8 {
		return b.scales[j]
	}
	return b.scales[j/b.block[0]*b.across+k/b.block[1]]
}

// widenGo is the definition of a widened panel.
func (b *Narrow) widenGo(dst []float32, src []byte, p, k0 int) {
	if b.form == BF16 { // the common one, without a call for each number
		for i := range dst {
			dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
		}
		return
	}
	size := b.form.Bytes()
	cols := min(panelCols, b.cols-p*panelCols)
	for at := 0; at < len(dst); at += panelCols {
		row := dst[at:][:panelCols]
		for j := range cols {
			row[j] = b.number(src[(at+j)*size:], p*panelCols+j, k0+at/panelCols)
		}
		clear(row[cols:])
	}
}
