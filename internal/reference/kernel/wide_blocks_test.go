package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// naiveBlocks is the definition in GemmE4M3's comment, from the raw codes.
func naiveBlocks(a []float32, scales []float32, codes []byte, b *Narrow, m int) []float32 {
	n, k := b.cols, b.rows
	c := make([]float32, m*n)
	for i := range m {
		for j := range n {
			for from := 0; from < k; from += b.block[1] {
				var sum float32
				for l := from; l < min(from+b.block[1], k); l++ {
					sum = FMA(a[i*k+l], fromE4M3(codes[j*k+l]), sum)
				}
				g := from / b.block[1]
				sum = float32(sum * scales[i*b.across+g])
				sum = float32(sum * b.scales[j/b.block[0]*b.across+g])
				c[i*n+j] += sum
			}
		}
	}
	return c
}

func TestE4M3BlocksHaveTheSameBitsEverywhere(t *testing.T) {
	rng := rand.New(rand.NewPCG(12, 1))
	for i := range 30 {
		m, n, k := rng.IntN(20), rng.IntN(150), rng.IntN(300)
		switch i % 5 {
		case 0:
			m, n = 250+rng.IntN(30), rng.IntN(40)
		case 1:
			m, n = 1, 100+rng.IntN(400)
		}
		block := [2]int{[]int{3, 32, 128}[rng.IntN(3)], []int{6, 32, 128}[rng.IntN(3)]}
		across := (k + block[1] - 1) / block[1]
		ws := make([]float32, (n+block[0]-1)/block[0]*across)
		for j := range ws {
			ws[j] = float32(math.Exp(rng.NormFloat64()))
		}
		b := NewNarrowE4M3(n, k, ws, block)
		codes := make([]byte, n*k)
		for j := range codes {
			codes[j] = byte(rng.IntN(256))
			if i%7 > 0 && codes[j]&127 == 127 {
				codes[j]--
			}
		}
		b.SetRows(0, codes)
		x := sample(rng, m*k, i%5 == 0)
		a, scales := make([]float32, m*k), make([]float32, m*across)
		for r := range m {
			quantizeE4M3(goOps(), plainWide(), a[r*k:][:k], x[r*k:][:k], scales[r*across:][:across], block[1], false)
		}
		want := naiveBlocks(a, scales, codes, b, m)
		for _, o := range available() {
			got := make([]float32, m*n)
			for j := range got {
				got[j] = float32(math.NaN()) // C starts from zero whatever it holds
			}
			pool := NewPool(1 + rng.IntN(4))
			gemmE4M3(o, wideFor(o), pool, Dense(a, m, k), scales, b, Dense(got, m, n))
			compare(t, fmt.Sprintf("%s %d×%d×%d blocks %v threads %d", o.name, m, n, k, block, pool.Threads()), got, want)
		}
	}
}

// nearestE4M3 rounds by comparing with every code's value.
func nearestE4M3(x float64) float64 {
	best, parity := math.Inf(1), 0
	for c := range 127 {
		v := float64(fromE4M3(uint8(c)))
		switch d, old := math.Abs(math.Abs(x)-v), math.Abs(math.Abs(x)-best); {
		case d < old, d == old && parity == 1:
			best, parity = v, c&1
		}
	}
	return math.Copysign(best, x)
}

func TestQuantizeE4M3(t *testing.T) {
	rng := rand.New(rand.NewPCG(13, 1))
	for _, powerOfTwo := range []bool{false, true} {
		for range 200 {
			n, group := rng.IntN(300), []int{1, 3, 16, 128}[rng.IntN(4)]
			x := sample(rng, n, false)
			groups := (n + group - 1) / group
			want, scales := make([]float32, n), make([]float32, groups)
			quantizeE4M3(goOps(), plainWide(), want, x, scales, group, powerOfTwo)
			for g, s := range scales {
				top := float32(0)
				for _, v := range x[g*group : min((g+1)*group, n)] {
					top = max(top, float32(math.Abs(float64(v))))
				}
				exact := float64(top / 448)
				if powerOfTwo && exact > 0 {
					exact = math.Exp2(math.Ceil(math.Log2(exact)))
				}
				if float64(s) != exact {
					t.Fatalf("scale %v of a group with largest magnitude %v, want %v", s, top, exact)
				}
				for i := g * group; i < min((g+1)*group, n); i++ {
					if s == 0 && want[i] != 0 || s != 0 && float64(want[i]) != nearestE4M3(float64(x[i]/s)) {
						t.Fatalf("%v / %v gives %v", x[i], s, want[i])
					}
				}
			}
			for _, o := range available() {
				got, again := make([]float32, n), make([]float32, groups)
				quantizeE4M3(o, wideFor(o), got, x, again, group, powerOfTwo)
				compare(t, o.name+" codes", got, want)
				compare(t, o.name+" scales", again, scales)
			}
		}
	}
	nan := []float32{1, float32(math.NaN()), -2}
	for _, o := range available() {
		got, scale := make([]float32, 3), make([]float32, 1)
		quantizeE4M3(o, wideFor(o), got, nan, scale, 128, false)
		if got[0] != 224 || got[1] == got[1] || got[2] != -448 {
			t.Errorf("%s: %v quantised to %v", o.name, nan, got)
		}
	}
}
