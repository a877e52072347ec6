package reference

import (
	"context"
	"math"
	"math/rand/v2"
	"testing"

	"tarbert/internal/reference/kernel"
)

// meanKL is the mean divergence, in nats, of two models' predictions on a text.
func meanKL(t *testing.T, a, b *Model, tokens []int) float64 {
	t.Helper()
	var rows [2][][]float32
	for i, m := range []*Model{a, b} {
		out, err := m.Forward(context.Background(), []Input{{Seq: m.NewSequence(), Tokens: tokens, All: true}})
		if err != nil {
			t.Fatal(err)
		}
		rows[i] = out[0]
	}
	total := 0.0
	for i := range rows[0] {
		p, q := rows[0][i], rows[1][i]
		lp, lq := float64(kernel.LogSumExp(p)), float64(kernel.LogSumExp(q))
		for j := range p {
			a, b := float64(p[j])-lp, float64(q[j])-lq
			total += math.Exp(a) * (a - b)
		}
	}
	return total / float64(len(tokens))
}

func text(seed uint64, vocab, n int) []int {
	r, out := rand.New(rand.NewPCG(seed, 9)), make([]int, n)
	for i := range out {
		out[i] = r.IntN(vocab)
	}
	return out
}

// TestProfilesDifferByRounding: bf16 differs from f32, and by no more than
// rounding at some places explains.
func TestProfilesDifferByRounding(t *testing.T) {
	for _, name := range goldenModels {
		exact, rounded := loadGolden(t, name, Options{Precision: F32}), loadGolden(t, name, Options{Precision: BF16})
		kl := meanKL(t, exact, rounded, text(1, 320, 100))
		t.Logf("%s: bf16 against f32: %.2g nats", name, kl)
		if !(kl > 1e-8 && kl < 0.1) {
			t.Errorf("%s: bf16 is %v nats from f32", name, kl)
		}
		if exact.Precision() != F32 || rounded.Precision() != BF16 {
			t.Errorf("%s: profiles are %s and %s", name, exact.Precision(), rounded.Precision())
		}
	}
}

// TestBF16LogitsAreBF16 checks the last rounding point of the table.
func TestBF16LogitsAreBF16(t *testing.T) {
	m := loadGolden(t, "deepseek-v3", Options{Precision: BF16})
	out, err := m.Forward(context.Background(), []Input{{Seq: m.NewSequence(), Tokens: text(2, 320, 20), All: true}})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range out[0] {
		for j, x := range row {
			if math.Float32bits(x)&0xffff != 0 {
				t.Fatalf("logit %d is %v, which is no bf16 value", j, x)
			}
		}
	}
}

// TestAscendDirectoryAgainstItsSource loads what msmodelslim wrote and compares
// it with the model it was made of: int8 with dynamic activations, and the
// dequantised weights alone, which must be nearer.
func TestAscendDirectoryAgainstItsSource(t *testing.T) {
	load := func(dir string, p Precision) *Model {
		m, err := Load(ascendDir(dir), Options{Precision: p})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	source, int8s := load("source", ""), load("w8a8", "")
	if int8s.Precision() != W8A8 || source.Precision() != F32 {
		t.Fatalf("profiles by default are %s and %s", int8s.Precision(), source.Precision())
	}
	tokens := text(3, 512, 200)
	both, weights, rounded := meanKL(t, source, int8s, tokens), meanKL(t, source, load("w8a8", F32), tokens), meanKL(t, source, load("w8a8", BF16), tokens)
	t.Logf("mean KL to the source: w8a8 %.3g, dequantised f32 %.3g, dequantised bf16 %.3g", both, weights, rounded)
	if !(weights > 0 && weights < both && both < 0.05 && rounded > weights && rounded < 0.05) {
		t.Errorf("mean KL to the source: w8a8 %v, dequantised f32 %v, dequantised bf16 %v", both, weights, rounded)
	}
}

// TestInt8LinearByTheFormula computes one linear from the profile's table in
// exact integers.
func TestInt8LinearByTheFormula(t *testing.T) {
	const rows, in, out = 5, 37, 11
	r := rand.New(rand.NewPCG(4, 4))
	w, x := make([]int8, out*in), make([]float32, rows*in)
	l := &linear{in: in, out: out, scale: make([]float32, out), bias: vec{w: make([]float32, out)}}
	for i := range w {
		w[i] = int8(r.IntN(256) - 128)
	}
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	clear(x[2*in : 3*in]) // a zero row has no scale to divide by
	for j := range out {
		l.scale[j], l.bias.w[j] = float32(0.01*r.Float64()), float32(r.NormFloat64())
	}
	l.int8 = kernel.PackInt8(w, out, in)
	y := make([]float32, rows*out)
	l.apply(nil, kernel.Dense(x, rows, in), kernel.Dense(y, rows, out), &scratch{})
	for i := range rows {
		var top float32
		for _, v := range x[i*in:][:in] {
			top = max(top, float32(math.Abs(float64(v))))
		}
		scale := top / 127
		for j := range out {
			var sum int32
			for k := range in {
				if scale > 0 {
					sum += int32(math.RoundToEven(float64(x[i*in+k]/scale))) * int32(w[j*in+k])
				}
			}
			want := float32(float32(sum)*l.scale[j])*scale + l.bias.w[j]
			if got := y[i*out+j]; got != want {
				t.Errorf("row %d output %d: %v, want %v", i, j, got, want)
			}
		}
	}
}

// TestWeightScalesAreRoundedToBF16 gives one linear scales between two bf16
// values, which must compute as the nearest of them does.
func TestWeightScalesAreRoundedToBF16(t *testing.T) {
	const name = "model.layers.0.self_attn.q_proj.weight_scale"
	tokens := text(6, 512, 30)
	score := func(do func(data []byte)) []Position {
		f := readFiles(t, ascendDir("w8a8"))
		do(f.tensor(name).Data)
		m, err := Load(f.write(t), Options{})
		if err != nil {
			t.Fatal(err)
		}
		out, err := m.Score(context.Background(), tokens, 0)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	asStored := score(func([]byte) {})
	between := score(func(data []byte) { // little-endian float32: below half of a bf16 step
		for i := 0; i < len(data); i += 4 {
			data[i], data[i+1] = 0xff, 0x7f
		}
	})
	above := score(func(data []byte) {
		for i := 0; i < len(data); i += 4 {
			data[i+1] = 0x81
		}
	})
	changed := false
	for i := range asStored {
		if asStored[i].LogProb != between[i].LogProb {
			t.Errorf("position %d: scales were not rounded to bf16", i)
		}
		changed = changed || asStored[i].LogProb != above[i].LogProb
	}
	if !changed {
		t.Error("scales of the next bf16 value changed nothing")
	}
}
