package verifytest

import (
	"context"
	"math/rand/v2"

	"tarbert/internal/engine"
	"tarbert/internal/reference"
)

// Written is one continuation.
type Written struct {
	Tokens []int
	// Positions have each token's log-probability and the likeliest ones.
	Positions []engine.Position
	Ended     bool
}

// Write continues all prompts at once, with every hook that acts on generation;
// the seed of continuation i is seed+i. Top 0 leaves positions out.
func (e *Engine) Write(ctx context.Context, prompts [][]int, most int, temperature float64, seed uint64, top int) ([]Written, error) {
	type state struct {
		fed, text []int
		seq       *reference.Sequence
		r         *rand.Rand
	}
	out, states := make([]Written, len(prompts)), make([]state, len(prompts))
	for i, p := range prompts {
		fed := p
		if e.Prompt != nil {
			fed = e.Prompt(p)
		}
		states[i] = state{fed, append([]int{}, p...), e.Model.NewSequence(), rand.New(rand.NewPCG(seed+uint64(i), 2))}
	}
	for range most {
		var in []reference.Input
		var of []int
		for i, s := range states {
			if !out[i].Ended {
				in, of = append(in, reference.Input{Seq: s.seq, Tokens: s.fed}), append(of, i)
			}
		}
		if len(in) == 0 {
			break
		}
		got, err := e.Model.Forward(ctx, in)
		if err != nil {
			return nil, err
		}
		for j, i := range of {
			s, w := &states[i], &out[i]
			if e.Cache != nil {
				s.seq.Rewrite(s.seq.Len()-len(s.fed), e.Cache)
			}
			logits := append([]float32{}, got[j][0]...)
			if e.Logits != nil {
				e.Logits(s.text, len(s.text), logits)
			}
			if e.Decode != nil && len(w.Tokens) > 0 {
				e.Decode(s.text, logits)
			}
			next := e.draw(s.r, s.text, temperature, logits)
			if w.Tokens = append(w.Tokens, next); top > 0 {
				w.Positions = append(w.Positions, convert(next, reference.LogProbs(logits, next, top)))
			}
			s.text, s.fed = append(s.text, next), []int{next}
			w.Ended = next == e.EOS
		}
	}
	for i := range out {
		if e.Strip != nil {
			out[i].Tokens = e.Strip(out[i].Tokens)
			out[i].Positions = out[i].Positions[:min(len(out[i].Positions), len(out[i].Tokens))]
		}
	}
	return out, nil
}
