package reference

import (
	"cmp"
	"math"
	"slices"
)

// Sampler picks a token from logits. The zero value is greedy.
type Sampler struct {
	Temperature float64 // 0: the likeliest token, the lowest id on a tie
	TopK        int     // 0: all; otherwise only the k likeliest
	TopP        float64 // 0 or 1: all; otherwise the smallest set of likeliest tokens with at least this probability
	MinP        float64 // tokens less likely than MinP times the likeliest are out
}

// Pick chooses a token by u, uniform in [0, 1): the token whose share of the
// cumulated probability u falls in, going from the likeliest down (and by id
// when nothing is cut off). The same logits, settings and u give the same
// token everywhere; probabilities are float64. Filters apply in vLLM's order:
// temperature, min-p, top-k, top-p. Logits of NaN are never picked.
func (s Sampler) Pick(logits []float32, u float64) int {
	best := argmax(logits)
	if s.Temperature <= 0 || best < 0 {
		return max(best, 0)
	}
	top := float64(logits[best])
	if math.IsInf(top, 0) { // no finite differences to weigh
		return best
	}
	weight := func(l float32) float64 {
		w := math.Exp((float64(l) - top) / s.Temperature)
		if w >= s.MinP { // false for NaN
			return w
		}
		return 0
	}
	if s.TopK <= 0 && (s.TopP <= 0 || s.TopP >= 1) {
		return pickByID(logits, weight, u, best)
	}
	return s.pickRanked(logits, weight, u)
}

// argmax is the lowest index of the largest logit, -1 if all are NaN.
func argmax(logits []float32) int {
	best := -1
	for i, l := range logits {
		if l == l && (best < 0 || l > logits[best]) {
			best = i
		}
	}
	return best
}

func pickByID(logits []float32, weight func(float32) float64, u float64, best int) int {
	var small [1024]float64 // spares small vocabularies an allocation per token
	weights, total := small[:], 0.0
	if len(logits) > len(small) {
		weights = make([]float64, len(logits))
	}
	weights = weights[:len(logits)]
	for i, l := range logits {
		weights[i] = weight(l)
		total += weights[i]
	}
	at, last := u*total, best
	for i, w := range weights {
		if w == 0 {
			continue
		}
		if at < w {
			return i
		}
		at -= w
		last = i
	}
	return last // rounding left a crumb: the last possible token
}

type candidate struct {
	id     int
	weight float64
}

func (s Sampler) pickRanked(logits []float32, weight func(float32) float64, u float64) int {
	ranked := make([]candidate, 0, len(logits))
	for i, l := range logits {
		if w := weight(l); w > 0 {
			ranked = append(ranked, candidate{i, w})
		}
	}
	slices.SortFunc(ranked, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(b.weight, a.weight), cmp.Compare(a.id, b.id))
	})
	if s.TopK > 0 && s.TopK < len(ranked) {
		ranked = ranked[:s.TopK]
	}
	total := 0.0
	for _, c := range ranked {
		total += c.weight
	}
	if s.TopP > 0 && s.TopP < 1 {
		ranked, total = nucleus(ranked, s.TopP*total)
	}
	at := u * total
	for _, c := range ranked {
		if at < c.weight {
			return c.id
		}
		at -= c.weight
	}
	return ranked[len(ranked)-1].id
}

// nucleus keeps the fewest leading candidates that reach want together.
func nucleus(ranked []candidate, want float64) ([]candidate, float64) {
	sum := 0.0
	for i, c := range ranked {
		sum += c.weight
		if sum >= want {
			return ranked[:i+1], sum
		}
	}
	return ranked, sum
}
