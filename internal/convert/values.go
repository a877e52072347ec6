package convert

import (
	"fmt"
	"math"

	"tarbert/internal/convert/kernel"
	"tarbert/internal/tensor"
)

// values is a band on its way: some rows of one weight, as stored, with what it
// takes to decode them.
type values struct {
	weight            *weight
	first, rows, cols int64 // a weight that is no matrix has rows of one element
	raw               []byte
	buf               *buffer
	loss              *deviation
	rounding          Rounding
	scaleKind         Scales

	scales    []byte // of the band's blocks or rows, as stored
	factors   []float32
	tables    []kernel.Table // of one row of blocks
	tablesFor int64          // which row of blocks; -1 at first

	// write puts bytes into slot number out of the step, off bytes from its base.
	write func(out int, off int64, b []byte) error
}

// buffer is one worker's memory. Its parts are used by one band at a time.
type buffer struct {
	raw, out, scales []byte    // as read, as written, as read
	row, other       []float32 // rows decoded
	narrow, codes    []byte    // a row in BF16; a row of codes
	tables           []kernel.Table
	factors          []float32
	shifts           []kernel.Shift
}

func grow[T any](s []T, n int64) []T {
	if int64(cap(s)) < n {
		return make([]T, n)
	}
	return s[:n]
}

// bandMemory is how much of a buffer a band takes, in bytes: what is read and what
// is written, a few rows decoded, and the scales with the tables made of them.
func (s *step) bandMemory(k cut) int64 {
	w, n := s.weight, k.per*k.cols
	all := w.bytes() + s.bytes()
	memory := all/w.elements()*n + n // what the division leaves out
	memory += (4 + 4 + 2 + 1) * max(k.cols, flat)
	switch w.enc {
	case fp8Code:
		memory += blocks(k.cols, w.block[1]) * (512 + 8*(blocks(k.per, w.block[0])+1))
	case fp4Code:
		memory += k.per*blocks(k.cols, fp4Group)*2 + 8*blocks(k.cols, fp4Group)
	}
	return memory
}

// flat is how many elements of a weight that is no matrix are decoded at a time.
const flat = 4096

// source is what bands are read from.
type source interface {
	ReadAt(name string, p []byte, off int64) error
}

// read fills the band from the source.
func (v *values) read(from source) error {
	w := v.weight
	width, at := int64(w.stored.DType.Bits())/8*v.cols, v.first
	if w.enc == fp4Code {
		width = v.cols / 2
	}
	v.buf.raw = grow(v.buf.raw, v.rows*width)
	v.raw = v.buf.raw
	if err := from.ReadAt(w.stored.Name, v.raw, at*width); err != nil {
		return err
	}
	v.tablesFor = -1
	switch w.enc {
	case fp8Code:
		return v.readGrid(from)
	case fp4Code:
		groups := blocks(v.cols, fp4Group)
		v.buf.scales = grow(v.buf.scales, v.rows*groups)
		v.scales = v.buf.scales
		if err := from.ReadAt(w.scale.Name, v.scales, v.first*groups); err != nil {
			return err
		}
		return v.checkExponents(groups)
	}
	return nil
}

// readGrid reads the scales of the band's blocks and refuses what no scale can be.
func (v *values) readGrid(from source) error {
	w := v.weight
	across := blocks(v.cols, w.block[1])
	top, bottom := v.first/w.block[0], blocks(v.first+v.rows, w.block[0])
	n := (bottom - top) * across
	width := int64(w.scale.DType.Bits()) / 8
	v.buf.scales = grow(v.buf.scales, n*width)
	v.scales = v.buf.scales
	if err := from.ReadAt(w.scale.Name, v.scales, top*across*width); err != nil {
		return err
	}
	v.buf.factors = grow(v.buf.factors, n)
	v.factors = v.buf.factors
	if w.scale.DType == tensor.F8_E8M0 {
		for i, b := range v.scales {
			v.factors[i] = tensor.FromF8E8M0(b)
		}
	} else if err := tensor.Widen(v.factors, v.scales, w.scale.DType); err != nil {
		return fmt.Errorf("tensor %q: %w", w.scale.Name, err)
	}
	for i, f := range v.factors {
		if why := badScale(f, w.scale.DType, w.powers); why != "" {
			return violation("scale", w.scale.Name, "block row %d, column %d: %s", top+int64(i)/across, int64(i)%across, why)
		}
	}
	return nil
}

// mostScale is more than any scale of weights that can be trained.
const mostScale = 0x1p40

// isExponent reports whether a scale is an E8M0 exponent that was stored as a number:
// a whole one from 64 up, which would make weights of thousands.
func isExponent(f float64) bool { return f >= 64 && f < 255 && f == math.Trunc(f) }

// badScale says why a number cannot be the scale of a block; empty if it can.
func badScale(f float32, d tensor.DType, powers bool) string {
	mantissa, _ := math.Frexp(float64(f))
	switch {
	case f != f && d == tensor.F8_E8M0:
		return "the E8M0 byte is 0xFF, which is NaN"
	case !(f >= 0 && f <= mostScale):
		return fmt.Sprintf("scale %v is not between 0 and 2^40", f)
	case d == tensor.F8_E8M0:
		return ""
	case isExponent(float64(f)):
		return fmt.Sprintf("scale %v is an E8M0 exponent byte stored as a float: %v was meant", f, math.Ldexp(1, int(f)-127))
	case powers && f != 0 && mantissa != 0.5:
		return fmt.Sprintf(`scale %v is no power of two, but quantization_config says "scale_fmt": "ue8m0": remove that if the scales are meant so`, f)
	}
	return ""
}

func (v *values) checkExponents(groups int64) error {
	for i, b := range v.scales {
		if b == 0xff {
			return violation("scale", v.weight.scale.Name, "row %d, group %d: the E8M0 byte is 0xFF, which is NaN", v.first+int64(i)/groups, int64(i)%groups)
		}
		if tensor.FromF8E8M0(b) > mostScale {
			return violation("scale", v.weight.scale.Name, "row %d, group %d: scale 2^%d is more than 2^40", v.first+int64(i)/groups, int64(i)%groups, int(b)-127)
		}
	}
	return nil
}

// stored is row r of the band as it lies in the file.
func (v *values) stored(r int64) []byte {
	width := int64(len(v.raw)) / v.rows
	return v.raw[r*width : (r+1)*width]
}

// bf16Row decodes row r of the band into BF16 bytes. Only for weights whose
// numbers are bfloat16's.
func (v *values) bf16Row(r int64, dst []byte) error {
	switch v.weight.enc {
	case fp8Code:
		if err := v.tabulate(r); err != nil {
			return err
		}
		if !kernel.FP8(dst, v.stored(r), v.tables, int(v.weight.block[1])) {
			for i, c := range v.stored(r) {
				if c&0x7f == 0x7f {
					return violation("finite", v.weight.stored.Name, "row %d, column %d: the code %#02x is NaN", v.first+r, i, c)
				}
			}
		}
		return nil
	case fp4Code:
		groups := blocks(v.cols, fp4Group)
		kernel.FP4(dst, v.stored(r), v.scales[r*groups:(r+1)*groups])
		return nil
	}
	copy(dst, v.stored(r))
	if !kernel.Finite(dst) {
		return v.notFinite(r, dst)
	}
	return nil
}

func (v *values) notFinite(r int64, b []byte) error {
	for i := 0; i+1 < len(b); i += 2 {
		if x := tensor.FromBF16(uint16(b[i]) | uint16(b[i+1])<<8); x-x != 0 {
			return v.nonFinite(r, int64(i/2), x)
		}
	}
	return nil
}

func (v *values) nonFinite(r, col int64, x float32) error {
	return violation("finite", v.weight.stored.Name, "element %d of the source is %v", (v.first+r)*v.cols+col, x)
}

// tabulate makes the tables of the blocks that row r of the band crosses.
func (v *values) tabulate(r int64) error {
	w := v.weight
	top := v.first / w.block[0]
	at := (v.first+r)/w.block[0] - top
	if at == v.tablesFor {
		return nil
	}
	across := blocks(v.cols, w.block[1])
	v.buf.tables = grow(v.buf.tables, across)
	v.tables, v.tablesFor = v.buf.tables, at
	for i := range v.tables {
		f := v.factors[at*across+int64(i)]
		if !v.tables[i].Fill(f) {
			return violation("finite", w.scale.Name, "block row %d, column %d: with scale %v its codes are more than bfloat16 holds", top+at, i, f)
		}
		if f == 0 {
			if err := v.silent(at, int64(i)); err != nil {
				return err
			}
		}
	}
	return nil
}

// silent makes sure that a block whose scale is zero has no codes either.
func (v *values) silent(blockRow, blockCol int64) error {
	w := v.weight
	for r := range v.rows {
		if (v.first+r)/w.block[0]-v.first/w.block[0] != blockRow {
			continue
		}
		row := v.stored(r)
		for c := blockCol * w.block[1]; c < min((blockCol+1)*w.block[1], v.cols); c++ {
			if row[c]&0x7f != 0 {
				return violation("scale", w.scale.Name, "block row %d, column %d: the scale is zero, but the block has codes: its weights would be lost",
					(v.first+r)/w.block[0], blockCol)
			}
		}
	}
	return nil
}

// row decodes row r of the band to float32.
func (v *values) row(r int64, dst []float32) error {
	if v.weight.narrow() {
		v.buf.narrow = grow(v.buf.narrow, 2*v.cols)
		if err := v.bf16Row(r, v.buf.narrow); err != nil {
			return err
		}
		kernel.Widen(dst, v.buf.narrow)
		return nil
	}
	if err := tensor.Widen(dst, v.stored(r), v.weight.stored.DType); err != nil {
		return fmt.Errorf("tensor %q: %w", v.weight.stored.Name, err)
	}
	if i := kernel.FirstNonFinite(dst); i >= 0 {
		return v.nonFinite(r, int64(i), dst[i])
	}
	return nil
}

// chunks calls f for runs of elements of a plain weight, decoded to float32.
func (v *values) chunks(f func(first int64, x []float32) error) error {
	d := v.weight.stored.DType
	width := int64(d.Bits()) / 8
	n := v.rows * v.cols
	v.buf.row = grow(v.buf.row, flat)
	for first := int64(0); first < n; first += flat {
		x := v.buf.row[:min(flat, n-first)]
		if err := tensor.Widen(x, v.raw[first*width:first*width+int64(len(x))*width], d); err != nil {
			return fmt.Errorf("tensor %q: %w", v.weight.stored.Name, err)
		}
		if i := kernel.FirstNonFinite(x); i >= 0 {
			return violation("finite", v.weight.stored.Name, "element %d of the source is %v", v.first*v.cols+first+int64(i), x[i])
		}
		if err := f(first, x); err != nil {
			return err
		}
	}
	return nil
}
