package kernel

// The int8 product on NEON: rows of A and of B, both with zeros up to a
// multiple of sixteen k, are multiplied as vectors.

const int8Step = 16 // k per vector

func packInt8NEON(b *PackedInt8, raw []int8) {
	width := stepped(b.k)
	b.data = make([]int8, panels(b.n)*panelCols*width) // rows of zeros up to whole tiles
	for j := range b.n {
		copy(b.data[j*width:], raw[j*b.k:][:b.k])
	}
}

// stepped is k with its padding.
func stepped(k int) int { return (k + int8Step - 1) / int8Step * int8Step }

// blockInt8With makes the product of tiles of four rows and of one.
func blockInt8With(
	four func(out *[16]int32, a *int8, ars int, b *int8, bjs, steps int),
	one func(out *[4]int32, a *int8, ars int, b *int8, bjs, steps int),
) func(t blockInt8) {
	return func(t blockInt8) {
		width, end := stepped(t.k), min(t.p1*panelCols, t.b.n)
		s := borrowScratch(0)
		defer s.giveBack()
		s.bytes = grow(s.bytes, 4*width)
		var out [16]int32
		for r := t.r0; r < t.r1; r += 4 {
			rows := min(4, t.r1-r)
			a := paddedRows(s.bytes, t, r, rows, width)
			for j := t.p0 * panelCols; j < end; j += 4 {
				if rows == 4 {
					four(&out, &a[0], width, &t.b.data[j*width], width, width/int8Step)
				} else {
					for i := range rows {
						one((*[4]int32)(out[4*i:]), &a[i*width], width, &t.b.data[j*width], width, width/int8Step)
					}
				}
				for i := range rows {
					copy(t.c[(r+i)*t.b.n+j:][:min(4, t.b.n-j)], out[4*i:])
				}
			}
		}
	}
}

// paddedRows is rows of A in the width of B's: where they lie, or in room.
func paddedRows(room []int8, t blockInt8, r, rows, width int) []int8 {
	if width == t.k {
		return t.a[r*t.k:]
	}
	for i := range rows {
		row := room[i*width:][:width]
		clear(row[copy(row, t.a[(r+i)*t.k:][:t.k]):])
	}
	return room
}
