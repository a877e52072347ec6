package server

import (
	"cmp"
	"math"
	"slices"
)

// sampling is how the next token is chosen from logits.
type sampling struct {
	temperature, topP, minP         float64
	topK                            int
	presence, frequency, repetition float64
	bias                            map[int]float64
	allowed                         []int // nil: every token
	seed                            uint64
}

// greedyBelow is the temperature under which the likeliest token is taken.
const greedyBelow = 1e-5

// greedy reports whether no random number is needed.
func (s sampling) greedy() bool { return s.temperature < greedyBelow }

// plain reports whether logits are used as the model gave them.
func (s sampling) plain() bool {
	return s.presence == 0 && s.frequency == 0 && s.repetition == 1 && len(s.bias) == 0 && s.allowed == nil
}

// uniform is the random number in [0,1) of (seed, sample, position). It is a
// counter run through SplitMix64's finalizer, so no state is carried from
// token to token and none is shared between requests.
func uniform(seed uint64, sample, position int) float64 {
	h := mix(seed + 0x9E3779B97F4A7C15)
	h = mix(h ^ (uint64(sample)+1)*0xD1B54A32D192ED03)
	h = mix(h ^ (uint64(position)+1)*0xABC98388FB8FAC03)
	return float64(h>>11) * 0x1p-53
}

func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xBF58476D1CE4E5B9
	x = (x ^ x>>27) * 0x94D049BB133111EB
	return x ^ x>>31
}

// argmax is the index of the largest value, the lowest of equals.
func argmax(x []float32) int {
	best := 0
	for i, v := range x {
		if v > x[best] {
			best = i
		}
	}
	return best
}

// adjusted returns logits after bans, bias and penalties, in vLLM's order;
// without any of them it returns logits itself. banned tokens cannot be drawn.
func (s sampling) adjusted(logits []float32, banned []int, prompt map[int]bool, counts map[int]int) []float32 {
	if s.plain() && len(banned) == 0 {
		return logits
	}
	out := slices.Clone(logits)
	inf := float32(math.Inf(-1))
	if s.allowed != nil {
		for i := range out {
			out[i] = inf
		}
		for _, id := range s.allowed {
			out[id] = logits[id]
		}
	}
	for id, b := range s.bias {
		out[id] += float32(b)
	}
	for _, id := range banned {
		out[id] = inf
	}
	if s.repetition != 1 {
		for id := range prompt {
			out[id] = repeated(out[id], s.repetition)
		}
		for id := range counts {
			if !prompt[id] {
				out[id] = repeated(out[id], s.repetition)
			}
		}
	}
	for id, n := range counts {
		out[id] -= float32(s.frequency*float64(n) + s.presence)
	}
	return out
}

func repeated(logit float32, penalty float64) float32 {
	if logit > 0 {
		return float32(float64(logit) / penalty)
	}
	return float32(float64(logit) * penalty)
}

// choice is a token that may be drawn.
type choice struct {
	id int
	p  float64 // relative to the likeliest
}

// pick draws a token from logits with the random number u. Ties go to the
// lower id. It allocates one slice of the vocabulary's size.
func (s sampling) pick(logits []float32, u float64) int {
	top := argmax(logits)
	if s.greedy() || math.IsInf(float64(logits[top]), -1) {
		return top
	}
	choices := make([]choice, 0, len(logits))
	for id, l := range logits {
		p := math.Exp((float64(l) - float64(logits[top])) / s.temperature)
		if p > 0 && p >= s.minP {
			choices = append(choices, choice{id, p})
		}
	}
	choices = s.cut(choices)
	var total float64
	for _, c := range choices {
		total += c.p
	}
	var sum float64
	for _, c := range choices {
		sum += c.p
		if u*total < sum {
			return c.id
		}
	}
	return choices[len(choices)-1].id
}

// cut applies top-k, then top-p, and returns the rest in the order of ids, so
// that what is drawn for a given u does not depend on the order of the cut.
func (s sampling) cut(choices []choice) []choice {
	byK := s.topK > 0 && s.topK < len(choices)
	if !byK && s.topP >= 1 {
		return choices
	}
	slices.SortFunc(choices, func(a, b choice) int {
		return cmp.Or(cmp.Compare(b.p, a.p), cmp.Compare(a.id, b.id))
	})
	if byK {
		choices = choices[:s.topK]
	}
	if s.topP < 1 {
		var total, sum float64
		for _, c := range choices {
			total += c.p
		}
		for i, c := range choices {
			if sum += c.p; sum >= s.topP*total {
				choices = choices[:i+1]
				break
			}
		}
	}
	slices.SortFunc(choices, func(a, b choice) int { return cmp.Compare(a.id, b.id) })
	return choices
}
