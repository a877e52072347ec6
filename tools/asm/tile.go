package main

import (
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// A tile function computes blocks × rows rows of C, in columns that fit the
// registers, with one accumulator per element: the chain over k is never split.
const tileSignature = "func(a *float32, ars, aks, abs int, b *float32, bks, bps int, " +
	"c *float32, ldc, k, blocks, cols int, load bool, next *float32, step int)"

// tiles emits, per instruction set, a tile for every number of rows, and wider
// ones for few rows: with one row, eight accumulators hide the latency of FMA
// only when they lie side by side.
func tiles(c *build.Context) {
	masks := maskTable(c, "tileMasks")
	for rows := 1; rows <= 12; rows++ {
		tile{isa: avx512, rows: rows, vecs: 2}.emit(c, masks)
		tile{isa: avx512, rows: rows, vecs: 2, masked: true}.emit(c, masks)
	}
	for rows := 1; rows <= 3; rows++ {
		tile{isa: avx512, rows: rows, vecs: 4}.emit(c, masks)
	}
	tile{isa: avx512, rows: 1, vecs: 6}.emit(c, masks)
	tile{isa: avx512, rows: 1, vecs: 8}.emit(c, masks)
	for rows := 1; rows <= 6; rows++ {
		tile{isa: avx2, rows: rows, vecs: 2}.emit(c, masks)
		tile{isa: avx2, rows: rows, vecs: 2, masked: true}.emit(c, masks)
	}
	tile{isa: avx2, rows: 1, vecs: 4}.emit(c, masks)
	tile{isa: avx2, rows: 1, vecs: 8}.emit(c, masks)
	tile{isa: avx2, rows: 2, vecs: 4}.emit(c, masks)
	tile{isa: avx2, rows: 3, vecs: 4}.emit(c, masks)
}

// tile is one micro-kernel: rows × vecs vectors.
type tile struct {
	isa        isa
	rows, vecs int
	masked     bool // the last columns may be missing
}

func (t tile) name() string {
	n := label("tile%dx%d%s", t.rows, t.vecs*t.isa.lanes, t.isa.name)
	if t.masked {
		n += "Masked"
	}
	return n
}

// tileState holds the registers of a tile function.
type tileState struct {
	tile
	c *build.Context

	a           reg.GPVirtual     // A, moving with k
	ars         [12]reg.GPVirtual // odd multiples of the distance between rows
	aks, b, bks reg.GPVirtual
	bps, bps3   reg.GPVirtual
	cptr, tmp   reg.GPVirtual
	next        reg.GPVirtual // what will be read soon
	maskptr     reg.GPVirtual // AVX2: the mask's words
	k1, k2      reg.OpmaskVirtual
	acc         [][]reg.VecVirtual
}

func (t tile) emit(c *build.Context, masks operand.Mem) {
	function(c, t.name(), tileSignature, t.name()+" computes blocks×"+label("%d×%d", t.rows, t.vecs*t.isa.lanes)+" of C.")
	s := &tileState{tile: t, c: c}
	s.setup(masks)
	c.Label("block")
	c.Load(c.Param("a"), s.a)
	c.Load(c.Param("b"), s.b)
	s.start()
	s.prefetch()
	c.Load(c.Param("k"), s.tmp)
	c.INCQ(s.tmp)
	c.SHRQ(operand.Imm(1), s.tmp) // two steps a round; an odd k, no carry, enters at the second
	c.JCC(operand.LabelRef("odd"))
	align(c)
	c.Label("even")
	s.fetchNext()
	s.step()
	c.Label("odd")
	s.step()
	c.DECQ(s.tmp)
	c.JNZ(operand.LabelRef("even"))
	s.finish()
	c.Load(c.Param("abs"), s.tmp) // the next block's A; arguments serve as variables
	c.SHLQ(operand.Imm(2), s.tmp)
	c.ADDQ(s.tmp, address(c.Param("a")))
	c.DECQ(address(c.Param("blocks")))
	c.JNZ(operand.LabelRef("block"))
	c.VZEROUPPER()
	c.RET()
}

func (s *tileState) setup(masks operand.Mem) {
	c := s.c
	s.a = c.GP64()
	s.ars[1], s.aks = loadBytes(c, c.Param("ars")), loadBytes(c, c.Param("aks"))
	for i := 3; i < s.rows; i += 2 {
		s.ars[i] = c.GP64()
		c.LEAQ(operand.Mem{Base: s.ars[i-2], Index: s.ars[1], Scale: 2}, s.ars[i])
	}
	s.b, s.bks = c.GP64(), loadBytes(c, c.Param("bks"))
	if panels := s.vecs * s.isa.lanes / 32; panels > 1 {
		s.bps = loadBytes(c, c.Param("bps"))
		if panels > 3 {
			s.bps3 = c.GP64()
			c.LEAQ(operand.Mem{Base: s.bps, Index: s.bps, Scale: 2}, s.bps3)
		}
	}
	s.cptr, s.tmp = load(c, c.Param("c")), c.GP64()
	if s.rows >= 4 {
		s.next = load(c, c.Param("next"))
	}
	s.mask(masks)
	for range s.rows {
		row := make([]reg.VecVirtual, s.vecs)
		for v := range row {
			row[v] = s.isa.vec(c)
		}
		s.acc = append(s.acc, row)
	}
}

// mask prepares what lets the last columns be missing.
func (s *tileState) mask(masks operand.Mem) {
	c := s.c
	if !s.masked {
		return
	}
	cols := load(c, c.Param("cols"))
	if s.isa.wide() {
		ones := c.GP64()
		c.MOVQ(operand.I32(-1), ones)
		c.BZHIQ(cols, ones, ones)
		s.k1, s.k2 = c.K(), c.K()
		c.KMOVW(ones.As32(), s.k1)
		c.SHRQ(operand.Imm(16), ones)
		c.KMOVW(ones.As32(), s.k2)
		return
	}
	s.maskptr = c.GP64()
	c.LEAQ(masks.Offset(64), s.maskptr)
	c.NEGQ(cols)
	c.LEAQ(operand.Mem{Base: s.maskptr, Index: cols, Scale: 4}, s.maskptr)
}

// start sets the accumulators to zero or to C.
func (s *tileState) start() {
	c := s.c
	c.CMPB(address(c.Param("load")), operand.Imm(0))
	c.JNE(operand.LabelRef("fromC"))
	for _, row := range s.acc {
		for _, v := range row {
			s.isa.zero(c, v)
		}
	}
	c.JMP(operand.LabelRef("ready"))
	c.Label("fromC")
	c.MOVQ(s.cptr, s.tmp)
	ldc := loadBytes(c, c.Param("ldc"))
	for i, row := range s.acc {
		for v, acc := range row {
			s.read(operand.Mem{Base: s.tmp, Disp: v * s.isa.bytes()}, v, acc)
		}
		if i < s.rows-1 {
			c.ADDQ(ldc, s.tmp)
		}
	}
	c.Label("ready")
}

// finish writes the accumulators and moves on to the next block's rows.
func (s *tileState) finish() {
	ldc := loadBytes(s.c, s.c.Param("ldc"))
	for _, row := range s.acc {
		for v, acc := range row {
			s.write(acc, v, operand.Mem{Base: s.cptr, Disp: v * s.isa.bytes()})
		}
		s.c.ADDQ(ldc, s.cptr)
	}
}

// prefetch asks for the next block's rows of C, which lie too far apart for
// the hardware to guess. Past the last block it asks in vain.
func (s *tileState) prefetch() {
	if s.rows < 4 {
		return
	}
	c := s.c
	ldc := loadBytes(c, c.Param("ldc"))
	c.IMUL3Q(operand.Imm(uint64(s.rows)), ldc, s.tmp)
	c.ADDQ(s.cptr, s.tmp)
	for i := range s.rows {
		for b := 0; b < s.vecs*s.isa.bytes(); b += 64 {
			c.PREFETCHT0(operand.Mem{Base: s.tmp, Disp: b})
		}
		if i < s.rows-1 {
			c.ADDQ(ldc, s.tmp)
		}
	}
}

// fetchNext brings what is read after this panel of B into the second cache,
// a little at a time, so that a slower memory has all of this panel's time.
func (s *tileState) fetchNext() {
	if s.rows >= 4 {
		s.c.PREFETCHT1(operand.Mem{Base: s.next})
		s.c.ADDQ(address(s.c.Param("step")), s.next)
	}
}

// read loads vector v of a row of B or C.
func (s *tileState) read(from operand.Mem, v int, to reg.VecVirtual) {
	switch {
	case !s.masked:
		s.c.VMOVUPS(from, to)
	case s.isa.wide():
		s.c.VMOVUPS_Z(from, s.half(v), to)
	default:
		mask := s.c.YMM()
		s.c.VMOVUPS(operand.Mem{Base: s.maskptr, Disp: 32 * v}, mask)
		s.c.VMASKMOVPS(from, mask, to)
	}
}

func (s *tileState) write(from reg.VecVirtual, v int, to operand.Mem) {
	switch {
	case !s.masked:
		s.c.VMOVUPS(from, to)
	case s.isa.wide():
		s.c.VMOVUPS(from, s.half(v), to)
	default:
		mask := s.c.YMM()
		s.c.VMOVUPS(operand.Mem{Base: s.maskptr, Disp: 32 * v}, mask)
		s.c.VMASKMOVPS(from, mask, to)
	}
}

func (s *tileState) half(v int) reg.OpmaskVirtual {
	if v == 0 {
		return s.k1
	}
	return s.k2
}

// step is one k: acc[i][v] = fma(a[i], b[v], acc[i][v]).
func (s *tileState) step() {
	c := s.c
	defer c.ADDQ(s.bks, s.b)
	defer c.ADDQ(s.aks, s.a)
	if s.rows*s.vecs+s.vecs+1 > 16 && !s.isa.wide() || s.rows == 1 {
		s.stepByVector()
		return
	}
	b := make([]reg.VecVirtual, s.vecs)
	for v := range b {
		b[v] = s.isa.vec(c)
		s.read(s.bAt(v), v, b[v])
	}
	if s.rows >= 4 { // eight steps ahead, where B streams from the second cache
		for d := 0; d < s.vecs*s.isa.bytes(); d += 64 {
			c.PREFETCHT0(operand.Mem{Base: s.b, Index: s.bks, Scale: 8, Disp: d})
		}
	}
	for i, row := range s.acc {
		a := s.isa.vec(c)
		c.VBROADCASTSS(s.aAt(i), a)
		for v, acc := range row {
			c.VFMADD231PS(b[v], a, acc)
		}
	}
}

// stepByVector keeps A in registers instead of B.
func (s *tileState) stepByVector() {
	c := s.c
	a := make([]reg.VecVirtual, s.rows)
	for i := range a {
		a[i] = s.isa.vec(c)
		c.VBROADCASTSS(s.aAt(i), a[i])
	}
	for v := range s.vecs {
		if s.rows == 1 && !s.masked {
			c.VFMADD231PS(s.bAt(v), a[0], s.acc[0][v])
			continue
		}
		b := s.isa.vec(c)
		s.read(s.bAt(v), v, b)
		for i := range a {
			c.VFMADD231PS(b, a[i], s.acc[i][v])
		}
	}
}

// aAt is where row i's element of this k lies.
func (s *tileState) aAt(i int) operand.Mem { return rowAt(s.a, s.ars, i) }

// bAt is where vector v of B's row lies: a panel holds 32 columns.
func (s *tileState) bAt(v int) operand.Mem {
	perPanel := 32 / s.isa.lanes
	m := operand.Mem{Base: s.b, Disp: v % perPanel * s.isa.bytes()}
	switch panel := v / perPanel; panel {
	case 0:
	case 3:
		m.Index, m.Scale = s.bps3, 1
	default:
		m.Index, m.Scale = s.bps, uint8(panel)
	}
	return m
}
