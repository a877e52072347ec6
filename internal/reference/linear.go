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
	applyAll(p, x, s, application{l, y})
}

// application is a linear and where its result goes.
type application struct {
	*linear
	y kernel.Mat
}

// applyAll applies several linears to the same rows, which are packed or
// quantised for all of them at once.
func applyAll(p *kernel.Pool, x kernel.Mat, s *scratch, all ...application) {
	targets, forInt8, forFP8 := s.targets[:0], false, false
	for _, a := range all {
		switch {
		case a.int8 != nil:
			if !forInt8 {
				a.quantiseInt8(p, x, s)
				forInt8 = true
			}
			a.applyInt8(p, s)
		case a.fp8 != nil:
			if !forFP8 {
				a.quantiseFP8(p, x, s)
				forFP8 = true
			}
			kernel.GemmE4M3(p, kernel.Dense(s.codes, x.Rows, a.in), s.groupScales, a.narrow, a.y)
		case a.narrow != nil:
			targets = append(targets, kernel.Target{B: a.narrow, C: a.y})
		default:
			kernel.GemmPacked(p, x, a.packed, a.y, false)
		}
	}
	if len(targets) > 0 {
		kernel.GemmNarrowAll(p, x, targets)
		clear(targets) // the memory may be used again, what it names need not stay
	}
	s.targets = targets
	for _, a := range all {
		a.finish(p)
	}
}

// finish adds the bias and rounds.
func (a application) finish(p *kernel.Pool) {
	if a.bias.w == nil && !a.bf16 {
		return
	}
	rowBlocks(p, a.y.Rows, func(r0, r1 int) {
		for i := r0; i < r1; i++ {
			row := a.y.Data[i*a.y.Stride:][:a.out]
			if a.bias.w != nil {
				kernel.Add(row, a.bias.w)
			}
			if a.bf16 {
				kernel.RoundBF16(row)
			}
		}
	})
}

// quantiseInt8 quantises each row of x symmetrically by its own largest
// magnitude.
func (a application) quantiseInt8(p *kernel.Pool, x kernel.Mat, s *scratch) {
	q, scales := fit(&s.int8, x.Rows*a.in), fit(&s.scales, x.Rows)
	rowBlocks(p, x.Rows, func(r0, r1 int) {
		for i := r0; i < r1; i++ {
			scales[i] = kernel.QuantizeRow(q[i*a.in:][:a.in], x.Data[i*x.Stride:][:a.in])
		}
	})
}

// applyInt8 multiplies quantised rows in exact integers, and scales back: first
// by the weight's scale, then by the row's.
func (a application) applyInt8(p *kernel.Pool, s *scratch) {
	acc := fit(&s.int32, a.y.Rows*a.out)
	kernel.GemmInt8(p, s.int8, a.y.Rows, a.in, a.int8, acc)
	rowBlocks(p, a.y.Rows, func(r0, r1 int) {
		for i := r0; i < r1; i++ {
			row, sums := a.y.Data[i*a.y.Stride:][:a.out], acc[i*a.out:][:a.out]
			for j, v := range sums {
				row[j] = float32(v) * a.scale[j] * s.scales[i]
			}
		}
	})
}

// fp8Activations says how a linear's input becomes E4M3.
type fp8Activations struct {
	group      int // numbers of a row that share a scale
	powerOfTwo bool
}

// quantiseFP8 quantises each group of each row of x by its own largest
// magnitude.
func (a application) quantiseFP8(p *kernel.Pool, x kernel.Mat, s *scratch) {
	groups := (a.in + a.fp8.group - 1) / a.fp8.group
	codes, scales := fit(&s.codes, x.Rows*a.in), fit(&s.groupScales, x.Rows*groups)
	rowBlocks(p, x.Rows, func(r0, r1 int) {
		for i := r0; i < r1; i++ {
			kernel.QuantizeE4M3(codes[i*a.in:][:a.in], x.Data[i*x.Stride:][:a.in], scales[i*groups:][:groups], a.fp8.group, a.fp8.powerOfTwo)
		}
	})
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
	codes        []float32 // E4M3 values
	groupScales  []float32
	targets      []kernel.Target
}

// fit returns a slice of n elements in buf's memory, which grows when needed.
// The elements' values are undefined.
func fit[T any](buf *[]T, n int) []T {
	if cap(*buf) < n {
		*buf = make([]T, n+n/8)
		kernel.WantHugePages(*buf)
	}
	*buf = (*buf)[:n]
	return *buf
}
