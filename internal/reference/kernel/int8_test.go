package kernel

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func TestGemmInt8IsExact(t *testing.T) {
	rng := rand.New(rand.NewPCG(21, 22))
	shapes := [][3]int{{0, 3, 4}, {3, 0, 4}, {3, 4, 0}, {1, 64, 96}, {300, 70, 33}, {5, 40, 5000}, {130, 300, 128}}
	for m := range 27 {
		shapes = append(shapes, [3]int{m, rng.IntN(100), rng.IntN(140)})
	}
	for i, s := range shapes {
		m, n, k := s[0], s[1], s[2]
		a, b := make([]int8, m*k), make([]int8, n*k)
		for _, x := range [][]int8{a, b} {
			for i := range x {
				x[i] = int8(rng.IntN(256) - 128)
			}
		}
		if i%3 == 0 { // the ends of the range
			for i := range a {
				a[i] = []int8{-128, 127}[rng.IntN(2)]
			}
		}
		want := make([]int32, m*n)
		for i := range m {
			for j := range n {
				for l := range k {
					want[i*n+j] += int32(a[i*k+l]) * int32(b[j*k+l])
				}
			}
		}
		for _, o := range available() {
			got := make([]int32, m*n+1)
			got[m*n] = -1
			gemmInt8(o, NewPool(1+i%3), a, m, k, packInt8(o, b, n, k), got)
			if !slices.Equal(got[:m*n], want) || got[m*n] != -1 {
				t.Errorf("%s: %d×%d×%d is wrong", o.name, m, n, k)
			}
		}
	}
}

// TestGemmInt8DoesNotDependOnTheOrder multiplies with the summands in random
// orders, and split into random pieces whose sums are added afterwards: every
// instruction set gives the same integers, so whoever adds int8 products
// exactly, in whatever order, gets our bits.
func TestGemmInt8DoesNotDependOnTheOrder(t *testing.T) {
	const m, n = 5, 37
	rng := rand.New(rand.NewPCG(31, 32))
	random := func(n int) []int8 {
		x := make([]int8, n)
		for i := range x {
			x[i] = int8(rng.IntN(256) - 128)
		}
		return x
	}
	for range 40 {
		k := 1 + rng.IntN(700)
		a, b := random(m*k), random(n*k)
		var want []int32
		for _, o := range available() {
			got := make([]int32, m*n)
			gemmInt8(o, nil, a, m, k, packInt8(o, b, n, k), got)
			if want == nil {
				want = got
			}
			order := rng.Perm(k)
			permuted := make([]int32, m*n)
			gemmInt8(o, nil, columns(a, m, k, order), m, k, packInt8(o, columns(b, n, k, order), n, k), permuted)
			cut := rng.IntN(k + 1)
			pieces := make([]int32, m*n)
			for _, part := range [][]int{order[:cut], order[cut:]} {
				sum := make([]int32, m*n)
				gemmInt8(o, nil, columns(a, m, k, part), m, len(part), packInt8(o, columns(b, n, k, part), n, len(part)), sum)
				for i, v := range sum {
					pieces[i] += v
				}
			}
			if !slices.Equal(got, want) || !slices.Equal(permuted, want) || !slices.Equal(pieces, want) {
				t.Fatalf("%s, k %d: another order gives other sums", o.name, k)
			}
		}
	}
}

// columns picks columns of a matrix of k columns, in that order.
func columns(x []int8, rows, k int, which []int) []int8 {
	out := make([]int8, 0, rows*len(which))
	for i := range rows {
		for _, l := range which {
			out = append(out, x[i*k+l])
		}
	}
	return out
}

func TestGemmInt8AtItsLimit(t *testing.T) {
	const k = MaxInt8K
	a := slices.Repeat([]int8{-128}, k)
	for _, o := range available() {
		got := make([]int32, 1)
		gemmInt8(o, nil, a, 1, k, packInt8(o, a, 1, k), got)
		if want := int32(128 * 128 * k); got[0] != want {
			t.Errorf("%s: %d, want %d", o.name, got[0], want)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("a longer row was packed")
		}
	}()
	PackInt8(make([]int8, k+1), 1, k+1)
}

func TestGemmInt8AllocatesNothing(t *testing.T) {
	a, b := make([]int8, 30*97), make([]int8, 64*97)
	c, packed := make([]int32, 30*64), PackInt8(b, 64, 97)
	if n := testing.AllocsPerRun(50, func() { GemmInt8(nil, a, 30, 97, packed, c) }); n >= 1 {
		t.Errorf("%v allocations", n)
	}
}
