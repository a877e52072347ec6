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
	x := logits[actual]
	p := Position{LogProb: float64(x - lse)}
	p.Rank = 1 + kernel.CountFrom(logits[:actual], x) + kernel.CountAbove(logits[actual+1:], x)
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
	const block = 256 // passed over at once where none is large enough
	top := make([]int, 0, k+1)
	for i := 0; i < len(logits); i++ {
		if len(top) == k && i%block == 0 {
			for i+block <= len(logits) && !(kernel.Max(logits[i:i+block]) > logits[top[k-1]]) {
				i += block
			}
			if i == len(logits) {
				break
			}
		}
		l := logits[i]
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
