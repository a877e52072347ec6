package kernel

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"tarbert/internal/tensor"
)

const (
	benchCols = 7168
	// benchRows is how many rows are worked through in turn, so that they come from
	// memory and not from a cache; a strip is what is timed in one piece: about a
	// third of a millisecond, less than a scheduler's slice.
	benchRows, strip = 8 * 384, 48
)

// BenchmarkAgainstMemcpy times each kernel strip by strip, in turn with copies of as
// much memory, so that whatever else the machine does happens to all of them. It
// reports GB/s of bytes read and written once, and the share of the copy's: medians.
func BenchmarkAgainstMemcpy(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	n := benchRows * benchCols
	bf, codes, out := make([]byte, 2*n), make([]byte, n), make([]byte, 2*n)
	for i := range n {
		u := tensor.ToBF16(float32(rng.NormFloat64() * 0.02))
		bf[2*i], bf[2*i+1] = byte(u), byte(u>>8)
		codes[i] = byte(rng.UintN(0x7f)) | byte(rng.UintN(2)<<7)
	}
	tables := make([]Table, benchCols/128)
	for i := range tables {
		tables[i].Fill(float32(i+1) * 0.001)
	}
	row, narrow := make([]float32, benchCols), make([]byte, 2*benchCols)
	at := func(p []byte, r, width int) []byte { return p[r*width*benchCols : (r+1)*width*benchCols] }
	kernels := []struct {
		name  string
		bytes int // of an element, read and written
		f     func(r int)
	}{
		{"memcpy", 4, func(r int) { copy(at(out, r, 2), at(bf, r, 2)) }},
		{"fp8-bf16", 3, func(r int) { FP8(at(out, r, 2), at(codes, r, 1), tables, 128) }},
		{"bf16-int8", 3, func(r int) {
			Int8From16(at(out, r, 1), at(bf, r, 2), MaxAbs16(at(bf, r, 2))/127, true)
		}},
		{"fp8-int8", 2, func(r int) {
			FP8(narrow, at(codes, r, 1), tables, 128)
			Int8From16(at(out, r, 1), narrow, MaxAbs16(narrow)/127, true)
		}},
		{"bf16-fp8", 3, func(r int) { Widen(row, at(bf, r, 2)); E4M3(at(out, r, 1), row, MaxAbs(row)/448) }},
		{"int8-loss", 3, func(r int) { Widen(row, at(bf, r, 2)); Int8Loss(row, at(codes, r, 1), 0.001, true, false) }},
	}
	times := make([][]float64, len(kernels))
	for b.Loop() {
		for first := 0; first < benchRows; first += strip {
			for k := range kernels {
				before := time.Now()
				for r := first; r < first+strip; r++ {
					kernels[k].f(r)
				}
				times[k] = append(times[k], time.Since(before).Seconds())
			}
		}
	}
	var copied float64
	for k := range kernels {
		slices.Sort(times[k])
		rate := float64(kernels[k].bytes*strip*benchCols) / times[k][len(times[k])/2] / 1e9
		if k == 0 {
			copied = rate
		}
		b.ReportMetric(rate, kernels[k].name+"-GB/s")
		if k > 0 {
			b.ReportMetric(rate/copied, kernels[k].name+"/memcpy")
		}
	}
}
