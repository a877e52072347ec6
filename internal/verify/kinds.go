package verify

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
)

// StrataOptions of BuildStrata.
type StrataOptions struct {
	Seed uint64
	// Longest prompt, in tokens; what both sides take (Contract.ContextLimit)
	// less what is to be written.
	Longest int
	// Each stratum gets so many prompts; default 4.
	Each int
	// Vocab is the vocabulary's size and Avoid the ids that no prompt may hold:
	// special tokens.
	Vocab int
	Avoid []int
	// Digits are the ids of tokens that are digits; none = no such stratum.
	Digits []int
}

// BuildStrata cuts prompts from a corpus (token ids of texts, in any language)
// so that what kernels treat apart is each met: every residue of the length
// modulo 8, lengths around powers of two, digits, and tokens that are rare in
// the corpus. It returns a kind per prompt, for Input.Strata. The same seed and
// corpus give the same prompts.
func BuildStrata(corpus [][]int, o StrataOptions) (prompts [][]int, kinds []string, err error) {
	stream := slices.Concat(corpus...)
	switch {
	case o.Longest < 16:
		return nil, nil, fmt.Errorf("build strata: prompts of at most %d tokens: at least 16 are needed", o.Longest)
	case len(stream) < 2:
		return nil, nil, errors.New("build strata: the corpus is empty")
	case o.Vocab < 1:
		return nil, nil, errors.New("build strata: the vocabulary's size is needed")
	}
	each := o.Each
	if each <= 0 {
		each = 4
	}
	r := rand.New(rand.NewPCG(o.Seed, 0x737472617461))
	add := func(kind string, p []int) {
		prompts, kinds = append(prompts, p), append(kinds, kind)
	}
	window := func(n int) []int {
		out, at := make([]int, n), r.IntN(len(stream))
		for i := range out {
			out[i] = stream[(at+i)%len(stream)]
		}
		return out
	}
	for range each {
		for residue := range modulus {
			blocks := 1 + r.IntN((o.Longest-residue)/modulus)
			add("natural", window(blocks*modulus+residue))
		}
		for n := 16; n <= o.Longest; n *= 2 {
			for _, length := range []int{n - 1, n, n + 1} {
				if length <= o.Longest {
					add("natural", window(length))
				}
			}
		}
		if rare := rareTokens(stream, o); len(rare) > 0 {
			add("rare tokens", mixed(r, window(min(64, o.Longest)), rare))
		}
		if len(o.Digits) > 0 {
			add("digits", mixed(r, window(min(64, o.Longest)), o.Digits))
		}
	}
	return prompts, kinds, nil
}

// rareTokens are those that the stream holds at most once.
func rareTokens(stream []int, o StrataOptions) []int {
	counts := make(map[int]int)
	for _, t := range stream {
		counts[t]++
	}
	var out []int
	for id := range o.Vocab {
		if counts[id] <= 1 && !slices.Contains(o.Avoid, id) {
			out = append(out, id)
		}
	}
	return out
}

// mixed replaces half of p by tokens of a kind.
func mixed(r *rand.Rand, p, kind []int) []int {
	for i := range p {
		if r.IntN(2) == 0 {
			p[i] = kind[r.IntN(len(kind))]
		}
	}
	return p
}
