package kernel

// The int8 product on AVX-512 VNNI and AVX2. Both read B in panels of 32
// columns, 128 bytes a step: four k of one byte, or two k of two.

const rowsTimesK = 240 * 1024 // bytes of A per pass, which bounds the time in one call too

func packInt8VNNI(b *PackedInt8, raw []int8) {
	steps := (b.k + 3) / 4
	b.data = make([]int8, panels(b.n)*steps*128) // zero is -128: it meets only A's padding
	for j := range b.n {
		panel := b.data[j/panelCols*steps*128+j%panelCols*4:]
		for k, v := range raw[j*b.k:][:b.k] {
			panel[k/4*128+k%4] = int8(uint8(v) ^ 0x80) // v + 128
		}
	}
}

func packInt8AVX2(b *PackedInt8, raw []int8) {
	steps := (b.k + 1) / 2
	b.wide = make([]int16, panels(b.n)*steps*64)
	for j := range b.n {
		panel := b.wide[j/panelCols*steps*64+j%panelCols*2:]
		for k, v := range raw[j*b.k:][:b.k] {
			panel[k/2*64+k%2] = int16(v)
		}
	}
}

func blockInt8VNNI(t blockInt8) {
	steps := (t.k + 3) / 4
	chunk := min(t.r1-t.r0, max(rowsTimesK/t.k, 12))
	s := borrowScratch(0)
	defer s.giveBack()
	s.ints = grow(s.ints, chunk)
	for r := t.r0; r < t.r1; {
		rows := slice(t.r1-r, chunk)
		a, stride := t.a[r*t.k:], t.k
		if t.k%4 != 0 { // the last step reads four bytes: give it room
			stride = steps * 4
			s.bytes = grow(s.bytes, chunk*stride)
			for i := range rows {
				clear(s.bytes[i*stride:][copy(s.bytes[i*stride:][:stride], a[i*t.k:][:t.k]):stride])
			}
			a = s.bytes
		}
		int8OffsetsVNNI(&s.ints[0], &a[0], stride, t.k, rows)
		for p := t.p0; p < t.p1; p++ {
			cols := min(panelCols, t.b.n-p*panelCols)
			strips(rows, 12, func(row, height, blocks int) {
				vnniTiles[height](&a[row*stride], stride, &t.b.data[p*steps*128],
					&t.c[(r+row)*t.b.n+p*panelCols], t.b.n, steps, blocks, cols, &s.ints[row])
			})
		}
		r += rows
	}
}

func blockInt8AVX2(t blockInt8) {
	steps := (t.k + 1) / 2
	chunk := min(t.r1-t.r0, max(rowsTimesK/2/t.k, 6))
	s := borrowScratch(0)
	defer s.giveBack()
	s.words = grow(s.words, chunk*steps*2)
	for r := t.r0; r < t.r1; {
		rows := slice(t.r1-r, chunk)
		for i := range rows {
			widenRow(s.words[i*steps*2:][:steps*2], t.a[(r+i)*t.k:][:t.k])
		}
		for j := t.p0 * panelCols; j < min(t.p1*panelCols, t.b.n); j += 16 {
			cols := min(16, t.b.n-j)
			strips(rows, 6, func(row, height, blocks int) {
				avx2Int8Tiles[height](&s.words[row*steps*2], steps*4, &t.b.wide[j/panelCols*steps*64+j%panelCols*2],
					&t.c[(r+row)*t.b.n+j], t.b.n, steps, blocks, cols, nil)
			})
		}
		r += rows
	}
}

// widenRow extends src to words and fills up with zeros.
func widenRow(dst []int16, src []int8) {
	groups := len(src) / 16
	if groups > 0 {
		widenAVX2(&dst[0], &src[0], groups)
	}
	for i := groups * 16; i < len(dst); i++ {
		dst[i] = 0
		if i < len(src) {
			dst[i] = int16(src[i])
		}
	}
}

// strips divides rows into tiles of nearly equal height, at most most, and
// calls f for the taller and the shorter ones.
func strips(rows, most int, f func(row, height, blocks int)) {
	parts := (rows + most - 1) / most
	height, tall := rows/parts, rows%parts
	if tall > 0 {
		f(0, height+1, tall)
	}
	f(tall*(height+1), height, parts-tall)
}

type vnniTile func(a *int8, ars int, b *int8, c *int32, ldc, steps, blocks, cols int, start *int32)

type avx2Int8Tile func(a *int16, ars int, b *int16, c *int32, ldc, steps, blocks, cols int, start *int32)

// By height; never written to.
var vnniTiles = [13]vnniTile{nil, int8Tile1VNNI, int8Tile2VNNI, int8Tile3VNNI, int8Tile4VNNI,
	int8Tile5VNNI, int8Tile6VNNI, int8Tile7VNNI, int8Tile8VNNI, int8Tile9VNNI, int8Tile10VNNI,
	int8Tile11VNNI, int8Tile12VNNI}

var avx2Int8Tiles = [7]avx2Int8Tile{nil, int8Tile1AVX2, int8Tile2AVX2, int8Tile3AVX2, int8Tile4AVX2,
	int8Tile5AVX2, int8Tile6AVX2}
