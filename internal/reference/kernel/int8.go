package kernel

import "fmt"

// PackedInt8 is an int8 right-hand side packed once, in the layout of the
// instruction set at hand. Weights come as [n, k], a row per output.
type PackedInt8 struct {
	n, k int
	data []int8  // pure Go: as given; NEON: rows up to whole vectors; AVX-512 VNNI: groups of four k, offset by 128
	wide []int16 // AVX2: groups of two k, widened
}

// bytesPerTask is the smallest piece of B worth handing to another thread: a
// core reads it from memory in some 50 µs.
const bytesPerTask = 1 << 19

// MaxInt8K is the longest sum that GemmInt8 takes: with more than 131,071
// products of up to 128·128 an int32 could overflow.
const MaxInt8K = maxInt8K

// PackInt8 packs b, n rows of k. It panics when k exceeds MaxInt8K.
func PackInt8(b []int8, n, k int) *PackedInt8 { return packInt8(best, b, n, k) }

func packInt8(o *ops, b []int8, n, k int) *PackedInt8 {
	if n < 0 || k < 0 || k > MaxInt8K || len(b) < n*k {
		panic(fmt.Sprintf("kernel: %d int8 values as %d×%d (at most %d in a row)", len(b), n, k, MaxInt8K))
	}
	p := &PackedInt8{n: n, k: k}
	if n*k > 0 {
		o.packInt8(p, b[:n*k])
	}
	return p
}

// N is the number of outputs, K that of inputs.
func (b *PackedInt8) N() int { return b.n }

// K is the number of inputs.
func (b *PackedInt8) K() int { return b.k }

// GemmInt8 sets C[i,j] = Σ_k a[i,k]·b[j,k], exact in int32, for a of m rows of
// k and c of m rows of N.
func GemmInt8(p *Pool, a []int8, m, k int, b *PackedInt8, c []int32) {
	gemmInt8(best, p, a, m, k, b, c)
}

// blockInt8 is rows [r0, r1) of panels [p0, p1) of an int8 product.
type blockInt8 struct {
	a              []int8
	m, k           int
	b              *PackedInt8
	c              []int32
	r0, r1, p0, p1 int
}

func gemmInt8(o *ops, p *Pool, a []int8, m, k int, b *PackedInt8, c []int32) {
	if m < 0 || k != b.k || len(a) < m*k || len(c) < m*b.n {
		panic(fmt.Sprintf("kernel: %d int8 values as %d×%d times %d×%d into %d", len(a), m, k, b.k, b.n, len(c)))
	}
	if m == 0 || b.n == 0 {
		return
	}
	if k == 0 {
		clear(c[:m*b.n])
		return
	}
	whole := blockInt8{a: a, m: m, k: k, b: b, c: c, r1: m, p1: panels(b.n)}
	tasks := 1
	if p.Threads() > 1 {
		// With few rows reading B is the work, with many the products are.
		work := max(2*float64(m)/(4*flopsPerTask), 1.0/bytesPerTask) * float64(k) * float64(b.n)
		tasks = min(tasksPerCore*p.Threads(), int(work))
	}
	if tasks <= 1 {
		o.blockInt8(whole)
		return
	}
	rows, cols := grid(m, whole.p1, tasks)
	p.Run(rows*cols, func(i int) {
		t := whole
		r, q := i%rows, i/rows
		t.r0, t.r1 = r*m/rows, (r+1)*m/rows
		t.p0, t.p1 = q*whole.p1/cols, (q+1)*whole.p1/cols
		o.blockInt8(t)
	})
}

func packInt8Go(b *PackedInt8, raw []int8) { b.data = append([]int8(nil), raw...) }

func blockInt8Go(t blockInt8) {
	for i := t.r0; i < t.r1; i++ {
		row := t.a[i*t.k:][:t.k]
		for j := t.p0 * panelCols; j < min(t.p1*panelCols, t.b.n); j++ {
			weights := t.b.data[j*t.k:][:len(row)]
			var sum int32
			for k, v := range row {
				sum += int32(v) * int32(weights[k])
			}
			t.c[i*t.b.n+j] = sum
		}
	}
}
