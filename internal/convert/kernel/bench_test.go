package kernel

import (
	"math/rand/v2"
	"testing"

	"tarbert/internal/tensor"
)

const benchCols = 7168

// rows is how many rows of benchCols are worked through in turn, so that they come
// from memory and not from a cache: 3 × 128 × 7168 numbers.
const rows = 384

func benchData() (bf []byte, x []float32, codes []byte) {
	rng := rand.New(rand.NewPCG(1, 2))
	bf, x, codes = make([]byte, 2*rows*benchCols), make([]float32, rows*benchCols), make([]byte, rows*benchCols)
	for i := range x {
		x[i] = tensor.FromBF16(tensor.ToBF16(float32(rng.NormFloat64() * 0.02)))
		codes[i] = byte(rng.UintN(0x7f)) | byte(rng.UintN(2)<<7)
	}
	Round(bf, x)
	return bf, x, codes
}

// BenchmarkKernels reports bytes read and written. memcpy is Go's copy of as many
// bytes as FP8 to BF16 moves.
func BenchmarkKernels(b *testing.B) {
	bf, x, codes := benchData()
	out := make([]byte, 2*rows*benchCols)
	narrow := make([]byte, 2*benchCols)
	tables := make([]Table, benchCols/128)
	for i := range tables {
		tables[i].Fill(float32(i+1) * 0.001)
	}
	run := func(name string, bytes int64, f func(r int)) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(bytes * rows)
			for b.Loop() {
				for r := range rows {
					f(r)
				}
			}
		})
	}
	at := func(p []byte, r, width int) []byte { return p[r*width*benchCols : (r+1)*width*benchCols] }
	run("memcpy", 4*benchCols, func(r int) { copy(at(out, r, 2), at(bf, r, 2)) })
	run("fp8-bf16", 3*benchCols, func(r int) { FP8(at(out, r, 2), at(codes, r, 1), tables, 128) })
	run("bf16-int8", 3*benchCols, func(r int) {
		Int8From16(at(out, r, 1), at(bf, r, 2), MaxAbs16(at(bf, r, 2))/127, true)
	})
	run("fp8-int8", 2*benchCols, func(r int) {
		FP8(narrow, at(codes, r, 1), tables, 128)
		Int8From16(at(out, r, 1), narrow, MaxAbs16(narrow)/127, true)
	})
	run("f32-bf16", 6*benchCols, func(r int) { Round(at(out, r, 2), x[r*benchCols:(r+1)*benchCols]) })
	run("round-loss", 6*benchCols, func(r int) { RoundLoss(x[r*benchCols:(r+1)*benchCols], at(out, r, 2)) })
	run("int8-loss", 5*benchCols, func(r int) { Int8Loss(x[r*benchCols:(r+1)*benchCols], at(codes, r, 1), 0.001, true, false) })
}
