package verify

import (
	"context"
	"math/rand/v2"

	"tarbert/internal/engine"
	"tarbert/internal/spec"
)

// toy is a model as a function: a distribution from the last two tokens, with
// noise on the logits and planted faults.
type toy struct {
	vocab int // default 64
	noise float64
	seed  uint64 // of the noise
	// hot adds heavy noise where the last token is below it: one bad expert.
	hot      int
	hotNoise float64
	// flips is the share of positions with heavy noise, as routers' near ties make.
	flips float64
	// early adds noise to the first positions: text nobody trained on.
	early float64
	// late adds noise that grows with the position: a wrong RoPE base.
	late float64
	// scale multiplies the logits; 0 = 1.
	scale float64
	// biased lowers one token everywhere.
	biased float64
}

func (m toy) logits(prefix []int) []float64 {
	if m.vocab == 0 {
		m.vocab = 64
	}
	last, before := prefix[len(prefix)-1], 0
	if len(prefix) > 1 {
		before = prefix[len(prefix)-2]
	}
	clean := rand.New(rand.NewPCG(uint64(last), uint64(before)))
	noise := rand.New(rand.NewPCG(uint64(last)<<20|uint64(before), uint64(len(prefix))<<8|m.seed))
	size := m.noise + m.late*float64(len(prefix))
	if last < m.hot {
		size += m.hotNoise
	}
	if noise.Float64() < m.flips {
		size += 1.5
	}
	if len(prefix) < 10 {
		size += m.early
	}
	scale := m.scale
	if scale == 0 {
		scale = 1
	}
	x := make([]float64, m.vocab)
	for i := range x {
		x[i] = scale * (2.5*clean.NormFloat64() + size*noise.NormFloat64())
	}
	x[5] -= m.biased
	return logSoftmax(x)
}

func (m toy) Score(_ context.Context, prompts [][]int, k int) ([][]engine.Position, error) {
	out := make([][]engine.Position, len(prompts))
	for i, p := range prompts {
		out[i] = make([]engine.Position, len(p))
		for t := 1; t < len(p); t++ {
			out[i][t] = position(m.logits(p[:t]), p[t], k)
		}
	}
	return out, nil
}

// write makes n prompts of length tokens from the toy itself.
func (m toy) write(n, length int, seed uint64) [][]int {
	r := rand.New(rand.NewPCG(seed, 1))
	sample := engineSample(r)
	out := make([][]int, n)
	for i := range out {
		p := []int{r.IntN(64), r.IntN(64)}
		for len(p) < length {
			p = append(p, sample(m.logits(p)))
		}
		out[i] = p
	}
	return out
}

func engineSample(r *rand.Rand) func(logp []float64) int {
	return func(logp []float64) int {
		u := r.Float64()
		for i, lp := range logp {
			if u -= exp(lp); u < 0 {
				return i
			}
		}
		return len(logp) - 1
	}
}

var margins = spec.Verify{Top: 20, Margin: spec.Margin{Ratio: 20, KL: 2e-3, DeltaNLL: 0.01, Top1: 0.95, Clip: 0.1}}

// verification is a run on toys: the floor has noise of 0.01, an honest
// candidate of 0.03, nine times its divergence.
func verification(dir string, candidate Scorer, prompts [][]int) Input {
	return Input{
		Reference: Side{Stack: Stack{Name: "f32"}, Scorer: toy{}}, Floor: Side{Stack: Stack{Name: "bf16"}, Scorer: toy{noise: 0.01, seed: 1}},
		Candidate: Side{Stack: Stack{Name: "w8a8"}, Scorer: candidate}, Prompts: prompts, Spec: margins, Seed: 7, OutDir: dir, Vocab: 64,
	}
}

var honest = toy{noise: 0.03, seed: 2}

// residueFault is a toy that goes wrong for prompts of one length modulo 8.
type residueFault struct {
	toy
	residue int
}

func (f residueFault) Score(ctx context.Context, prompts [][]int, k int) ([][]engine.Position, error) {
	out := make([][]engine.Position, len(prompts))
	for i, p := range prompts {
		m := f.toy
		if len(p)%modulus == f.residue {
			m.noise = 0.4
		}
		got, err := m.Score(ctx, [][]int{p}, k)
		if err != nil {
			return nil, err
		}
		out[i] = got[0]
	}
	return out, nil
}
