package tensor

// DType is an element type. The values rise as in the reference library's
// enumeration, whose order decides where a tensor lies in a file.
type DType uint8

// The element types of safetensors. The zero DType is none of them.
const (
	BOOL DType = iota + 1
	F4
	F6_E2M3
	F6_E3M2
	U8
	I8
	F8_E5M2
	F8_E4M3
	F8_E8M0
	F8_E4M3FNUZ
	F8_E5M2FNUZ
	I16
	U16
	F16
	BF16
	I32
	U32
	F32
	C64
	F64
	I64
	U64
)

// dtypes holds, at each DType, its spelling in a header and its size in bits.
var dtypes = [...]struct {
	name string
	bits int
}{
	BOOL: {"BOOL", 8}, F4: {"F4", 4}, F6_E2M3: {"F6_E2M3", 6}, F6_E3M2: {"F6_E3M2", 6},
	U8: {"U8", 8}, I8: {"I8", 8},
	F8_E5M2: {"F8_E5M2", 8}, F8_E4M3: {"F8_E4M3", 8}, F8_E8M0: {"F8_E8M0", 8},
	F8_E4M3FNUZ: {"F8_E4M3FNUZ", 8}, F8_E5M2FNUZ: {"F8_E5M2FNUZ", 8},
	I16: {"I16", 16}, U16: {"U16", 16}, F16: {"F16", 16}, BF16: {"BF16", 16},
	I32: {"I32", 32}, U32: {"U32", 32}, F32: {"F32", 32},
	C64: {"C64", 64}, F64: {"F64", 64}, I64: {"I64", 64}, U64: {"U64", 64},
}

// String is the type's spelling in a header: "BF16", "F8_E4M3".
func (d DType) String() string {
	if !d.Valid() {
		return "no dtype"
	}
	return dtypes[d].name
}

// Bits is the size of one element in bits; 0 for what is no type.
func (d DType) Bits() int {
	if !d.Valid() {
		return 0
	}
	return dtypes[d].bits
}

// Valid reports whether d is one of the types above.
func (d DType) Valid() bool { return d >= BOOL && int(d) < len(dtypes) }

// ParseDType reads a header's spelling. It is exact: "bf16" is not a type.
func ParseDType(s string) (DType, bool) {
	for d := BOOL; d.Valid(); d++ {
		if dtypes[d].name == s {
			return d, true
		}
	}
	return 0, false
}
