package kernel

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// randomNarrow is a matrix of k rows and n columns in a form, and the same
// matrix widened by the definition, as W, [n, k].
func randomNarrow(rng *rand.Rand, form Form, n, k int, special bool) (*Narrow, []float32) {
	raw := make([]byte, n*k*form.Bytes())
	for i := range n * k {
		switch form {
		case BF16:
			binary.LittleEndian.PutUint16(raw[2*i:], uint16(math.Float32bits(sample(rng, 1, special)[0])>>16))
		case F16:
			h := uint16(rng.IntN(1 << 16))
			if !special && h&0x7c00 == 0x7c00 {
				h &= 0x83ff // a subnormal instead of an infinity or a NaN
			}
			binary.LittleEndian.PutUint16(raw[2*i:], h)
		default:
			raw[i] = byte(rng.IntN(256))
			if form == E4M3 && !special && raw[i]&0x7f == 0x7f {
				raw[i]--
			}
		}
	}
	scales := func(count int) []float32 {
		x := make([]float32, count)
		for i := range x {
			x[i] = float32(math.Exp(4 * rng.NormFloat64()))
		}
		return x
	}
	b := &Narrow{}
	switch form {
	case E4M3:
		block := [2]int{[]int{1, 7, 32, 64, 128}[rng.IntN(5)], []int{1, 5, 32, 128}[rng.IntN(4)]}
		b = NewNarrowE4M3(n, k, scales((n+block[0]-1)/block[0]*((k+block[1]-1)/block[1])), block)
	case Int8:
		b = NewNarrowInt8(n, k, scales(n))
	default:
		b = NewNarrow(form, n, k)
	}
	if rng.IntN(3) == 0 {
		b.RoundBF16()
	}
	for from := 0; from < n; { // in pieces that do not care for panels
		to := min(n, from+1+rng.IntN(50))
		b.SetRows(from, raw[from*k*form.Bytes():to*k*form.Bytes()])
		from = to
	}
	w := make([]float32, n*k)
	for j := range n {
		for l := range k {
			w[j*k+l] = b.number(raw[(j*k+l)*form.Bytes():], j, l)
		}
	}
	if b.round {
		roundBF16Go(w)
	}
	return b, w
}

// TestNarrowProductsHaveTheBitsOfWidenedOnes multiplies every form on every
// implementation, beside the definition on the widened matrix.
func TestNarrowProductsHaveTheBitsOfWidenedOnes(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 1))
	for _, form := range []Form{BF16, F16, E4M3, Int8} {
		for i := range 36 {
			m, n, k := rng.IntN(20), rng.IntN(150), rng.IntN(100)
			switch i % 9 {
			case 0:
				m, k = 1+rng.IntN(3), 500+rng.IntN(100)
			case 1:
				m, n, k = 40+rng.IntN(20), 1+rng.IntN(20), 500+rng.IntN(60)
			case 2:
				m, n, k = wideRows+rng.IntN(30), 1+rng.IntN(4), 1+rng.IntN(5)
			}
			checkNarrow(t, rng, form, m, n, k, i%5 == 0)
		}
	}
}

func checkNarrow(t *testing.T, rng *rand.Rand, form Form, m, n, k int, special bool) {
	t.Helper()
	a, accumulate := randomMat(rng, m, k, special), rng.IntN(2) == 0
	pool := NewPool(1 + rng.IntN(4))
	what := fmt.Sprintf("form %d %d×%d×%d A.T=%t accumulate=%t threads=%d special=%t", form, m, n, k, a.T, accumulate, pool.Threads(), special)
	var targets []Target
	var want [][]float32
	for range 1 + rng.IntN(2) { // several right-hand sides for one left
		b, w := randomNarrow(rng, form, n, k, special)
		c := Dense(sample(rng, m*n, false), m, n)
		targets, want = append(targets, Target{b, c}), append(want, naive(a, Dense(w, n, k).Transpose(), c, accumulate))
		row := make([]float32, k)
		for range min(n, 2) {
			j := rng.IntN(n)
			b.Row(row, j)
			compare(t, fmt.Sprintf("%s row %d", what, j), row, w[j*k:][:k])
		}
		n, form = rng.IntN(40), Form(1+rng.IntN(4))
	}
	for _, o := range available() {
		got := slices.Clone(targets)
		for i := range got {
			got[i].C.Data = slices.Clone(got[i].C.Data)
		}
		gemmNarrow(o, wideFor(o), pool, a, got, accumulate)
		for i := range got {
			compare(t, fmt.Sprintf("%s %s target %d", o.name, what, i), got[i].C.Data, want[i])
		}
	}
}

func TestCounts(t *testing.T) {
	rng := rand.New(rand.NewPCG(15, 1))
	for n := range 200 {
		x := sample(rng, n, true)
		for _, limit := range append(sample(rng, 3, true), x[:min(n, 3)]...) {
			above, from := 0, 0
			for _, v := range x {
				if v > limit {
					above++
				}
				if v >= limit {
					from++
				}
			}
			for _, o := range available() {
				w := wideFor(o)
				if a, f := w.above(x, limit), w.from(x, limit); int(a) != above || int(f) != from {
					t.Fatalf("%s: %v and %v of %d are above and from %v, want %d and %d", o.name, a, f, n, limit, above, from)
				}
			}
		}
	}
}

// TestEveryCodeWidens compares all 2^16 halves and all 256 E4M3 codes with
// arithmetic in float64.
func TestEveryCodeWidens(t *testing.T) {
	for i := range 1 << 16 {
		exp, m := i>>10&31, float64(i&1023)
		want := math.Ldexp(m, -24)
		if exp > 0 {
			want = math.Ldexp(1024+m, exp-25)
		}
		if exp == 31 {
			want = math.Inf(1)
			if m > 0 {
				want = math.NaN()
			}
		}
		if i>>15 == 1 {
			want = -want
		}
		if got := fromF16(uint16(i)); !same(got, float32(want)) {
			t.Errorf("half %#04x is %v, want %v", i, got, want)
		}
	}
	for i := range 256 {
		exp, m := i>>3&15, float64(i&7)
		want := math.Ldexp(m, -9)
		if exp > 0 {
			want = math.Ldexp(8+m, exp-10)
		}
		if i&127 == 127 {
			want = math.NaN()
		}
		if i>>7 == 1 {
			want = -want
		}
		if got := fromE4M3(uint8(i)); !same(got, float32(want)) {
			t.Errorf("E4M3 %#02x is %v, want %v", i, got, want)
		}
	}
}

func TestNarrowRefusesWrongShapes(t *testing.T) {
	for name, do := range map[string]func(){
		"scales of int8":   func() { NewNarrowInt8(3, 4, make([]float32, 2)) },
		"scales of blocks": func() { NewNarrowE4M3(129, 129, make([]float32, 3), [2]int{128, 128}) },
		"a block of none":  func() { NewNarrowE4M3(1, 1, nil, [2]int{0, 1}) },
		"no scales":        func() { NewNarrow(Int8, 1, 1) },
		"a negative size":  func() { NewNarrow(BF16, -1, 1) },
		"half a row":       func() { NewNarrow(BF16, 3, 4).SetRows(0, make([]byte, 7)) },
		"a row too many":   func() { NewNarrow(BF16, 3, 4).SetRows(3, make([]byte, 8)) },
		"a row before":     func() { NewNarrow(BF16, 3, 4).SetRows(-1, make([]byte, 8)) },
		"reading a row":    func() { NewNarrow(BF16, 3, 4).Row(make([]float32, 4), 3) },
		"reading too much": func() { NewNarrow(BF16, 3, 4).Row(make([]float32, 5), 0) },
		"a view too wide":  func() { View(make([]float32, 64), 2, 33) },
		"packing one row":  func() { NewPacked(64, 2).SetRows(0, make([]float32, 2)) },
		"a product's shape": func() {
			GemmNarrow(nil, Dense(make([]float32, 4), 1, 4), NewNarrow(BF16, 3, 5), Dense(make([]float32, 3), 1, 3), false)
		},
		"a transposed result": func() {
			GemmNarrow(nil, Dense(make([]float32, 4), 1, 4), NewNarrow(BF16, 3, 4), Dense(make([]float32, 3), 3, 1).Transpose(), false)
		},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			do()
		})
	}
}

func BenchmarkNarrow(b *testing.B) {
	for _, threads := range []int{1, 2} {
		for _, s := range [][3]int{{256, 3072, 1024}, {256, 1024, 3072}, {64, 3072, 1024}, {1, 3072, 1024}, {1, 151936, 1024}} {
			m, n, k := s[0], s[1], s[2]
			x, z, pool := Dense(make([]float32, m*k), m, k), Dense(make([]float32, m*n), m, n), NewPool(threads)
			for i := range x.Data {
				x.Data[i] = float32(i%7) - 3
			}
			rate := func(b *testing.B, bytes int) {
				b.ReportMetric(2*float64(m)*float64(n)*float64(k)*float64(b.N)/float64(b.Elapsed().Nanoseconds()), "GFLOP/s")
				if m == 1 {
					b.ReportMetric(float64(bytes)*float64(b.N)/float64(b.Elapsed().Nanoseconds()), "GB/s")
				}
			}
			for _, form := range []Form{BF16, E4M3, Int8} {
				w := newNarrow(form, n, k)
				w.block, w.across, w.scales = [2]int{128, 128}, (k+127)/128, make([]float32, n*k/128)
				for i := range w.data {
					w.data[i] = byte(i) & 0x7b
				}
				b.Run(fmt.Sprintf("form%d/%dx%dx%d/%d", form, m, n, k, threads), func(b *testing.B) {
					for b.Loop() {
						GemmNarrow(pool, x, w, z, false)
					}
					rate(b, len(w.data))
				})
			}
			w := Pack(Dense(make([]float32, n*k), n, k).Transpose())
			b.Run(fmt.Sprintf("f32/%dx%dx%d/%d", m, n, k, threads), func(b *testing.B) {
				for b.Loop() {
					GemmPacked(pool, x, w, z, false)
				}
				rate(b, 4*len(w.data))
			})
		}
	}
}

// TestPackedByRows packs a matrix in pieces and reads its rows back.
func TestPackedByRows(t *testing.T) {
	rng := rand.New(rand.NewPCG(14, 1))
	for range 20 {
		n, k := 1+rng.IntN(150), 1+rng.IntN(70)
		w := sample(rng, n*k, false)
		p := NewPacked(n, k)
		for from := 0; from < n; {
			to := min(n, from+32*(1+rng.IntN(3)))
			p.SetRows(from, w[from*k:to*k])
			from = to
		}
		a, want, got := Dense(sample(rng, 5*k, false), 5, k), Dense(make([]float32, 5*n), 5, n), Dense(make([]float32, 5*n), 5, n)
		GemmPacked(nil, a, Pack(Dense(w, n, k).Transpose()), want, false)
		GemmPacked(nil, a, p, got, false)
		compare(t, "product", got.Data, want.Data)
		row, j := make([]float32, k), rng.IntN(n)
		p.Row(row, j)
		compare(t, "row", row, w[j*k:][:k])
	}
}
