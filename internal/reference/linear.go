package reference

import (
	"tarbert/internal/reference/kernel"
)

// linear is y = x·Wᵀ + bias, W [out, in] as Hugging Face stores it.
type linear struct {
	in, out int
	packed  *kernel.Packed // Wᵀ, in×out; or
	narrow  *kernel.Narrow // the same as stored; both nil with int8 products
	bias    vec
	bf16    bool // round the result to bf16

	fp8 *fp8Activations // fp8-block: how x is quantised; narrow is E4M3

	// w8a8: int8 weights with one scale per output.
	int8  *kernel.PackedInt8
	scale []float32

	// Training.
	weight vec            // [out, in]
	back   *kernel.Packed // W, out×in
}

// apply sets y [rows, out] from x [rows, in].
func (l *linear) apply(p *kernel.Pool, x, y kernel.Mat, s *scratch) {
	switch {
	case l.int8 != nil:
		l.applyInt8(p, x, y, s)
	case l.fp8 != nil:
		l.applyFP8(p, x, y, s)
	case l.narrow != nil:
		kernel.GemmNarrow(p, x, l.narrow, y, false)
	default:
		kernel.GemmPacked(p, x, l.packed, y, false)
	}
	for i := range y.Rows {
		row := y.Data[i*y.Stride:][:l.out]
		if l.bias.w != nil {
			kernel.Add(row, l.bias.w)
		}
		if l.bf16 {
			kernel.RoundBF16(row)
		}
	}
}

// applyInt8 quantises each row of x symmetrically by its own largest
// magnitude, multiplies in exact integers, and scales back: first by the
// weight's scale, then by the row's.
func (l *linear) applyInt8(p *kernel.Pool, x, y kernel.Mat, s *scratch) {
	q := fit(&s.int8, x.Rows*l.in)
	acc := fit(&s.int32, x.Rows*l.out)
	scales := fit(&s.scales, x.Rows)
	for i := range x.Rows {
		scales[i] = kernel.QuantizeRow(q[i*l.in:][:l.in], x.Data[i*x.Stride:][:l.in])
	}
	kernel.GemmInt8(p, q, x.Rows, l.in, l.int8, acc)
	for i := range y.Rows {
		row, sums := y.Data[i*y.Stride:][:l.out], acc[i*l.out:][:l.out]
		for j, a := range sums {
			row[j] = float32(a) * l.scale[j] * scales[i]
		}
	}
}

// fp8Activations says how a linear's input becomes E4M3.
type fp8Activations struct {
	group      int // numbers of a row that share a scale
	powerOfTwo bool
}

// applyFP8 quantises each group of each row of x by its own largest magnitude
// and multiplies block by block.
func (l *linear) applyFP8(p *kernel.Pool, x, y kernel.Mat, s *scratch) {
	groups := (l.in + l.fp8.group - 1) / l.fp8.group
	codes, scales := fit(&s.codes, x.Rows*l.in), fit(&s.scales, x.Rows*groups)
	for i := range x.Rows {
		kernel.QuantizeE4M3(codes[i*l.in:][:l.in], x.Data[i*x.Stride:][:l.in], scales[i*groups:][:groups], l.fp8.group, l.fp8.powerOfTwo)
	}
	kernel.GemmE4M3(p, kernel.Dense(codes, x.Rows, l.in), scales, l.narrow, y)
}

// repack follows a change of the weights in place.
func (l *linear) repack() {
	w := kernel.Dense(l.weight.w, l.out, l.in)
	if l.packed == nil {
		l.packed, l.back = kernel.Pack(w.Transpose()), kernel.Pack(w)
		return
	}
	l.packed.Repack(w.Transpose())
	l.back.Repack(w)
}

// scratch is one task's working memory. Nothing in it outlives the task.
type scratch struct {
	int8         []int8
	int32        []int32
	scales, ones []float32
	a, b         []float32
	scores, more []float32
	codes        []float32
}

// fit returns a slice of n elements in buf's memory, which grows when needed.
// The elements' values are undefined.
func fit[T any](buf *[]T, n int) []T {
	if cap(*buf) < n {
		*buf = make([]T, n+n/8)
	}
	*buf = (*buf)[:n]
	return *buf
}
