package convert

import (
	"math"

	"tarbert/internal/convert/kernel"
	"tarbert/internal/tensor"
)

const (
	// headroom is how far the largest FP4 scale of a tile may be raised: 6 × 2^6 is
	// 384, and E4M3 ends at 448.
	headroom = 6
	// mostSpread is the largest log2 of a tile's scales' ratio at which every FP4
	// code fits: ½ × 2^(6-14) is 2^-9, E4M3's smallest.
	mostSpread = 14
)

// expander turns FP4 with a scale for 32 columns into FP8 with a scale for a
// tile, as DeepSeek's own conversion does, and proves for each tile that not one
// number changes.
type expander struct{ tile [2]int64 }

// expandFP4 returns the expansion into tiles. Bands are whole rows of tiles.
func expandFP4(tile [2]int64) func(v *values) error {
	return func(v *values) error {
		x := expander{tile: tile}
		across := blocks(v.cols, tile[1])
		v.buf.out = grow(v.buf.out, v.rows*v.cols)
		scales := make([]byte, 0, 4*across*blocks(v.rows, tile[0]))
		v.buf.factors = grow(v.buf.factors, across)
		for top := int64(0); top < v.rows; top += tile[0] {
			exponents, err := x.row(v, top, across)
			if err != nil {
				return err
			}
			for i, e := range exponents {
				v.buf.factors[i] = tensor.FromF8E8M0(e)
			}
			scales = appendScales(scales, v.buf.factors, v.scaleKind)
		}
		if err := v.write(0, v.first*v.cols, v.buf.out); err != nil {
			return err
		}
		width := int64(len(scales)) / (across * blocks(v.rows, tile[0]))
		return v.write(1, v.first/tile[0]*across*width, scales)
	}
}

// row expands one row of tiles and returns their exponents.
func (x expander) row(v *values, top, across int64) ([]byte, error) {
	groups := blocks(v.cols, fp4Group)
	per := x.tile[1] / fp4Group // groups in a tile's row
	bottom := min(top+x.tile[0], v.rows)
	exponents := make([]byte, across)
	for i := range across {
		low, high := byte(255), byte(0)
		for r := top; r < bottom; r++ {
			for g := i * per; g < min((i+1)*per, groups); g++ {
				e := v.scales[r*groups+g]
				low, high = min(low, e), max(high, e)
			}
		}
		exponents[i] = max(high, headroom) - headroom
		v.loss.tile(int(high) - int(low))
	}
	v.buf.shifts = grow(v.buf.shifts, groups)
	for r := top; r < bottom; r++ {
		for g := range groups {
			e := v.scales[r*groups+g]
			shift := kernel.NewShift(int(e) - int(exponents[g/per]))
			if !shift.Exact() {
				if err := x.unused(v, r, g, shift); err != nil {
					return nil, err
				}
			}
			v.buf.shifts[g] = shift
		}
		kernel.Expand(v.buf.out[r*v.cols:(r+1)*v.cols], v.stored(r), v.buf.shifts)
	}
	return exponents, nil
}

// unused makes sure that no code occurs that the shift would change.
func (x expander) unused(v *values, r, group int64, shift kernel.Shift) error {
	row := v.stored(r)
	groups := blocks(v.cols, fp4Group)
	e := v.scales[r*groups+group]
	for i := group * fp4Group; i < min((group+1)*fp4Group, v.cols); i++ {
		code := row[i/2] >> (4 * (i % 2)) & 15
		value := float64(kernel.FP4Value(code))
		tile := group / (x.tile[1] / fp4Group)
		top := v.tileTop(r, tile, x.tile)
		if kept := float64(tensor.FromF8E4M3(shift.Code(code))); kept != math.Ldexp(value, int(e)-int(top)+headroom) {
			return violation("lossless", v.weight.stored.Name,
				"tile %d, %d: row %d, column %d is %v × 2^%d, but the tile's largest scale is 2^%d, and E4M3 holds scales at most 2^%d apart: convert to %s instead",
				(v.first+r)/x.tile[0], tile, v.first+r, i, value, int(e)-127, int(top)-127, mostSpread, BF16)
		}
	}
	return nil
}

// tileTop is the largest exponent of the tile that row r of the band lies in.
func (v *values) tileTop(r, tile int64, size [2]int64) byte {
	groups := blocks(v.cols, fp4Group)
	per := size[1] / fp4Group
	top := byte(headroom)
	first := r / size[0] * size[0]
	for i := first; i < min(first+size[0], v.rows); i++ {
		for g := tile * per; g < min((tile+1)*per, groups); g++ {
			top = max(top, v.scales[i*groups+g])
		}
	}
	return top
}
