package kernel

// product is one matrix product with everything decided but the division of
// the work.
type product struct {
	o        *ops
	a, c     Mat
	b        []float32
	bks, bps int
	raw      Mat // B that the tasks pack piece by piece; b is unused then
	load     bool

	rowTasks, panelTasks int
}

const (
	flopsPerTask  = 1 << 20 // smallest piece worth handing to another thread
	tasksPerCore  = 4       // pieces per thread, so that a disturbed thread delays little
	smallestSlice = 12      // rows of the tallest tile
)

func (g *product) run(p *Pool) { g.start(p, g.divide(p)) }

// divide decides how many tasks to make for the threads that are idle now, and
// of what shape. A thread that is alone keeps the product whole.
func (g *product) divide(p *Pool) int {
	idle, tasks := p.idle(), 1
	if idle > 1 {
		flops := 2 * float64(g.c.Rows) * float64(g.c.Cols) * float64(g.a.Cols)
		tasks = min(tasksPerCore*idle, int(flops/flopsPerTask))
	}
	g.rowTasks, g.panelTasks = 1, 1
	if tasks > 1 {
		g.rowTasks, g.panelTasks = grid(g.c.Rows, panels(g.c.Cols), tasks)
	}
	return g.rowTasks * g.panelTasks
}

func (g *product) start(p *Pool, tasks int) {
	if tasks == 1 {
		g.region(0, g.c.Rows, 0, panels(g.c.Cols))
		return
	}
	h := *g // what the goroutines share is allocated here, only when there are any
	p.Run(tasks, h.task)
}

// grid divides rows×panels into about the wanted number of pieces: by rows
// when there are plenty, because a row piece reads all of B once; otherwise by
// panels, because a panel piece reads only its own.
func grid(rows, panels, want int) (rowTasks, panelTasks int) {
	rowsMost := max(rows/smallestSlice, 1)
	if rowsMost >= 4*want || rowsMost >= panels {
		rowTasks = min(rowsMost, want)
		return rowTasks, min(panels, (want+rowTasks-1)/rowTasks)
	}
	panelTasks = min(panels, want)
	return min(rowsMost, (want+panelTasks-1)/panelTasks), panelTasks
}

func (g *product) task(i int) {
	r, q := i%g.rowTasks, i/g.rowTasks
	n := panels(g.c.Cols)
	g.region(r*g.c.Rows/g.rowTasks, (r+1)*g.c.Rows/g.rowTasks, q*n/g.panelTasks, (q+1)*n/g.panelTasks)
}

// region computes rows [r0, r1) of panels [p0, p1), all of K.
func (g *product) region(r0, r1, p0, p1 int) {
	if g.raw.Data != nil {
		g.regionPacking(r0, r1, p0, p1)
		return
	}
	depth, most := g.a.Cols, blockK
	if g.bks != panelCols {
		most = blockKInPlace
	}
	var room []float32
	if g.worthPacking(p1 - p0) {
		s := borrowScratch(min(blockRows, r1-r0)*min(most, depth) + packSlack)
		defer s.giveBack()
		room = s.floats
	}
	for r := r0; r < r1; { // k inside: these rows of C stay in the cache
		rows := slice(r1-r, blockRows)
		for k := 0; k < depth; {
			deep := slice(depth-k, most)
			t := g.piece(r, rows, k, deep, p0, p1)
			t.b, t.bks, t.bps, t.scratch = g.b[p0*g.bps+k*g.bks:], g.bks, g.bps, room
			switch {
			case k+deep < depth:
				t.next = t.b[deep*g.bks:]
			case r+rows < r1:
				t.next = g.b[p0*g.bps:]
			}
			g.o.block(t)
			k += deep
		}
		r += rows
	}
}

// regionPacking is region for a B that is not packed yet: piece by piece, small
// enough to stay in the second cache until all rows have met it.
func (g *product) regionPacking(r0, r1, p0, p1 int) {
	depth := g.a.Cols
	size := min(blockPanels, p1-p0) * panelCols * min(blockKPacking, depth)
	packing := g.worthPacking(min(blockPanels, p1-p0))
	s := borrowScratch(size + min(blockRows, r1-r0)*min(blockKPacking, depth) + packSlack)
	defer s.giveBack()
	for p := p0; p < p1; {
		n := slice(p1-p, blockPanels)
		for k := 0; k < depth; {
			deep := slice(depth-k, blockKPacking)
			cols := min((p+n)*panelCols, g.c.Cols)
			fillRange(g.o, s.floats, g.raw.RowRange(k, k+deep).ColRange(p*panelCols, cols), 0, n)
			for r := r0; r < r1; {
				rows := slice(r1-r, blockRows)
				t := g.piece(r, rows, k, deep, p, p+n)
				t.b, t.bks, t.bps = s.floats[:n*panelCols*deep], panelCols, panelCols*deep
				if packing {
					t.scratch = s.floats[size:]
				}
				g.o.block(t)
				r += rows
			}
			k += deep
		}
		p += n
	}
}

// piece is a block of the product but for B.
func (g *product) piece(r, rows, k, deep, p0, p1 int) block {
	ars, aks := g.a.steps()
	return block{
		a: g.a.Data[r*ars+k*aks:], ars: ars, aks: aks,
		c: g.c.Data[r*g.c.Stride+p0*panelCols:], ldc: g.c.Stride,
		rows: rows, cols: min(p1*panelCols, g.c.Cols) - p0*panelCols, k: deep,
		load: g.load || k > 0,
	}
}

// worthPacking says whether A's rows are better copied before so many panels
// are computed from them: in place, rows that lie pages apart fight for the
// same lines of the cache, and a transposed A touches a line per k, but small
// matrices do not gain back the copy.
func (g *product) worthPacking(panels int) bool {
	if g.c.Rows < smallestSlice {
		return false
	}
	if g.a.T && g.a.Stride >= packTStride {
		return panels >= packTPanels
	}
	return panels >= packAPanels && g.a.Stride >= packAStride
}

// slice is the first of the fewest equal parts of n that are at most most.
func slice(n, most int) int {
	parts := (n + most - 1) / most
	return (n + parts - 1) / parts
}

// panels is the number of panels that hold so many columns.
func panels(cols int) int { return (cols + panelCols - 1) / panelCols }

// blockGo is the definition of a product's bits.
func blockGo(t block) {
	for j0 := 0; j0 < t.cols; j0 += panelCols {
		cols := min(panelCols, t.cols-j0)
		panel := t.b[j0/panelCols*t.bps:]
		for i := range t.rows {
			acc := t.c[i*t.ldc+j0:][:cols]
			if !t.load {
				clear(acc)
			}
			for k := range t.k {
				row := panel[k*t.bks:][:len(acc)]
				a := t.a[i*t.ars+k*t.aks]
				for j, b := range row { // FMA written out, for speed
					s := float64(a)*float64(b) + float64(acc[j])
					if delicate(s) {
						acc[j] = fmaExact(a, b, acc[j])
						continue
					}
					acc[j] = float32(s)
				}
			}
		}
	}
}
