package kernel

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

// bigFMA rounds a·b + c once, by way of numbers of any length.
func bigFMA(a, b, c float32) float32 {
	exact := func(v float32) *big.Float { return new(big.Float).SetPrec(600).SetFloat64(float64(v)) }
	r := new(big.Float).SetPrec(600).Mul(exact(a), exact(b))
	r.Add(r, exact(c))
	f, _ := r.Float32()
	return f
}

func TestFMARoundsOnce(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	check := func(a, b, c float32) {
		t.Helper()
		want, got := bigFMA(a, b, c), FMA(a, b, c)
		if want != got {
			t.Fatalf("FMA(%b, %b, %b) = %b, want %b", a, b, c, got, want)
		}
	}
	// Near the midpoints and the subnormals that a double rounding gets wrong.
	check(1+0x1p-23, 1+0x1p-23, 0x1p-80)
	check(0x1p-75, 0x1p-75, 0x1p-149)
	check(-0x1p-75, 0x1p-75, 0x1p-149)
	check(1+0x1p-12, 1+0x1p-12, -0x1p-149)
	odd := float32(0x400001p-149) // a tie of the subnormals in float64, just below one in truth
	check(0x1.000002p-75, 0x1.fffffcp-76, odd)
	check(-0x1.000002p-75, 0x1.fffffcp-76, -odd)
	check(0x1.fffffep127, 1, 0x1p103)
	check(0x1.fffffep127, 1, 0x1.fffffep102)
	for range 100_000 {
		// Few mantissa bits and close exponents make ties common.
		pick := func(low, high int) float32 {
			m := float64(rng.IntN(1<<24)&^(1<<rng.IntN(24)-1) + 1<<23)
			if rng.IntN(2) == 0 {
				m = -m
			}
			return float32(math.Ldexp(m, low+rng.IntN(high-low)))
		}
		switch rng.IntN(3) {
		case 0:
			check(pick(-30, 8), pick(-30, 8), pick(-60, 8))
		case 1: // subnormal results
			check(pick(-100, -70), pick(-100, -80), pick(-174, -150))
		default: // c far below the midpoint of the product
			a, b := pick(-24, -22), pick(-24, -22)
			check(a, b, pick(-120, -40))
		}
	}
}

func TestFMASpecialValues(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	zero := float32(0)
	for _, c := range []struct {
		name          string
		a, b, c, want float32
	}{
		{"infinity", inf, 2, 1, inf},
		{"infinity minus infinity", inf, 1, -inf, nan},
		{"zero times infinity", 0, inf, 1, nan},
		{"nan", nan, 1, 1, nan},
		{"overflow", 0x1p127, 2, 0, inf},
		{"product overflows, sum does not", 0x1p127, 2, -inf, -inf},
		{"negative zero", -zero, 1, -zero, -zero},
		{"exact cancellation", 3, 5, -15, 0},
	} {
		if got := FMA(c.a, c.b, c.c); !same(got, c.want) {
			t.Errorf("%s: FMA(%v, %v, %v) = %v, want %v", c.name, c.a, c.b, c.c, got, c.want)
		}
	}
}

// same compares bits; one NaN is as good as another.
func same(a, b float32) bool {
	return math.Float32bits(a) == math.Float32bits(b) || a != a && b != b
}
