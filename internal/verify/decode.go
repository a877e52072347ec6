package verify

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"tarbert/internal/engine"
)

// Generator writes continuations with their log-probabilities; *engine.Client is one.
type Generator interface {
	Generate(ctx context.Context, r engine.GenerateRequest) ([]engine.Generated, error)
}

// DecodeOptions say how much of the decode path is compared. prompt_logprobs
// runs prefill kernels only: a cache kept in eight bits, a graph's stale input
// or a decode attention kernel show nowhere but in generation.
type DecodeOptions struct {
	Prompts int // the first so many; 0 = none, the path is not tested
	Cuts    int // points in each at which both sides go on by themselves; default 4
	Tokens  int // written at each; default 8
	// Least tokens to compare in all: where the reference's texts are short, more
	// prompts are taken. Theirs are counted, and nothing of the candidate's.
	Least int
}

// generator is the side's own, or its scorer's.
func (s Side) generator() Generator {
	if s.Generator != nil {
		return s.Generator
	}
	g, _ := s.Scorer.(Generator)
	return g
}

// collectDecode lets every side continue greedily from the same cut points and
// compares them while they write the same tokens. All cuts of a prompt are one
// cluster. Nothing is compared after the first token on which they part: from
// there on the prefixes differ.
func collectDecode(ctx context.Context, in Input, ev *Evidence) error {
	o := in.Decode
	if o.Cuts <= 0 {
		o.Cuts = 4
	}
	if o.Tokens <= 0 {
		o.Tokens = 8
	}
	sides := []Side{in.Reference, in.Candidate}
	names := []string{"reference", "candidate", "floor"}
	if floor, _, ok := in.floorSide(ev); ok && ev.Floor != nil {
		sides = append(sides, floor)
	}
	for i, s := range sides {
		if s.generator() == nil {
			return fmt.Errorf("%s: does not generate", names[i])
		}
	}
	n := in.decodePrompts(o)
	for i := range n {
		cuts := cutPoints(in.from(i), len(in.Prompts[i]), o.Cuts)
		got := make([][][]engine.Position, len(sides)) // side, cut, token
		g, gctx := errgroup.WithContext(ctx)
		for s := range sides {
			got[s] = make([][]engine.Position, len(cuts))
			g.Go(func() error {
				for c, at := range cuts {
					var err error
					if got[s][c], err = continued(gctx, sides[s].generator(), in.Prompts[i][:at], o.Tokens, in.Spec.Top, in.Vocab); err != nil {
						return fmt.Errorf("%s: prompt %d cut at %d: %w", names[s], i, at, err)
					}
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		tokens, pos := []int{in.Prompts[i][0]}, make([][]engine.Position, len(sides))
		for s := range pos {
			pos[s] = []engine.Position{{}}
		}
		for c := range cuts {
			n := together(got, c)
			for s := range pos {
				for t := range n {
					p := got[s][c][t]
					p.Token, p.LogProb = got[0][c][t].Token, under(got[0][c][t].Token, p)
					pos[s] = append(pos[s], p)
				}
			}
			for t := range n {
				tokens = append(tokens, got[0][c][t].Token)
			}
		}
		if len(tokens) > 1 {
			ev.add(tokens, 1, pos)
		}
		in.report("decode", i+1, n, "prompts", "")
	}
	ev.Asked, ev.Digest = len(ev.Prompts), promptsDigest(ev.tokens())
	if in.Sequential {
		ev.Planned = ev.Asked
	}
	return nil
}

// under is the log-probability of token at p: its own, or at most the last
// one's that is named.
func under(token int, p engine.Position) float64 {
	for _, e := range known(p) {
		if e.Token == token {
			return e.LogProb
		}
	}
	return p.Top[len(p.Top)-1].LogProb
}

// together is how many positions of a cut have the same prefix on every side:
// up to and with the first at which tokens part.
func together(got [][][]engine.Position, cut int) int {
	n := len(got[0][cut])
	for _, side := range got[1:] {
		n = min(n, len(side[cut]))
	}
	for t := range n {
		for _, side := range got[1:] {
			if side[cut][t].Token != got[0][cut][t].Token {
				return t + 1
			}
		}
	}
	return n
}

// decodePrompts is how many prompts are continued.
func (in *Input) decodePrompts(o DecodeOptions) int {
	n, tokens := 0, 0
	for ; n < len(in.Prompts) && (n < o.Prompts || tokens < o.Least); n++ {
		for _, at := range cutPoints(in.from(n), len(in.Prompts[n]), o.Cuts) {
			tokens += min(o.Tokens, len(in.Prompts[n])-at)
		}
	}
	return n
}

// cutPoints are n prefix lengths spread over what is judged.
func cutPoints(from, length, n int) []int {
	var out []int
	for i := range n {
		at := from + i*(length-from)/n
		if len(out) == 0 || at > out[len(out)-1] {
			out = append(out, at)
		}
	}
	return out
}

// continued is a greedy continuation, checked like a score.
func continued(ctx context.Context, g Generator, prefix []int, n, k, vocab int) ([]engine.Position, error) {
	got, err := g.Generate(ctx, engine.GenerateRequest{Tokens: prefix, MaxTokens: n, Top: k})
	if err != nil {
		return nil, err
	}
	if len(got) != 1 || (len(got[0].Positions) == 0 && got[0].CompletionTokens != 0) {
		return nil, fmt.Errorf("%w: no log-probabilities of what was written, by token id", engine.ErrMissing)
	}
	pos := got[0].Positions
	tokens, padded := []int{0}, []engine.Position{{}}
	for _, p := range pos {
		tokens, padded = append(tokens, p.Token), append(padded, p)
	}
	return pos, engine.CheckPositions(0, tokens, padded, k, vocab)
}

func (ev *Evidence) tokens() [][]int {
	out := make([][]int, len(ev.Prompts))
	for i, p := range ev.Prompts {
		out[i] = p.Tokens
	}
	return out
}
