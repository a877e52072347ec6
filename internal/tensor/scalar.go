package tensor

import "math"

// ToBF16 rounds to bfloat16, ties to even. A value past the largest finite
// bfloat16 becomes infinity; every NaN becomes 0x7FC0, as in PyTorch
// (GGML keeps the payload instead).
func ToBF16(x float32) uint16 {
	b := math.Float32bits(x)
	if b&0x7fffffff > 0x7f800000 {
		return 0x7fc0
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// FromBF16 widens exactly.
func FromBF16(u uint16) float32 { return math.Float32frombits(uint32(u) << 16) }

// ToF16 rounds to IEEE half precision, ties to even, with subnormals; overflow
// gives infinity, a NaN keeps its sign and becomes quiet with an empty payload.
func ToF16(x float32) uint16 {
	b := math.Float32bits(x)
	sign, a := uint16(b>>16&0x8000), b&0x7fffffff
	switch {
	case a > 0x7f800000:
		return sign | 0x7e00
	case a >= 0x47800000: // 65536 and up, infinity included
		return sign | 0x7c00
	case a >= 0x38800000: // normal: rebias 127 to 15, round 13 bits away; a carry may reach infinity
		a -= 112 << 23
		return sign | uint16((a+0xfff+a>>13&1)>>13)
	case a < 0x33000000: // below half the smallest subnormal
		return sign
	}
	// Subnormal: the value is m × 2^(e-150) and the unit 2^-24.
	m, shift := a&0x7fffff|0x800000, 126-a>>23
	half := uint32(1) << (shift - 1)
	return sign | uint16((m+half-1+m>>shift&1)>>shift)
}

// FromF16 widens exactly.
func FromF16(u uint16) float32 {
	sign, exp, m := uint32(u&0x8000)<<16, uint32(u>>10&0x1f), uint32(u&0x3ff)
	switch {
	case exp == 0x1f:
		return math.Float32frombits(sign | 0x7f800000 | m<<13)
	case exp > 0:
		return math.Float32frombits(sign | (exp+112)<<23 | m<<13)
	case sign != 0:
		return -float32(m) * 0x1p-24
	}
	return float32(m) * 0x1p-24
}

// ToF8E4M3 rounds to the E4M3 type without infinities (bias 7, largest finite
// 448), ties to even. What lies beyond 448, infinity included, saturates; NaN
// gives 0x7F.
func ToF8E4M3(x float32) uint8 {
	b := math.Float32bits(x)
	sign, a := uint8(b>>24&0x80), b&0x7fffffff
	switch {
	case a > 0x7f800000:
		return 0x7f
	case a >= 0x43e00000: // 448
		return sign | 0x7e
	case a >= 0x3c800000: // 2^-6, the smallest normal: rebias 127 to 7, keep three bits
		a -= 120 << 23
		return sign | uint8((a+0x7ffff+a>>20&1)>>20)
	}
	return sign | uint8(math.RoundToEven(float64(math.Float32frombits(a))*0x1p9))
}

// FromF8E4M3 widens exactly; 0x7F and 0xFF are NaN.
func FromF8E4M3(u uint8) float32 {
	sign, exp, m := uint32(u&0x80)<<24, uint32(u>>3&0xf), uint32(u&7)
	switch {
	case u&0x7f == 0x7f:
		return float32(math.NaN())
	case exp > 0:
		return math.Float32frombits(sign | (exp+120)<<23 | m<<20)
	case sign != 0:
		return -float32(m) * 0x1p-9
	}
	return float32(m) * 0x1p-9
}

// ToF8E8M0 rounds to a power of two, ties (1.5 × a power) upwards as PyTorch
// does. There is no zero, sign, or infinity in the type: what is negative, not
// finite, or rounds past 2^127 gives 0xFF, which is NaN; zero gives 2^-127.
func ToF8E8M0(x float32) uint8 {
	b := math.Float32bits(x)
	if b>>31 != 0 && b != 1<<31 || b&0x7f800000 == 0x7f800000 {
		return 0xff
	}
	exp, m := b>>23&0xff, b&0x7fffff
	tie := uint32(0x400000)
	if exp == 0 {
		tie = 0x600000 // no leading one: 0x400000 is 2^-127 itself
	}
	if m >= tie {
		exp++
	}
	return uint8(exp)
}

// FromF8E8M0 is 2^(u-127); 0xFF is NaN.
func FromF8E8M0(u uint8) float32 {
	switch u {
	case 0xff:
		return float32(math.NaN())
	case 0:
		return 0x1p-127
	}
	return math.Float32frombits(uint32(u) << 23)
}
