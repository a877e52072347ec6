package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// sample fills n floats: mostly ordinary, some zeros, subnormals and huge
// values; with special set, infinities and NaNs too.
func sample(rng *rand.Rand, n int, special bool) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
		switch rng.IntN(24) {
		case 0:
			x[i] = float32(math.Copysign(0, float64(x[i])))
		case 1:
			x[i] *= 0x1p-140
		case 2:
			x[i] *= 0x1p60
		case 3:
			x[i] = float32(rng.IntN(9) - 4)
		}
		if special && rng.IntN(40) == 0 {
			x[i] = []float32{float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN()), 200, -200, math.MaxFloat32}[rng.IntN(6)]
		}
	}
	return x
}

// randomMat is a rows×cols view with gaps between rows, transposed or not,
// whose gaps hold NaN: a result that reads them shows it.
func randomMat(rng *rand.Rand, rows, cols int, special bool) Mat {
	m := Mat{Rows: rows, Cols: cols, T: rng.IntN(2) == 0}
	r, c := rows, cols
	if m.T {
		r, c = cols, rows
	}
	m.Stride = c + rng.IntN(3)*rng.IntN(20)
	x := sample(rng, max(r*m.Stride, 1), special)
	for i := range r {
		for j := c; j < m.Stride; j++ {
			x[i*m.Stride+j] = float32(math.NaN())
		}
	}
	if r > 0 {
		x = x[:(r-1)*m.Stride+c] // no element more than there are
	}
	m.Data = x
	return m
}

// naive is the definition in Gemm's comment and nothing else.
func naive(a, b, c Mat, accumulate bool) []float32 {
	want := append([]float32(nil), c.Data...)
	row, col := c.steps()
	for i := range c.Rows {
		for j := range c.Cols {
			var acc float32
			if accumulate {
				acc = c.At(i, j)
			}
			for k := range a.Cols {
				acc = FMA(a.At(i, k), b.At(k, j), acc)
			}
			want[i*row+j*col] = acc
		}
	}
	return want
}

func compare(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		if !same(got[i], want[i]) {
			t.Fatalf("%s: element %d of %d is %v (%08x), want %v (%08x)", what, i, len(want),
				got[i], math.Float32bits(got[i]), want[i], math.Float32bits(want[i]))
		}
	}
}

// checkGemm runs one random product on every implementation, packed and not.
func checkGemm(t *testing.T, rng *rand.Rand, m, n, k int, special bool) {
	t.Helper()
	a, b, c := randomMat(rng, m, k, special), randomMat(rng, k, n, special), randomMat(rng, m, n, false)
	accumulate := rng.IntN(2) == 0
	want := naive(a, b, c, accumulate)
	pool := NewPool(1 + rng.IntN(4))
	for _, o := range available() {
		what := fmt.Sprintf("%s %d×%d×%d A.T=%t B.T=%t C.T=%t accumulate=%t threads=%d",
			o.name, m, n, k, a.T, b.T, c.T, accumulate, pool.Threads())
		got := c
		got.Data = append([]float32(nil), c.Data...)
		gemm(o, pool, a, b, got, accumulate)
		compare(t, what, got.Data, want)
		if c.T {
			continue
		}
		got.Data = append(got.Data[:0], c.Data...)
		packed := Packed{rows: b.Rows, cols: b.Cols, data: make([]float32, packedSize(b.Rows, b.Cols))}
		fillPanels(o, pool, packed.data, b)
		gemmPacked(o, pool, a, &packed, got, accumulate)
		compare(t, what+" packed", got.Data, want)
	}
}

func TestGemmHasTheSameBitsEverywhere(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	for m := range 41 { // every height of tile, and every remainder
		for range 3 {
			checkGemm(t, rng, m, rng.IntN(140), rng.IntN(40), false)
		}
	}
	for range 60 {
		checkGemm(t, rng, rng.IntN(30), rng.IntN(80), rng.IntN(30), true)
	}
	for range 8 { // k in several passes
		checkGemm(t, rng, 1+rng.IntN(30), 1+rng.IntN(70), blockK-2+rng.IntN(blockK), false)
	}
	for _, s := range [][3]int{{12, 256, 1030}, {1, 257, 700}, {2, 300, 513}, {3, 65, 600}, {250, 33, 20}, {490, 70, 10}, {131, 550, 300}, {100, 1100, 11}, {64, 96, 256}} {
		checkGemm(t, rng, s[0], s[1], s[2], false)
	}
}

func TestGemmPacksDistantRows(t *testing.T) {
	rng := rand.New(rand.NewPCG(23, 24))
	for _, transposed := range []bool{false, true} {
		const m, n, k, stride = 29, packAPanels*panelCols + 5, 41, packAStride + 3
		a := Mat{Data: sample(rng, m*k*stride, false), Rows: m, Cols: k, Stride: stride, T: transposed}
		b, c := Dense(sample(rng, k*n, false), k, n), Dense(sample(rng, m*n, false), m, n)
		want := naive(a, b, c, true)
		for _, o := range available() {
			got := c
			got.Data = slices.Clone(c.Data)
			gemm(o, NewPool(1), a, b, got, true)
			compare(t, fmt.Sprint(o.name, " transposed ", transposed), got.Data, want)
		}
	}
}

func TestGemmDoesNotDependOnTheBatch(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	const m, n, k = 37, 200, 300
	a, b := Dense(sample(rng, m*k, false), m, k), Dense(sample(rng, k*n, false), k, n)
	whole := Dense(make([]float32, m*n), m, n)
	GemmPacked(NewPool(3), a, Pack(b), whole, false)
	for i := range m {
		row := Dense(make([]float32, n), 1, n)
		Gemm(nil, a.RowRange(i, i+1), b, row, false)
		compare(t, fmt.Sprint("row ", i), row.Data, whole.Data[i*n:(i+1)*n])
	}
}

func TestGemmRefusesWrongShapes(t *testing.T) {
	m := func(rows, cols, stride, n int) Mat {
		return Mat{Data: make([]float32, n), Rows: rows, Cols: cols, Stride: stride}
	}
	for _, c := range []struct {
		name    string
		a, b, c Mat
	}{
		{"inner sizes differ", m(2, 3, 3, 6), m(4, 2, 2, 8), m(2, 2, 2, 4)},
		{"result too small", m(2, 3, 3, 6), m(3, 2, 2, 6), m(2, 1, 1, 2)},
		{"data too short", m(2, 3, 3, 5), m(3, 2, 2, 6), m(2, 2, 2, 4)},
		{"stride too short", m(2, 3, 2, 6), m(3, 2, 2, 6), m(2, 2, 2, 4)},
		{"negative size", m(-1, 3, 3, 6), m(3, 2, 2, 6), m(-1, 2, 2, 4)},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			Gemm(nil, c.a, c.b, c.c, false)
		})
	}
}

func TestPackedKeepsItsMemory(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	p := Pack(Dense(sample(rng, 96*64, false), 96, 64))
	first := &p.data[0]
	for _, b := range []Mat{Dense(sample(rng, 64*33, false), 64, 33), Dense(sample(rng, 64*96, false), 64, 96).Transpose()} {
		p.Repack(b)
		a := Dense(sample(rng, 5*b.Rows, false), 5, b.Rows)
		got := Dense(make([]float32, 5*b.Cols), 5, b.Cols)
		GemmPacked(nil, a, p, got, false)
		compare(t, "repacked", got.Data, naive(a, b, got, false))
	}
	if &p.data[0] != first {
		t.Error("repacking a smaller matrix moved it")
	}
}

func TestGemmAllocatesNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(13, 14))
	a, b := Dense(sample(rng, 50*96, false), 50, 96), Dense(sample(rng, 96*64, false), 96, 64)
	bt := Dense(sample(rng, 96*64, false), 64, 96).Transpose()
	c, packed := Dense(make([]float32, 50*64), 50, 64), Pack(b)
	for name, f := range map[string]func(){
		"in place":   func() { Gemm(nil, a, b, c, false) },
		"transposed": func() { Gemm(nil, a, bt, c, false) },
		"packed":     func() { GemmPacked(nil, a, packed, c, true) },
		"repacking":  func() { packed.Repack(bt) },
	} {
		if n := testing.AllocsPerRun(50, f); n >= 1 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func TestPoolRunsEachIndexOnce(t *testing.T) {
	for _, p := range []*Pool{nil, NewPool(0), NewPool(3)} {
		for _, n := range []int{0, 1, 2, 7, 100} {
			seen := make([]int, n)
			p.Run(n, func(i int) {
				inner := make([]int, 5)
				p.Run(5, func(j int) { inner[j]++ }) // from inside
				for _, v := range inner {
					seen[i] += v
				}
			})
			for i, v := range seen {
				if v != 5 {
					t.Errorf("%d threads: f(%d) ran %d/5 times of %d", p.Threads(), i, v, n)
				}
			}
		}
		if p != nil && p.spare.Load() != int64(p.Threads()-1) {
			t.Errorf("%d threads spare of %d", p.spare.Load(), p.Threads())
		}
	}
}

func TestPoolHandsOnPanics(t *testing.T) {
	p := NewPool(2)
	defer func() {
		if v := recover(); v != "here" {
			t.Errorf("recovered %v", v)
		}
		if p.spare.Load() != 1 {
			t.Error("the thread was not given back")
		}
	}()
	p.Run(10, func(i int) {
		if i == 5 {
			panic("here")
		}
	})
}
