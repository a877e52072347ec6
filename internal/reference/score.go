package reference

import (
	"context"
	"fmt"
)

const (
	scoreChunk  = 480     // tokens that go through a layer together
	scoreLogits = 1 << 24 // logits held at a time, roughly
)

// scoring takes a text through one layer after another, all of it: only one
// layer's keys and values are in memory, and each layer's weights are read once
// for many tokens.
type scoring struct {
	*Model
	work   *workspace
	chunk  int
	seq    *Sequence
	chunks []*batch
}

// Score gives, for every token after the first, its log-probability given the
// tokens before it, its rank and the k likeliest tokens there. Entry 0 is the
// zero Position.
func (m *Model) Score(ctx context.Context, tokens []int, k int) ([]Position, error) {
	return m.score(ctx, tokens, k, scoreChunk)
}

func (m *Model) score(ctx context.Context, tokens []int, k, chunk int) ([]Position, error) {
	out := make([]Position, len(tokens))
	if len(tokens) == 0 {
		return out, nil
	}
	n := len(tokens) - 1 // the last token is only judged
	if last := tokens[n]; last < 0 || last >= m.net.c.VocabSize {
		return nil, fmt.Errorf("score: token %d at position %d is outside the vocabulary of %d", last, n, m.net.c.VocabSize)
	}
	if n == 0 {
		return out, nil
	}
	s := scoring{Model: m, work: m.work.Get().(*workspace), chunk: chunk}
	defer m.work.Put(s.work)
	if err := s.plan(tokens[:n]); err != nil {
		return nil, fmt.Errorf("score: %w", err)
	}
	if err := s.layers(ctx, n); err != nil {
		return nil, fmt.Errorf("score: %w", err)
	}
	if err := s.judge(ctx, tokens, out, k); err != nil {
		return nil, fmt.Errorf("score: %w", err)
	}
	return out, nil
}

// plan cuts the text into chunks and makes room for one layer's cache.
func (s *scoring) plan(tokens []int) error {
	s.seq = s.NewSequence()
	for from := 0; from < len(tokens); from += s.chunk {
		b := &batch{}
		if err := b.add(s.net, tokens[from:min(from+s.chunk, len(tokens))], from, s.seq); err != nil {
			return err
		}
		b.plan(s.net.c.NumAttentionHeads)
		s.chunks = append(s.chunks, b)
	}
	s.seq.reserveShared(len(tokens))
	return nil
}

// layers leaves the last layer's output in work.hidden, [n, hidden].
func (s *scoring) layers(ctx context.Context, n int) error {
	h := s.net.c.HiddenSize
	hidden := fit(&s.work.hidden, n*h)
	for _, b := range s.chunks {
		s.net.embedTokens(s.pool, hidden[b.pos[0]*h:], b.tokens)
	}
	for i := range s.net.layers {
		for _, b := range s.chunks {
			if err := cancelled(ctx); err != nil {
				return err
			}
			la := s.work.acts.prepare(s.net, i, len(b.tokens))
			la.x = hidden[b.pos[0]*h:][:len(b.tokens)*h]
			la.y = la.x
			newPass(s.net, s.pool, b, s.work.acts).layer(i, la)
		}
	}
	return nil
}

// judge computes logits in blocks of rows and reduces each at once.
func (s *scoring) judge(ctx context.Context, tokens []int, out []Position, k int) error {
	h, vocab, n := s.net.c.HiddenSize, s.net.c.VocabSize, len(tokens)-1
	step := min(max(scoreLogits/vocab, 32), 240, n)
	norm, rstd, logits := fit(&s.work.norm, step*h), fit(&s.work.rstd, step), fit(&s.work.logits, step*vocab)
	for from := 0; from < n; from += step {
		if err := cancelled(ctx); err != nil {
			return err
		}
		rows := min(step, n-from)
		spare := s.work.acts.spare.Get().(*scratch)
		s.net.logits(s.pool, s.work.hidden[from*h:][:rows*h], norm[:rows*h], rstd[:rows], logits[:rows*vocab], spare)
		s.work.acts.spare.Put(spare)
		s.pool.Run(rows, func(i int) {
			out[from+i+1] = LogProbs(logits[i*vocab:][:vocab], tokens[from+i+1], k)
		})
	}
	return nil
}

// reserveShared makes one cache for n tokens that all layers use in turn.
func (s *Sequence) reserveShared(n int) {
	one := &Sequence{net: s.net, layers: make([]cache, 1)}
	one.reserve(n)
	for i := range s.layers {
		s.layers[i] = one.layers[0]
	}
	s.cap = one.cap
}
