package reference

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestChunkedHeadGivesTheSameBits takes the output head in chunks of 64
// targets, as large vocabularies need, and in one piece.
func TestChunkedHeadGivesTheSameBits(t *testing.T) {
	var want []Param
	for _, most := range []int{logitsMost, 1} {
		m, err := LoadTrainable(goldenDir("qwen3"), 2)
		if err != nil {
			t.Fatal(err)
		}
		m.head.most = most
		r := rand.New(rand.NewPCG(5, 5))
		var batch []Sample
		for range 3 {
			batch = append(batch, Sample{Tokens: text(r.Uint64(), 320, 70), Mask: slices.Repeat([]bool{true}, 70)})
		}
		square := func(logp [][]float32) (float64, [][]float32) {
			d := make([][]float32, len(logp))
			for i, s := range logp {
				for _, v := range s {
					d[i] = append(d[i], 2*v)
				}
			}
			return 0, d
		}
		if _, err := m.ForwardBackwardWith(context.Background(), batch, square, Penalties{Z: 1e-3}); err != nil {
			t.Fatal(err)
		}
		if n := len(m.head.rows); n <= 2*m.head.chunk(320) && most == 1 {
			t.Fatalf("%d targets are too few for three chunks of %d", n, m.head.chunk(320))
		}
		if want == nil {
			want = m.Params()
			continue
		}
		for i, p := range m.Params() {
			if !sameBits(p.Grad, want[i].Grad) {
				t.Errorf("%s: other bits in chunks", p.Name)
			}
		}
	}
}
