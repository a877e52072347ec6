package kernel

import "runtime"

// Target is one of several products with the same left-hand side: C = A·B.
type Target struct {
	B *Narrow
	C Mat
}

// GemmNarrow is Gemm with a right-hand side in its stored width. The bits are
// those of Gemm with the widened matrix.
func GemmNarrow(p *Pool, a Mat, b *Narrow, c Mat, accumulate bool) {
	gemmNarrow(fastest(), wideFastest(), p, a, []Target{{b, c}}, accumulate)
}

// GemmNarrowAll is GemmNarrow for several right-hand sides at once, which share
// what has to be done with A.
func GemmNarrowAll(p *Pool, a Mat, targets []Target) {
	gemmNarrow(fastest(), wideFastest(), p, a, targets, false)
}

// Sizes of the pieces that are widened; they change the speed only.
const (
	wideK      = 512     // k of a piece
	widePanels = 8       // panels of a piece
	wideRows   = 240     // most rows of A that a piece serves,
	wideFloats = 4 << 20 // and most numbers of A packed at a time
	wideFewK   = 32      // k of a piece for few rows, which stays in the first cache
	wideFew    = 3       // rows that are few: tiles as wide as a piece
)

// narrowProduct is products with everything decided but the division of the
// work.
type narrowProduct struct {
	o       *ops
	w       *wideOps
	a       Mat
	targets []Target
	load    bool

	rowScales []float32 // block by block with these scales of A, see GemmE4M3; nil: plain

	r0, r1 int       // rows at hand
	strips int       // of them, as tall as tiles
	packed []float32 // the strips, each k by k; nil for few rows
}

func gemmNarrow(o *ops, w *wideOps, p *Pool, a Mat, targets []Target, accumulate bool) {
	g := narrowProduct{o: o, w: w, a: a, targets: targets, load: accumulate}
	g.run(p)
}

func (g *narrowProduct) run(p *Pool) {
	g.a.check("left matrix")
	outputs := 0
	for _, t := range g.targets {
		checkShapes(g.a, t.B.rows, t.B.cols, t.C)
		t.C.check("result")
		if t.C.T {
			panic("kernel: a packed product cannot be written transposed")
		}
		if g.a.Cols == 0 || g.a.Rows == 0 {
			empty(g.a, t.C, g.load)
		}
		outputs += t.B.cols
	}
	if g.a.Cols == 0 || g.a.Rows == 0 || outputs == 0 {
		return
	}
	if g.a.Rows <= wideFew && g.rowScales == nil {
		g.r1 = g.a.Rows
		g.divide(p, outputs)
	} else {
		g.runPacked(p, outputs)
	}
	for _, t := range g.targets {
		runtime.KeepAlive(t.B) // whose memory goes with it
	}
}

// runPacked takes as many rows at a time as are packed together.
func (g *narrowProduct) runPacked(p *Pool, outputs int) {
	most := min(max(wideFloats/g.a.Cols, 64), wideRows)
	s := borrowScratch(0)
	defer s.giveBack()
	for ; g.r0 < g.a.Rows; g.r0 = g.r1 {
		g.r1 = g.r0 + slice(g.a.Rows-g.r0, most)
		g.strips = (g.r1 - g.r0 + g.w.tall - 1) / g.w.tall
		s.floats = grow(s.floats, g.strips*(g.w.tall*g.a.Cols+packSlack))
		g.packed = s.floats
		g.pack(p)
		g.divide(p, outputs)
	}
}

// divide shares the panels out to the threads that are idle now: a piece of
// panels is widened once, by one task.
func (g *narrowProduct) divide(p *Pool, outputs int) {
	all := 0
	for _, t := range g.targets {
		all += panels(t.B.cols)
	}
	tasks := 1
	if idle := p.idle(); idle > 1 {
		flops := 2 * float64(g.r1-g.r0) * float64(outputs) * float64(g.a.Cols)
		tasks = max(min(tasksPerCore*idle, int(flops/flopsPerTask), all), 1)
	}
	if tasks == 1 {
		g.share(0, all)
		return
	}
	h := *g // what the goroutines share is allocated here, only when there are any
	p.Run(tasks, func(i int) { h.share(i*all/tasks, (i+1)*all/tasks) })
}

// share computes panels [from, to), counted through all targets.
func (g *narrowProduct) share(from, to int) {
	for i := range g.targets {
		n := panels(g.targets[i].B.cols)
		if p0, p1 := max(from, 0), min(to, n); p0 < p1 {
			g.region(&g.targets[i], p0, p1)
		}
		from, to = from-n, to-n
	}
}

// region computes the rows at hand of panels [p0, p1), all of K.
func (g *narrowProduct) region(t *Target, p0, p1 int) {
	deep := min(wideK, g.a.Cols)
	if g.packed == nil {
		deep = min(wideFewK, g.a.Cols)
	}
	s := borrowScratch(widePanels * deep * panelCols)
	defer s.giveBack()
	switch {
	case g.rowScales != nil:
		g.blocks(s, t, p0, p1)
		return
	case g.packed == nil:
		if g.r1-g.r0 == 1 {
			p0 = g.row(t, p0, p1)
		}
		for ; p0 < p1; p0 += widePanels {
			g.few(s.floats, t, p0, min(p0+widePanels, p1))
		}
		return
	}
	for ; p0 < p1; p0 += widePanels {
		for k := 0; k < g.a.Cols; { // inside: these columns of C stay in the cache
			deep := slice(g.a.Cols-k, wideK)
			g.piece(s.floats, t, p0, min(p0+widePanels, p1), k, deep)
			k += deep
		}
	}
}

// row computes one row of as many panels from p0 on as come in whole groups,
// and returns the first that is left.
func (g *narrowProduct) row(t *Target, p0, p1 int) int {
	f, b := g.w.row(t.B), t.B
	_, aks := g.a.steps()
	if f == nil || aks != 1 {
		return p0
	}
	var scales [4 * panelCols]float32
	size := b.form.Bytes()
	a, panel := g.a.RowRange(g.r0, g.r1).Data, b.rows*panelCols*size
	for ; p0+g.w.rowPanels <= p1 && (p0+g.w.rowPanels)*panelCols <= b.cols; p0 += g.w.rowPanels {
		c := &t.C.Data[g.r0*t.C.Stride+p0*panelCols]
		for k := 0; k < b.rows; {
			end := b.sameScales(scales[:g.w.rowPanels*panelCols], p0*panelCols, k, b.rows)
			f(&a[k], &b.data[p0*panel+k*panelCols*size], panel, &scales[0], c, end-k, g.load || k > 0)
			k = end
		}
	}
	return p0
}

// few computes few rows of at most widePanels panels.
func (g *narrowProduct) few(wide []float32, t *Target, p0, p1 int) {
	ars, aks := g.a.steps()
	for k := 0; k < g.a.Cols; k += wideFewK {
		deep := min(wideFewK, g.a.Cols-k)
		g.widen(wide, t.B, p0, p1, k, deep)
		x := t.block(g.r0, g.r1-g.r0, p0, p1)
		x.a, x.ars, x.aks = g.a.Data[g.r0*ars+k*aks:], ars, aks
		x.b, x.bps, x.k, x.load = wide, deep*panelCols, deep, g.load || k > 0
		g.o.block(x)
	}
}

// piece widens deep k of a few panels and multiplies all packed rows by them.
func (g *narrowProduct) piece(wide []float32, t *Target, p0, p1, k, deep int) {
	g.widen(wide, t.B, p0, p1, k, deep)
	for i := range g.strips {
		from, to, a := g.strip(i)
		x := t.block(from, to-from, p0, p1)
		x.a, x.ars, x.aks = a[k*(to-from):], 1, to-from
		x.b, x.bps, x.k, x.load = wide, deep*panelCols, deep, g.load || k > 0
		g.o.block(x)
	}
}

// block is rows [r, r+rows) of panels [p0, p1) of the result.
func (t *Target) block(r, rows, p0, p1 int) block {
	return block{c: t.C.Data[r*t.C.Stride+p0*panelCols:], ldc: t.C.Stride, bks: panelCols,
		rows: rows, cols: min(p1*panelCols, t.B.cols) - p0*panelCols}
}

// widen fills wide with k to k+deep of panels [p0, p1).
func (g *narrowProduct) widen(wide []float32, b *Narrow, p0, p1, k, deep int) {
	for p := p0; p < p1; p++ {
		b.widen(g.o, g.w, wide[(p-p0)*deep*panelCols:], p, k, k+deep)
	}
}

// strip is the i-th of the equal tiles that the rows at hand are divided in,
// and where it is packed: each has room for what packing writes past its end.
func (g *narrowProduct) strip(i int) (from, to int, packed []float32) {
	rows := g.r1 - g.r0
	size := (rows+g.strips-1)/g.strips*g.a.Cols + packSlack
	return g.r0 + i*rows/g.strips, g.r0 + (i+1)*rows/g.strips, g.packed[i*size:][:size]
}

// pack copies the rows at hand of A.
func (g *narrowProduct) pack(p *Pool) {
	parts := min(p.idle(), (g.r1-g.r0)*g.a.Cols>>15, g.strips)
	if parts <= 1 {
		g.packStrips(0, g.strips)
		return
	}
	h := *g
	p.Run(parts, func(i int) { h.packStrips(i*h.strips/parts, (i+1)*h.strips/parts) })
}

// packStrips copies strips [first, end), each k by k.
func (g *narrowProduct) packStrips(first, end int) {
	ars, aks := g.a.steps()
	for i := first; i < end; i++ {
		from, to, dst := g.strip(i)
		height, src := to-from, g.a.Data[from*ars:]
		if aks == 1 {
			g.o.packT(dst, src, ars, height, g.a.Cols, height)
			continue
		}
		for k := range g.a.Cols {
			copy(dst[k*height:][:height], src[k*aks:])
		}
	}
}
