package kernel

// wideOps is one instruction set's widening of so many k of a panel, 32
// numbers each, one after another in dst as in src. nil where there is none:
// then number by number, which is the definition.
type wideOps struct {
	bf16, f16  func(dst *float32, src *byte, ks int)
	e4m3, int8 func(dst *float32, src *byte, scales *float32, ks int)
}

// wideBest goes with best.
var wideBest = wideFor(best)

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

// widenScaled calls f once for each run of k that has the same scales.
func (b *Narrow) widenScaled(f func(dst *float32, src *byte, scales *float32, ks int), dst []float32, src []byte, p, k0, k1 int) {
	var scales [panelCols]float32
	for k := k0; k < k1; {
		end := k1
		if b.form == E4M3 {
			end = min(k1, (k/b.block[1]+1)*b.block[1])
		}
		for j := range min(panelCols, b.cols-p*panelCols) {
			scales[j] = b.scale(p*panelCols+j, k)
		}
		at := (k - k0) * panelCols
		f(&dst[at], &src[at], &scales[0], end-k)
		k = end
	}
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
