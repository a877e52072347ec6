package kernel

// Gemm sets C = A·B, or C += A·B with accumulate. Every element of C is one
// chain acc = FMA(a[i,k], b[k,j], acc) for k = 0 … K-1 in order, starting from
// zero or from C. A, B and C may be transposed views; C overlaps neither.
//
// It packs B on each call where that pays. For weights that stay, see Pack.
func Gemm(p *Pool, a, b, c Mat, accumulate bool) { gemm(fastest(), p, a, b, c, accumulate) }

// GemmPacked is Gemm with a right-hand side packed before.
func GemmPacked(p *Pool, a Mat, b *Packed, c Mat, accumulate bool) {
	gemmPacked(fastest(), p, a, b, c, accumulate)
}

// Sizes tuned on one processor with 48 KiB and 2 MiB of private cache; they
// change the speed only.
const (
	panelCols     = 32      // columns of a packed panel
	blockK        = 512     // k per pass over packed panels, whose pieces stream from the second cache
	blockKInPlace = 256     // k per pass over B in place, whose rows crowd the first
	blockKPacking = 384     // k per pass over B packed piece by piece,
	blockPanels   = 16      // panels of such a piece,
	ownPanelRows  = 128     // and the fewest rows of a task that packs for itself alone
	blockRows     = 240     // rows per pass, a multiple of the tallest tiles
	inPlaceStride = 128     // longest row of B that is read where it lies,
	smallStride   = 512     // the same in small products,
	smallRows     = 128     // where B and C have so many rows at most
	packAStride   = 1024    // shortest row of A that is copied first,
	packAPanels   = 8       // and the fewest panels to copy it for
	packTStride   = 64      // the same for a transposed A
	packTPanels   = 4       //
	scratchMax    = 1 << 24 // floats packed at a time by Gemm
)

// block is one piece of a product: rows×cols of C, cols split in panels of 32.
// Distances are in elements.
type block struct {
	a        []float32
	ars, aks int // from one row of A, one k of A, to the next
	b        []float32
	bks, bps int // from one k of B, one panel of B, to the next
	c        []float32
	ldc      int
	rows     int
	cols, k  int
	load     bool      // start from C instead of zero
	scratch  []float32 // room to pack A's rows in; nil: read them in place
	next     []float32 // what is read after the last panel; may be nil
}

func gemm(o *ops, p *Pool, a, b, c Mat, accumulate bool) {
	checkShapes(a, b.Rows, b.Cols, c)
	a.check("left matrix")
	b.check("right matrix")
	c.check("result")
	if c.T {
		a, b, c = b.Transpose(), a.Transpose(), c.Transpose()
	}
	if empty(a, c, accumulate) {
		return
	}
	g := product{o: o, a: a, c: c, load: accumulate}
	if readableInPlace(b, c.Rows) {
		g.b, g.bks, g.bps = b.Data, b.Stride, panelCols
		g.run(p)
		return
	}
	g.raw = b
	if tasks := g.divide(p); tasks == 1 || c.Rows/g.rowTasks >= ownPanelRows {
		g.start(p, tasks)
		return
	}
	width := max(scratchMax/b.Rows/panelCols, 1) * panelCols
	s := borrowScratch(packedSize(b.Rows, min(width, b.Cols)))
	defer s.giveBack()
	g.raw, g.b, g.bks, g.bps = Mat{}, s.floats, panelCols, b.Rows*panelCols
	for from := 0; from < b.Cols; from += width {
		to := min(from+width, b.Cols)
		fillPanels(o, p, s.floats, b.ColRange(from, to))
		g.c = c.ColRange(from, to)
		g.run(p)
	}
}

func gemmPacked(o *ops, p *Pool, a Mat, b *Packed, c Mat, accumulate bool) {
	checkShapes(a, b.rows, b.cols, c)
	a.check("left matrix")
	c.check("result")
	if c.T {
		panic("kernel: a packed product cannot be written transposed")
	}
	if empty(a, c, accumulate) {
		return
	}
	g := product{o: o, a: a, c: c, load: accumulate, b: b.data, bks: panelCols, bps: b.rows * panelCols}
	g.run(p)
}

// empty handles products with nothing to add.
func empty(a, c Mat, accumulate bool) bool {
	if c.Rows == 0 || c.Cols == 0 {
		return true
	}
	if a.Cols > 0 {
		return false
	}
	if !accumulate {
		for i := range c.Rows {
			clear(c.Data[i*c.Stride : i*c.Stride+c.Cols])
		}
	}
	return true
}

// readableInPlace says whether B is better read where it lies than copied into
// panels first: rows must be contiguous, and either few rows of C would share
// the cost of the copy or B's rows are so close together, or so few, that they
// do not fight for the same lines of the cache.
func readableInPlace(b Mat, rows int) bool {
	small := rows <= smallRows && b.Rows <= smallRows && b.Stride <= smallStride
	return !b.T && (rows <= smallestSlice || b.Stride <= inPlaceStride || small)
}
