package convert

import (
	"context"
	"fmt"
	"math"

	"tarbert/internal/tensor"
)

// measured is what a check of one pair found.
type measured struct {
	deviation
	codes [256]int64
}

// with adds one element and reports whether it lies within its bound.
func (m *measured) with(source, decoded, bound float64) bool {
	d := math.Abs(source - decoded)
	m.Max, m.Bound = math.Max(m.Max, d), math.Max(m.Bound, bound)
	// The conversions keep compilers from fusing: the report is the same on every processor.
	m.Signal += float64(source * source)
	m.Noise += float64(d * d)
	return d <= bound
}

// bounds: every element decodes to within what its format's rounding can cost.
func (c *checker) bounds(ctx context.Context) error {
	found := make([]*measured, len(c.pairs))
	err := inOrder(ctx, len(c.pairs), c.options.Workers, func(i int) error {
		m := &measured{}
		if err := c.bound(ctx, c.pairs[i], m); err != nil {
			return err
		}
		found[i] = m
		return nil
	})
	var codes [256]int64
	for i, m := range found {
		if m == nil {
			continue
		}
		p := c.pairs[i]
		c.report.Elements += p.from.elements()
		sqnr := decibels(m.Signal, m.Noise)
		c.report.Measured = append(c.report.Measured, CheckedTensor{Name: p.from.stored.Name, From: p.from.spelling(), To: p.to.DType.String(),
			SQNR: sqnr, MaxAbsError: m.Max, Bound: m.Bound})
		if m.Noise > 0 && (c.report.WorstTensor == "" || sqnr < c.report.WorstSQNR) {
			c.report.WorstSQNR, c.report.WorstTensor = sqnr, p.from.stored.Name
		}
		for j, n := range m.codes {
			codes[j] += n
		}
	}
	if c.format.int8 {
		c.report.Codes = codes[:]
	}
	c.told()
	return err
}

// views reads both sides of a pair.
func (c *checker) views(p pair) (from, to *view) {
	from = sourceView(c.src, p.from)
	from.published = c.format.name != FP8 // FP8 of the same values: nothing is rounded on either side
	return from, c.targetView(p)
}

// targetView reads the destination's side.
func (c *checker) targetView(p pair) *view {
	v := &view{from: c.dst, info: p.to, enc: p.enc, block: c.dstModel.Quant.Block}
	if p.enc != plain {
		v.scale, _ = c.dst.Info(p.scale)
	}
	v.size(p.to.Shape)
	return v
}

// bound compares one pair, some rows at a time.
func (c *checker) bound(ctx context.Context, p pair, m *measured) error {
	if d := p.from.stored.DType; p.from.enc == plain && (d == tensor.I32 || d == tensor.I64) {
		return c.sameBytes(p)
	}
	from, to := c.views(p)
	block := &blockCheck{}
	for first := int64(0); first < from.rows && from.cols > 0; first += from.per() {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(from.per(), from.rows-first)
		w, err := from.read(first, n)
		if err != nil {
			return err
		}
		x, err := to.read(first, n)
		if err != nil {
			return violation("", p.to.Name, "%v", err)
		}
		for r := range n {
			row, got := w[r*from.cols:(r+1)*from.cols], x[r*from.cols:(r+1)*from.cols]
			switch {
			case p.enc == int8Column:
				err = c.int8Row(p, first+r, row, to.codes[r*from.cols:(r+1)*from.cols], to.factors[r], m)
			case p.enc == fp8Code && c.format.name != FP8:
				err = c.fp8Row(p, first+r, row, got, to, block, m)
			default:
				err = c.floatRow(p, first+r, row, got, m)
			}
			if err != nil {
				return err
			}
		}
		c.tell((p.from.bytes()+p.to.Size)*n/from.rows, p.from.stored.Name)
	}
	return nil
}

// sameBytes compares a tensor of integers.
func (c *checker) sameBytes(p pair) error {
	a, b := make([]byte, bandElements), make([]byte, bandElements)
	for off := int64(0); off < p.to.Size; off += bandElements {
		n := min(bandElements, p.to.Size-off)
		if err := c.src.ReadAt(p.from.stored.Name, a[:n], off); err != nil {
			return err
		}
		if err := c.dst.ReadAt(p.to.Name, b[:n], off); err != nil {
			return violation("", p.to.Name, "%v", err)
		}
		if string(a[:n]) != string(b[:n]) {
			return violation("", p.to.Name, "its integers differ from the source's within %d bytes from byte %d", n, off)
		}
	}
	return nil
}

// floatRow compares what stayed or became float: the same value, or the nearest
// bfloat16 where the source holds more. FP8 and FP4 sources are bfloat16 by
// definition, so that their bits are compared.
func (c *checker) floatRow(p pair, row int64, w, x []float64, m *measured) error {
	for i := range w {
		allowed := 0.0
		if p.to.DType == tensor.BF16 && !p.from.narrow() {
			allowed = bf16HalfStep(w[i])
		}
		if !m.with(w[i], x[i], allowed) {
			return violation("", p.to.Name, "%s: %v became %v; rounding explains %.3g of the difference of %.3g",
				element(p, row, i), w[i], x[i], allowed, math.Abs(w[i]-x[i]))
		}
	}
	return nil
}

// element says where in its tensor an element is.
func element(p pair, row int64, col int) string {
	if len(p.from.shape) == 2 {
		return fmt.Sprintf("row %d, column %d", row, col)
	}
	return fmt.Sprintf("element %d", row+int64(col))
}

// int8Row holds one output channel against the bound of design.md, and its scale
// against the largest magnitude: a scale that is too large wastes codes.
func (c *checker) int8Row(p pair, row int64, w, q []float64, scale float64, m *measured) error {
	wide := !p.from.narrow()
	var top, topCode float64
	for i := range w {
		top, topCode = math.Max(top, math.Abs(w[i])), math.Max(topCode, math.Abs(q[i]))
		m.codes[int(q[i])+128]++
		source := 0.0
		if wide && !c.exact {
			source = bf16HalfStep(w[i])
		}
		t := (math.Abs(w[i]) + source) / scale
		inner := 0.5 + t*0x1p-22
		if !c.exact {
			inner += bf16HalfStep(t)
		}
		if q[i] == 127 { // clipped: quotients reach 128 where the dialect divides by 127.5
			inner = math.Max(inner, math.Min(t-127, 1+0x1p-9))
		}
		if allowed := scale*inner + source; !m.with(w[i], q[i]*scale, allowed) {
			return violation("", p.to.Name, "row %d, column %d: %v became code %v × scale %v = %v; rounding explains %.3g of the difference of %.3g",
				row, i, w[i], q[i], scale, q[i]*scale, allowed, math.Abs(w[i]-q[i]*scale))
		}
	}
	floor := ascend.floor
	if c.format.name == W8A8Compressed {
		floor = 0
	}
	if scale > float64(floor) && top > 0 && topCode < 126 {
		return violation("", p.to.Name, "row %d: the largest code is %v of 127: scale %v is too large for magnitude %v", row, topCode, scale, top)
	}
	return nil
}

// blockCheck remembers, for one row of blocks, the largest magnitude and the
// largest decoded code of each block.
type blockCheck struct {
	row       int64
	top, code []float64
}

// fp8Row holds one row against half a step of E4M3, and each block against its
// scale: the largest magnitude takes a code in the upper half of the range.
func (c *checker) fp8Row(p pair, row int64, w, x []float64, to *view, b *blockCheck, m *measured) error {
	if across := int(blocks(to.cols, to.block[1])); row%to.block[0] == 0 {
		b.row, b.top, b.code = row/to.block[0], make([]float64, across), make([]float64, across)
	}
	for i := range w {
		scale := to.factor(row-to.first, int64(i))
		t := math.Abs(w[i]) / scale
		allowed := scale * (e4m3HalfStep(t) + t*0x1p-22)
		if !m.with(w[i], x[i], allowed) {
			return violation("", p.to.Name, "row %d, column %d: %v became %v with scale %v; rounding explains %.3g of the difference of %.3g",
				row, i, w[i], x[i], scale, allowed, math.Abs(w[i]-x[i]))
		}
		at := int64(i) / to.block[1]
		b.top[at], b.code[at] = math.Max(b.top[at], math.Abs(w[i])), math.Max(b.code[at], math.Abs(x[i])/scale)
	}
	if row != to.rows-1 && (row+1)%to.block[0] != 0 {
		return nil
	}
	for i := range b.top {
		if b.top[i] > 0 && b.code[i] < 224 {
			scale := to.factor(row-to.first, int64(i)*to.block[1])
			return violation("", p.to.Name, "block row %d, column %d: the largest code is %v of 448: scale %v is too large for magnitude %v", b.row, i, b.code[i], scale, b.top[i])
		}
	}
	return nil
}
