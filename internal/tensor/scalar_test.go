package tensor

import (
	"encoding/binary"
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

func vectors(t *testing.T, name string) *File {
	t.Helper()
	f, err := Open("testdata/vectors/" + name + ".safetensors")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func words(t *testing.T, f *File, name string) []uint16 {
	t.Helper()
	b, err := f.Bytes(name)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]uint16, len(b)/2)
	for i := range out {
		out[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return out
}

func TestNarrowingEqualsPyTorchs(t *testing.T) {
	f := vectors(t, "narrow")
	for _, set := range []struct{ source, bf16, f16 string }{
		{"f32", "bf16_from_f32", "f16_from_f32"}, {"extremes.f32", "extremes.bf16", "extremes.f16"},
	} {
		x, err := f.Float32(set.source)
		if err != nil {
			t.Fatal(err)
		}
		bf16, f16 := words(t, f, set.bf16), words(t, f, set.f16)
		for i, v := range x {
			if got := ToBF16(v); got != bf16[i] {
				t.Errorf("ToBF16(%v) = %#04x, PyTorch %#04x", v, got, bf16[i])
			}
			if got := ToF16(v); got != f16[i] {
				t.Errorf("ToF16(%v) = %#04x, PyTorch %#04x", v, got, f16[i])
			}
		}
	}
	x, err := f.Float32("f32")
	if err != nil {
		t.Fatal(err)
	}
	fp8, err := f.Bytes("fp8_from_f32_saturated")
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range x {
		if got := ToF8E4M3(v); got != fp8[i] {
			t.Errorf("ToF8E4M3(%v) = %#02x, PyTorch %#02x", v, got, fp8[i])
		}
	}
}

// TestBlockScalesEqualPyTorchs dequantises as DeepSeek's script does.
func TestBlockScalesEqualPyTorchs(t *testing.T) {
	f := vectors(t, "fp8")
	scales := map[string]func() []float32{
		"w": func() []float32 {
			s, err := f.Float32("w.weight_scale_inv")
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
		"u": func() (s []float32) {
			b, err := f.Bytes("u.weight_scale_inv")
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range b {
				s = append(s, FromF8E8M0(c))
			}
			return s
		},
	}
	for name, scale := range scales {
		codes, err := f.Bytes(name + ".weight")
		if err != nil {
			t.Fatal(err)
		}
		s, want := scale(), words(t, f, "expected."+name)
		const rows, cols, block, across = 300, 400, 128, 4
		for i := range rows {
			for j := range cols {
				v := FromF8E4M3(codes[i*cols+j]) * s[i/block*across+j/block]
				got, w := ToBF16(v), want[i*cols+j]
				if got != w && !(math.IsNaN(float64(FromBF16(got))) && math.IsNaN(float64(FromBF16(w)))) {
					t.Fatalf("%s[%d,%d]: code %#02x × scale gives %#04x, PyTorch %#04x", name, i, j, codes[i*cols+j], got, w)
				}
			}
		}
	}
}

// grid lists the finite values of a narrow type from zero up, by its definition.
func grid(digits, lowest, highest int) []float64 {
	g := []float64{0}
	for m := 1; m < 1<<digits; m++ {
		g = append(g, math.Ldexp(float64(m), lowest-digits))
	}
	for e := lowest; e <= highest; e++ {
		for m := range 1 << digits {
			g = append(g, math.Ldexp(1+float64(m)/float64(int(1)<<digits), e))
		}
	}
	return g
}

// nearest finds the code of a magnitude by search and exact comparison.
func nearest(g []float64, x float64) int {
	lo, hi := 0, len(g)-1
	for hi-lo > 1 {
		if mid := (lo + hi) / 2; g[mid] <= x {
			lo = mid
		} else {
			hi = mid
		}
	}
	middle := new(big.Float).Add(big.NewFloat(g[lo]), big.NewFloat(g[hi]))
	switch middle.Cmp(new(big.Float).Mul(big.NewFloat(2), big.NewFloat(x))) {
	case 1:
		return lo
	case -1:
		return hi
	}
	return lo + lo&1 // even codes have even last digits
}

func anyFloat32(t *rapid.T) float32 {
	return math.Float32frombits(rapid.Uint32().Draw(t, "bits"))
}

func TestNarrowingIsToNearestEven(t *testing.T) {
	f16 := append(grid(10, -14, 15), 65536) // what would follow the largest stands for infinity
	e4m3 := grid(3, -6, 8)
	e4m3 = e4m3[:len(e4m3)-1] // 480 is NaN's place
	rapid.Check(t, func(t *rapid.T) {
		x := anyFloat32(t)
		if rapid.Bool().Draw(t, "in range") {
			x = float32(math.Ldexp(float64(rapid.IntRange(0, 1<<13).Draw(t, "m")), rapid.IntRange(-40, 4).Draw(t, "e")))
		}
		a := math.Abs(float64(x))
		if math.IsNaN(a) {
			if ToF16(x)&0x7fff != 0x7e00 || ToBF16(x) != 0x7fc0 || ToF8E4M3(x) != 0x7f {
				t.Fatalf("NaN became %#x %#x %#x", ToF16(x), ToBF16(x), ToF8E4M3(x))
			}
			return
		}
		sign := uint16(math.Float32bits(x) >> 16 & 0x8000)
		if want := sign | uint16(nearest(f16, min(a, 65536))); ToF16(x) != want {
			t.Fatalf("ToF16(%v) = %#04x, want %#04x", x, ToF16(x), want)
		}
		if want := uint8(sign>>8) | uint8(nearest(e4m3, min(a, 448))); ToF8E4M3(x) != want {
			t.Fatalf("ToF8E4M3(%v) = %#02x, want %#02x", x, ToF8E4M3(x), want)
		}
		// Of the two bfloat16 values around x, the nearer, or the even one.
		low := math.Float32bits(x) >> 16
		want := low
		switch rest := math.Float32bits(x) & 0xffff; {
		case rest > 0x8000 || rest == 0x8000 && low&1 == 1:
			want++
		}
		if ToBF16(x) != uint16(want) {
			t.Fatalf("ToBF16(%v) = %#04x, want %#04x", x, ToBF16(x), want)
		}
	})
}

func TestWideningIsExact(t *testing.T) {
	for u := range 1 << 16 {
		u := uint16(u)
		if x := FromF16(u); x == x && ToF16(x) != u {
			t.Fatalf("FromF16(%#04x) = %v becomes %#04x", u, x, ToF16(x))
		}
		if x := FromBF16(u); x == x && ToBF16(x) != u {
			t.Fatalf("FromBF16(%#04x) = %v becomes %#04x", u, x, ToBF16(x))
		}
	}
	e4m3 := grid(3, -6, 8)
	for u := range 1 << 8 {
		x := FromF8E4M3(uint8(u))
		if u&0x7f == 0x7f {
			if x == x {
				t.Errorf("FromF8E4M3(%#02x) = %v, want NaN", u, x)
			}
		} else if math.Abs(float64(x)) != e4m3[u&0x7f] || math.Signbit(float64(x)) != (u >= 0x80) || ToF8E4M3(x) != uint8(u) {
			t.Errorf("FromF8E4M3(%#02x) = %v, becomes %#02x", u, x, ToF8E4M3(x))
		}
		y := FromF8E8M0(uint8(u))
		if u == 0xff {
			if y == y {
				t.Errorf("FromF8E8M0(0xff) = %v, want NaN", y)
			}
		} else if float64(y) != math.Ldexp(1, u-127) || ToF8E8M0(y) != uint8(u) {
			t.Errorf("FromF8E8M0(%#02x) = %v, becomes %#02x", u, y, ToF8E8M0(y))
		}
	}
}

func TestToF8E8M0(t *testing.T) {
	for _, tt := range []struct {
		x    float32
		want uint8
	}{
		{1, 127}, {1.4999, 127}, {1.5, 128}, {0x1p127, 254}, {math.MaxFloat32, 0xff}, {0, 0}, {float32(math.Copysign(0, -1)), 0},
		{-1, 0xff}, {float32(math.Inf(1)), 0xff}, {float32(math.NaN()), 0xff}, {0x1p-149, 0}, {0x1p-127, 0}, {0x1.7p-127, 0}, {0x1.8p-127, 1}, {0x1p-126, 1},
	} {
		if got := ToF8E8M0(tt.x); got != tt.want {
			t.Errorf("ToF8E8M0(%v) = %d, want %d", tt.x, got, tt.want)
		}
	}
}

func TestDTypeNames(t *testing.T) {
	for d := BOOL; d <= U64; d++ {
		if got, ok := ParseDType(d.String()); !ok || got != d || d.Bits() == 0 {
			t.Errorf("%d: %q reads back as %d", d, d, got)
		}
	}
	for _, s := range []string{"", "f32", "no dtype", "F8"} {
		if d, ok := ParseDType(s); ok {
			t.Errorf("%q is read as %s", s, d)
		}
	}
	if DType(0).Valid() || DType(200).Bits() != 0 || DType(200).String() != "no dtype" {
		t.Error("what is no type passes for one")
	}
}

func BenchmarkWidenBF16(b *testing.B) {
	src, dst := make([]byte, 1<<20), make([]float32, 1<<19)
	b.SetBytes(1 << 20)
	for b.Loop() {
		if err := Widen(dst, src, BF16); err != nil {
			b.Fatal(err)
		}
	}
}

// TestWidenF32TakesBytesInOrder, on processors of either kind.
func TestWidenF32TakesBytesInOrder(t *testing.T) {
	x := make([]float32, 3)
	if err := Widen(x, []byte{0, 0, 0x80, 0x3f, 1, 2, 3, 4, 0xcd, 0xcc, 0xcc, 0xbd}, F32); err != nil {
		t.Fatal(err)
	}
	if x[0] != 1 || math.Float32bits(x[1]) != 0x04030201 || x[2] != -0.1 {
		t.Errorf("%v", x)
	}
	if err := Widen(nil, nil, F32); err != nil {
		t.Error(err)
	}
}
