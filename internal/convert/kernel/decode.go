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
	var table [16]uint16
	last := -1
	for i := 0; i < len(src); i += fp4Group / 2 {
		if e := int(exponents[i/(fp4Group/2)]); e != last {
			last = e
			scale := tensor.FromF8E8M0(uint8(e))
			for c, v := range fp4 {
				table[c] = tensor.ToBF16(v * scale)
			}
		}
		end := min(i+fp4Group/2, len(src))
		for j, c := range src[i:end] {
			at := dst[4*(i+j):]
			binary.LittleEndian.PutUint16(at, table[c&15])
			binary.LittleEndian.PutUint16(at[2:], table[c>>4])
		}
	}
}

// Expansion maps the 16 codes of E2M1 to E4M3 codes under a shift.
type Expansion [16]byte

// Fill makes the table for values that are multiplied by 2^shift, and reports
// whether every product is an E4M3 value.
func (x *Expansion) Fill(shift int) bool {
	exact := true
	for c, v := range fp4 {
		w := float32(math.Ldexp(float64(v), shift))
		x[c] = tensor.ToF8E4M3(w)
		exact = exact && tensor.FromF8E4M3(x[c]) == w
	}
	return exact
}

// Expand maps a row of packed E2M1 codes to E4M3 codes, 32 columns by each table.
func Expand(dst, src []byte, tables []*Expansion) {
	if len(dst) != 2*len(src) || len(tables)*fp4Group < len(dst) {
		panic("kernel: Expand: lengths disagree")
	}
	for i, c := range src {
		t := tables[i/(fp4Group/2)]
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
