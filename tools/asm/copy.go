package main

import (
	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// copies emits, per instruction set, the packing of strips that are contiguous
// along a row: dst[l*width+i] = src[l*stride+i] for i below cols, l below k,
// with zeros up to whole vectors. One vector serves rows of A, 32 columns a
// panel of B. Steps go up, so a width below the vectors leaves no gaps and the
// last step writes past its end.
func copies(c *build.Context) {
	masks := longMaskTable(c, "copyMasks")
	for _, s := range []isa{avx512, avx2} {
		for _, vecs := range []int{1, 32 / s.lanes} {
			copier{isa: s, vecs: vecs}.emit(c, masks)
		}
	}
	for _, vecs := range []int{1, 2} {
		stripCopier{copier{isa: avx512, vecs: vecs}}.emit(c, masks)
	}
}

type copier struct {
	isa
	vecs int
}

// rowsAhead is how many rows of src are asked for before they are read: they lie
// too far apart for the hardware to guess.
const rowsAhead = 16

func (t copier) emit(c *build.Context, masks operand.Mem) {
	name := label("copy%d%s", t.vecs*t.lanes, t.name)
	function(c, name, "func(dst, src *float32, stride, width, cols, k int)",
		name+label(" packs k rows of up to %d columns.", t.vecs*t.lanes))
	dst, src := load(c, c.Param("dst")), load(c, c.Param("src"))
	stride, width := loadBytes(c, c.Param("stride")), loadBytes(c, c.Param("width"))
	cols, k, soon := load(c, c.Param("cols")), load(c, c.Param("k")), c.GP64()
	c.IMUL3Q(operand.Imm(rowsAhead), stride, soon)
	c.ADDQ(src, soon)
	mask := t.masks(c, masks, cols)
	align(c)
	c.Label("row")
	for d := 0; d < t.vecs*t.bytes(); d += 64 {
		c.PREFETCHT0(operand.Mem{Base: soon, Disp: d})
	}
	for v := range t.vecs {
		x, from := t.vec(c), operand.Mem{Base: src, Disp: v * t.bytes()}
		if t.wide() {
			c.VMOVUPS_Z(from, mask[v], x)
		} else {
			c.VMASKMOVPS(from, mask[v], x)
		}
		c.VMOVUPS(x, operand.Mem{Base: dst, Disp: v * t.bytes()})
	}
	c.ADDQ(stride, src)
	c.ADDQ(stride, soon)
	c.ADDQ(width, dst)
	c.DECQ(k)
	c.JNZ(operand.LabelRef("row"))
	c.VZEROUPPER()
	c.RET()
}

// stripCopier packs strips that lie side by side in one walk over their rows,
// four at a time: a strip alone would fetch every line of src once more.
type stripCopier struct{ copier }

const stripRows = 4

func (t stripCopier) emit(c *build.Context, masks operand.Mem) {
	name := label("copyStrips%d%s", t.vecs*t.lanes, t.name)
	function(c, name, "func(dst, src *float32, stride, width, strips, k int)",
		name+label(" packs strips of up to %d columns, k rows each.", t.vecs*t.lanes))
	dst, src, width := load(c, c.Param("dst")), load(c, c.Param("src")), load(c, c.Param("width"))
	stride, k, step := loadBytes(c, c.Param("stride")), load(c, c.Param("k")), c.GP64()
	mask := t.masks(c, masks, width)
	c.SHLQ(operand.Imm(2), width)
	c.MOVQ(k, step)
	c.IMULQ(width, step) // from strip to strip of dst
	w := walk{c: c, step: step, from: rowDistances(c, stride), to: rowDistances(c, width)}
	c.SUBQ(operand.Imm(stripRows), k)
	c.JL(operand.LabelRef("rest"))
	c.Label("rows")
	t.emitRows(w, "strip", dst, src, stripRows, mask)
	c.LEAQ(operand.Mem{Base: src, Index: stride, Scale: stripRows}, src)
	c.LEAQ(operand.Mem{Base: dst, Index: width, Scale: stripRows}, dst)
	c.SUBQ(operand.Imm(stripRows), k)
	c.JGE(operand.LabelRef("rows"))
	c.Label("rest")
	c.ADDQ(operand.Imm(stripRows), k)
	c.JE(operand.LabelRef("done"))
	c.Label("row")
	t.emitRows(w, "last", dst, src, 1, mask)
	c.ADDQ(stride, src)
	c.ADDQ(width, dst)
	c.DECQ(k)
	c.JNZ(operand.LabelRef("row"))
	c.Label("done")
	c.VZEROUPPER()
	c.RET()
}

// walk is what all rows of a strip copy share; from and to hold the distances
// of one and three rows of src and dst.
type walk struct {
	c        *build.Context
	step     reg.GPVirtual
	from, to [12]reg.GPVirtual
}

func rowDistances(c *build.Context, row reg.GPVirtual) (d [12]reg.GPVirtual) {
	d[1], d[3] = row, c.GP64()
	c.LEAQ(operand.Mem{Base: row, Index: row, Scale: 2}, d[3])
	return d
}

// emitRows copies rows of every strip.
func (t stripCopier) emitRows(w walk, name string, dst, src reg.GPVirtual, rows int, mask []reg.Register) {
	c := w.c
	to, from, soon, n := c.GP64(), c.GP64(), c.GP64(), load(c, c.Param("strips"))
	c.MOVQ(dst, to)
	c.MOVQ(src, from)
	c.LEAQ(operand.Mem{Base: src, Index: w.from[1], Scale: 8}, soon)
	c.Label(name)
	for r := range rows {
		for v := range t.vecs {
			x, at := t.vec(c), rowAt(from, w.from, r)
			at.Disp = v * t.bytes()
			c.VMOVUPS_Z(at, mask[v], x)
			ahead := rowAt(soon, w.from, r)
			ahead.Disp = v * t.bytes()
			c.PREFETCHT0(ahead)
			at = rowAt(to, w.to, r)
			at.Disp = v * t.bytes()
			c.VMOVUPS(x, mask[v], at)
		}
	}
	c.ADDQ(w.to[1], from)
	c.ADDQ(w.to[1], soon)
	c.ADDQ(w.step, to)
	c.DECQ(n)
	c.JNZ(operand.LabelRef(name))
}

// masks gives each vector the mask of the columns that are there.
func (t copier) masks(c *build.Context, masks operand.Mem, cols reg.GPVirtual) []reg.Register {
	all := make([]reg.Register, t.vecs)
	if t.wide() {
		ones := c.GP64()
		c.MOVQ(operand.I32(-1), ones)
		c.BZHIQ(cols, ones, ones)
		for v := range all {
			k := c.K()
			c.KMOVW(ones.As32(), k)
			c.SHRQ(operand.Imm(16), ones)
			all[v] = k
		}
		return all
	}
	p := c.GP64()
	c.LEAQ(masks.Offset(128), p)
	c.NEGQ(cols)
	c.LEAQ(operand.Mem{Base: p, Index: cols, Scale: 4}, p)
	for v := range all {
		m := c.YMM()
		c.VMOVUPS(operand.Mem{Base: p, Disp: v * t.bytes()}, m)
		all[v] = m
	}
	return all
}

// longMaskTable adds 32 words of ones and 32 of zeros: read from word 32-n on,
// it masks the first n lanes.
func longMaskTable(c *build.Context, name string) operand.Mem {
	m := c.StaticGlobal(name)
	c.DataAttributes(attr.RODATA | attr.NOPTR)
	for i := range 64 {
		var word uint32
		if i < 32 {
			word = ^uint32(0)
		}
		c.AddDatum(4*i, operand.U32(word))
	}
	return m
}
