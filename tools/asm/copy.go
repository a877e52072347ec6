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
