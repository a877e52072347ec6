package convert

import (
	"encoding/binary"
	"math"

	"tarbert/internal/convert/kernel"
	"tarbert/internal/tensor"
)

// copyBand passes a plain weight through as it is, once its numbers are known to be
// numbers.
func copyBand(v *values) error {
	switch d := v.weight.stored.DType; d {
	case tensor.I32, tensor.I64:
	case tensor.BF16:
		if !kernel.Finite(v.raw) {
			return v.notFinite(0, v.raw)
		}
	default:
		if err := v.chunks(func(int64, []float32) error { return nil }); err != nil {
			return err
		}
	}
	return v.write(0, v.first*v.cols*int64(v.weight.stored.DType.Bits())/8, v.raw)
}

// copyCodes passes FP8 or FP4 codes and their scales through, and decodes them
// only to make sure that they are numbers. Bands are whole blocks.
func copyCodes(v *values) error {
	v.buf.out = grow(v.buf.out, 2*v.cols)
	for r := range v.rows {
		if err := v.bf16Row(r, v.buf.out); err != nil {
			return err
		}
	}
	if err := v.write(0, v.first*int64(len(v.raw))/v.rows, v.raw); err != nil {
		return err
	}
	perRow := int64(len(v.scales)) / blocks(v.rows, v.weight.block[0])
	return v.write(1, v.first/v.weight.block[0]*perRow, v.scales)
}

// dequantise writes the bfloat16 that FP8 or FP4 stands for. Nothing is lost
// against the published arithmetic, so nothing is measured.
func dequantise(v *values) error {
	v.buf.out = grow(v.buf.out, 2*v.rows*v.cols)
	for r := range v.rows {
		if err := v.bf16Row(r, v.buf.out[2*r*v.cols:2*(r+1)*v.cols]); err != nil {
			return err
		}
	}
	return v.write(0, 2*v.first*v.cols, v.buf.out)
}

// castTo returns the rounding of F32 and F16 to BF16, or the widening of
// narrower types to F32.
func castTo(to tensor.DType) func(v *values) error {
	width := int64(to.Bits()) / 8
	return func(v *values) error {
		v.buf.out = grow(v.buf.out, width*v.rows*v.cols)
		err := v.chunks(func(first int64, x []float32) error {
			out := v.buf.out[first*width : (first+int64(len(x)))*width]
			if to != tensor.BF16 { // F32 holds every F16 and BF16 value: nothing to measure
				return tensor.Narrow(out, x, to)
			}
			kernel.Round(out, x)
			l := kernel.RoundLoss(x, out)
			if l.Bad {
				return v.outside(first, x, out)
			}
			v.loss.Add(l)
			return nil
		})
		if err != nil {
			return err
		}
		return v.write(0, v.first*v.cols*width, v.buf.out)
	}
}

// outside names the value that does not fit bfloat16.
func (v *values) outside(first int64, x []float32, out []byte) error {
	for i, f := range x {
		if kernel.RoundLoss(x[i:i+1], out[2*i:2*i+2]).Bad {
			return violation("bound", v.weight.stored.Name, "element %d: %v does not fit BF16", v.first*v.cols+first+int64(i), f)
		}
	}
	return violation("bound", v.weight.stored.Name, "an element from %d on does not fit BF16", first)
}

// int8Dialect is how a format derives scales and codes.
type int8Dialect struct {
	// top is what the largest magnitude of a channel is divided by.
	top float32
	// floor is the least scale of the compatible rounding; zeros get it where
	// onlyZero is set, everything below it otherwise.
	floor    float32
	onlyZero bool
	kind     tensor.DType // of compatible scales; exact ones are F32
	offsets  bool         // a column of zeros is written beside
}

// ascend is msmodelslim 26.1's, compressed is llm-compressor 0.14's, both for a
// bfloat16 model.
var (
	ascend     = int8Dialect{top: 127, floor: 0x1p-23, kind: tensor.F32, offsets: true}
	compressed = int8Dialect{top: 127.5, floor: 0x1p-7, onlyZero: true, kind: tensor.BF16}
)

// scaleKind is the type of the column of scales.
func (d int8Dialect) scaleKind(r Rounding) tensor.DType {
	if r == Exact {
		return tensor.F32
	}
	return d.kind
}

// scale derives a row's scale from its largest magnitude. In the compatible
// dialects it is rounded to bfloat16.
func (d int8Dialect) scale(largest float32, r Rounding) float32 {
	s := largest / d.top
	if r == Exact {
		if largest == 0 {
			return d.floor
		}
		return max(s, 0x1p-126)
	}
	s = tensor.FromBF16(tensor.ToBF16(s))
	if d.onlyZero {
		if s == 0 {
			s = d.floor
		}
		return s
	}
	return max(s, d.floor)
}

// encode writes codes, scales and offsets of the band's rows, and measures the
// rounding that was asked for, and what the other one would have cost.
func (d int8Dialect) encode(v *values) error {
	kind := d.scaleKind(v.rounding)
	width := int64(kind.Bits()) / 8
	v.buf.out = grow(v.buf.out, v.rows*v.cols)
	v.buf.row = grow(v.buf.row, v.cols)
	v.buf.codes = grow(v.buf.codes, v.cols)
	scales := make([]byte, width*v.rows)
	second := Exact
	if v.rounding == Exact {
		second = Compatible
	}
	for r := range v.rows {
		if err := v.row(r, v.buf.row); err != nil {
			return err
		}
		codes := v.buf.out[r*v.cols : (r+1)*v.cols]
		scale, err := d.row(v, r, codes, v.rounding)
		if err != nil {
			return err
		}
		if err := d.measure(v, r, codes, scale); err != nil {
			return err
		}
		if err := tensor.Narrow(scales[r*width:(r+1)*width], []float32{scale}, kind); err != nil {
			return err
		}
		if scale, err = d.row(v, r, v.buf.codes, second); err != nil {
			return err
		}
		v.loss.Other += kernel.Int8Noise(v.buf.row, v.buf.codes, scale)
	}
	if err := v.write(0, v.first*v.cols, v.buf.out); err != nil {
		return err
	}
	// In the order of the slots: offset before scale, as their names sort.
	at := 1
	if d.offsets {
		if err := v.write(1, width*v.first, make([]byte, width*v.rows)); err != nil {
			return err
		}
		at = 2
	}
	return v.write(at, width*v.first, scales)
}

// row quantises v.buf.row, whose BF16 bytes are in v.buf.narrow where the weight's
// numbers are bfloat16's. The compatible rounding takes other numbers rounded to
// bfloat16.
func (d int8Dialect) row(v *values, r int64, codes []byte, rounding Rounding) (float32, error) {
	x := v.buf.row
	narrow, wide := rounding == Compatible, !v.weight.narrow()
	from16 := narrow || !wide
	if narrow && wide {
		v.buf.narrow = grow(v.buf.narrow, 2*v.cols)
		kernel.Round(v.buf.narrow, x)
	}
	var largest float32
	if from16 {
		largest = kernel.MaxAbs16(v.buf.narrow)
	} else {
		largest = kernel.MaxAbs(x)
	}
	if !(largest <= math.MaxFloat32) {
		return 0, v.tooLarge(r, x)
	}
	scale := d.scale(largest, rounding)
	if from16 {
		kernel.Int8From16(codes, v.buf.narrow, scale, narrow)
	} else {
		kernel.Int8(codes, x, scale, narrow)
	}
	return scale, nil
}

// measure holds the codes that are written against v.buf.row, as stored.
func (d int8Dialect) measure(v *values, r int64, codes []byte, scale float32) error {
	x := v.buf.row
	narrow, wide := v.rounding == Compatible, !v.weight.narrow()
	loss := kernel.Int8Loss(x, codes, scale, narrow, wide)
	if loss.Bad {
		for i := range codes {
			if kernel.Int8Loss(x[i:i+1], codes[i:i+1], scale, narrow, wide).Bad {
				return violation("bound", v.weight.stored.Name, "row %d, column %d: %v is not within half a step of scale %v", v.first+r, i, x[i], scale)
			}
		}
	}
	v.loss.Add(loss)
	return nil
}

// tooLarge names the number of a row that bfloat16 does not hold.
func (v *values) tooLarge(r int64, x []float32) error {
	var b [2]byte
	for i, f := range x {
		if kernel.Round(b[:], x[i:i+1]); !kernel.Finite(b[:]) {
			return violation("bound", v.weight.stored.Name, "row %d, column %d: %v does not fit BF16", v.first+r, i, f)
		}
	}
	return violation("bound", v.weight.stored.Name, "row %d: its largest magnitude does not fit BF16", v.first+r)
}

// encodeFP8 returns the rounding to E4M3 in blocks. Bands are whole rows of blocks.
func encodeFP8(block [2]int64) func(v *values) error {
	return func(v *values) error {
		across := blocks(v.cols, block[1])
		down := blocks(v.rows, block[0])
		v.buf.out = grow(v.buf.out, v.rows*v.cols)
		v.buf.row = grow(v.buf.row, v.cols)
		v.buf.factors = grow(v.buf.factors, across) // an FP8 source is never encoded to FP8
		scales := make([]byte, 0, 4*across*down)
		for top := int64(0); top < v.rows; top += block[0] {
			if err := v.blockScales(top, block); err != nil {
				return err
			}
			for i, f := range v.buf.factors {
				v.buf.factors[i] = fp8Scale(f, v.scaleKind)
			}
			if err := v.encodeBlocks(top, block); err != nil {
				return err
			}
			scales = appendScales(scales, v.buf.factors, v.scaleKind)
		}
		if err := v.write(0, v.first*v.cols, v.buf.out); err != nil {
			return err
		}
		width := int64(len(scales)) / (across * down)
		return v.write(1, v.first/block[0]*across*width, scales)
	}
}

// blockScales leaves the largest magnitude of each block in v.buf.factors.
func (v *values) blockScales(top int64, block [2]int64) error {
	clear(v.buf.factors)
	for r := top; r < min(top+block[0], v.rows); r++ {
		if err := v.row(r, v.buf.row); err != nil {
			return err
		}
		for i := range v.buf.factors {
			from := int64(i) * block[1]
			v.buf.factors[i] = max(v.buf.factors[i], kernel.MaxAbs(v.buf.row[from:min(from+block[1], v.cols)]))
		}
	}
	return nil
}

func (v *values) encodeBlocks(top int64, block [2]int64) error {
	for r := top; r < min(top+block[0], v.rows); r++ {
		if err := v.row(r, v.buf.row); err != nil {
			return err
		}
		codes := v.buf.out[r*v.cols : (r+1)*v.cols]
		for i, f := range v.buf.factors {
			from := int64(i) * block[1]
			to := min(from+block[1], v.cols)
			kernel.E4M3(codes[from:to], v.buf.row[from:to], f)
			loss := kernel.E4M3Loss(v.buf.row[from:to], codes[from:to], f)
			if loss.Bad {
				return violation("bound", v.weight.stored.Name, "row %d, columns %d to %d: an element is not within half a step of scale %v", v.first+r, from, to, f)
			}
			v.loss.Add(loss)
		}
	}
	return nil
}

// fp8Scale is the scale of a block whose largest magnitude is given: that over
// 448, in float32, or the next power of two above. A block of zeros gets one.
func fp8Scale(largest float32, kind Scales) float32 {
	s := largest / 448
	if s == 0 {
		return 1
	}
	if kind == ScalesE8M0 {
		b := math.Float32bits(max(s, 0x1p-126))
		return math.Float32frombits((b + 0x7fffff) &^ 0x7fffff)
	}
	return s
}

// appendScales writes factors in the type asked for. E8M0 holds powers of two.
func appendScales(b []byte, factors []float32, kind Scales) []byte {
	for _, f := range factors {
		if kind == ScalesE8M0 {
			b = append(b, tensor.ToF8E8M0(f))
		} else {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(f))
		}
	}
	return b
}
