package kernel

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
)

// pinned is what every implementation on every processor computes from the
// same operands. It changes only with the definition of the results, which
// changes every published number: say so in the changelog.
const pinned = "764fda70ca62810a58e9a4d12aa12a58"

func TestBitsArePinned(t *testing.T) {
	state := uint32(1)
	next := func() float32 { // nothing here may depend on the processor
		state = state*1664525 + 1013904223
		return (float32(state>>8) - 0x1p23) * 0x1p-21
	}
	fill := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = next()
		}
		return x
	}
	const m, n, k = 19, 45, 500
	a, b := Dense(fill(m*k), m, k), Dense(fill(k*n), n, k).Transpose()
	var in [5][]float32
	for i := range in {
		in[i] = fill(77)
	}
	var names []string
	for _, o := range available() {
		names = append(names, o.name)
		hash := sha256.New()
		write := func(x []float32) {
			for _, v := range x {
				if v != v {
					v = float32(math.NaN())
				}
				hash.Write(binary.LittleEndian.AppendUint32(nil, math.Float32bits(v)))
			}
		}
		c := Dense(make([]float32, m*n), m, n)
		gemm(o, nil, a, b, c, false)
		write(c.Data)
		out := vectorOps(o, in, 0.75)
		for _, name := range slices.Sorted(maps.Keys(out)) {
			write(out[name])
		}
		if got := hex.EncodeToString(hash.Sum(nil)[:16]); got != pinned {
			t.Errorf("%s: %s, want %s", o.name, got, pinned)
		}
	}
	t.Logf("implementations: %s", strings.Join(names, ", "))
}
