package convert

import (
	"fmt"
	"math"

	"tarbert/internal/tensor"
)

// view reads the numbers of a tensor for Check, from either side, with the
// decoders of decode.go.
type view struct {
	from       elements
	info       tensor.Info
	enc        encoding // int8Column besides those of sources
	scale      tensor.Info
	block      [2]int64
	rows, cols int64
	// published says that a product is rounded as DeepSeek's published arithmetic
	// rounds it: to float32, then to bfloat16.
	published bool

	first, n  int64
	raw       []byte
	rawScales []byte
	codes     []float64 // as stored, but for FP8
	factors   []float64 // of the blocks that the rows cross
	tables    [][256]float64
	tablesFor int64 // which row of blocks, counted from 1
	x         []float64
}

// int8Column is int8 with one scale for each row.
const int8Column encoding = 100

// sourceView reads a weight of the source.
func sourceView(from elements, w *weight) *view {
	v := &view{from: from, info: *w.stored, enc: w.enc, block: w.block, published: true}
	if w.scale != nil {
		v.scale = *w.scale
	}
	v.size(w.shape)
	return v
}

// size makes rows and columns of a shape; what is no matrix is one column.
func (v *view) size(shape []int64) {
	if len(shape) == 2 {
		v.rows, v.cols = shape[0], shape[1]
		return
	}
	v.rows, v.cols = 1, 1
	for _, n := range shape {
		v.rows *= n
	}
}

// per is how many rows to read at a time.
func (v *view) per() int64 { return max(1, bandElements/4/max(v.cols, 1)) }

// read decodes rows first to first+n. The result is valid until the next call.
func (v *view) read(first, n int64) ([]float64, error) {
	v.first, v.n = first, n
	var err error
	switch v.enc {
	case fp4Code:
		err = v.readFP4()
	case fp8Code:
		return v.readFP8()
	default:
		v.raw, v.codes, err = window(v.from, v.info, first*v.cols, n*v.cols, v.raw, v.codes)
	}
	if err != nil || v.enc == plain {
		return v.codes, err
	}
	if err := v.readScales(); err != nil {
		return nil, err
	}
	v.x = grow(v.x, n*v.cols)
	for r := range n {
		for c := range v.cols {
			i := r*v.cols + c
			v.x[i] = v.codes[i] * v.factor(r, c) // int8 and FP4 products need no rounding
		}
	}
	return v.x, nil
}

// readFP8 looks codes up in a table for each block: 256 products stand for 16,384.
func (v *view) readFP8() ([]float64, error) {
	v.raw, v.x = grow(v.raw, v.n*v.cols), grow(v.x, v.n*v.cols)
	if err := v.from.ReadAt(v.info.Name, v.raw, v.first*v.cols); err != nil {
		return nil, err
	}
	if err := v.readScales(); err != nil {
		return nil, err
	}
	for r := range v.n {
		v.tabulate(r)
		for c := range v.cols {
			v.x[r*v.cols+c] = v.tables[c/v.block[1]][v.raw[r*v.cols+c]]
		}
	}
	return v.x, nil
}

// tabulate makes the tables of the row of blocks that row r lies in.
func (v *view) tabulate(r int64) {
	row := (v.first+r)/v.block[0] + 1
	if v.tablesFor == row {
		return
	}
	v.tablesFor = row
	v.tables = grow(v.tables, (v.cols+v.block[1]-1)/v.block[1])
	for i := range v.tables {
		f := v.factor(r, int64(i)*v.block[1])
		for code := range 256 {
			x := decodeE4M3([]byte{byte(code)}) * f
			if v.published {
				x = toBF16(x)
			}
			v.tables[i][code] = x
		}
	}
}

// readFP4 takes two codes out of each byte, the even column from the lower half.
func (v *view) readFP4() error {
	v.raw, v.codes = grow(v.raw, v.n*v.cols/2), grow(v.codes, v.n*v.cols)
	if err := v.from.ReadAt(v.info.Name, v.raw, v.first*v.cols/2); err != nil {
		return err
	}
	for i, b := range v.raw {
		v.codes[2*i], v.codes[2*i+1] = decodeE2M1(b%16), decodeE2M1(b/16)
	}
	return nil
}

// grid is the first row of blocks that the rows cross, how many rows there are,
// and how many blocks lie in one.
func (v *view) grid() (top, down, across int64) {
	switch v.enc {
	case int8Column:
		return v.first, v.n, 1
	case fp4Code:
		return v.first, v.n, (v.cols + fp4Group - 1) / fp4Group
	}
	top = v.first / v.block[0]
	return top, (v.first+v.n-1)/v.block[0] - top + 1, (v.cols + v.block[1] - 1) / v.block[1]
}

func (v *view) readScales() error {
	top, down, across := v.grid()
	var err error
	v.rawScales, v.factors, err = window(v.from, v.scale, top*across, down*across, v.rawScales, v.factors)
	return err
}

// factor is the scale of row r of those read, column c.
func (v *view) factor(r, c int64) float64 {
	top, _, across := v.grid()
	switch v.enc {
	case int8Column:
		return v.factors[r]
	case fp4Code:
		return v.factors[r*across+c/fp4Group]
	}
	return v.factors[((v.first+r)/v.block[0]-top)*across+c/v.block[1]]
}

// toBF16 rounds to float32 and then to bfloat16, both to nearest, ties to even, by
// arithmetic on the number itself.
func toBF16(x float64) float64 { return nearest(nearest(x, 24, -149), 8, -133) }

// nearest rounds to so many significant bits, but no finer than 2^least. It
// assumes that x is far from the largest exponents; infinities and NaN stay.
func nearest(x float64, digits, least int) float64 {
	if x == 0 || math.IsInf(x, 0) || math.IsNaN(x) {
		return x
	}
	_, e := math.Frexp(x) // |x| in [2^(e-1), 2^e)
	unit := math.Ldexp(1, max(e-digits, least))
	y := math.RoundToEven(x/unit) * unit
	if math.Abs(y) >= 0x1p128 {
		return math.Inf(int(math.Copysign(1, y)))
	}
	return y
}

func decodeE4M3(b []byte) float64 {
	sign, exponent, mantissa := int(b[0]/128), int(b[0]/8%16), int(b[0]%8)
	if exponent == 15 && mantissa == 7 {
		return math.NaN()
	}
	return assemble(sign, exponent, mantissa, 7, 3, 16)
}

func decodeE8M0(b []byte) float64 {
	if b[0] == 255 {
		return math.NaN()
	}
	return math.Pow(2, float64(int(b[0])-127))
}

// decodeE2M1 takes a negative zero for a plain one, as DeepSeek's table does.
func decodeE2M1(code byte) float64 {
	if code == 8 {
		return 0
	}
	return assemble(int(code/8), int(code/2%4), int(code%2), 1, 1, 4)
}

// window decodes n elements of a tensor from element first on.
func window(from elements, info tensor.Info, first, n int64, raw []byte, out []float64) ([]byte, []float64, error) {
	d, err := decoderOf(info.DType)
	if err != nil {
		return raw, out, fmt.Errorf("tensor %q: %w", info.Name, err)
	}
	raw, out = grow(raw, n*int64(d.width)), grow(out, n)
	if err := from.ReadAt(info.Name, raw, first*int64(d.width)); err != nil {
		return raw, out, err
	}
	for i := range out {
		out[i] = d.decode(raw[i*d.width:])
	}
	return raw, out, nil
}
