// Package kernel holds the inner loops of weight conversion: table look-ups that
// decode FP8 and FP4, rounding to bfloat16, int8 and E4M3, and the measurement of
// what a rounding cost. It knows rows of numbers; it knows no files and no models.
//
// Every function has one definition, the plain Go one. Where there is assembly, it
// gives the same bits: sums run in sixteen lanes and end in a fixed tree, nothing
// is fused that the definition does not fuse, and a test holds the two together
// over all codes and random scales.
//
// BF16, FP8 and FP4 values are bytes as stored, little-endian. A function panics
// where the lengths of its arguments disagree: that is a mistake of the program.
package kernel

//go:generate go -C ../../../tools/asm run ./convert -out ../../internal/convert/kernel
