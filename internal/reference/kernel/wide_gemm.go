package kernel

import "runtime"

// GemmNarrow is Gemm with a right-hand side in its stored width. The bits are
// those of Gemm with the widened matrix.
func GemmNarrow(p *Pool, a Mat, b *Narrow, c Mat, accumulate bool) {
	gemmNarrow(best, wideBest, p, a, b, c, accumulate)
}

// Sizes of the pieces that are widened; they change the speed only.
const (
	wideK      = 512 // k of a piece
	widePanels = 4   // panels of a piece
	wideRows   = 256 // rows of A that a piece serves
	wideFewK   = 64  // k of a piece for few rows, which stays in the first cache
	wideFew    = 3   // rows that are few: tiles as wide as a piece
)

// narrowProduct is one product with everything decided but the division of
// the work.
type narrowProduct struct {
	o    *ops
	w    *wideOps
	a, c Mat
	b    *Narrow
	load bool

	rowScales []float32 // block by block with these scales of A, see GemmE4M3; nil: plain

	rowTasks, panelTasks int
}

func gemmNarrow(o *ops, w *wideOps, p *Pool, a Mat, b *Narrow, c Mat, accumulate bool) {
	g := narrowProduct{o: o, w: w, a: a, b: b, c: c, load: accumulate}
	g.run(p)
}

func (g *narrowProduct) run(p *Pool) {
	a, b, c := g.a, g.b, g.c
	checkShapes(a, b.rows, b.cols, c)
	a.check("left matrix")
	c.check("result")
	if c.T {
		panic("kernel: a packed product cannot be written transposed")
	}
	if empty(a, c, g.load) {
		return
	}
	defer runtime.KeepAlive(b) // whose memory goes with it
	tasks := 1
	if p.Threads() > 1 {
		flops := 2 * float64(c.Rows) * float64(c.Cols) * float64(a.Cols)
		tasks = min(tasksPerCore*p.Threads(), int(flops/flopsPerTask))
	}
	if tasks <= 1 {
		g.region(0, c.Rows, 0, panels(c.Cols))
		return
	}
	// Panels are divided first: a piece of panels is widened by one task only.
	h := *g
	h.panelTasks = min(panels(c.Cols), tasks)
	h.rowTasks = min(max(c.Rows/wideRows, 1), (tasks+h.panelTasks-1)/h.panelTasks)
	p.Run(h.rowTasks*h.panelTasks, h.task)
}

func (g *narrowProduct) task(i int) {
	r, q, n := i%g.rowTasks, i/g.rowTasks, panels(g.c.Cols)
	g.region(r*g.c.Rows/g.rowTasks, (r+1)*g.c.Rows/g.rowTasks, q*n/g.panelTasks, (q+1)*n/g.panelTasks)
}

// region computes rows [r0, r1) of panels [p0, p1), all of K.
func (g *narrowProduct) region(r0, r1, p0, p1 int) {
	s := borrowScratch(widePanels * wideFewK * panelCols)
	defer s.giveBack()
	if g.rowScales != nil {
		g.blocks(s, r0, r1, p0, p1)
		return
	}
	if r1-r0 <= wideFew {
		if r1-r0 == 1 {
			p0 = g.row(r0, p0, p1)
		}
		for p := p0; p < p1; p += widePanels {
			g.few(s.floats, r0, r1, p, min(p+widePanels, p1))
		}
		return
	}
	deep := min(wideK, g.a.Cols)
	piece, strips := widePanels*deep*panelCols, min(wideRows, r1-r0)*deep+packSlack
	s.floats = grow(s.floats, piece+strips)
	for r := r0; r < r1; {
		rows := slice(r1-r, wideRows)
		for k := 0; k < g.a.Cols; {
			deep := slice(g.a.Cols-k, wideK)
			g.pack(s.floats[piece:], r, rows, k, deep)
			for p := p0; p < p1; p += widePanels {
				g.piece(s.floats[:piece], s.floats[piece:], r, rows, p, min(p+widePanels, p1), k, deep)
			}
			k += deep
		}
		r += rows
	}
}

// row computes one row of as many panels from p0 on as come in whole groups,
// and returns the first that is left.
func (g *narrowProduct) row(r, p0, p1 int) int {
	f, b := g.w.row(g.b), g.b
	_, aks := g.a.steps()
	if f == nil || aks != 1 {
		return p0
	}
	var scales [4 * panelCols]float32
	size := b.form.Bytes()
	a, panel := g.a.RowRange(r, r+1).Data, b.rows*panelCols*size
	for ; p0+g.w.rowPanels <= p1 && (p0+g.w.rowPanels)*panelCols <= g.c.Cols; p0 += g.w.rowPanels {
		c := &g.c.Data[r*g.c.Stride+p0*panelCols]
		for k := 0; k < b.rows; {
			end := b.sameScales(scales[:g.w.rowPanels*panelCols], p0*panelCols, k, b.rows)
			f(&a[k], &b.data[p0*panel+k*panelCols*size], panel, &scales[0], c, end-k, g.load || k > 0)
			k = end
		}
	}
	return p0
}

// few computes few rows of at most widePanels panels.
func (g *narrowProduct) few(wide []float32, r0, r1, p0, p1 int) {
	for k := 0; k < g.a.Cols; k += wideFewK {
		deep := min(wideFewK, g.a.Cols-k)
		g.widen(wide, p0, p1, k, deep)
		ars, aks := g.a.steps()
		g.multiply(g.a.Data[r0*ars+k*aks:], ars, aks, wide, r0, r1-r0, p0, p1, k, deep)
	}
}

// widen fills wide with k to k+deep of panels [p0, p1).
func (g *narrowProduct) widen(wide []float32, p0, p1, k, deep int) {
	for p := p0; p < p1; p++ {
		g.b.widen(g.o, g.w, wide[(p-p0)*deep*panelCols:], p, k, k+deep)
	}
}

// pack copies deep k of rows [r, r+rows) of A, tile by tile, each k by k.
func (g *narrowProduct) pack(dst []float32, r, rows, k, deep int) {
	ars, aks := g.a.steps()
	for at := 0; at < rows; {
		height := slice(rows-at, g.w.tall)
		src := g.a.Data[(r+at)*ars+k*aks:]
		if aks == 1 {
			g.o.packT(dst[at*deep:], src, ars, height, deep, height)
		} else {
			for l := range deep {
				copy(dst[at*deep+l*height:][:height], src[l*aks:])
			}
		}
		at += height
	}
}

// piece multiplies packed rows with widened panels.
func (g *narrowProduct) piece(wide, packed []float32, r, rows, p0, p1, k, deep int) {
	g.widen(wide, p0, p1, k, deep)
	for at := 0; at < rows; {
		height := slice(rows-at, g.w.tall)
		g.multiply(packed[at*deep:], 1, height, wide, r+at, height, p0, p1, k, deep)
		at += height
	}
}

func (g *narrowProduct) multiply(a []float32, ars, aks int, wide []float32, r, rows, p0, p1, k, deep int) {
	g.o.block(block{
		a: a, ars: ars, aks: aks, b: wide, bks: panelCols, bps: deep * panelCols,
		c: g.c.Data[r*g.c.Stride+p0*panelCols:], ldc: g.c.Stride,
		rows: rows, cols: min(p1*panelCols, g.c.Cols) - p0*panelCols, k: deep, load: g.load || k > 0,
	})
}
