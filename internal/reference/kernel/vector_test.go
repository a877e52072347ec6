package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// vectorOps runs every operation on one implementation, on copies of the same
// operands, and returns all that it wrote, by name.
func vectorOps(o *ops, in [5][]float32, s float32) map[string][]float32 {
	out := map[string][]float32{}
	run := func(name string, f func(a, b, c, d, e []float32) []float32) {
		x := [5][]float32{}
		for i := range in {
			x[i] = slices.Clone(in[i])
		}
		out[name] = f(x[0], x[1], x[2], x[3], x[4])
	}
	one := func(v float32) []float32 { return []float32{v} }
	unary := map[string]func(dst, x []float32){
		"exp": o.exp, "sigmoid": o.sigmoid, "silu": o.silu, "add": o.add, "mul": o.mul,
	}
	for name, f := range unary {
		run(name, func(a, b, _, _, _ []float32) []float32 { f(a, b); return a })
		run(name+" in place", func(a, _, _, _, _ []float32) []float32 { f(a, a); return a })
	}
	run("sum", func(a, _, _, _, _ []float32) []float32 { return one(o.sum(a)) })
	run("max", func(a, _, _, _, _ []float32) []float32 { return one(o.max(a)) })
	run("maxAbs", func(a, _, _, _, _ []float32) []float32 { return one(o.maxAbs(a)) })
	run("dot", func(a, b, _, _, _ []float32) []float32 { return one(o.dot(a, b)) })
	run("expSum", func(a, b, _, _, _ []float32) []float32 { return append(a, o.expSum(a, b, s)) })
	run("expSumOnly", func(a, _, _, _, _ []float32) []float32 { return one(o.expSumOnly(a, s)) })
	run("softmax", func(a, b, _, _, _ []float32) []float32 {
		max, sum := softmax(o, a, b)
		return append(a, max, sum)
	})
	run("logSumExp", func(a, _, _, _, _ []float32) []float32 { return one(logSumExp(o, a)) })
	run("siluMul", func(a, b, c, _, _ []float32) []float32 { o.siluMul(a, b, c); return a })
	run("siluMulBack", func(a, b, c, d, e []float32) []float32 { o.siluMulBack(a, b, c, d, e); return append(a, b...) })
	run("siluMulBack in place", func(a, b, c, _, _ []float32) []float32 { o.siluMulBack(a, b, a, b, c); return append(a, b...) })
	run("scale", func(a, _, _, _, _ []float32) []float32 { o.scale(a, s); return a })
	run("axpy", func(a, b, _, _, _ []float32) []float32 { o.axpy(a, s, b); return a })
	run("rmsNorm", func(a, b, c, _, _ []float32) []float32 { return append(a, rmsNorm(o, a, b, c, 1e-6)) })
	run("rmsNormBackward", func(a, b, c, d, e []float32) []float32 {
		rmsNormBackward(o, a, b, c, d, e, s)
		return append(a, b...)
	})
	run("adamw", func(a, b, c, d, _ []float32) []float32 {
		h := AdamWStep{LR: 1e-3, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: 0.1,
			Correction1: 0.19, Correction2: 0.0975, GradScale: s}.coefficients()
		o.adamw(a, b, c, d, &h)
		return append(append(a, c...), d...)
	})
	run("roundBF16", func(a, _, _, _, _ []float32) []float32 { o.roundBF16(a); return a })
	run("quantize", func(a, _, _, _, _ []float32) []float32 {
		q := make([]int8, len(a))
		out := []float32{quantizeRow(o, q, a)}
		for _, v := range q {
			out = append(out, float32(v))
		}
		return out
	})
	return out
}

func TestVectorOpsHaveTheSameBitsEverywhere(t *testing.T) {
	rng := rand.New(rand.NewPCG(15, 16))
	for n := range 401 {
		n %= 201 // twice: ordinary, then special values
		for _, special := range []bool{false, true} {
			var in [5][]float32
			for i := range in {
				in[i] = sample(rng, n, special)
			}
			s := float32(rng.NormFloat64())
			want := vectorOps(goOps(), in, s)
			for _, o := range available() {
				for name, got := range vectorOps(o, in, s) {
					compare(t, fmt.Sprintf("%s %s, n=%d special=%t", o.name, name, n, special), got, want[name])
				}
			}
		}
	}
}

func TestVectorOpsStayInside(t *testing.T) {
	rng := rand.New(rand.NewPCG(17, 18))
	guard := float32(math.NaN())
	for n := range 70 {
		var backing, in [5][]float32
		for i := range in {
			backing[i] = slices.Concat([]float32{guard}, sample(rng, n, false), slices.Repeat([]float32{guard}, 40))
			in[i] = backing[i][1 : n+1]
		}
		want := vectorOps(goOps(), in, 2)
		for _, o := range available() {
			// The reductions would be NaN if they read past the end.
			for name, got := range vectorOps(o, in, 2) {
				compare(t, fmt.Sprint(o.name, " ", name, " n=", n), got, want[name])
			}
			x := slices.Clone(backing[0])
			o.scale(x[1:n+1], 2)
			o.add(x[1:n+1], in[1])
			o.exp(x[1:n+1], in[1])
			o.roundBF16(x[1 : n+1])
			for i, v := range x {
				if outside := i == 0 || i > n; outside && v == v {
					t.Fatalf("%s wrote element %d of a slice of %d", o.name, i-1, n)
				}
			}
		}
	}
}

func TestReductionsUseSixteenLanes(t *testing.T) {
	// 1 and the tiny values meet in the order of the lanes, or not at all.
	x := make([]float32, 33)
	x[0], x[16], x[32] = 1, 0x1p-24, 0x1p-24 // lane 0: each is lost in turn
	x[8] = 0x1p-23                           // lane 8: is added to lane 0 in the tree
	for _, o := range available() {
		if got, want := o.sum(x), float32(1+0x1p-23); got != want {
			t.Errorf("%s: sum is %b, want %b", o.name, got, want)
		}
	}
}

func TestLanesThatAreNotThereKeepTheirSign(t *testing.T) {
	// Every product underflows to -0. Adding 0·0 to the fifteen lanes that the
	// last step lacks would make them 0.
	x, y := slices.Repeat([]float32{0x1p-100}, 17), slices.Repeat([]float32{-0x1p-100}, 17)
	for _, o := range available() {
		if got := o.dot(x, y); math.Float32bits(got) != 1<<31 {
			t.Errorf("%s: dot is %v, want -0", o.name, got)
		}
	}
}

func TestVectorOpsAgainstFloat64(t *testing.T) {
	rng := rand.New(rand.NewPCG(19, 20))
	const n = 333
	near := func(name string, got float32, want float64) {
		t.Helper()
		if math.Abs(float64(got)-want) > 3e-6*(1+math.Abs(want)) {
			t.Errorf("%s = %v, want %v", name, got, want)
		}
	}
	x, w, dy := make([]float32, n), make([]float32, n), make([]float32, n)
	for i := range x {
		x[i], w[i], dy[i] = float32(rng.NormFloat64()*4), float32(rng.NormFloat64()), float32(rng.NormFloat64())
	}
	max, total, squares := math.Inf(-1), 0.0, 0.0
	for _, v := range x {
		max, squares = math.Max(max, float64(v)), squares+float64(v)*float64(v)
	}
	for _, v := range x {
		total += math.Exp(float64(v) - max)
	}
	got := make([]float32, n)
	Softmax(got, x)
	for i, v := range x {
		near("softmax", got[i], math.Exp(float64(v)-max)/total)
	}
	near("log-sum-exp", LogSumExp(x), max+math.Log(total))
	rstd := RMSNorm(got, x, w, 1e-6)
	for i, v := range x {
		near("rmsnorm", got[i], float64(v)*float64(w[i])/math.Sqrt(squares/n+1e-6))
	}
	SiLUMul(got, x, w)
	for i, v := range x {
		near("silu-mul", got[i], float64(v)/(1+math.Exp(-float64(v)))*float64(w[i]))
	}
	checkGradients(t, x, w, dy, rstd)
}

// checkGradients holds the backward passes against differences in float64.
func checkGradients(t *testing.T, x, w, dy []float32, rstd float32) {
	norm := func(x []float64) (loss float64) {
		squares := 0.0
		for _, v := range x {
			squares += v * v
		}
		for i, v := range x {
			loss += float64(dy[i]) * v * float64(w[i]) / math.Sqrt(squares/float64(len(x))+1e-6)
		}
		return loss
	}
	dx, dw := make([]float32, len(x)), make([]float32, len(x))
	RMSNormBackward(dx, dw, x, w, dy, rstd)
	wide := make([]float64, len(x))
	for i, v := range x {
		wide[i] = float64(v)
	}
	dgate, dup := make([]float32, len(x)), make([]float32, len(x))
	SiLUMulBackward(dgate, dup, x, w, dy)
	silu := func(g float64) float64 { return g / (1 + math.Exp(-g)) }
	const h = 1e-5
	for i := range x {
		wide[i] += h
		up := norm(wide)
		wide[i] -= 2 * h
		slope := (up - norm(wide)) / (2 * h)
		wide[i] += h
		if math.Abs(slope-float64(dx[i])) > 1e-5 {
			t.Errorf("rmsnorm dx[%d] = %v, want %v", i, dx[i], slope)
		}
		g := float64(x[i])
		slope = (silu(g+h) - silu(g-h)) / (2 * h) * float64(dy[i]) * float64(w[i])
		if math.Abs(slope-float64(dgate[i])) > 1e-5*(1+math.Abs(slope)) {
			t.Errorf("dgate[%d] = %v, want %v", i, dgate[i], slope)
		}
		if want := silu(g) * float64(dy[i]); math.Abs(want-float64(dup[i])) > 1e-5*(1+math.Abs(want)) {
			t.Errorf("dup[%d] = %v, want %v", i, dup[i], want)
		}
	}
}

func TestAdamWFollowsItsFormula(t *testing.T) {
	p, g, m, v := []float32{1.5}, []float32{-0.3}, []float32{0.1}, []float32{0.02}
	h := AdamWStep{LR: 0.01, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.1,
		Correction1: 1 - 0.9*0.9, Correction2: 1 - 0.999*0.999, GradScale: 0.5}
	AdamW(p, g, m, v, h)
	grad := -0.15
	wantM, wantV := 0.9*0.1+0.1*grad, 0.999*0.02+0.001*grad*grad
	wantP := 1.5*(1-0.001) - 0.01*(wantM/0.19)/(math.Sqrt(wantV/(1-0.999*0.999))+1e-8)
	for _, c := range []struct {
		name string
		got  float32
		want float64
	}{{"m", m[0], wantM}, {"v", v[0], wantV}, {"p", p[0], wantP}} {
		if math.Abs(float64(c.got)-c.want) > 2e-6 {
			t.Errorf("%s = %v, want %v", c.name, c.got, c.want)
		}
	}
}

func TestRoundBF16(t *testing.T) {
	for _, c := range []struct{ in, want uint32 }{
		{0x3f800000, 0x3f800000}, {0x3f808000, 0x3f800000}, {0x3f818000, 0x3f820000}, // ties to even
		{0x3f808001, 0x3f810000}, {0x3f807fff, 0x3f800000}, {0xbf808001, 0xbf810000},
		{0x7f7fffff, 0x7f800000}, {0x7f800000, 0x7f800000}, {0xff800000, 0xff800000},
		{0x7f800001, 0x7fc00000}, {0xffc12345, 0x7fc00000}, {0x00000001, 0}, {0x80000000, 0x80000000},
	} {
		x := []float32{math.Float32frombits(c.in)}
		RoundBF16(x)
		if got := math.Float32bits(x[0]); got != c.want {
			t.Errorf("%08x rounds to %08x, want %08x", c.in, got, c.want)
		}
	}
}

func TestQuantizeRow(t *testing.T) {
	for _, c := range []struct {
		name  string
		x     []float32
		scale float32
		want  []int8
	}{
		{"zeros", []float32{0, 0}, 0, []int8{0, 0}},
		{"empty", nil, 0, []int8{}},
		{"ties to even", []float32{127, 0.5, 1.5, -2.5, -127}, 1, []int8{127, 0, 2, -2, -127}},
		{"scaled", []float32{-2, 1, 0.5}, 2.0 / 127, []int8{-127, 64, 32}},
		{"scale below the smallest float", []float32{0x1p-149}, 0, []int8{0}},
		{"scale of one bit", []float32{180 * 0x1p-149, 1 * 0x1p-149}, 0x1p-149, []int8{127, 1}},
	} {
		got := make([]int8, len(c.x))
		if scale := QuantizeRow(got, c.x); scale != c.scale || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v × %v, want %v × %v", c.name, scale, got, c.scale, c.want)
		}
	}
}

func TestVectorOpsRefuseUnequalLengths(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	Exp(make([]float32, 3), make([]float32, 4))
}
