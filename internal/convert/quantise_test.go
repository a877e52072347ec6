package convert

import (
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"tarbert/internal/convert/kernel"
	"tarbert/internal/tensor"
)

// slowBF16 rounds by search between neighbours with exact arithmetic.
func slowBF16(x *big.Float) float64 {
	f, _ := x.Float64()
	low := math.Float32frombits(math.Float32bits(float32(f)) &^ 0xffff)
	if math.Abs(float64(low)) > math.Abs(f) { // the conversion to float32 had rounded up
		low = math.Float32frombits(math.Float32bits(low) - 1<<16)
	}
	high := math.Float32frombits(math.Float32bits(low) + 1<<16)
	dLow := new(big.Float).Abs(new(big.Float).Sub(x, big.NewFloat(float64(low))))
	dHigh := new(big.Float).Abs(new(big.Float).Sub(x, big.NewFloat(float64(high))))
	switch c := dLow.Cmp(dHigh); {
	case c < 0 || c == 0 && math.Float32bits(low)>>16&1 == 0:
		return float64(low)
	}
	return float64(high)
}

// row draws weights of one magnitude or of many, with ties and edges in it.
func row(t *rapid.T, d tensor.DType) []float32 {
	n := rapid.IntRange(1, 40).Draw(t, "n")
	e := rapid.IntRange(-60, 60).Draw(t, "exponent")
	x := make([]float32, n)
	for i := range x {
		m := rapid.IntRange(-1<<11, 1<<11).Draw(t, "mantissa")
		x[i] = float32(math.Ldexp(float64(m), e-rapid.IntRange(0, 8).Draw(t, "down")))
		if rapid.Bool().Draw(t, "fine") {
			x[i] = math.Float32frombits(math.Float32bits(x[i]) ^ rapid.Uint32Range(0, 0xffff).Draw(t, "low"))
		}
		if d == tensor.BF16 {
			x[i] = tensor.FromBF16(tensor.ToBF16(x[i]))
		}
	}
	return x
}

// quantiseRow is what a dialect does with a row of a weight of type d.
func quantiseRow(dialect int8Dialect, codes []byte, x []float32, d tensor.DType, exact bool) (float32, kernel.Loss, error) {
	r := Compatible
	if exact {
		r = Exact
	}
	loss := &deviation{}
	v := &values{weight: &weight{stored: &tensor.Info{Name: "w", DType: d}}, rows: 1, cols: int64(len(x)), rounding: r, loss: loss,
		buf: &buffer{row: x, narrow: make([]byte, 2*len(x))}}
	kernel.Round(v.buf.narrow, x)
	scale, err := dialect.row(v, 0, codes, r)
	if err == nil {
		err = dialect.measure(v, 0, codes, scale)
	}
	return scale, loss.Loss, err
}

// TestRowsKeepTheirBound holds the arithmetic against a second one that rounds
// with big numbers, and every element against the bound.
func TestRowsKeepTheirBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := rapid.SampledFrom([]tensor.DType{tensor.F32, tensor.BF16}).Draw(t, "dtype")
		exact := rapid.Bool().Draw(t, "exact")
		x := row(t, d)
		codes := make([]byte, len(x))
		dialect := rapid.SampledFrom([]int8Dialect{ascend, compressed}).Draw(t, "dialect")
		scale, e, err := quantiseRow(dialect, codes, x, d, exact)
		if err != nil {
			t.Fatal(err)
		}
		var top float64
		for _, v := range x {
			w := float64(v)
			if !exact {
				w = float64(tensor.FromBF16(tensor.ToBF16(v)))
			}
			top = max(top, math.Abs(w))
		}
		want := float64(float32(top) / dialect.top)
		if !exact {
			if want = slowBF16(big.NewFloat(want)); !dialect.onlyZero || want == 0 {
				want = max(want, float64(dialect.floor))
			}
		} else if want = max(want, 0x1p-126); top == 0 {
			want = float64(dialect.floor)
		}
		if float64(scale) != want {
			t.Fatalf("scale %v, want %v", scale, want)
		}
		for i, v := range x {
			w := v
			if !exact {
				w = tensor.FromBF16(tensor.ToBF16(v))
			}
			q := float64(w / scale)
			if !exact {
				q = slowBF16(big.NewFloat(q))
			}
			q = min(max(math.RoundToEven(q), -128), 127)
			if float64(int8(codes[i])) != q {
				t.Fatalf("element %d = %v: code %d, want %v", i, v, int8(codes[i]), q)
			}
		}
		if e.Max > e.Bound {
			t.Fatalf("largest error %v over the largest bound %v", e.Max, e.Bound)
		}
	})
}

func TestEdgesOfTheDialect(t *testing.T) {
	quantise := func(x ...float32) ([]byte, float32) {
		codes := make([]byte, len(x))
		scale, _, err := quantiseRow(ascend, codes, x, tensor.BF16, false)
		if err != nil {
			t.Fatal(err)
		}
		return codes, scale
	}
	if codes, scale := quantise(0, 0); scale != 0x1p-23 || codes[0] != 0 {
		t.Errorf("a row of zeros: scale %v, codes %v", scale, codes)
	}
	// 1/127 rounds down in bfloat16, so that -1 is -127.5 of it and becomes -128, and 1 becomes 127.
	found := false
	for m := 128; m < 256 && !found; m++ {
		w := float32(m)
		codes, _ := quantise(w, -w)
		if int8(codes[1]) == -128 {
			found = true
			if int8(codes[0]) != 127 {
				t.Errorf("%v: codes %d and %d", w, int8(codes[0]), int8(codes[1]))
			}
		}
	}
	if !found {
		t.Error("-128 never occurs; msmodelslim's does")
	}
	// The floor: what is below 127 × 2^-23 loses codes, and stays in its bound.
	if codes, scale := quantise(0x1p-23, 0x1p-25); scale != 0x1p-23 || codes[0] != 1 || codes[1] != 0 {
		t.Errorf("a tiny row: scale %v, codes %v", scale, codes)
	}
}

// TestDecodersAgree: Check's decoders and the ones that read for Convert share
// no code, and give the same for every code of every narrow type.
func TestDecodersAgree(t *testing.T) {
	for u := range 1 << 16 {
		b := []byte{byte(u), byte(u >> 8)}
		if got, want := decodeBF16(b), float64(tensor.FromBF16(uint16(u))); got != want && got == got {
			t.Fatalf("decodeBF16(%#04x) = %v, want %v", u, got, want)
		}
		if got, want := decodeF16(b), float64(tensor.FromF16(uint16(u))); got != want && got == got {
			t.Fatalf("decodeF16(%#04x) = %v, want %v", u, got, want)
		}
		if (decodeBF16(b) != decodeBF16(b)) != math.IsNaN(float64(tensor.FromBF16(uint16(u)))) {
			t.Fatalf("decodeBF16(%#04x) = %v", u, decodeBF16(b))
		}
	}
	for u := range 256 {
		if got, want := decodeE4M3([]byte{byte(u)}), float64(tensor.FromF8E4M3(byte(u))); got != want && !(math.IsNaN(got) && math.IsNaN(want)) {
			t.Errorf("decodeE4M3(%#02x) = %v, want %v", u, got, want)
		}
		if got, want := decodeE8M0([]byte{byte(u)}), float64(tensor.FromF8E8M0(byte(u))); got != want && !(math.IsNaN(got) && math.IsNaN(want)) {
			t.Errorf("decodeE8M0(%d) = %v, want %v", u, got, want)
		}
		if got, want := decodeE2M1(byte(u%16)), float64(kernel.FP4Value(byte(u))); got != want || math.Signbit(got) != math.Signbit(want) {
			t.Errorf("decodeE2M1(%d) = %v, want %v", u%16, got, want)
		}
		if got := decodeI8([]byte{byte(u)}); got != float64(int8(u)) {
			t.Errorf("decodeI8(%d) = %v", u, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		u := rapid.Uint32().Draw(t, "bits")
		want := float64(math.Float32frombits(u))
		if got := decodeF32([]byte{byte(u), byte(u >> 8), byte(u >> 16), byte(u >> 24)}); got != want && !(math.IsNaN(got) && math.IsNaN(want)) {
			t.Fatalf("decodeF32(%#08x) = %v, want %v", u, got, want)
		}
		x := math.Float32frombits(u)
		if f := float64(x); !math.IsInf(f, 0) && !math.IsNaN(f) && x != 0 && kernel.RoundLoss([]float32{x}, []byte{0, 0}).Bound != bf16HalfStep(f) {
			t.Fatalf("half a step at %v: %v and %v", x, kernel.RoundLoss([]float32{x}, []byte{0, 0}).Bound, bf16HalfStep(f))
		}
	})
}
