package gguf_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"testing"

	"pgregory.net/rapid"

	"tarbert/internal/tensor"
	"tarbert/internal/tensor/gguf"
)

func vectors(t *testing.T) *tensor.File {
	t.Helper()
	f, err := tensor.Open("../testdata/vectors/narrow.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestEncodeEqualsGGML: bit for bit what the gguf package writes.
func TestEncodeEqualsGGML(t *testing.T) {
	f := vectors(t)
	for _, c := range []struct {
		from, to string
		t        gguf.Type
	}{
		{"f32", "q8_0_from_f32", gguf.Q8_0}, {"bf16_from_f32", "q8_0_from_bf16", gguf.Q8_0},
		{"f32", "bf16_from_f32", gguf.BF16}, {"f32", "f16_from_f32", gguf.F16}, {"f32", "f32", gguf.F32},
	} {
		x := must[[]float32](t)(f.Float32(c.from))
		want := must[[]byte](t)(f.Bytes(c.to))
		got := make([]byte, c.t.Bytes(int64(len(x))))
		if err := gguf.Encode(got, x, c.t); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s as %v differs from %s", c.from, c.t, c.to)
		}
	}
}

// TestQ8DecodesToCodeTimesScale, by the definition of the block.
func TestQ8DecodesToCodeTimesScale(t *testing.T) {
	blocks := must[[]byte](t)(vectors(t).Bytes("q8_0_from_f32"))
	x := make([]float32, len(blocks)/34*32)
	if err := gguf.Decode(x, blocks, gguf.Q8_0); err != nil {
		t.Fatal(err)
	}
	for i, got := range x {
		b := blocks[i/32*34:]
		want := float64(int8(b[2+i%32])) * float64(tensor.FromF16(binary.LittleEndian.Uint16(b)))
		if float64(got) != float64(float32(want)) {
			t.Fatalf("element %d is %v, want %v", i, got, want)
		}
	}
}

func TestNaNKeepsItsPayload(t *testing.T) {
	for _, c := range []struct {
		bits uint32
		t    gguf.Type
		want uint16
	}{
		{0x7f800001, gguf.BF16, 0x7fc0}, {0xff812345, gguf.BF16, 0xffc1}, {0x7fffffff, gguf.BF16, 0x7fff},
		{0x7f800001, gguf.F16, 0x7e00}, {0xffc02000, gguf.F16, 0xfe01}, {0x7fffffff, gguf.F16, 0x7fff},
	} {
		var b [2]byte
		if err := gguf.Encode(b[:], []float32{math.Float32frombits(c.bits)}, c.t); err != nil {
			t.Fatal(err)
		}
		if got := binary.LittleEndian.Uint16(b[:]); got != c.want {
			t.Errorf("%#x as %v is %#x, want %#x", c.bits, c.t, got, c.want)
		}
	}
}

// TestQ8Corners: hand-worked blocks.
func TestQ8Corners(t *testing.T) {
	for _, c := range []struct {
		name  string
		x     []float32 // the first of 32, the others zero
		scale uint16
		codes []int8
	}{
		{"zeros", nil, 0, nil},
		{"half away from zero", []float32{127, 0.5, -0.5, 1.5, -2.5, 0.49999997}, 0x3c00, []int8{127, 1, -1, 2, -3, 0}},
		{"the negative magnitude counts", []float32{-254, 127}, 0x4000, []int8{-127, 64}},
		{"1/d overflows", []float32{1e-42, -1e-43}, 0, []int8{0, 0}},
		{"d vanishes in half precision, codes stay", []float32{127e-9, -1e-9}, 0, []int8{127, -1}},
		{"d overflows half precision", []float32{1e7}, 0x7c00, []int8{127}},
		{"infinity", []float32{float32(math.Inf(1)), 1}, 0x7c00, []int8{0, 0}},
	} {
		x := make([]float32, 32)
		copy(x, c.x)
		b := make([]byte, 34)
		if err := gguf.Encode(b, x, gguf.Q8_0); err != nil {
			t.Fatal(err)
		}
		if got := binary.LittleEndian.Uint16(b); got != c.scale {
			t.Errorf("%s: scale %#x, want %#x", c.name, got, c.scale)
		}
		for i := range x {
			want := int8(0)
			if i < len(c.codes) {
				want = c.codes[i]
			}
			if got := int8(b[2+i]); got != want {
				t.Errorf("%s: code %d is %d, want %d", c.name, i, got, want)
			}
		}
	}
}

// TestQ8IsWithinHalfAStep: whatever the block, as long as its scale fits.
func TestQ8IsWithinHalfAStep(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := rapid.SliceOfN(rapid.Float32Range(-8e6, 8e6), 32, 32).Draw(t, "x")
		shrink := float32(math.Ldexp(1, -rapid.IntRange(0, 60).Draw(t, "shrink")))
		var top float64
		for i := range x {
			x[i] *= shrink
			top = max(top, math.Abs(float64(x[i])))
		}
		b, y := make([]byte, 34), make([]float32, 32)
		if err := gguf.Encode(b, x, gguf.Q8_0); err != nil {
			t.Fatal(err)
		}
		if err := gguf.Decode(y, b, gguf.Q8_0); err != nil {
			t.Fatal(err)
		}
		d := top / 127
		half := math.Max(d*0x1p-11, 0x1p-25) // of half precision at d
		for i := range x {
			if e := math.Abs(float64(x[i]) - float64(y[i])); e > d*(0.5+0x1p-15)+127*half*(1+0x1p-10) {
				t.Fatalf("element %d: %v became %v with scale %v", i, x[i], y[i], d)
			}
		}
	})
}

func TestBlocksAreWhole(t *testing.T) {
	for _, c := range []struct {
		bytes, elements int
		t               gguf.Type
	}{{34, 31, gguf.Q8_0}, {33, 32, gguf.Q8_0}, {4, 2, gguf.F32}, {18, 32, gguf.Q4_0}, {4, 1, gguf.Type(5)}} {
		if err := gguf.Encode(make([]byte, c.bytes), make([]float32, c.elements), c.t); err == nil {
			t.Errorf("%+v was encoded", c)
		}
		if err := gguf.Decode(make([]float32, c.elements), make([]byte, c.bytes), c.t); err == nil {
			t.Errorf("%+v was decoded", c)
		}
	}
	if gguf.Type(4).String() != "type 4" || gguf.Q4K.String() != "Q4_K" {
		t.Errorf("%v, %v", gguf.Type(4), gguf.Q4K)
	}
}

func BenchmarkEncode(b *testing.B) {
	x := make([]float32, 1<<16)
	for i := range x {
		x[i] = float32(math.Sin(float64(i)))
	}
	for _, t := range []gguf.Type{gguf.BF16, gguf.Q8_0} {
		b.Run(t.String(), func(b *testing.B) {
			out := make([]byte, t.Bytes(int64(len(x))))
			b.SetBytes(int64(4*len(x) + len(out)))
			for b.Loop() {
				if err := gguf.Encode(out, x, t); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
