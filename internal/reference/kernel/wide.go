package kernel

import (
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync/atomic"
)

// Form is how the numbers of a Narrow matrix are stored.
type Form uint8

// The forms. The one-byte forms have scales: a number is its code times its
// scale, rounded once to float32.
const (
	BF16 Form = iota + 1 // bfloat16
	F16                  // IEEE half precision
	E4M3                 // 8-bit float without infinity (OCP FP8), with a scale per block
	Int8                 // with a scale per row of W, which is a column of the product
)

// Bytes is the size of a stored number.
func (f Form) Bytes() int {
	if f == BF16 || f == F16 {
		return 2
	}
	return 1
}

// fromF16 widens exactly.
func fromF16(u uint16) float32 {
	sign, exp, m := uint32(u&0x8000)<<16, uint32(u>>10&0x1f), uint32(u&0x3ff)
	switch {
	case exp == 0x1f:
		return math.Float32frombits(sign | 0x7f800000 | m<<13)
	case exp > 0:
		return math.Float32frombits(sign | (exp+112)<<23 | m<<13)
	}
	return math.Float32frombits(sign | math.Float32bits(float32(m)*0x1p-24))
}

// fromE4M3 widens exactly.
func fromE4M3(u uint8) float32 {
	sign, exp, m := uint32(u&0x80)<<24, uint32(u>>3&0xf), uint32(u&7)
	switch {
	case u&0x7f == 0x7f:
		return float32(math.NaN())
	case exp > 0:
		return math.Float32frombits(sign | (exp+120)<<23 | m<<20)
	}
	return math.Float32frombits(sign | math.Float32bits(float32(m)*0x1p-9))
}

// Narrow is a right-hand side kept in the width that its weights are stored
// in, in Packed's layout: panels of 32 columns, each K rows of 32 numbers.
// Products widen it piece by piece. Widening is exact, or rounds once where a
// scale is multiplied, so a product has the bits that the widened matrix gives.
//
// It is filled by SetRows and must not change under a product.
type Narrow struct {
	form       Form
	rows, cols int // K and the number of outputs
	data       []byte
	scales     []float32   // Int8: per output; E4M3: [blocks of outputs, blocks of K]
	block      [2]int      // E4M3: outputs and k in a block
	across     int         // E4M3: blocks along K
	round      bool        // round widened numbers to bfloat16
	nan        atomic.Bool // E4M3: there are NaN codes, which the fast path cannot widen
}

// NewNarrow returns a matrix of k rows and n columns to be filled with W's
// rows, which are [n, k] as Hugging Face stores them. Form is BF16 or F16.
func NewNarrow(form Form, n, k int) *Narrow {
	if form.Bytes() != 2 {
		panic("kernel: a one-byte form needs scales")
	}
	return newNarrow(form, n, k)
}

// NewNarrowInt8 is NewNarrow for int8 codes with one scale per row of W.
func NewNarrowInt8(n, k int, scales []float32) *Narrow {
	b := newNarrow(Int8, n, k)
	if len(scales) != n {
		panic(fmt.Sprintf("kernel: %d scales for %d rows", len(scales), n))
	}
	b.scales = slices.Clone(scales)
	return b
}

// NewNarrowE4M3 is NewNarrow for E4M3 codes with one scale per block of
// block[0] rows and block[1] columns of W, in rows of blocks.
func NewNarrowE4M3(n, k int, scales []float32, block [2]int) *Narrow {
	b := newNarrow(E4M3, n, k)
	if block[0] < 1 || block[1] < 1 {
		panic(fmt.Sprintf("kernel: blocks of %d×%d", block[0], block[1]))
	}
	b.block, b.across = block, (k+block[1]-1)/block[1]
	if want := (n + block[0] - 1) / block[0] * b.across; len(scales) != want {
		panic(fmt.Sprintf("kernel: %d scales for %d blocks", len(scales), want))
	}
	b.scales = slices.Clone(scales)
	return b
}

func newNarrow(form Form, n, k int) *Narrow {
	if n < 0 || k < 0 {
		panic(fmt.Sprintf("kernel: a matrix of %d×%d", n, k))
	}
	b := &Narrow{form: form, rows: k, cols: n}
	b.reserve(packedSize(k, n) * form.Bytes())
	return b
}

// RoundBF16 lets every widened number be rounded to bfloat16, scale included.
func (b *Narrow) RoundBF16() { b.round = b.form != BF16 }

// Rows is the product's K.
func (b *Narrow) Rows() int { return b.rows }

// Cols is the number of columns of the product.
func (b *Narrow) Cols() int { return b.cols }

// Form is how the numbers are stored.
func (b *Narrow) Form() Form { return b.form }

// SetRows stores rows of W from row from on, as they lie in a file: little
// endian, one row of K numbers after another. Calls for different rows may run
// at the same time.
func (b *Narrow) SetRows(from int, raw []byte) {
	width := b.rows * b.form.Bytes()
	if width == 0 {
		return
	}
	n := len(raw) / width
	if len(raw)%width != 0 || from < 0 || from+n > b.cols {
		panic(fmt.Sprintf("kernel: %d bytes for rows of %d from row %d of %d", len(raw), width, from, b.cols))
	}
	if b.form == E4M3 && hasNaN(raw) {
		b.nan.Store(true)
	}
	for n > 0 {
		part := min(n, panelCols-from%panelCols)
		at := (from/panelCols*b.rows*panelCols + from%panelCols) * b.form.Bytes()
		if b.form.Bytes() == 2 {
			interleave2(b.data[at:], raw, part, b.rows)
		} else {
			interleave1(b.data[at:], raw, part, b.rows)
		}
		raw, from, n = raw[part*width:], from+part, n-part
	}
	runtime.KeepAlive(b)
}

// hasNaN says whether a row of raw codes holds a NaN.
func hasNaN(raw []byte) bool {
	for _, c := range raw {
		if c&0x7f == 0x7f {
			return true
		}
	}
	return false
}

// interleave2 sets number k·32+i of dst to number i·ks+k of src, two bytes
// each, for n values of i.
func interleave2(dst, src []byte, n, ks int) {
	const step = 16 // k at a time: what is read and written stays in the first cache
	for k0 := 0; k0 < ks; k0 += step {
		k1 := min(k0+step, ks)
		for i := range n {
			row := src[(i*ks+k0)*2:][:(k1-k0)*2]
			out := dst[(k0*panelCols+i)*2:]
			for k := 0; k < len(row); k += 2 {
				binary.LittleEndian.PutUint16(out[k*panelCols:], binary.LittleEndian.Uint16(row[k:]))
			}
		}
	}
}

func interleave1(dst, src []byte, n, ks int) {
	const step = 32
	for k0 := 0; k0 < ks; k0 += step {
		k1 := min(k0+step, ks)
		for i := range n {
			out := dst[k0*panelCols+i:]
			for k, c := range src[i*ks+k0 : i*ks+k1] {
				out[k*panelCols] = c
			}
		}
	}
}

// Row writes row j of W, which is column j of the product, widened.
func (b *Narrow) Row(dst []float32, j int) {
	if j < 0 || j >= b.cols || len(dst) != b.rows {
		panic(fmt.Sprintf("kernel: row %d of %d into %d numbers", j, b.cols, len(dst)))
	}
	size := b.form.Bytes()
	at := (j/panelCols*b.rows*panelCols + j%panelCols) * size
	if b.form == BF16 { // the common one, without a call for each number
		for k := range dst {
			dst[k] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(b.data[at+k*panelCols*2:])) << 16)
		}
	} else {
		for k := range dst {
			dst[k] = b.number(b.data[at+k*panelCols*size:], j, k)
		}
	}
	if b.round {
		RoundBF16(dst)
	}
	runtime.KeepAlive(b)
}

// number widens one number: row j of W, column k.
func (b *Narrow) number(at []byte, j, k int) float32 {
	switch b.form {
	case BF16:
		return math.Float32frombits(uint32(binary.LittleEndian.Uint16(at)) << 16)
	case F16:
		return fromF16(binary.LittleEndian.Uint16(at))
	case E4M3:
		return fromE4M3(at[0]) * b.scale(j, k)
	}
	return float32(int8(at[0])) * b.scales[j]
}
