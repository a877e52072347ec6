package kernel

import (
	"math"
	"math/rand/v2"
	"testing"
)

// ulps is the distance between got and the float64 want in units of the last
// place of the float32 nearest to want.
func ulps(got float32, want float64) float64 {
	exponent := max(math.Ilogb(want), -126)
	return math.Abs(float64(got)-want) / math.Ldexp(1, exponent-23)
}

func TestExpIsAccurate(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	const n = 1 << 18
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(-104 + 192.7*rng.Float64())
		if i%4 == 0 {
			x[i] = float32(rng.NormFloat64())
		}
	}
	dst := make([]float32, n)
	Exp(dst, x)
	worst, at := 0.0, float32(0)
	for i, v := range x {
		if e := ulps(dst[i], math.Exp(float64(v))); e > worst {
			worst, at = e, v
		}
	}
	t.Logf("worst error %.3f ulp at %v", worst, at)
	if worst > 1.02 {
		t.Errorf("exp(%v) is %.3f ulp off", at, worst)
	}
}

func TestExpAtTheEnds(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, c := range []struct{ x, want float32 }{
		{0, 1}, {float32(math.Copysign(0, -1)), 1},
		{inf, inf}, {-inf, 0}, {nan, nan},
		{88.72284, inf}, {89, inf}, {1e30, inf},
		{88.722835, float32(math.Exp(float64(float32(88.722835))))},
		{-104, 0}, {-1e30, 0},
		{-103.5, 0x1p-149}, {-100, float32(math.Exp(-100))},
		{0x1p-149, 1}, {-0x1p-149, 1},
	} {
		got := []float32{0}
		Exp(got, []float32{c.x})
		if e := math.Abs(float64(got[0]) - float64(c.want)); !same(got[0], c.want) && !(e <= 0x1p-149 || e < 1e-6*float64(c.want)) {
			t.Errorf("exp(%v) = %v, want %v", c.x, got[0], c.want)
		}
	}
}

func TestLogAgreesWithMath(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 100_000 {
		x := math.Exp(rng.NormFloat64() * 20)
		if got, want := logOf(x), math.Log(x); math.Abs(got-want) > 4e-16*math.Abs(want) {
			t.Fatalf("log(%v) = %v, want %v", x, got, want)
		}
	}
	for _, c := range []struct{ x, want float64 }{
		{0, math.Inf(-1)}, {1, 0}, {math.Inf(1), math.Inf(1)},
		{0x1p-1074, -744.4400719213812}, {0x1p-1022, -708.3964185322641}, // math.Log is wrong here on amd64
	} {
		if got := logOf(c.x); got != c.want {
			t.Errorf("log(%v) = %v, want %v", c.x, got, c.want)
		}
	}
	if got := logOf(-1); got == got {
		t.Errorf("log(-1) = %v, want NaN", got)
	}
}
