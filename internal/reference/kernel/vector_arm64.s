// Written by hand: the generator of the other assembly knows amd64 only. The
// only arithmetic is FMLA. A sum is a product with 1 added, a product one with
// -0 added: both round once and keep the sign of zero.

#include "textflag.h"

// func dotNEON(lanes *[16]float32, x, y *float32, groups int)
//
// Groups of sixteen elements into sixteen lanes: V0 to V3.
TEXT ·dotNEON(SB), NOSPLIT, $0-32
	MOVD lanes+0(FP), R0
	MOVD x+8(FP), R1
	MOVD y+16(FP), R2
	MOVD groups+24(FP), R3
	VLD1 (R0), [V0.S4, V1.S4, V2.S4, V3.S4]

group:
	VLD1.P 64(R1), [V4.S4, V5.S4, V6.S4, V7.S4]
	VLD1.P 64(R2), [V8.S4, V9.S4, V10.S4, V11.S4]
	VFMLA  V4.S4, V8.S4, V0.S4
	VFMLA  V5.S4, V9.S4, V1.S4
	VFMLA  V6.S4, V10.S4, V2.S4
	VFMLA  V7.S4, V11.S4, V3.S4
	SUBS   $1, R3, R3
	BNE    group
	VST1   [V0.S4, V1.S4, V2.S4, V3.S4], (R0)
	RET

// func sumNEON(lanes *[16]float32, x *float32, groups int)
TEXT ·sumNEON(SB), NOSPLIT, $0-24
	MOVD  lanes+0(FP), R0
	MOVD  x+8(FP), R1
	MOVD  groups+16(FP), R3
	MOVD  $0x3f800000, R4
	VDUP  R4, V8.S4
	VLD1  (R0), [V0.S4, V1.S4, V2.S4, V3.S4]

group:
	VLD1.P 64(R1), [V4.S4, V5.S4, V6.S4, V7.S4]
	VFMLA  V4.S4, V8.S4, V0.S4
	VFMLA  V5.S4, V8.S4, V1.S4
	VFMLA  V6.S4, V8.S4, V2.S4
	VFMLA  V7.S4, V8.S4, V3.S4
	SUBS   $1, R3, R3
	BNE    group
	VST1   [V0.S4, V1.S4, V2.S4, V3.S4], (R0)
	RET

// func axpyNEON(dst, x *float32, s float32, groups int)
//
// dst += s·x for groups of sixteen.
TEXT ·axpyNEON(SB), NOSPLIT, $0-32
	MOVD  dst+0(FP), R0
	MOVD  x+8(FP), R1
	MOVWU s+16(FP), R4
	MOVD  groups+24(FP), R3
	VDUP  R4, V8.S4

group:
	VLD1   (R0), [V0.S4, V1.S4, V2.S4, V3.S4]
	VLD1.P 64(R1), [V4.S4, V5.S4, V6.S4, V7.S4]
	VFMLA  V4.S4, V8.S4, V0.S4
	VFMLA  V5.S4, V8.S4, V1.S4
	VFMLA  V6.S4, V8.S4, V2.S4
	VFMLA  V7.S4, V8.S4, V3.S4
	VST1.P [V0.S4, V1.S4, V2.S4, V3.S4], 64(R0)
	SUBS   $1, R3, R3
	BNE    group
	RET

// func mulNEON(dst, x *float32, groups int)
//
// dst *= x for groups of sixteen.
TEXT ·mulNEON(SB), NOSPLIT, $0-24
	MOVD dst+0(FP), R0
	MOVD x+8(FP), R1
	MOVD groups+16(FP), R3
	MOVD $0x80000000, R4
	VDUP R4, V12.S4

group:
	VLD1   (R0), [V0.S4, V1.S4, V2.S4, V3.S4]
	VLD1.P 64(R1), [V4.S4, V5.S4, V6.S4, V7.S4]
	VMOV   V12.B16, V8.B16
	VMOV   V12.B16, V9.B16
	VMOV   V12.B16, V10.B16
	VMOV   V12.B16, V11.B16
	VFMLA  V4.S4, V0.S4, V8.S4
	VFMLA  V5.S4, V1.S4, V9.S4
	VFMLA  V6.S4, V2.S4, V10.S4
	VFMLA  V7.S4, V3.S4, V11.S4
	VST1.P [V8.S4, V9.S4, V10.S4, V11.S4], 64(R0)
	SUBS   $1, R3, R3
	BNE    group
	RET

// func scaleNEON(dst *float32, s float32, groups int)
//
// dst *= s for groups of sixteen.
TEXT ·scaleNEON(SB), NOSPLIT, $0-24
	MOVD  dst+0(FP), R0
	MOVWU s+8(FP), R5
	MOVD  groups+16(FP), R3
	MOVD  $0x80000000, R4
	VDUP  R4, V12.S4
	VDUP  R5, V4.S4

group:
	VLD1   (R0), [V0.S4, V1.S4, V2.S4, V3.S4]
	VMOV   V12.B16, V8.B16
	VMOV   V12.B16, V9.B16
	VMOV   V12.B16, V10.B16
	VMOV   V12.B16, V11.B16
	VFMLA  V4.S4, V0.S4, V8.S4
	VFMLA  V4.S4, V1.S4, V9.S4
	VFMLA  V4.S4, V2.S4, V10.S4
	VFMLA  V4.S4, V3.S4, V11.S4
	VST1.P [V8.S4, V9.S4, V10.S4, V11.S4], 64(R0)
	SUBS   $1, R3, R3
	BNE    group
	RET
