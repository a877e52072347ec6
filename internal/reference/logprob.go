package reference

import (
	"context"
	"fmt"

	"tarbert/internal/reference/kernel"
)

// TokenLogProb is a token and the natural logarithm of its probability.
type TokenLogProb struct {
	Token   int
	LogProb float64
}

// Position is what a model thought of the token at one position.
type Position struct {
	LogProb float64        // of the actual token
	Rank    int            // of the actual token, 1 is the likeliest; of equal logits the lower id comes first
	Top     []TokenLogProb // the k likeliest, falling
}

// LogProbs judges one position from its logits: the actual token's
// log-probability and rank and the k likeliest tokens. Log-probabilities are
// the same float32 values that training sees.
func LogProbs(logits []float32, actual, k int) Position {
	lse := kernel.LogSumExp(logits)
	p := Position{LogProb: float64(logits[actual] - lse), Rank: 1}
	for i, l := range logits {
		if l > logits[actual] || l == logits[actual] && i < actual {
			p.Rank++
		}
	}
	for _, t := range topK(logits, min(k, len(logits))) {
		p.Top = append(p.Top, TokenLogProb{t, float64(logits[t] - lse)})
	}
	return p
}

// topK returns the k largest logits' indices, falling, lower index first
// among equals.
func topK(logits []float32, k int) []int {
	if k <= 0 {
		return nil
	}
	top := make([]int, 0, k+1)
	for i, l := range logits {
		if len(top) == k && !(l > logits[top[k-1]]) {
			continue
		}
		at := len(top)
		for at > 0 && l > logits[top[at-1]] {
			at--
		}
		top = append(top, 0)
		copy(top[at+1:], top[at:])
		top[at] = i
		top = top[:min(len(top), k)]
	}
	return top
}

// scoreChunk bounds how many positions' logits Score holds at a time.
const scoreChunk = 256

// Score gives, for every token after the first, its log-probability given the
// tokens before it, its rank and the k likeliest tokens there. Entry 0 is the
// zero Position.
func (m *Model) Score(ctx context.Context, tokens []int, k int) ([]Position, error) {
	out := make([]Position, len(tokens))
	if n := len(tokens); n > 0 {
		if last := tokens[n-1]; last < 0 || last >= m.net.c.VocabSize {
			return nil, fmt.Errorf("score: token %d at position %d is outside the vocabulary of %d", last, n-1, m.net.c.VocabSize)
		}
	}
	seq := m.NewSequence()
	for from := 0; from+1 < len(tokens); from += scoreChunk {
		to := min(from+scoreChunk, len(tokens)-1)
		logits, err := m.Forward(ctx, []Input{{Seq: seq, Tokens: tokens[from:to], All: true}})
		if err != nil {
			return nil, fmt.Errorf("score: %w", err)
		}
		m.pool.Run(to-from, func(i int) {
			out[from+i+1] = LogProbs(logits[0][i], tokens[from+i+1], k)
		})
	}
	return out, nil
}
