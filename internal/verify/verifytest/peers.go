package verifytest

import (
	"math"
	"math/rand/v2"
	"slices"
)

// The rules that others accept a deployment by, as functions of what both
// sides wrote. True means accepted.

// Benchmark is a task benchmark: the scores may differ by a share of the questions.
func Benchmark(reference, candidate []bool, allowed float64) bool {
	share := func(x []bool) float64 {
		n := 0.0
		for _, right := range x {
			if right {
				n++
			}
		}
		return n / float64(len(x))
	}
	return math.Abs(share(reference)-share(candidate)) <= allowed+1e-9
}

// SameGreedy holds where every greedy continuation is the same text.
func SameGreedy(reference, candidate []Written) bool {
	for i := range reference {
		if !slices.Equal(reference[i].Tokens, candidate[i].Tokens) {
			return false
		}
	}
	return true
}

// LogProbsClose is the rule of vLLM's check_logprobs_close for one prompt: at
// the first token on which greedy outputs part, each side's must be among the
// other's likeliest; nothing after it is compared.
func LogProbsClose(reference, candidate Written) bool {
	for t := range min(len(reference.Tokens), len(candidate.Tokens)) {
		a, b := reference.Tokens[t], candidate.Tokens[t]
		if a == b {
			continue
		}
		if t >= len(reference.Positions) || t >= len(candidate.Positions) {
			return false
		}
		has := func(w Written, token int) bool {
			for _, e := range w.Positions[t].Top {
				if e.Token == token {
					return true
				}
			}
			return false
		}
		return has(reference, b) && has(candidate, a)
	}
	return true
}

// EqualModels is Model Equality Testing (arXiv:2410.20247): the maximum mean
// discrepancy of two sets of completions per prompt, with the Hamming kernel
// (the share of positions with the same token) and a permutation test within
// prompts. It returns the p-value.
func EqualModels(reference, candidate [][][]int, length, permutations int, r *rand.Rand) float64 {
	same := func(a, b []int) float64 {
		n := 0
		for i := range length {
			x, y := -1, -1 // padding agrees with padding
			if i < len(a) {
				x = a[i]
			}
			if i < len(b) {
				y = b[i]
			}
			if x == y {
				n++
			}
		}
		return float64(n) / float64(length)
	}
	type prompt struct {
		k [][]float64
		m int // the first m are the reference's
	}
	var prompts []prompt
	for i := range reference {
		all := slices.Concat(reference[i], candidate[i])
		k := make([][]float64, len(all))
		for x := range all {
			k[x] = make([]float64, len(all))
			for y := range all {
				k[x][y] = same(all[x], all[y])
			}
		}
		prompts = append(prompts, prompt{k, len(reference[i])})
	}
	mmd := func(order [][]int) float64 {
		sum := 0.0
		for i, p := range prompts {
			n := len(p.k) - p.m
			for x, a := range order[i] {
				for y, b := range order[i] {
					switch {
					case x == y:
					case x < p.m && y < p.m:
						sum += p.k[a][b] / float64(p.m*(p.m-1))
					case x >= p.m && y >= p.m:
						sum += p.k[a][b] / float64(n*(n-1))
					default:
						sum -= p.k[a][b] / float64(p.m*n)
					}
				}
			}
		}
		return sum
	}
	order := make([][]int, len(prompts))
	for i, p := range prompts {
		order[i] = make([]int, len(p.k))
		for j := range order[i] {
			order[i][j] = j
		}
	}
	observed, least := mmd(order), 1
	for range permutations {
		for i := range order {
			r.Shuffle(len(order[i]), func(a, b int) { order[i][a], order[i][b] = order[i][b], order[i][a] })
		}
		if mmd(order) >= observed {
			least++
		}
	}
	return float64(least) / float64(permutations+1)
}

// F1 of the candidate's positives against the reference's.
func F1(reference, candidate []bool) float64 {
	both, either := 0.0, 0.0
	for i := range reference {
		if reference[i] && candidate[i] {
			both++
		}
		if reference[i] {
			either++
		}
		if candidate[i] {
			either++
		}
	}
	if either == 0 {
		return 1
	}
	return 2 * both / either
}
