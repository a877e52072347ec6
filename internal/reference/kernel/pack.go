package kernel

import "sync"

// Packed is a right-hand side laid out for the product: panels of 32 columns,
// each K rows of 32 floats. What the last panel holds beyond the last column is
// finite if the matrix is, and never reaches a result. The layout is the same on
// every processor.
type Packed struct {
	rows, cols int
	data       []float32
}

// Pack copies b. Use it for weights that serve several products.
func Pack(b Mat) *Packed {
	var p Packed
	p.Repack(b)
	return &p
}

// Repack takes in b's values again, reusing memory when it is large enough. It
// must not run beside a product that reads p.
func (p *Packed) Repack(b Mat) { p.RepackOn(nil, b) }

// RepackOn is Repack on several threads.
func (p *Packed) RepackOn(pool *Pool, b Mat) {
	b.check("matrix to pack")
	p.rows, p.cols = b.Rows, b.Cols
	if n := packedSize(b.Rows, b.Cols); cap(p.data) < n {
		p.data = make([]float32, n)
		WantHugePages(p.data)
	} else {
		p.data = p.data[:n]
	}
	fillPanels(best, pool, p.data, b)
}

// Rows is the product's K.
func (p *Packed) Rows() int { return p.rows }

// Cols is the number of columns of the product.
func (p *Packed) Cols() int { return p.cols }

func packedSize(rows, cols int) int { return rows * panels(cols) * panelCols }

// fillPanels packs b into dst.
func fillPanels(o *ops, p *Pool, dst []float32, b Mat) {
	n := panels(b.Cols)
	parts := min(p.idle(), b.Rows*b.Cols>>15, n)
	if parts <= 1 {
		fillRange(o, dst, b, 0, n)
		return
	}
	p.Run(parts, func(i int) { fillRange(o, dst, b, i*n/parts, (i+1)*n/parts) })
}

// fillRange packs panels [from, to).
func fillRange(o *ops, dst []float32, b Mat, from, to int) {
	if b.T {
		transposePanels(o, dst, b, from, to)
	} else {
		copyPanels(o, dst, b, from, to)
	}
}

// transposePanels packs panels [from, to) of a transposed matrix.
func transposePanels(o *ops, dst []float32, b Mat, from, to int) {
	size := b.Rows * panelCols
	for q := from; q < to && size > 0; q++ {
		cols := min(panelCols, b.Cols-q*panelCols)
		panel := dst[q*size:][:size]
		if cols < panelCols {
			clear(panel)
		}
		o.packT(panel, b.Data[q*panelCols*b.Stride:], b.Stride, cols, b.Rows, panelCols)
	}
}

// copyPanels packs panels [from, to) of a matrix that is not transposed.
func copyPanels(o *ops, dst []float32, b Mat, from, to int) {
	size := b.Rows * panelCols
	if full := min(to, b.Cols/panelCols) - from; full > 0 && size > 0 {
		o.strip(dst[from*size:][:full*size], b.Data[from*panelCols:], b.Stride, panelCols, full, b.Rows)
		from += full
	}
	for q := from; q < to && size > 0; q++ {
		o.packN(dst[q*size:][:size], b.Data[q*panelCols:], b.Stride, min(panelCols, b.Cols-q*panelCols), b.Rows, panelCols)
	}
}

// packTGo sets dst[l*width+i] = src[i*stride+l] for l in [0, k), i in
// [0, rows). The assembly writes whole vectors: where rows is less than width
// it also puts numbers of src beyond, and where width is no multiple of a
// vector it needs packSlack floats after the end of dst.
func packTGo(dst, src []float32, stride, rows, k, width int) {
	for i := range rows {
		for l, v := range src[i*stride:][:k] {
			dst[l*width+i] = v
		}
	}
}

// packNGo sets dst[l*width+i] = src[l*stride+i] for l in [0, k), i in
// [0, cols), and zero for i from cols to width. The assembly writes whole
// vectors and needs packSlack as packTGo's does.
func packNGo(dst, src []float32, stride, cols, k, width int) {
	for l := range k {
		row := dst[l*width:][:width]
		clear(row[copy(row, src[l*stride:][:cols]):])
	}
}

// stripFunc sets dst[(s*k+l)*width+i] = src[l*stride+s*width+i] for s in
// [0, strips), l in [0, k), i in [0, width): strips side by side, one after
// another. It may write packSlack floats past the end of dst.
type stripFunc func(dst, src []float32, stride, width, strips, k int)

func packStripsGo(dst, src []float32, stride, width, strips, k int) {
	for l := range k {
		for s := range strips {
			copy(dst[(s*k+l)*width:][:width], src[l*stride+s*width:])
		}
	}
}

const packSlack = 16

// scratch is memory lent to one call.
type scratch struct {
	floats []float32
	bytes  []int8
	ints   []int32
	words  []int16
}

// scratches keeps scratch memory between calls; it holds no state.
var scratches = sync.Pool{New: func() any { return new(scratch) }}

func borrowScratch(floats int) *scratch {
	s := scratches.Get().(*scratch)
	s.floats = grow(s.floats, floats)
	return s
}

func (s *scratch) giveBack() { scratches.Put(s) }

// grow returns x with length n and contents left to chance.
func grow[T any](x []T, n int) []T {
	if cap(x) < n {
		return make([]T, n)
	}
	return x[:n]
}
