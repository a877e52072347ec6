// Written by hand: the generator of the other assembly knows amd64 only. A WORD is
// an instruction that Go's assembler has no name for; the comment beside it is what
// GNU as makes that word of.

#include "textflag.h"

// func fp8NEON(dst, src *byte, n int, table *byte) uint64
//
// Sixteen codes at a time, looked up in the two tables of 128 bytes: TBL gives zero
// for an index past its 64 bytes, TBX leaves what is there.
TEXT ·fp8NEON(SB), NOSPLIT, $0-40
	MOVD   dst+0(FP), R0
	MOVD   src+8(FP), R1
	MOVD   n+16(FP), R2
	MOVD   table+24(FP), R3
	VLD1.P 64(R3), [V0.B16, V1.B16, V2.B16, V3.B16]
	VLD1.P 64(R3), [V4.B16, V5.B16, V6.B16, V7.B16]
	VLD1.P 64(R3), [V8.B16, V9.B16, V10.B16, V11.B16]
	VLD1   (R3), [V12.B16, V13.B16, V14.B16, V15.B16]
	MOVD   $0x7f, R4
	VDUP   R4, V28.B16
	MOVD   $0x80, R4
	VDUP   R4, V27.B16
	MOVD   $64, R4
	VDUP   R4, V26.B16
	VEOR   V29.B16, V29.B16, V29.B16

loop:
	VLD1.P 16(R1), [V16.B16]
	VAND   V28.B16, V16.B16, V17.B16
	VAND   V27.B16, V16.B16, V19.B16
	VCMEQ  V28.B16, V17.B16, V18.B16
	VORR   V18.B16, V29.B16, V29.B16
	VSUB   V26.B16, V17.B16, V20.B16
	VTBL   V17.B16, [V0.B16, V1.B16, V2.B16, V3.B16], V21.B16
	VTBX   V20.B16, [V4.B16, V5.B16, V6.B16, V7.B16], V21.B16
	VTBL   V17.B16, [V8.B16, V9.B16, V10.B16, V11.B16], V22.B16
	VTBX   V20.B16, [V12.B16, V13.B16, V14.B16, V15.B16], V22.B16
	VORR   V19.B16, V22.B16, V22.B16
	VZIP1  V22.B16, V21.B16, V23.B16
	VZIP2  V22.B16, V21.B16, V24.B16
	VST1.P [V23.B16, V24.B16], 32(R0)
	SUBS   $16, R2, R2
	BNE    loop
	VMOV   V29.D[0], R4
	VMOV   V29.D[1], R5
	ORR    R5, R4, R4
	MOVD   R4, ret+32(FP)
	RET

// Spreads the 16 bytes of V2 into 32 codes, V5 and V6, the lower half of each first.
#define NIBBLES \
	VAND  V28.B16, V2.B16, V3.B16    \
	VUSHR $4, V2.B16, V4.B16         \
	VZIP1 V4.B16, V3.B16, V5.B16     \
	VZIP2 V4.B16, V3.B16, V6.B16

// func fp4NEON(dst, src, exponents *byte, groups int, tables *byte)
TEXT ·fp4NEON(SB), NOSPLIT, $0-40
	MOVD dst+0(FP), R0
	MOVD src+8(FP), R1
	MOVD exponents+16(FP), R2
	MOVD groups+24(FP), R3
	MOVD tables+32(FP), R4
	MOVD $0x0f, R5
	VDUP R5, V28.B16

loop:
	MOVBU.P 1(R2), R5
	ADD     R5<<5, R4, R6
	VLD1    (R6), [V0.B16, V1.B16]
	VLD1.P  16(R1), [V2.B16]
	NIBBLES
	VTBL    V5.B16, [V0.B16], V7.B16
	VTBL    V5.B16, [V1.B16], V8.B16
	VTBL    V6.B16, [V0.B16], V9.B16
	VTBL    V6.B16, [V1.B16], V10.B16
	VZIP1   V8.B16, V7.B16, V16.B16
	VZIP2   V8.B16, V7.B16, V17.B16
	VZIP1   V10.B16, V9.B16, V18.B16
	VZIP2   V10.B16, V9.B16, V19.B16
	VST1.P  [V16.B16, V17.B16, V18.B16, V19.B16], 64(R0)
	SUBS    $1, R3, R3
	BNE     loop
	RET

// func expandNEON(dst, src, shifts *byte, groups int, tables *byte)
TEXT ·expandNEON(SB), NOSPLIT, $0-40
	MOVD dst+0(FP), R0
	MOVD src+8(FP), R1
	MOVD shifts+16(FP), R2
	MOVD groups+24(FP), R3
	MOVD tables+32(FP), R4
	MOVD $0x0f, R5
	VDUP R5, V28.B16

loop:
	MOVBU.P 1(R2), R5
	ADD     R5<<4, R4, R6
	VLD1    (R6), [V0.B16]
	VLD1.P  16(R1), [V2.B16]
	NIBBLES
	VTBL    V5.B16, [V0.B16], V7.B16
	VTBL    V6.B16, [V0.B16], V8.B16
	VST1.P  [V7.B16, V8.B16], 32(R0)
	SUBS    $1, R3, R3
	BNE     loop
	RET

// func finiteNEON(src *byte, n int) uint64
TEXT ·finiteNEON(SB), NOSPLIT, $0-24
	MOVD src+0(FP), R0
	MOVD n+8(FP), R2
	MOVD $0x7f80, R4
	VDUP R4, V28.H8
	VEOR V29.B16, V29.B16, V29.B16

loop:
	VLD1.P 16(R0), [V0.H8]
	VAND   V28.B16, V0.B16, V0.B16
	VCMEQ  V28.H8, V0.H8, V0.H8
	VORR   V0.B16, V29.B16, V29.B16
	SUBS   $8, R2, R2
	BNE    loop
	VMOV   V29.D[0], R4
	VMOV   V29.D[1], R5
	ORR    R5, R4, R4
	MOVD   R4, ret+16(FP)
	RET

// func widenNEON(dst *float32, src *byte, n int)
TEXT ·widenNEON(SB), NOSPLIT, $0-24
	MOVD dst+0(FP), R0
	MOVD src+8(FP), R1
	MOVD n+16(FP), R2

loop:
	VLD1.P 16(R1), [V0.H8]
	WORD $0x2e613801 // shll v1.4s, v0.4h, #16
	WORD $0x6e613802 // shll2 v2.4s, v0.8h, #16
	VST1.P [V1.S4, V2.S4], 32(R0)
	SUBS   $8, R2, R2
	BNE    loop
	RET

// Rounds the float32 in a to BF16, ties to even, in its upper half; b is lost. One is
// in V30, 0x7fff in V31. NaN is not looked after.
#define ROUND(a, b) \
	VUSHR $16, a.S4, b.S4      \
	VAND  V30.B16, b.B16, b.B16 \
	VADD  V31.S4, a.S4, a.S4   \
	VADD  b.S4, a.S4, a.S4

#define ROUNDING \
	MOVD $1, R4      \
	VDUP R4, V30.S4  \
	MOVD $0x7fff, R4 \
	VDUP R4, V31.S4

// func roundNEON(dst *byte, x *float32, n int)
//
// NaN becomes 0x7fc0: what is no larger than infinity is none.
TEXT ·roundNEON(SB), NOSPLIT, $0-24
	MOVD dst+0(FP), R0
	MOVD x+8(FP), R1
	MOVD n+16(FP), R2
	ROUNDING
	MOVD $0x7fffffff, R4
	VDUP R4, V27.S4
	MOVD $0x7f800000, R4
	VDUP R4, V28.S4
	MOVD $0x7fc00000, R4
	VDUP R4, V29.S4

loop:
	VLD1.P 32(R1), [V0.S4, V1.S4]
	VAND   V27.B16, V0.B16, V4.B16
	VAND   V27.B16, V1.B16, V5.B16
	VUMAX  V28.S4, V4.S4, V4.S4
	VUMAX  V28.S4, V5.S4, V5.S4
	VCMEQ  V28.S4, V4.S4, V4.S4
	VCMEQ  V28.S4, V5.S4, V5.S4
	ROUND(V0, V2)
	ROUND(V1, V3)
	VBIF   V4.B16, V29.B16, V0.B16
	VBIF   V5.B16, V29.B16, V1.B16
	VUZP2  V1.H8, V0.H8, V0.H8
	VST1.P [V0.H8], 16(R0)
	SUBS   $8, R2, R2
	BNE    loop
	RET

// The largest word of V0, in R4.
#define HIGHEST \
	VMOV V0.S[0], R4      \
	VMOV V0.S[1], R5      \
	CMPW R5, R4           \
	CSEL HI, R4, R5, R4   \
	VMOV V0.S[2], R5      \
	CMPW R5, R4           \
	CSEL HI, R4, R5, R4   \
	VMOV V0.S[3], R5      \
	CMPW R5, R4           \
	CSEL HI, R4, R5, R4

// func maxAbsNEON(x *float32, n int) uint32
TEXT ·maxAbsNEON(SB), NOSPLIT, $0-20
	MOVD x+0(FP), R0
	MOVD n+8(FP), R2
	MOVD $0x7fffffff, R4
	VDUP R4, V28.S4
	VEOR V0.B16, V0.B16, V0.B16

loop:
	VLD1.P 32(R0), [V1.S4, V2.S4]
	VAND   V28.B16, V1.B16, V1.B16
	VAND   V28.B16, V2.B16, V2.B16
	VUMAX  V1.S4, V0.S4, V0.S4
	VUMAX  V2.S4, V0.S4, V0.S4
	SUBS   $8, R2, R2
	BNE    loop
	HIGHEST
	MOVW   R4, ret+16(FP)
	RET

// func maxAbs16NEON(src *byte, n int) uint32
TEXT ·maxAbs16NEON(SB), NOSPLIT, $0-20
	MOVD src+0(FP), R0
	MOVD n+8(FP), R2
	MOVD $0x7fff, R4
	VDUP R4, V28.H8
	VEOR V0.B16, V0.B16, V0.B16

loop:
	VLD1.P 16(R0), [V1.H8]
	VAND   V28.B16, V1.B16, V1.B16
	VUMAX  V1.H8, V0.H8, V0.H8
	SUBS   $8, R2, R2
	BNE    loop
	VSHL   $16, V0.S4, V1.S4
	VUSHR  $16, V0.S4, V0.S4
	VSHL   $16, V0.S4, V0.S4
	VUMAX  V1.S4, V0.S4, V0.S4
	HIGHEST
	MOVW   R4, ret+16(FP)
	RET

// Sixteen values into V0 to V3.
#define FROMF32 VLD1.P 64(R1), [V0.S4, V1.S4, V2.S4, V3.S4]
#define FROMBF16 \
	VLD1.P 32(R1), [V2.H8, V3.H8]   \
	WORD $0x2e613840 /* shll v0.4s, v2.4h, #16 */ \
	WORD $0x6e613841 /* shll2 v1.4s, v2.8h, #16 */ \
	WORD $0x2e613862 /* shll v2.4s, v3.4h, #16 */ \
	WORD $0x6e613863 // shll2 v3.4s, v3.8h, #16

// V4 to V7 get V0 to V3 times the inverse, V29.
#define PRODUCT \
	WORD $0x6e3ddc04 /* fmul v4.4s, v0.4s, v29.4s */ \
	WORD $0x6e3ddc25 /* fmul v5.4s, v1.4s, v29.4s */ \
	WORD $0x6e3ddc46 /* fmul v6.4s, v2.4s, v29.4s */ \
	WORD $0x6e3ddc67 // fmul v7.4s, v3.4s, v29.4s

// One correction of the quotients: q += (w - q s) y. The scale is in V28.
#define CORRECT \
	VMOV  V0.B16, V8.B16            \
	VMOV  V1.B16, V9.B16            \
	VMOV  V2.B16, V10.B16           \
	VMOV  V3.B16, V11.B16           \
	VFMLS V28.S4, V4.S4, V8.S4      \
	VFMLS V28.S4, V5.S4, V9.S4      \
	VFMLS V28.S4, V6.S4, V10.S4     \
	VFMLS V28.S4, V7.S4, V11.S4     \
	VFMLA V29.S4, V8.S4, V4.S4      \
	VFMLA V29.S4, V9.S4, V5.S4      \
	VFMLA V29.S4, V10.S4, V6.S4     \
	VFMLA V29.S4, V11.S4, V7.S4

// Quotients rounded to BF16. The mask of the upper half is in V27.
#define NARROW \
	ROUND(V4, V8)                  \
	ROUND(V5, V9)                  \
	ROUND(V6, V10)                 \
	ROUND(V7, V11)                 \
	VAND V27.B16, V4.B16, V4.B16   \
	VAND V27.B16, V5.B16, V5.B16   \
	VAND V27.B16, V6.B16, V6.B16   \
	VAND V27.B16, V7.B16, V7.B16

#define UPPER \
	MOVD $0xffff0000, R4 \
	VDUP R4, V27.S4

// To integers, ties to even, saturated to bytes.
#define CODES \
	WORD $0x4e21a884 /* fcvtns v4.4s, v4.4s */ \
	WORD $0x4e21a8a5 /* fcvtns v5.4s, v5.4s */ \
	WORD $0x4e21a8c6 /* fcvtns v6.4s, v6.4s */ \
	WORD $0x4e21a8e7 /* fcvtns v7.4s, v7.4s */ \
	WORD $0x0e614884 /* sqxtn v4.4h, v4.4s */ \
	WORD $0x4e6148a4 /* sqxtn2 v4.8h, v5.4s */ \
	WORD $0x0e6148c6 /* sqxtn v6.4h, v6.4s */ \
	WORD $0x4e6148e6 /* sqxtn2 v6.8h, v7.4s */ \
	WORD $0x0e214884 /* sqxtn v4.8b, v4.8h */ \
	WORD $0x4e2148c4 /* sqxtn2 v4.16b, v6.8h */ \
	VST1.P [V4.B16], 16(R0)

// func int8ExactF32NEON(dst *byte, x *float32, n int, scale, inverse float32)
TEXT ·int8ExactF32NEON(SB), NOSPLIT, $0-32
	MOVD  dst+0(FP), R0
	MOVD  x+8(FP), R1
	MOVD  n+16(FP), R2
	MOVWU scale+24(FP), R4
	VDUP  R4, V28.S4
	MOVWU inverse+28(FP), R4
	VDUP  R4, V29.S4

loop:
	FROMF32
	PRODUCT
	CORRECT
	CORRECT
	CODES
	SUBS $16, R2, R2
	BNE  loop
	RET

// func int8NarrowF32NEON(dst *byte, x *float32, n int, scale, inverse float32)
TEXT ·int8NarrowF32NEON(SB), NOSPLIT, $0-32
	MOVD  dst+0(FP), R0
	MOVD  x+8(FP), R1
	MOVD  n+16(FP), R2
	MOVWU scale+24(FP), R4
	VDUP  R4, V28.S4
	MOVWU inverse+28(FP), R4
	VDUP  R4, V29.S4
	ROUNDING
	UPPER

loop:
	FROMF32
	PRODUCT
	CORRECT
	CORRECT
	NARROW
	CODES
	SUBS $16, R2, R2
	BNE  loop
	RET

// func int8ExactBF16NEON(dst, x *byte, n int, scale, inverse float32)
TEXT ·int8ExactBF16NEON(SB), NOSPLIT, $0-32
	MOVD  dst+0(FP), R0
	MOVD  x+8(FP), R1
	MOVD  n+16(FP), R2
	MOVWU scale+24(FP), R4
	VDUP  R4, V28.S4
	MOVWU inverse+28(FP), R4
	VDUP  R4, V29.S4

loop:
	FROMBF16
	PRODUCT
	CORRECT
	CORRECT
	CODES
	SUBS $16, R2, R2
	BNE  loop
	RET

// func int8NarrowBF16NEON(dst, x *byte, n int, scale, inverse float32)
TEXT ·int8NarrowBF16NEON(SB), NOSPLIT, $0-32
	MOVD  dst+0(FP), R0
	MOVD  x+8(FP), R1
	MOVD  n+16(FP), R2
	MOVWU scale+24(FP), R4
	VDUP  R4, V28.S4
	MOVWU inverse+28(FP), R4
	VDUP  R4, V29.S4
	ROUNDING
	UPPER

loop:
	FROMBF16
	PRODUCT
	CORRECT
	CORRECT
	NARROW
	CODES
	SUBS $16, R2, R2
	BNE  loop
	RET

// func int8ShortNEON(dst, x *byte, n int, inverse float32)
//
// As the generator says of the others: BF16 by BF16 needs no correction.
TEXT ·int8ShortNEON(SB), NOSPLIT, $0-28
	MOVD  dst+0(FP), R0
	MOVD  x+8(FP), R1
	MOVD  n+16(FP), R2
	MOVWU inverse+24(FP), R4
	VDUP  R4, V29.S4
	ROUNDING
	UPPER

loop:
	FROMBF16
	PRODUCT
	NARROW
	CODES
	SUBS $16, R2, R2
	BNE  loop
	RET

// func int8NoiseNEON(x *float32, codes *byte, n int, inverse float32, lanes *float32)
TEXT ·int8NoiseNEON(SB), NOSPLIT, $0-40
	MOVD  x+0(FP), R1
	MOVD  codes+8(FP), R3
	MOVD  n+16(FP), R2
	MOVWU inverse+24(FP), R4
	VDUP  R4, V29.S4
	MOVD  lanes+32(FP), R0
	VEOR  V20.B16, V20.B16, V20.B16
	VEOR  V21.B16, V21.B16, V21.B16
	VEOR  V22.B16, V22.B16, V22.B16
	VEOR  V23.B16, V23.B16, V23.B16

loop:
	FROMF32
	PRODUCT
	VLD1.P 16(R3), [V12.B16]
	WORD $0x0f08a58d // sxtl v13.8h, v12.8b
	WORD $0x4f08a58e // sxtl2 v14.8h, v12.16b
	WORD $0x0f10a5a8 // sxtl v8.4s, v13.4h
	WORD $0x4f10a5a9 // sxtl2 v9.4s, v13.8h
	WORD $0x0f10a5ca // sxtl v10.4s, v14.4h
	WORD $0x4f10a5cb // sxtl2 v11.4s, v14.8h
	WORD $0x4e21d908 // scvtf v8.4s, v8.4s
	WORD $0x4e21d929 // scvtf v9.4s, v9.4s
	WORD $0x4e21d94a // scvtf v10.4s, v10.4s
	WORD $0x4e21d96b // scvtf v11.4s, v11.4s
	WORD $0x4ea8d484 // fsub v4.4s, v4.4s, v8.4s
	WORD $0x4ea9d4a5 // fsub v5.4s, v5.4s, v9.4s
	WORD $0x4eaad4c6 // fsub v6.4s, v6.4s, v10.4s
	WORD $0x4eabd4e7 // fsub v7.4s, v7.4s, v11.4s
	WORD $0x6e24dc84 // fmul v4.4s, v4.4s, v4.4s
	WORD $0x6e25dca5 // fmul v5.4s, v5.4s, v5.4s
	WORD $0x6e26dcc6 // fmul v6.4s, v6.4s, v6.4s
	WORD $0x6e27dce7 // fmul v7.4s, v7.4s, v7.4s
	WORD $0x4e24d694 // fadd v20.4s, v20.4s, v4.4s
	WORD $0x4e25d6b5 // fadd v21.4s, v21.4s, v5.4s
	WORD $0x4e26d6d6 // fadd v22.4s, v22.4s, v6.4s
	WORD $0x4e27d6f7 // fadd v23.4s, v23.4s, v7.4s
	SUBS   $16, R2, R2
	BNE    loop
	VST1   [V20.S4, V21.S4, V22.S4, V23.S4], (R0)
	RET
