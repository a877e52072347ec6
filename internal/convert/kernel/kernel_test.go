package kernel

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tarbert/internal/tensor"
)

// each runs a test with every implementation that this processor has beside plain Go.
func each(t *testing.T, f func(t *testing.T, o *ops)) {
	for _, o := range available() {
		if o.name != "go" {
			t.Run(o.name, func(t *testing.T) { f(t, o) })
		}
	}
}

// scale draws one of any magnitude: subnormal, usual, so large that products overflow.
func scale(t *rapid.T) float32 {
	return math.Float32frombits(rapid.OneOf(rapid.Uint32Range(0, 0x7f7fffff), rapid.Uint32Range(0x38000000, 0x3f800000)).Draw(t, "scale"))
}

// number draws a float32 of any magnitude, or near a tie.
func number(t *rapid.T) float32 {
	return math.Float32frombits(rapid.OneOf(rapid.Uint32Range(0, 0x7f7fffff), rapid.Uint32Range(0x3c000000, 0x43ffffff),
		rapid.Map(rapid.Uint32Range(0x3c00, 0x43ff), func(u uint32) uint32 { return u<<16 | 0x8000 })).Draw(t, "bits") | rapid.Uint32Range(0, 1).Draw(t, "sign")<<31)
}

// TestFP8EqualsItsTwin over all codes, many scales, and every length around a vector.
func TestFP8EqualsItsTwin(t *testing.T) {
	each(t, func(t *testing.T, o *ops) {
		rapid.Check(t, func(t *rapid.T) {
			var table Table
			f := scale(t)
			table.Fill(f)
			n := rapid.IntRange(0, 400).Draw(t, "n")
			rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
			src := make([]byte, n)
			nan := rapid.Bool().Draw(t, "nan")
			for i := range src {
				if src[i] = byte(i); i >= 256 || n < 256 {
					src[i] = byte(rng.Uint32())
				}
				if !nan && src[i]&0x7f == 0x7f {
					src[i]--
				}
			}
			a, b := make([]byte, 2*n), make([]byte, 2*n)
			okA, okB := fp8Go(a, src, &table), o.fp8(b, src, &table)
			if okA != okB || !bytes.Equal(a, b) {
				t.Fatalf("n %d: %v, %v, equal %v", n, okA, okB, bytes.Equal(a, b))
			}
			for i, c := range src { // and both are the published arithmetic
				want := tensor.ToBF16(tensor.FromF8E4M3(c) * f)
				if got := binary.LittleEndian.Uint16(a[2*i:]); got != want && c&0x7f != 0x7f {
					t.Fatalf("code %#02x: %#04x, want %#04x", c, got, want)
				}
			}
		})
	})
}

// TestFP8EqualsVectors: PyTorch's results, for float32 and for E8M0 scales.
func TestFP8EqualsVectors(t *testing.T) {
	f, err := tensor.Open(filepath.Join("..", "..", "tensor", "testdata", "vectors", "fp8.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	get := func(name string) ([]byte, tensor.Info) {
		b, err := f.Bytes(name)
		if err != nil {
			t.Fatal(err)
		}
		info, _ := f.Info(name)
		return b, info
	}
	seen := map[byte]bool{}
	for _, name := range []string{"w", "u"} {
		codes, info := get(name + ".weight")
		want, _ := get("expected." + name)
		scales, grid := get(name + ".weight_scale_inv")
		rows, cols := int(info.Shape[0]), int(info.Shape[1])
		tables := make([]Table, grid.Shape[1])
		got := make([]byte, 2*cols)
		for r := range rows {
			for i := range tables {
				at := r/128*len(tables) + i
				s := tensor.FromF8E8M0(scales[min(at, len(scales)-1)])
				if grid.DType == tensor.F32 {
					s = math.Float32frombits(binary.LittleEndian.Uint32(scales[4*at:]))
				}
				tables[i].Fill(s)
			}
			FP8(got, codes[r*cols:(r+1)*cols], tables, 128)
			for c := range cols {
				code := codes[r*cols+c]
				seen[code] = true
				g, w := binary.LittleEndian.Uint16(got[2*c:]), binary.LittleEndian.Uint16(want[2*(r*cols+c):])
				if g != w && !(g&0x7fff > 0x7f80 && w&0x7fff > 0x7f80) {
					t.Fatalf("%s row %d column %d code %#02x: %#04x, want %#04x", name, r, c, code, g, w)
				}
			}
		}
	}
	if len(seen) != 256 {
		t.Errorf("%d codes occur", len(seen))
	}
}

// TestInt8EqualsVectors: compressed-tensors' codes, in bfloat16 and in float32.
func TestInt8EqualsVectors(t *testing.T) {
	f, err := tensor.Open(filepath.Join("..", "..", "tensor", "testdata", "vectors", "int8_compressed_tensors.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, name := range []string{"bf16", "f32"} {
		x, err := f.Float32(name + ".weight")
		if err != nil {
			t.Fatal(err)
		}
		scales, err := f.Float32(name + ".weight_scale")
		if err != nil {
			t.Fatal(err)
		}
		want, err := f.Bytes(name + ".int8")
		if err != nil {
			t.Fatal(err)
		}
		cols := len(x) / len(scales)
		got := make([]byte, len(x))
		for r, s := range scales {
			Int8(got[r*cols:(r+1)*cols], x[r*cols:(r+1)*cols], s, name == "bf16")
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: the codes differ", name)
		}
	}
}

// TestEncodersEqualTheirTwins: rounding, int8, E4M3, and the tests of magnitude.
func TestEncodersEqualTheirTwins(t *testing.T) {
	each(t, func(t *testing.T, o *ops) {
		rapid.Check(t, func(t *rapid.T) {
			x := rapid.SliceOfN(rapid.Custom(number), 0, 100).Draw(t, "x")
			n := len(x)
			bf, bg := make([]byte, 2*n), make([]byte, 2*n)
			roundGo(bf, x)
			if o.round(bg, x); !bytes.Equal(bf, bg) {
				t.Fatalf("round: %x, want %x", bg, bf)
			}
			if a, b := maxAbsGo(x), o.maxAbs(x); a != b {
				t.Fatalf("maxAbs: %#08x, want %#08x", b, a)
			}
			if a, b := finiteGo(bf), o.finite(bf); a != b {
				t.Fatalf("finite: %v, want %v", b, a)
			}
			wa, wb := make([]float32, n), make([]float32, n)
			widenGo(wa, bf)
			if o.widen(wb, bf); !sameBits(wa, wb) {
				t.Fatalf("widen: %v, want %v", wb, wa)
			}
			a, b := make([]byte, n), make([]byte, n)
			s := max(scale(t), 0x1p-126)
			e4m3Go(a, x, s)
			if o.e4m3(b, x, s); !bytes.Equal(a, b) {
				t.Fatalf("e4m3 with scale %v: %x, want %x of %v", s, b, a, x)
			}
			if a, b := maxAbs16Go(bf), o.maxAbs16(bf); a != b {
				t.Fatalf("maxAbs16: %#08x, want %#08x", b, a)
			}
			s = max(MaxAbs(x)/rapid.SampledFrom([]float32{127, 127.5, 1e6}).Draw(t, "top"), 0x1p-126)
			for _, narrow := range []bool{false, true} {
				int8Go(a, x, s, narrow)
				if o.int8s(b, x, s, narrow); !bytes.Equal(a, b) {
					t.Fatalf("int8 with scale %v: %v, want %v of %v", s, b, a, x)
				}
				if !finiteGo(bf) {
					continue
				}
				int8Go16(a, bf, s, narrow)
				if o.int8s16(b, bf, s, narrow); !bytes.Equal(a, b) {
					t.Fatalf("int8 of BF16 with scale %v: %v, want %v of %v", s, b, a, wa)
				}
			}
		})
	})
}

// TestEveryDivisionOfBF16: all mantissas of value and scale, which are all the
// quotients that the compatible dialects have, but for a power of two; near the
// ends of what is divided by a reciprocal, too.
func TestEveryDivisionOfBF16(t *testing.T) {
	each(t, func(t *testing.T, o *ops) {
		x := make([]float32, 128*10)
		want, got := make([]byte, len(x)), make([]byte, len(x))
		for _, exponent := range []uint32{67, 68, 104, 127, 186, 187} {
			for s := range uint32(128) {
				scale := math.Float32frombits(exponent<<23 | s<<16)
				for i := range x {
					x[i] = math.Float32frombits((exponent-2+uint32(i/128))<<23 | uint32(i%128)<<16 | uint32(i&1)<<31)
				}
				for _, narrow := range []bool{false, true} {
					int8Go(want, x, scale, narrow)
					if o.int8s(got, x, scale, narrow); !bytes.Equal(want, got) {
						t.Fatalf("scale %v, narrow %v", scale, narrow)
					}
				}
			}
		}
	})
}

// TestDivisionAtTies: quotients next to a tie, with scales of all 24 bits.
func TestDivisionAtTies(t *testing.T) {
	each(t, func(t *testing.T, o *ops) {
		rng := rand.New(rand.NewPCG(3, 5))
		x := make([]float32, 16*1024)
		want, got := make([]byte, len(x)), make([]byte, len(x))
		for range 200 {
			scale := math.Float32frombits(uint32(67+rng.IntN(120))<<23 | rng.Uint32()&0x7fffff)
			if rng.IntN(4) == 0 {
				scale = math.Float32frombits(math.Float32bits(scale) | 0x7fffff - uint32(rng.IntN(2))) // the longest mantissas
			}
			for i := range x {
				tie := float64(rng.IntN(256)-128) + 0.5
				if i%3 == 0 {
					tie = float64(rng.IntN(2048)-1024)/8 + 1.0/16
				}
				x[i] = math.Float32frombits(math.Float32bits(float32(tie*float64(scale))) + uint32(rng.IntN(5)) - 2)
			}
			for _, narrow := range []bool{false, true} {
				int8Go(want, x, scale, narrow)
				if o.int8s(got, x, scale, narrow); !bytes.Equal(want, got) {
					t.Fatalf("scale %v, narrow %v", scale, narrow)
				}
			}
		}
	})
}

func TestRoundingOfNaNAndInfinity(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	x := make([]float32, 48)
	for i := range x {
		x[i] = []float32{nan, inf, -inf, 1, math.Float32frombits(0x7f800001), math.Float32frombits(0xffc12345), math.MaxFloat32}[i%7]
	}
	for _, o := range available() {
		a, b := make([]byte, 96), make([]byte, 96)
		roundGo(a, x)
		if o.round(b, x); !bytes.Equal(a, b) {
			t.Errorf("%s: %x, want %x", o.name, b, a)
		}
		if o.finite(b) {
			t.Errorf("%s: infinity passed for finite", o.name)
		}
	}
}

// TestEveryQuotientOfE4M3: all bfloat16 values, which meet every tie and subnormal.
func TestEveryQuotientOfE4M3(t *testing.T) {
	x := make([]float32, 1<<16)
	for i := range x {
		x[i] = tensor.FromBF16(uint16(i))
	}
	want := make([]byte, len(x))
	e4m3Go(want, x, 1)
	for _, o := range available() {
		got := make([]byte, len(x))
		o.e4m3(got, x, 1)
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("%s: %v became %#02x, want %#02x", o.name, x[i], got[i], want[i])
			}
		}
	}
}

func sameBits(a, b []float32) bool {
	for i := range a {
		if math.Float32bits(a[i]) != math.Float32bits(b[i]) {
			return false
		}
	}
	return len(a) == len(b)
}

// TestLossesEqualTheirTwins, to the bit, and find what is out of bounds.
func TestLossesEqualTheirTwins(t *testing.T) {
	each(t, func(t *testing.T, o *ops) {
		rapid.Check(t, func(t *rapid.T) {
			n := 16 * rapid.IntRange(0, 6).Draw(t, "n")
			x := rapid.SliceOfN(rapid.Custom(number), n, n).Draw(t, "x")
			bf, codes := make([]byte, 2*n), make([]byte, n)
			roundGo(bf, x)
			narrow, wide := rapid.Bool().Draw(t, "narrow"), rapid.Bool().Draw(t, "wide")
			s := max(MaxAbs(x)/127, 0x1p-100)
			int8Go(codes, x, s, narrow)
			if n > 0 && rapid.Bool().Draw(t, "damage") {
				at := rapid.IntRange(0, n-1).Draw(t, "at")
				codes[at] += byte(rapid.IntRange(1, 255).Draw(t, "by"))
				bf[2*at+1] ^= byte(rapid.IntRange(1, 255).Draw(t, "flip"))
			}
			var a, b partial
			roundLossGo(x, bf, &a)
			o.roundLoss(x, bf, &b)
			if diff := cmp.Diff(print(a.loss()), print(b.loss())); diff != "" {
				t.Fatalf("roundLoss: %s", diff)
			}
			a, b = partial{}, partial{}
			e := newE4M3Bound(max(MaxAbs(x)/448, 0x1p-100))
			e4m3Go(codes, x, float32(e.scale))
			if n > 0 && rapid.Bool().Draw(t, "damage e4m3") {
				codes[rapid.IntRange(0, n-1).Draw(t, "where")] = rapid.ByteRange(0, 0x7e).Draw(t, "code") | rapid.Byte().Draw(t, "minus")&0x80
			}
			e4m3LossGo(x, codes, e, &a)
			o.e4m3Loss(x, codes, e, &b)
			if diff := cmp.Diff(print(a.loss()), print(b.loss())); diff != "" {
				t.Fatalf("e4m3Loss: %s", diff)
			}
			int8Go(codes, x, s, narrow)
			a, b = partial{}, partial{}
			bound := newInt8Bound(s, narrow, wide)
			int8LossGo(x, codes, bound, &a)
			o.int8Loss(x, codes, bound, &b)
			if diff := cmp.Diff(print(a.loss()), print(b.loss())); diff != "" {
				t.Fatalf("int8Loss: %s", diff)
			}
		})
	})
}

// TestNoiseEqualsItsTwin, to the bit, and Int8Loss's to five digits.
func TestNoiseEqualsItsTwin(t *testing.T) {
	each(t, func(t *testing.T, o *ops) {
		rng := rand.New(rand.NewPCG(8, 8))
		for _, n := range []int{0, 16, 1000, 4096, 20000} {
			for _, scale := range []float32{0x1p-70, 0x1p-60, 1e-9, 0.0123, 1, 1e9} {
				x, codes := make([]float32, n), make([]byte, n)
				for i := range x {
					x[i] = float32(rng.NormFloat64()) * 40 * scale
				}
				Int8(codes, x, scale, rng.IntN(2) == 0)
				whole := n &^ (lanes - 1)
				if a, b := int8NoiseGo(x[:whole], codes[:whole], 1/scale), o.noise(x[:whole], codes[:whole], 1/scale); a != b {
					t.Fatalf("%d values, scale %v: %v, want %v", n, scale, b, a)
				}
				if got, want := Int8Noise(x, codes, scale), Int8Loss(x, codes, scale, false, false).Noise; math.Abs(got-want) > 2e-5*want {
					t.Fatalf("%d values, scale %v: %v, want %v", n, scale, got, want)
				}
			}
		}
	})
}

// TestEveryShortDivision: all mantissas of values and scales of BF16, through the
// product that stands for their division.
func TestEveryShortDivision(t *testing.T) {
	each(t, func(t *testing.T, o *ops) {
		src := make([]byte, 2*128*9*2)
		want, got := make([]byte, len(src)/2), make([]byte, len(src)/2)
		for _, exponent := range []uint16{67, 68, 104, 127, 186, 187} {
			for s := range uint16(128) {
				scale := tensor.FromBF16(exponent<<7 | s)
				for i := range len(src) / 2 { // quotients from 1/4 to 256, of both signs
					u := (exponent-2+uint16(i/256))<<7 | uint16(i%128) | uint16(i/128%2)<<15
					binary.LittleEndian.PutUint16(src[2*i:], u)
				}
				int8Go16(want, src, scale, true)
				if o.int8s16(got, src, scale, true); !bytes.Equal(want, got) {
					t.Fatalf("scale %v", scale)
				}
			}
		}
	})
}

// print makes a loss comparable where it has infinities and NaN.
func print(l Loss) [5]uint64 {
	bad := uint64(0)
	if l.Bad {
		return [5]uint64{0, 0, 0, 0, 1} // of what is refused, only that counts
	}
	return [5]uint64{math.Float64bits(l.Max), math.Float64bits(l.Bound), math.Float64bits(l.Signal), math.Float64bits(l.Noise), bad}
}

// TestInt8LossFindsAWrongCode: two codes off is outside any bound.
func TestInt8LossFindsAWrongCode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 70).Draw(t, "n")
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(rapid.IntRange(-1000, 1000).Draw(t, "x")) / 1000
		}
		top := MaxAbs(x)
		if top == 0 {
			return
		}
		narrow := rapid.Bool().Draw(t, "narrow")
		if narrow {
			for i := range x {
				x[i] = tensor.FromBF16(tensor.ToBF16(x[i]))
			}
		}
		s := MaxAbs(x) / 127
		codes := make([]byte, n)
		Int8(codes, x, s, narrow)
		if l := Int8Loss(x, codes, s, narrow, false); l.Bad || l.Max > l.Bound {
			t.Fatalf("right codes: %+v", l)
		}
		at := rapid.IntRange(0, n-1).Draw(t, "at")
		if q := int8(codes[at]); q > 0 {
			codes[at] -= 2
		} else {
			codes[at] += 2
		}
		if l := Int8Loss(x, codes, s, narrow, false); !l.Bad {
			t.Fatalf("a wrong code at %d: %+v", at, l)
		}
	})
}

// TestFP4 against the definition, and its expansion against its decoding.
func TestFP4(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		groups := rapid.IntRange(1, 5).Draw(t, "groups")
		src := rapid.SliceOfN(rapid.Byte(), 16*groups, 16*groups).Draw(t, "src")
		exponents := rapid.SliceOfN(rapid.ByteRange(40, 160), groups, groups).Draw(t, "exponents")
		dst := make([]byte, 4*len(src))
		FP4(dst, src, exponents)
		for i := range 2 * len(src) {
			code := src[i/2] >> (4 * (i % 2)) & 15
			want := math.Ldexp(float64(FP4Value(code)), int(exponents[i/32])-127)
			if got := float64(tensor.FromBF16(binary.LittleEndian.Uint16(dst[2*i:]))); got != want || math.Signbit(got) != math.Signbit(want) {
				t.Fatalf("column %d: code %d is %v, want %v", i, code, got, want)
			}
		}
		n := rapid.IntRange(-20, 6).Draw(t, "shift")
		shift := NewShift(n)
		if shift.Exact() != (n >= -8) {
			t.Fatalf("shift %d: exact %v", n, shift.Exact())
		}
		out, shifts := make([]byte, 2*len(src)), slices.Repeat([]Shift{shift}, groups)
		Expand(out, src, shifts)
		for i, c := range out {
			code := src[i/2] >> (4 * (i % 2)) & 15
			if want := math.Ldexp(float64(FP4Value(code)), n); shift.Exact() && float64(tensor.FromF8E4M3(c)) != want || c != shift.Code(code) {
				t.Fatalf("code %d × 2^%d became %v", code, n, tensor.FromF8E4M3(c))
			}
		}
	})
}

// TestFP4EqualsItsTwin, any length, any scales.
func TestFP4EqualsItsTwin(t *testing.T) {
	each(t, func(t *testing.T, o *ops) {
		rapid.Check(t, func(t *rapid.T) {
			n := rapid.IntRange(0, 100).Draw(t, "n")
			src := rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "src")
			scales := rapid.SliceOfN(rapid.Byte(), n/16+1, n/16+1).Draw(t, "scales")
			a, b := make([]byte, 4*n), make([]byte, 4*n)
			fp4Go(a, src, scales)
			if o.fp4(b, src, scales); !bytes.Equal(a, b) {
				t.Fatalf("fp4: %x, want %x", b, a)
			}
			shifts := make([]Shift, len(scales))
			for i, s := range scales {
				shifts[i] = Shift(s)
			}
			a, b = a[:2*n], b[:2*n]
			expandGo(a, src, shifts)
			if o.expand(b, src, shifts); !bytes.Equal(a, b) {
				t.Fatalf("expand: %x, want %x", b, a)
			}
		})
	})
}

func TestLengthsThatDisagree(t *testing.T) {
	for name, f := range map[string]func(){
		"FP8":       func() { FP8(make([]byte, 3), make([]byte, 2), make([]Table, 1), 128) },
		"no tables": func() { FP8(make([]byte, 4), make([]byte, 2), nil, 128) },
		"FP4":       func() { FP4(make([]byte, 4), make([]byte, 2), []byte{1}) },
		"Expand":    func() { Expand(make([]byte, 4), make([]byte, 2), nil) },
		"Widen":     func() { Widen(make([]float32, 2), make([]byte, 2)) },
		"Round":     func() { Round(make([]byte, 2), make([]float32, 2)) },
		"RoundLoss": func() { RoundLoss(make([]float32, 2), make([]byte, 2)) },
		"Int8":      func() { Int8(make([]byte, 2), make([]float32, 1), 1, true) },
		"Int8Noise": func() { Int8Noise(make([]float32, 1), make([]byte, 2), 1) },
		"Int8Loss":  func() { Int8Loss(make([]float32, 1), make([]byte, 2), 1, true, true) },
		"E4M3":      func() { E4M3(make([]byte, 2), make([]float32, 1), 1) },
		"E4M3Loss":  func() { E4M3Loss(make([]float32, 1), make([]byte, 2), 1) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			f()
		})
	}
	if Describe() == "" {
		t.Error("no description")
	}
}
