package convert

import (
	"encoding/binary"
	"math"

	"tarbert/internal/convert/kernel"
	"tarbert/internal/tensor"
	"tarbert/internal/tensor/gguf"
)

// encodeGGUF returns the conversion of rows, one after another.
func encodeGGUF(kind gguf.Type) func(v *values) error {
	return func(v *values) error {
		width := kind.Bytes(v.cols)
		v.buf.out, v.buf.row = grow(v.buf.out, v.rows*width), grow(v.buf.row, v.cols)
		for r := range v.rows {
			if err := v.wideRow(r, v.buf.row); err != nil {
				return err
			}
			if err := v.encodeRow(kind, r, v.buf.row, v.buf.out[r*width:(r+1)*width]); err != nil {
				return err
			}
		}
		return v.write(0, v.first*width, v.buf.out)
	}
}

// splitGGUF returns the conversion of kv_b_proj: of each group of rows, which is
// one head, the first part transposed into slot 0, the rest into slot 1.
func splitGGUF(slots []ggufSlot, kinds []gguf.Type) func(v *values) error {
	k, w := slots[0], slots[1]
	return func(v *values) error {
		v.buf.row, v.buf.other = grow(v.buf.row, v.cols), grow(v.buf.other, k.take*v.cols)
		keys, row := kinds[0].Bytes(k.take), kinds[1].Bytes(v.cols)
		for top := int64(0); top < v.rows; top += k.group {
			head := (v.first + top) / k.group
			for r := range k.take {
				if err := v.wideRow(top+k.from+r, v.buf.row); err != nil {
					return err
				}
				for c, x := range v.buf.row {
					v.buf.other[int64(c)*k.take+r] = x
				}
			}
			v.buf.out = grow(v.buf.out, v.cols*keys)
			for c := range v.cols {
				if err := v.encodeRow(kinds[0], top, v.buf.other[c*k.take:(c+1)*k.take], v.buf.out[c*keys:(c+1)*keys]); err != nil {
					return err
				}
			}
			if err := v.write(0, head*v.cols*keys, v.buf.out); err != nil {
				return err
			}
			v.buf.out = grow(v.buf.out, w.take*row)
			for r := range w.take {
				if err := v.wideRow(top+w.from+r, v.buf.row); err != nil {
					return err
				}
				if err := v.encodeRow(kinds[1], top+w.from+r, v.buf.row, v.buf.out[r*row:(r+1)*row]); err != nil {
					return err
				}
			}
			if err := v.write(1, head*w.take*row, v.buf.out); err != nil {
				return err
			}
		}
		return nil
	}
}

// wideRow is row, but for FP8, whose products of code and scale it leaves in
// float32, as llama.cpp's converter does: only a BF16 output rounds them further.
func (v *values) wideRow(r int64, dst []float32) error {
	if err := v.row(r, dst); err != nil || v.weight.enc != fp8Code {
		return err
	}
	b := v.weight.block
	across := blocks(v.cols, b[1])
	top := ((v.first+r)/b[0] - v.first/b[0]) * across
	for c, code := range v.stored(r) {
		dst[c] = tensor.FromF8E4M3(code) * v.factors[top+int64(c)/b[1]]
	}
	return nil
}

// encodeRow encodes x and holds every element against its bound; r is the row of
// the band to name if one is outside.
func (v *values) encodeRow(kind gguf.Type, r int64, x []float32, out []byte) error {
	if err := gguf.Encode(out, x, kind); err != nil {
		return err
	}
	var l kernel.Loss
	i := hold(kind, x, out, v.weight.stored.DType == tensor.BF16, &l)
	if i >= 0 {
		return violation("bound", v.weight.stored.Name, "row %d: %v does not fit %v", v.first+r, x[i], kind)
	}
	v.loss.Add(l)
	return nil
}

// hold measures encoded elements and returns the index of the first outside its
// bound, or -1. narrow says that x is bfloat16's.
func hold(kind gguf.Type, x []float32, out []byte, narrow bool, l *kernel.Loss) int {
	switch kind {
	case gguf.Q8_0:
		return holdQ8(x, out, l)
	case gguf.F16, gguf.BF16:
	default:
		return -1 // F32 holds every value
	}
	g := *l
	for i, f := range x {
		bits := binary.LittleEndian.Uint16(out[2*i:])
		decoded, bound := tensor.FromF16(bits), halfULP16(f)
		if kind == gguf.BF16 {
			decoded, bound = tensor.FromBF16(bits), halfULPBF16(f)
			if narrow {
				bound = 0
			}
		}
		if !measure(&g, float64(f), float64(decoded), bound) {
			return i
		}
	}
	*l = g
	return -1
}

// measure adds one element and reports whether it lies within its bound. The
// comparisons are spelt out: max would look for NaN.
func measure(l *kernel.Loss, source, decoded, bound float64) bool {
	d := math.Abs(source - decoded)
	if d > l.Max {
		l.Max = d
	}
	if bound > l.Bound {
		l.Bound = bound
	}
	// The conversions keep compilers from fusing: the report is the same on every processor.
	l.Signal += float64(source * source)
	l.Noise += float64(d * d)
	return d <= bound
}

// halfULP16 is half the distance of half-precision values at x: 2^-11 of the
// power of two below |x|, 2^-25 among subnormals.
func halfULP16(x float32) float64 {
	b := max(math.Float32bits(x)&0x7f800000, 113<<23)
	return float64(math.Float32frombits(b)) * 0x1p-11
}

// halfULPBF16 is that of bfloat16: 2^-8, and 2^-134 among subnormals.
func halfULPBF16(x float32) float64 {
	b := max(math.Float32bits(x)&0x7f800000, 1<<23)
	return float64(math.Float32frombits(b)) * 0x1p-8
}

// holdQ8 holds blocks against the bound of gguf.md: half a step of the scale
// d = max|x|/127 by which the codes were made, and what its rounding to half
// precision costs each code.
func holdQ8(x []float32, out []byte, l *kernel.Loss) int {
	for b := 0; b < len(x); b += q8Block {
		if i := holdBlock((*[q8Block]float32)(x[b:]), (*[q8Bytes]byte)(out[b/q8Block*q8Bytes:]), l); i >= 0 {
			return b + i
		}
	}
	return -1
}

func holdBlock(x *[q8Block]float32, out *[q8Bytes]byte, l *kernel.Loss) int {
	var top uint32
	for _, f := range x { // magnitudes compare as their bits do
		if b := math.Float32bits(f) &^ (1 << 31); b > top {
			top = b
		}
	}
	largest := float64(math.Float32frombits(top))
	d := largest / 127
	stored := float64(tensor.FromF16(binary.LittleEndian.Uint16(out[:])))
	off := math.Abs(stored - d)
	if !(off <= halfULP16(float32(d))*(1+0x1p-10)) {
		return 0
	}
	base, each := float64(d*(0.5+0x1p-21)), float64(d*0x1p-21)+off // bound = base + |code| × each
	if stored == 0 {                                               // too small for half precision: the whole block becomes zero
		base, each = largest, 0
	}
	var signal, noise float64
	worst, most := l.Max, l.Bound
	for i, f := range x {
		source, code := float64(f), float64(int8(out[2+i]))
		e := math.Abs(source - float64(code*stored))
		bound := base + float64(math.Abs(code)*each)
		if !(e <= bound) {
			return i
		}
		if e > worst {
			worst = e
		}
		if bound > most {
			most = bound
		}
		signal += float64(source * source)
		noise += float64(e * e)
	}
	l.Max, l.Bound = worst, most
	l.Signal += signal
	l.Noise += noise
	return -1
}
