package reference

import (
	"tarbert/internal/reference/kernel"
)

// linear is y = x·Wᵀ + bias, W [out, in] as Hugging Face stores it.
type linear struct {
	in, out int
	packed  *kernel.Packed // Wᵀ, in×out; nil with int8 weights
	bias    vec
	bf16    bool // round the result to bf16

	// W8A8_DYNAMIC: int8 weights with one scale per output.
	int8  *kernel.PackedInt8
	scale []float32

	// Training.
	weight vec            // [out, in]
	back   *kernel.Packed // W, out×in
}

// apply sets y [rows, out] from x [rows, in].
func (l *linear) apply(p *kernel.Pool, x, y kernel.Mat, s *scratch) {
	if l.int8 != nil {
		l.applyInt8(p, x, y, s)
	} else {
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
