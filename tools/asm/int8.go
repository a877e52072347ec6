package main

import (
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// int8s emits the int8 product twice. With VNNI, four bytes of A, signed, meet
// four of B, offset by 128 to be unsigned; the accumulators start at the
// correction for the offset. With AVX2, two words meet two words.
func int8s(c *build.Context) {
	offset := data(c, "offset128", 0x80808080)
	masks := maskTable(c, "int8Masks")
	for rows := 1; rows <= 12; rows++ {
		int8Tile{isa: avx512, rows: rows}.emit(c, masks)
	}
	for rows := 1; rows <= 6; rows++ {
		int8Tile{isa: avx2, rows: rows}.emit(c, masks)
	}
	offsets(c, offset)
	widen(c)
}

// vpdpbusd is an instruction this version of avo lacks: the products of four
// unsigned bytes of u and four signed of s are added to each word of acc.
func vpdpbusd(c *build.Context, s, u operand.Op, acc reg.VecVirtual) {
	c.Instruction(&ir.Instruction{
		Opcode:   "VPDPBUSD",
		Operands: []operand.Op{s, u, acc},
		Inputs:   []operand.Op{s, u, acc},
		Outputs:  []operand.Op{acc},
		ISA:      []string{"AVX512_VNNI"},
	})
}

// int8Tile computes rows × two vectors of C. A step takes four bytes of each
// row of A and a row, 128 bytes, of B's panel.
type int8Tile struct {
	isa
	rows int
}

func (t int8Tile) emit(c *build.Context, masks operand.Mem) {
	name, element := label("int8Tile%dVNNI", t.rows), "int8"
	if !t.wide() {
		name, element = label("int8Tile%dAVX2", t.rows), "int16"
	}
	function(c, name, "func(a *"+element+", ars int, b *"+element+", c *int32, ldc, steps, blocks, cols int, start *int32)",
		name+label(" computes blocks×%d×%d of C; ars is in bytes.", t.rows, 2*t.lanes))
	abase, a, b, steps := load(c, c.Param("a")), c.GP64(), c.GP64(), c.GP64()
	var ars [12]reg.GPVirtual
	ars[1] = load(c, c.Param("ars"))
	for i := 3; i < t.rows; i += 2 {
		ars[i] = c.GP64()
		c.LEAQ(operand.Mem{Base: ars[i-2], Index: ars[1], Scale: 2}, ars[i])
	}
	cptr, ldc := load(c, c.Param("c")), loadBytes(c, c.Param("ldc"))
	blocks, start := load(c, c.Param("blocks")), load(c, c.Param("start"))
	acc := make([][2]reg.VecVirtual, t.rows)
	for i := range acc {
		acc[i] = [2]reg.VecVirtual{t.vec(c), t.vec(c)}
	}

	c.Label("block")
	c.MOVQ(abase, a)
	c.Load(c.Param("b"), b)
	for i, row := range acc {
		for _, v := range row {
			if t.wide() {
				c.VPBROADCASTD(operand.Mem{Base: start, Disp: 4 * i}, v)
			} else {
				c.VPXOR(v, v, v)
			}
		}
	}
	c.ADDQ(operand.Imm(uint64(4*t.rows)), start)
	c.Load(c.Param("steps"), steps)
	align(c)
	c.Label("step")
	t.step(c, a, b, ars, acc)
	c.ADDQ(operand.Imm(4), a)
	c.ADDQ(operand.Imm(128), b)
	c.DECQ(steps)
	c.JNZ(operand.LabelRef("step"))

	t.store(c, masks, steps, cptr, ldc, acc)
	c.IMUL3Q(operand.Imm(uint64(t.rows)), ars[1], steps)
	c.ADDQ(steps, abase)
	c.DECQ(blocks)
	c.JNZ(operand.LabelRef("block"))
	c.VZEROUPPER()
	c.RET()
}

func (t int8Tile) step(c *build.Context, a, b reg.GPVirtual, ars [12]reg.GPVirtual, acc [][2]reg.VecVirtual) {
	b0, b1 := t.vec(c), t.vec(c)
	c.VMOVUPS(operand.Mem{Base: b}, b0)
	c.VMOVUPS(operand.Mem{Base: b, Disp: t.bytes()}, b1)
	for i, row := range acc {
		v := t.vec(c)
		c.VPBROADCASTD(rowAt(a, ars, i), v)
		if t.wide() {
			vpdpbusd(c, v, b0, row[0])
			vpdpbusd(c, v, b1, row[1])
			continue
		}
		w := c.YMM()
		c.VPMADDWD(b0, v, w)
		c.VPADDD(w, row[0], row[0])
		c.VPMADDWD(b1, v, v)
		c.VPADDD(v, row[1], row[1])
	}
}

// store writes the tile, but for columns that are not there.
func (t int8Tile) store(c *build.Context, masks operand.Mem, tmp, cptr, ldc reg.GPVirtual, acc [][2]reg.VecVirtual) {
	var k [2]reg.OpmaskVirtual
	var m [2]reg.VecVirtual
	c.Load(c.Param("cols"), tmp)
	if t.wide() {
		ones := c.GP64()
		c.MOVQ(operand.I32(-1), ones)
		c.BZHIQ(tmp, ones, ones)
		k = [2]reg.OpmaskVirtual{c.K(), c.K()}
		c.KMOVW(ones.As32(), k[0])
		c.SHRQ(operand.Imm(16), ones)
		c.KMOVW(ones.As32(), k[1])
	} else {
		p := c.GP64()
		c.LEAQ(masks.Offset(64), p)
		c.NEGQ(tmp)
		m = [2]reg.VecVirtual{c.YMM(), c.YMM()}
		c.VMOVUPS(operand.Mem{Base: p, Index: tmp, Scale: 4}, m[0])
		c.VMOVUPS(operand.Mem{Base: p, Index: tmp, Scale: 4, Disp: 32}, m[1])
	}
	for _, row := range acc {
		for v, r := range row {
			to := operand.Mem{Base: cptr, Disp: v * t.bytes()}
			if t.wide() {
				c.VMOVUPS(r, k[v], to)
			} else {
				c.VMASKMOVPS(r, m[v], to)
			}
		}
		c.ADDQ(ldc, cptr)
	}
}

// rowAt is row i's place, given the odd multiples of the rows' distance.
func rowAt(base reg.GPVirtual, ars [12]reg.GPVirtual, i int) operand.Mem {
	m := operand.Mem{Base: base}
	if i == 0 {
		return m
	}
	odd, scale := i, 1 // i = odd · scale
	for odd%2 == 0 {
		odd, scale = odd/2, scale*2
	}
	m.Index, m.Scale = ars[odd], uint8(scale)
	return m
}

// offsets emits the correction for B's offset: -128 times the sum of each row.
func offsets(c *build.Context, offset operand.Mem) {
	function(c, "int8OffsetsVNNI", "func(dst *int32, a *int8, ars, k, rows int)",
		"int8OffsetsVNNI sets dst to -128 times the sums of rows of k.")
	dst, a, ars := load(c, c.Param("dst")), load(c, c.Param("a")), load(c, c.Param("ars"))
	rows, k, p, ones := load(c, c.Param("rows")), c.GP64(), c.GP64(), c.GP64()
	u, acc, v := c.ZMM(), c.ZMM(), c.ZMM()
	c.VMOVUPS(offset, u)
	c.Label("row")
	c.VPXORD(acc, acc, acc)
	c.MOVQ(a, p)
	c.Load(c.Param("k"), k)
	c.SUBQ(operand.Imm(64), k)
	c.JL(operand.LabelRef("rest"))
	c.Label("whole")
	vpdpbusd(c, operand.Mem{Base: p}, u, acc)
	c.ADDQ(operand.Imm(64), p)
	c.SUBQ(operand.Imm(64), k)
	c.JGE(operand.LabelRef("whole"))
	c.Label("rest")
	c.ADDQ(operand.Imm(64), k)
	c.JE(operand.LabelRef("fold"))
	mask := c.K()
	c.MOVQ(operand.I32(-1), ones)
	c.BZHIQ(k, ones, ones)
	c.KMOVQ(ones, mask)
	c.VMOVDQU8_Z(operand.Mem{Base: p}, mask, v)
	vpdpbusd(c, v, u, acc)
	c.Label("fold")
	y, x, z := c.YMM(), c.XMM(), c.XMM()
	c.VEXTRACTI64X4(operand.Imm(1), acc, y)
	c.VPADDD(acc.AsY(), y, y)
	c.VEXTRACTI128(operand.Imm(1), y, x)
	c.VPADDD(y.AsX(), x, x)
	c.VPSHUFD(operand.Imm(0x0e), x, z)
	c.VPADDD(z, x, x)
	c.VPSHUFD(operand.Imm(0x01), x, z)
	c.VPADDD(z, x, x)
	c.VMOVD(x, ones.As32())
	c.NEGL(ones.As32())
	c.MOVL(ones.As32(), operand.Mem{Base: dst})
	c.ADDQ(operand.Imm(4), dst)
	c.ADDQ(ars, a)
	c.DECQ(rows)
	c.JNZ(operand.LabelRef("row"))
	c.VZEROUPPER()
	c.RET()
}

// widen emits the extension of bytes to words, sixteen at a time.
func widen(c *build.Context) {
	function(c, "widenAVX2", "func(dst *int16, src *int8, groups int)", "widenAVX2 extends groups of sixteen bytes.")
	dst, src, n := load(c, c.Param("dst")), load(c, c.Param("src")), load(c, c.Param("groups"))
	v := c.YMM()
	c.Label("group")
	c.VPMOVSXBW(operand.Mem{Base: src}, v)
	c.VMOVUPS(v, operand.Mem{Base: dst})
	c.ADDQ(operand.Imm(16), src)
	c.ADDQ(operand.Imm(32), dst)
	c.DECQ(n)
	c.JNZ(operand.LabelRef("group"))
	c.VZEROUPPER()
	c.RET()
}
