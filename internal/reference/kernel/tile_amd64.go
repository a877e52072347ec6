package kernel

// tileFunc computes blocks times a fixed number of rows of C, in one group of
// columns. Row r of A starts ars after row r-1, block n at abs after block
// n-1; distances are in elements. Every two steps of k it asks for the memory
// at next, which need not exist, and moves on by so many bytes.
type tileFunc func(a *float32, ars, aks, abs int, b *float32, bks, bps int,
	c *float32, ldc, k, blocks, cols int, load bool, next *float32, step int)

// tileSet is an instruction set's tiles.
type tileSet struct {
	most, cols int           // rows of the tallest tile; columns of the ordinary ones
	full       [13]tileFunc  // by rows, all columns there
	part       [13]tileFunc  // by rows, the last columns may be missing
	wide       [4][]wideTile // by rows, for few of them, widest first
	packT      func(dst, src []float32, stride, rows, k, width int)
	packN      func(dst, src []float32, stride, cols, k, width int)
	packS      stripFunc
}

// wideTile spans whole panels.
type wideTile struct {
	cols int
	tile tileFunc
}

func tilesAVX512() *tileSet {
	return &tileSet{most: 12, cols: 32,
		packT: packWith(16, transposeAVX512), packN: copyWith(16, copy16AVX512, copy32AVX512), packS: stripsAVX512,
		full: [13]tileFunc{nil,
			tile1x32AVX512, tile2x32AVX512, tile3x32AVX512, tile4x32AVX512, tile5x32AVX512, tile6x32AVX512,
			tile7x32AVX512, tile8x32AVX512, tile9x32AVX512, tile10x32AVX512, tile11x32AVX512, tile12x32AVX512},
		part: [13]tileFunc{nil, tile1x32AVX512Masked, tile2x32AVX512Masked, tile3x32AVX512Masked,
			tile4x32AVX512Masked, tile5x32AVX512Masked, tile6x32AVX512Masked, tile7x32AVX512Masked,
			tile8x32AVX512Masked, tile9x32AVX512Masked, tile10x32AVX512Masked, tile11x32AVX512Masked,
			tile12x32AVX512Masked},
		wide: [4][]wideTile{
			1: {{128, tile1x128AVX512}, {96, tile1x96AVX512}, {64, tile1x64AVX512}},
			2: {{64, tile2x64AVX512}},
			3: {{64, tile3x64AVX512}},
		},
	}
}

func tilesAVX2() *tileSet {
	return &tileSet{most: 6, cols: 16,
		packT: packWith(8, transposeAVX2), packN: copyWith(8, copy8AVX2, copy32AVX2), packS: stripsAVX2,
		full: [13]tileFunc{nil, tile1x16AVX2, tile2x16AVX2, tile3x16AVX2, tile4x16AVX2, tile5x16AVX2, tile6x16AVX2},
		part: [13]tileFunc{nil, tile1x16AVX2Masked, tile2x16AVX2Masked, tile3x16AVX2Masked,
			tile4x16AVX2Masked, tile5x16AVX2Masked, tile6x16AVX2Masked},
		wide: [4][]wideTile{
			1: {{64, tile1x64AVX2}, {32, tile1x32AVX2}},
			2: {{32, tile2x32AVX2}},
			3: {{32, tile3x32AVX2}},
		},
	}
}

// block covers t with tiles of nearly equal height: 13 rows are 7 and 6, not
// 12 and 1.
func (s *tileSet) block(t block) {
	parts := (t.rows + s.most - 1) / s.most
	height, tall := t.rows/parts, t.rows%parts // tall tiles have one row more
	if t.scratch != nil {
		s.pack(t, 0, height+1, tall)
		s.pack(t, tall*(height+1), height, parts-tall)
	}
	for j := 0; j < t.cols; {
		soon := s.soon(t, j, parts)
		cols := s.strip(t, &soon, j, 0, height+1, tall)
		cols = max(cols, s.strip(t, &soon, j, tall*(height+1), height, parts-tall))
		j += cols
	}
}

// soon is memory that the tiles of one panel ask for on their way: the panel
// that is read next.
type soon struct {
	b    []float32
	step int // bytes every second k
}

// soon spreads the next panel over all tiles of the panel that holds column j.
func (s *tileSet) soon(t block, j, parts int) soon {
	if t.bks != panelCols || t.rows < 4 { // the lowest tiles do not ask
		return soon{}
	}
	b := t.next
	if after := j/panelCols + 1; after*panelCols < t.cols {
		b = t.b[after*t.bps:]
	}
	n := soon{b: b, step: min(max(2*4*s.cols/parts, 1), 64)}
	if j%panelCols > 0 { // the tiles of the columns before have asked for the first part
		n.take(parts, t.k)
	}
	return n
}

// take returns where so many tiles are to ask, and moves on behind that.
func (s *soon) take(blocks, k int) (*float32, int) {
	if len(s.b) == 0 {
		return nil, 0
	}
	from := &s.b[0]
	s.b = s.b[min(blocks*((k+1)/2)*s.step/4, len(s.b)-1):]
	return from, s.step
}

// pack copies the rows of A that tiles of so many rows read, from row on, k by
// k, to where strip looks.
func (s *tileSet) pack(t block, row, rows, tiles int) {
	if tiles == 0 {
		return
	}
	if t.aks != 1 {
		s.packS(t.scratch[row*t.k:], t.a[row*t.ars:], t.aks, rows, tiles, t.k)
		return
	}
	for ; tiles > 0; tiles-- {
		s.packT(t.scratch[row*t.k:], t.a[row*t.ars:], t.ars, rows, t.k, rows)
		row += rows
	}
}

// strip computes blocks tiles of so many rows, from row on, in the columns
// from j on, and returns how many columns those were.
func (s *tileSet) strip(t block, soon *soon, j, row, rows, blocks int) int {
	if blocks == 0 {
		return 0
	}
	cols, f := s.pick(t, j, rows)
	a, ars, aks, abs := &t.a[row*t.ars], t.ars, t.aks, rows*t.ars
	if t.scratch != nil {
		a, ars, aks, abs = &t.scratch[row*t.k], 1, rows, rows*t.k
	}
	next, step := soon.take(blocks, t.k)
	f(a, ars, aks, abs, &t.b[j/panelCols*t.bps+j%panelCols], t.bks, t.bps,
		&t.c[row*t.ldc+j], t.ldc, t.k, blocks, cols, t.load, next, step)
	return cols
}

// pick chooses the tile for the columns from j on.
func (s *tileSet) pick(t block, j, rows int) (cols int, f tileFunc) {
	rest := t.cols - j
	if t.rows < len(s.wide) && j%panelCols == 0 { // then all rows are in one tile
		for _, w := range s.wide[rows] {
			if rest >= w.cols {
				return w.cols, w.tile
			}
		}
	}
	if rest < s.cols {
		return rest, s.part[rows]
	}
	return s.cols, s.full[rows]
}

// packWith makes a strip function of one instruction set fill whole widths.
func packWith(lanes int, strip func(dst, src *float32, stride, width, rows, k int)) func(dst, src []float32, stride, rows, k, width int) {
	return func(dst, src []float32, stride, rows, k, width int) {
		for i := 0; i < rows; i += lanes {
			n := min(lanes, rows-i)
			_ = src[(i+n-1)*stride+k-1]
			_ = dst[(k-1)*width+i+lanes-1]
			strip(&dst[i], &src[i*stride], stride, width, n, k)
		}
	}
}

// copyWith makes the copies of one instruction set: rows of A, at most a
// vector wide, or a panel of B.
func copyWith(lanes int, strip, panel func(dst, src *float32, stride, width, cols, k int)) func(dst, src []float32, stride, cols, k, width int) {
	return func(dst, src []float32, stride, cols, k, width int) {
		_ = src[(k-1)*stride+cols-1]
		if width <= lanes {
			_ = dst[(k-1)*width+lanes-1]
			strip(&dst[0], &src[0], stride, width, cols, k)
			return
		}
		_ = dst[(k-1)*width+panelCols-1]
		panel(&dst[0], &src[0], stride, width, cols, k)
	}
}

func stripsAVX512(dst, src []float32, stride, width, strips, k int) {
	_ = src[(k-1)*stride+strips*width-1]
	_ = dst[strips*k*width-1]
	if width <= 16 {
		copyStrips16AVX512(&dst[0], &src[0], stride, width, strips, k)
	} else {
		copyStrips32AVX512(&dst[0], &src[0], stride, width, strips, k)
	}
}

// stripsAVX2 packs one strip after another: what each writes past its end, the
// next overwrites.
func stripsAVX2(dst, src []float32, stride, width, strips, k int) {
	pack := copyWith(8, copy8AVX2, copy32AVX2)
	for s := range strips {
		pack(dst[s*k*width:], src[s*width:], stride, width, k, width)
	}
}
