package main

import (
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// transposes emits, per instruction set, the packing of a strip of rows into
// columns: dst[l*width+i] = src[i*stride+l] for i below rows, l below k. Every
// step writes a whole vector, in ascending order, so a width below the lanes
// leaves rows packed without gaps, and the last step writes past its end.
// Lanes beyond rows repeat the last row.
func transposes(c *build.Context) {
	masks := maskTable(c, "transposeMasks")
	for _, s := range []isa{avx512, avx2} {
		name := "transpose" + s.name
		function(c, name, "func(dst, src *float32, stride, width, rows, k int)",
			name+label(" packs up to %d rows of k columns.", s.lanes))
		t := transposer{isa: s, c: c,
			dst: load(c, c.Param("dst")), src: load(c, c.Param("src")),
			stride: loadBytes(c, c.Param("stride")), width: loadBytes(c, c.Param("width")),
			rows: load(c, c.Param("rows")), k: load(c, c.Param("k")), row: c.GP64(), next: c.GP64()}
		t.emit(masks)
	}
}

type transposer struct {
	isa
	c                             *build.Context
	dst, src, stride, width, rows reg.GPVirtual
	k, row, next                  reg.GPVirtual
	mask                          operand.Op // of the columns that are left, in the last step
}

func (t *transposer) emit(masks operand.Mem) {
	c := t.c
	c.SUBQ(operand.Imm(uint64(t.lanes)), t.k)
	c.JL(operand.LabelRef("rest"))
	c.Label("whole")
	t.store(t.shuffle(t.load(false)), false)
	c.ADDQ(operand.Imm(uint64(t.bytes())), t.src)
	c.SUBQ(operand.Imm(uint64(t.lanes)), t.k)
	c.JGE(operand.LabelRef("whole"))
	c.Label("rest")
	c.ADDQ(operand.Imm(uint64(t.lanes)), t.k)
	c.JE(operand.LabelRef("done"))
	t.prepareMask(masks)
	t.store(t.shuffle(t.load(true)), true)
	c.Label("done")
	c.VZEROUPPER()
	c.RET()
}

func (t *transposer) prepareMask(masks operand.Mem) {
	c := t.c
	if t.wide() {
		k := c.K()
		c.MOVQ(operand.I32(-1), t.row)
		c.BZHIQ(t.k, t.row, t.row)
		c.KMOVW(t.row.As32(), k)
		t.mask = k
		return
	}
	p := c.GP64()
	c.LEAQ(masks.Offset(64), p)
	c.MOVQ(t.k, t.row)
	c.NEGQ(t.row)
	c.LEAQ(operand.Mem{Base: p, Index: t.row, Scale: 4}, p)
	t.mask = operand.Mem{Base: p}
}

// load reads a vector of each row; past the last row it reads that one again.
func (t *transposer) load(masked bool) []reg.VecVirtual {
	c := t.c
	c.MOVQ(t.src, t.row)
	v := make([]reg.VecVirtual, t.lanes)
	for i := range v {
		v[i] = t.vec(c)
		from := operand.Mem{Base: t.row}
		switch {
		case !masked:
			c.VMOVUPS(from, v[i])
		case t.wide():
			c.VMOVUPS_Z(from, t.mask, v[i])
		default:
			c.VMOVUPS(t.mask, v[i])
			c.VMASKMOVPS(from, v[i], v[i])
		}
		if i+1 < t.lanes {
			c.LEAQ(operand.Mem{Base: t.row, Index: t.stride, Scale: 1}, t.next)
			c.CMPQ(t.rows, operand.Imm(uint64(i+2)))
			c.CMOVQGE(t.next, t.row)
		}
	}
	return v
}

// shuffle transposes lanes × lanes words: pairs, quads, then 128-bit lanes.
func (t *transposer) shuffle(v []reg.VecVirtual) []reg.VecVirtual {
	c := t.c
	out := make([]reg.VecVirtual, t.lanes)
	quads := make([][4]reg.VecVirtual, t.lanes/4) // [rows 4g…4g+3][column modulo 4]
	for g := range quads {
		r := v[4*g : 4*g+4]
		low01, high01, low23, high23 := t.vec(c), t.vec(c), t.vec(c), t.vec(c)
		c.VUNPCKLPS(r[1], r[0], low01)
		c.VUNPCKHPS(r[1], r[0], high01)
		c.VUNPCKLPS(r[3], r[2], low23)
		c.VUNPCKHPS(r[3], r[2], high23)
		for i := range quads[g] {
			quads[g][i] = t.vec(c)
		}
		c.VUNPCKLPD(low23, low01, quads[g][0])
		c.VUNPCKHPD(low23, low01, quads[g][1])
		c.VUNPCKLPD(high23, high01, quads[g][2])
		c.VUNPCKHPD(high23, high01, quads[g][3])
	}
	for i := range 4 {
		if !t.wide() {
			out[i], out[4+i] = t.vec(c), t.vec(c)
			c.VPERM2F128(operand.Imm(0x20), quads[1][i], quads[0][i], out[i])
			c.VPERM2F128(operand.Imm(0x31), quads[1][i], quads[0][i], out[4+i])
			continue
		}
		half := [4]reg.VecVirtual{t.vec(c), t.vec(c), t.vec(c), t.vec(c)}
		c.VSHUFF32X4(operand.Imm(0x44), quads[1][i], quads[0][i], half[0])
		c.VSHUFF32X4(operand.Imm(0x44), quads[3][i], quads[2][i], half[1])
		c.VSHUFF32X4(operand.Imm(0xee), quads[1][i], quads[0][i], half[2])
		c.VSHUFF32X4(operand.Imm(0xee), quads[3][i], quads[2][i], half[3])
		for j := range 4 {
			out[4*j+i] = t.vec(c)
			c.VSHUFF32X4(operand.Imm([]uint64{0x88, 0xdd}[j%2]), half[j/2*2+1], half[j/2*2], out[4*j+i])
		}
	}
	return out
}

func (t *transposer) store(v []reg.VecVirtual, last bool) {
	c := t.c
	for i, column := range v {
		c.VMOVUPS(column, operand.Mem{Base: t.dst})
		c.ADDQ(t.width, t.dst)
		if last && i+1 < len(v) {
			c.CMPQ(t.k, operand.Imm(uint64(i+1)))
			c.JE(operand.LabelRef("done"))
		}
	}
}
