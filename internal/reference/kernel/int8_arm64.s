// Written by hand: the generator of the other assembly knows amd64 only.

#include "textflag.h"

// Instructions that Go's assembler lacks; operands are register numbers, in
// its order: the last is the accumulator.
// SDOT adds to each word of d the four products of bytes of n and m.
#define SDOT(m, n, d) WORD $(0x4e809400 | (m)<<16 | (n)<<5 | (d))

// SMULL and SMULL2 widen the products of the lower and upper eight bytes to
// 16 bits, SADALP adds neighbours of those to words.
#define SMULL(m, n, d) WORD $(0x0e20c000 | (m)<<16 | (n)<<5 | (d))
#define SMULL2(m, n, d) WORD $(0x4e20c000 | (m)<<16 | (n)<<5 | (d))
#define SADALP(n, d) WORD $(0x4e606800 | (n)<<5 | (d))

// WIDE is SDOT for processors without it, but for which lane a product is in.
#define WIDE(m, n, d) SMULL(m, n, 24); SMULL2(m, n, 25); SADALP(24, d); SADALP(25, d)

// func int8Tile4SDOT(out *[16]int32, a *int8, ars int, b *int8, bjs, steps int)
//
// Four rows of A, sixteen k a step, times four of B.
TEXT ·int8Tile4SDOT(SB), NOSPLIT, $0-48
	MOVD out+0(FP), R0
	MOVD a+8(FP), R1
	MOVD ars+16(FP), R9
	MOVD b+24(FP), R5
	MOVD bjs+32(FP), R10
	MOVD steps+40(FP), R11
	ADD  R9, R1, R2
	ADD  R9, R2, R3
	ADD  R9, R3, R4
	ADD  R10, R5, R6
	ADD  R10, R6, R7
	ADD  R10, R7, R8
	VEOR V0.B16, V0.B16, V0.B16
	VEOR V1.B16, V1.B16, V1.B16
	VEOR V2.B16, V2.B16, V2.B16
	VEOR V3.B16, V3.B16, V3.B16
	VEOR V4.B16, V4.B16, V4.B16
	VEOR V5.B16, V5.B16, V5.B16
	VEOR V6.B16, V6.B16, V6.B16
	VEOR V7.B16, V7.B16, V7.B16
	VEOR V8.B16, V8.B16, V8.B16
	VEOR V9.B16, V9.B16, V9.B16
	VEOR V10.B16, V10.B16, V10.B16
	VEOR V11.B16, V11.B16, V11.B16
	VEOR V12.B16, V12.B16, V12.B16
	VEOR V13.B16, V13.B16, V13.B16
	VEOR V14.B16, V14.B16, V14.B16
	VEOR V15.B16, V15.B16, V15.B16

step:
	VLD1.P 16(R1), [V16.B16]
	VLD1.P 16(R2), [V17.B16]
	VLD1.P 16(R3), [V18.B16]
	VLD1.P 16(R4), [V19.B16]
	VLD1.P 16(R5), [V20.B16]
	VLD1.P 16(R6), [V21.B16]
	VLD1.P 16(R7), [V22.B16]
	VLD1.P 16(R8), [V23.B16]
	SDOT(20, 16, 0)
	SDOT(21, 16, 1)
	SDOT(22, 16, 2)
	SDOT(23, 16, 3)
	SDOT(20, 17, 4)
	SDOT(21, 17, 5)
	SDOT(22, 17, 6)
	SDOT(23, 17, 7)
	SDOT(20, 18, 8)
	SDOT(21, 18, 9)
	SDOT(22, 18, 10)
	SDOT(23, 18, 11)
	SDOT(20, 19, 12)
	SDOT(21, 19, 13)
	SDOT(22, 19, 14)
	SDOT(23, 19, 15)
	SUBS   $1, R11, R11
	BNE    step
	VADDP  V1.S4, V0.S4, V0.S4
	VADDP  V3.S4, V2.S4, V2.S4
	VADDP  V2.S4, V0.S4, V0.S4
	VST1.P [V0.S4], 16(R0)
	VADDP  V5.S4, V4.S4, V4.S4
	VADDP  V7.S4, V6.S4, V6.S4
	VADDP  V6.S4, V4.S4, V4.S4
	VST1.P [V4.S4], 16(R0)
	VADDP  V9.S4, V8.S4, V8.S4
	VADDP  V11.S4, V10.S4, V10.S4
	VADDP  V10.S4, V8.S4, V8.S4
	VST1.P [V8.S4], 16(R0)
	VADDP  V13.S4, V12.S4, V12.S4
	VADDP  V15.S4, V14.S4, V14.S4
	VADDP  V14.S4, V12.S4, V12.S4
	VST1.P [V12.S4], 16(R0)
	RET

// func int8Tile1SDOT(out *[4]int32, a *int8, ars int, b *int8, bjs, steps int)
//
// One row of A, sixteen k a step, times four of B.
TEXT ·int8Tile1SDOT(SB), NOSPLIT, $0-48
	MOVD out+0(FP), R0
	MOVD a+8(FP), R1
	MOVD ars+16(FP), R9
	MOVD b+24(FP), R5
	MOVD bjs+32(FP), R10
	MOVD steps+40(FP), R11
	ADD  R10, R5, R6
	ADD  R10, R6, R7
	ADD  R10, R7, R8
	VEOR V0.B16, V0.B16, V0.B16
	VEOR V1.B16, V1.B16, V1.B16
	VEOR V2.B16, V2.B16, V2.B16
	VEOR V3.B16, V3.B16, V3.B16

step:
	VLD1.P 16(R1), [V16.B16]
	VLD1.P 16(R5), [V20.B16]
	VLD1.P 16(R6), [V21.B16]
	VLD1.P 16(R7), [V22.B16]
	VLD1.P 16(R8), [V23.B16]
	SDOT(20, 16, 0)
	SDOT(21, 16, 1)
	SDOT(22, 16, 2)
	SDOT(23, 16, 3)
	SUBS   $1, R11, R11
	BNE    step
	VADDP  V1.S4, V0.S4, V0.S4
	VADDP  V3.S4, V2.S4, V2.S4
	VADDP  V2.S4, V0.S4, V0.S4
	VST1.P [V0.S4], 16(R0)
	RET

// func int8Tile4NEON(out *[16]int32, a *int8, ars int, b *int8, bjs, steps int)
//
// Four rows of A, sixteen k a step, times four of B.
TEXT ·int8Tile4NEON(SB), NOSPLIT, $0-48
	MOVD out+0(FP), R0
	MOVD a+8(FP), R1
	MOVD ars+16(FP), R9
	MOVD b+24(FP), R5
	MOVD bjs+32(FP), R10
	MOVD steps+40(FP), R11
	ADD  R9, R1, R2
	ADD  R9, R2, R3
	ADD  R9, R3, R4
	ADD  R10, R5, R6
	ADD  R10, R6, R7
	ADD  R10, R7, R8
	VEOR V0.B16, V0.B16, V0.B16
	VEOR V1.B16, V1.B16, V1.B16
	VEOR V2.B16, V2.B16, V2.B16
	VEOR V3.B16, V3.B16, V3.B16
	VEOR V4.B16, V4.B16, V4.B16
	VEOR V5.B16, V5.B16, V5.B16
	VEOR V6.B16, V6.B16, V6.B16
	VEOR V7.B16, V7.B16, V7.B16
	VEOR V8.B16, V8.B16, V8.B16
	VEOR V9.B16, V9.B16, V9.B16
	VEOR V10.B16, V10.B16, V10.B16
	VEOR V11.B16, V11.B16, V11.B16
	VEOR V12.B16, V12.B16, V12.B16
	VEOR V13.B16, V13.B16, V13.B16
	VEOR V14.B16, V14.B16, V14.B16
	VEOR V15.B16, V15.B16, V15.B16

step:
	VLD1.P 16(R1), [V16.B16]
	VLD1.P 16(R2), [V17.B16]
	VLD1.P 16(R3), [V18.B16]
	VLD1.P 16(R4), [V19.B16]
	VLD1.P 16(R5), [V20.B16]
	VLD1.P 16(R6), [V21.B16]
	VLD1.P 16(R7), [V22.B16]
	VLD1.P 16(R8), [V23.B16]
	WIDE(20, 16, 0)
	WIDE(21, 16, 1)
	WIDE(22, 16, 2)
	WIDE(23, 16, 3)
	WIDE(20, 17, 4)
	WIDE(21, 17, 5)
	WIDE(22, 17, 6)
	WIDE(23, 17, 7)
	WIDE(20, 18, 8)
	WIDE(21, 18, 9)
	WIDE(22, 18, 10)
	WIDE(23, 18, 11)
	WIDE(20, 19, 12)
	WIDE(21, 19, 13)
	WIDE(22, 19, 14)
	WIDE(23, 19, 15)
	SUBS   $1, R11, R11
	BNE    step
	VADDP  V1.S4, V0.S4, V0.S4
	VADDP  V3.S4, V2.S4, V2.S4
	VADDP  V2.S4, V0.S4, V0.S4
	VST1.P [V0.S4], 16(R0)
	VADDP  V5.S4, V4.S4, V4.S4
	VADDP  V7.S4, V6.S4, V6.S4
	VADDP  V6.S4, V4.S4, V4.S4
	VST1.P [V4.S4], 16(R0)
	VADDP  V9.S4, V8.S4, V8.S4
	VADDP  V11.S4, V10.S4, V10.S4
	VADDP  V10.S4, V8.S4, V8.S4
	VST1.P [V8.S4], 16(R0)
	VADDP  V13.S4, V12.S4, V12.S4
	VADDP  V15.S4, V14.S4, V14.S4
	VADDP  V14.S4, V12.S4, V12.S4
	VST1.P [V12.S4], 16(R0)
	RET

// func int8Tile1NEON(out *[4]int32, a *int8, ars int, b *int8, bjs, steps int)
//
// One row of A, sixteen k a step, times four of B.
TEXT ·int8Tile1NEON(SB), NOSPLIT, $0-48
	MOVD out+0(FP), R0
	MOVD a+8(FP), R1
	MOVD ars+16(FP), R9
	MOVD b+24(FP), R5
	MOVD bjs+32(FP), R10
	MOVD steps+40(FP), R11
	ADD  R10, R5, R6
	ADD  R10, R6, R7
	ADD  R10, R7, R8
	VEOR V0.B16, V0.B16, V0.B16
	VEOR V1.B16, V1.B16, V1.B16
	VEOR V2.B16, V2.B16, V2.B16
	VEOR V3.B16, V3.B16, V3.B16

step:
	VLD1.P 16(R1), [V16.B16]
	VLD1.P 16(R5), [V20.B16]
	VLD1.P 16(R6), [V21.B16]
	VLD1.P 16(R7), [V22.B16]
	VLD1.P 16(R8), [V23.B16]
	WIDE(20, 16, 0)
	WIDE(21, 16, 1)
	WIDE(22, 16, 2)
	WIDE(23, 16, 3)
	SUBS   $1, R11, R11
	BNE    step
	VADDP  V1.S4, V0.S4, V0.S4
	VADDP  V3.S4, V2.S4, V2.S4
	VADDP  V2.S4, V0.S4, V0.S4
	VST1.P [V0.S4], 16(R0)
	RET
