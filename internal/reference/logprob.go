package reference

import "tarbert/internal/reference/kernel"

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
