package kernel

import (
	"encoding/binary"
	"math"

	"tarbert/internal/tensor"
)

// Table holds the BF16 of every E4M3 code under one scale: low and high bytes for
// the 128 codes without a sign, which BF16 has in the same place.
type Table struct{ low, high [128]byte }

// Fill computes DeepSeek's published arithmetic for each code: the code's value
// times the scale in float32, rounded to bfloat16, ties to even. Both zeros keep
// their sign; NaN keeps it too. It reports whether every code that is a number gave
// a finite one.
func (t *Table) Fill(scale float32) bool {
	finite := true
	for code := range 128 {
		u := tensor.ToBF16(tensor.FromF8E4M3(uint8(code)) * scale)
		if code != 0x7f && u&0x7f80 == 0x7f80 {
			finite = false
		}
		t.low[code], t.high[code] = byte(u), byte(u>>8)
	}
	return finite
}

// FP8 decodes a row of E4M3 codes to BF16 bytes: columns block×i and up by
// tables[i]. It reports whether there was no NaN code. Scales may not be negative.
func FP8(dst, src []byte, tables []Table, block int) bool {
	n := len(src)
	if len(dst) != 2*n || block <= 0 || len(tables) < (n+block-1)/block {
		panic("kernel: FP8: lengths disagree")
	}
	ok := true
	for i := 0; i < n; i += block {
		end := min(i+block, n)
		ok = fastest.fp8(dst[2*i:2*end], src[i:end], &tables[i/block]) && ok
	}
	return ok
}

func fp8Go(dst, src []byte, t *Table) bool {
	ok := true
	dst = dst[:2*len(src)]
	for i, c := range src {
		ok = ok && c&0x7f != 0x7f
		dst[2*i], dst[2*i+1] = t.low[c&0x7f], t.high[c&0x7f]|c&0x80
	}
	return ok
}

// fp4 is E2M1: sign, two bits of exponent, one of mantissa. The negative zero is
// a plain zero, as in DeepSeek's published table.
var fp4 = [16]float32{0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6}

// FP4Value is the value of an E2M1 code, its lower four bits.
func FP4Value(code byte) float32 { return fp4[code&15] }

// fp4Group is how many columns share one scale.
const fp4Group = 32

// FP4 decodes a row of packed E2M1 codes, the even column in the lower half of a
// byte, to BF16 bytes; exponents holds one E8M0 scale for every 32 columns. No
// product is rounded: bfloat16 holds each.
func FP4(dst, src, exponents []byte) {
	if len(dst) != 4*len(src) || len(exponents)*fp4Group < 2*len(src) {
		panic("kernel: FP4: lengths disagree")
	}
	fastest.fp4(dst, src, exponents)
}

// fp4Table holds, for each E8M0 scale, the low and the high bytes of sixteen BF16 values.
type fp4Table [256][2][16]byte

var fp4Tables = makeFP4Tables()

func makeFP4Tables() *fp4Table {
	t := new(fp4Table)
	for e := range t {
		scale := tensor.FromF8E8M0(uint8(e))
		for c, v := range fp4 {
			u := tensor.ToBF16(v * scale)
			t[e][0][c], t[e][1][c] = byte(u), byte(u>>8)
		}
	}
	return t
}

func fp4Go(dst, src, exponents []byte) {
	for i, c := range src {
		t := &fp4Tables[exponents[i/(fp4Group/2)]]
		dst[4*i], dst[4*i+1], dst[4*i+2], dst[4*i+3] = t[0][c&15], t[1][c&15], t[0][c>>4], t[1][c>>4]
	}
}

// shiftBias is what is added to the shift of an expansion to make it a byte.
const shiftBias = 248

// Shift is how E2M1 becomes E4M3: each value is multiplied by a power of two.
type Shift byte

// NewShift multiplies by 2^n, with n from -248 to 7.
func NewShift(n int) Shift {
	if n < -shiftBias || n > 255-shiftBias {
		panic("kernel: NewShift: out of range")
	}
	return Shift(n + shiftBias)
}

// Exact reports whether all sixteen products are E4M3 values.
func (s Shift) Exact() bool { return expansions.exact[s] }

// Code is the E4M3 code of a product.
func (s Shift) Code(e2m1 byte) byte { return expansions.codes[s][e2m1&15] }

type expansionTable struct {
	codes [256][16]byte
	exact [256]bool
}

var expansions = makeExpansions()

func makeExpansions() *expansionTable {
	t := new(expansionTable)
	for s := range t.codes {
		t.exact[s] = true
		for c, v := range fp4 {
			w := math.Ldexp(float64(v), s-shiftBias)
			t.codes[s][c] = tensor.ToF8E4M3(float32(w))
			t.exact[s] = t.exact[s] && float64(tensor.FromF8E4M3(t.codes[s][c])) == w
		}
	}
	return t
}

// Expand maps a row of packed E2M1 codes to E4M3 codes, 32 columns by each shift.
func Expand(dst, src []byte, shifts []Shift) {
	if len(dst) != 2*len(src) || len(shifts)*fp4Group < len(dst) {
		panic("kernel: Expand: lengths disagree")
	}
	fastest.expand(dst, src, shifts)
}

func expandGo(dst, src []byte, shifts []Shift) {
	for i, c := range src {
		t := &expansions.codes[shifts[i/(fp4Group/2)]]
		dst[2*i], dst[2*i+1] = t[c&15], t[c>>4]
	}
}

// Widen decodes BF16 bytes.
func Widen(dst []float32, src []byte) {
	if len(src) != 2*len(dst) {
		panic("kernel: Widen: lengths disagree")
	}
	fastest.widen(dst, src)
}

func widenGo(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
	}
}

// Finite reports whether all BF16 values are.
func Finite(src []byte) bool { return fastest.finite(src) }

func finiteGo(src []byte) bool {
	for i := 0; i+1 < len(src); i += 2 {
		if src[i+1]&0x7f == 0x7f && src[i]&0x80 != 0 {
			return false
		}
	}
	return true
}
