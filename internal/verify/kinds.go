package verify

import (
	"embed"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
)

//go:embed corpus/*.txt
var corpus embed.FS

// The kinds of prompts that PlanPrompts knows beside those of the corpus.
const (
	KindLong     = "long context"
	KindOnPolicy = "on-policy"
	KindRare     = "rare"
)

// Text is a sample of one kind.
type Text struct {
	Kind string
	Text string
}

// Corpus is a sample of text per kind, in a fixed order: code, chinese, digits,
// english, languages, rare and tools. It is ours, so that nobody trained on it.
func Corpus() []Text {
	entries, err := corpus.ReadDir("corpus")
	if err != nil {
		panic(err) // it is compiled in
	}
	var out []Text
	for _, e := range entries {
		b, err := corpus.ReadFile("corpus/" + e.Name())
		if err != nil {
			panic(err)
		}
		out = append(out, Text{strings.TrimSuffix(e.Name(), ".txt"), string(b)})
	}
	return out
}

// Kinds are the names of all strata of prompts.
func Kinds() []string {
	var out []string
	for _, t := range Corpus() {
		out = append(out, t.Kind)
	}
	return append(out, KindLong, KindOnPolicy)
}

// Sample is a Text as token ids.
type Sample struct {
	Kind   string
	Tokens []int
}

// PlanOptions of PlanPrompts.
type PlanOptions struct {
	Seed      uint64
	Count     int // prompts in all
	MaxTokens int // that the reference adds to each
	// Longest is the most that both sides take, in tokens with what is added;
	// Long what a long prompt should have.
	Longest, Long int
	// Vocab, if known, is the vocabulary's size; Avoid are ids that no prompt
	// may hold: special tokens.
	Vocab int
	Avoid []int
}

// Stem is the beginning of a prompt, which the reference continues to Length tokens.
type Stem struct {
	Kind   string
	Tokens []int
	Length int
}

const (
	shortest   = 24  // tokens of a prompt with its continuation
	natural    = 512 // most tokens of a prompt that is not long
	commonStem = 4   // tokens of an on-policy stem
	longShare  = 24  // one of so many prompts is long,
	leastLong  = 2   // and at least so many
)

// PlanPrompts cuts stems from samples so that what kernels and tokenizers treat
// apart is each met: every kind, every residue of the length modulo 8, lengths
// around powers of two, long context, text that the reference writes itself.
// The same seed and samples give the same stems. What does not fit is said.
func PlanPrompts(samples []Sample, o PlanOptions) (stems []Stem, scope []string, err error) {
	switch {
	case len(samples) == 0 || slices.ContainsFunc(samples, func(s Sample) bool { return len(s.Tokens) < 2 }):
		return nil, nil, errors.New("plan prompts: a sample is empty")
	case o.Count < 1 || o.MaxTokens < 1:
		return nil, nil, fmt.Errorf("plan prompts: %d prompts of %d tokens", o.Count, o.MaxTokens)
	case o.Longest < shortest:
		return nil, nil, fmt.Errorf("plan prompts: the context takes %d tokens, at least %d are needed", o.Longest, shortest)
	}
	r := rand.New(rand.NewPCG(o.Seed, 0x737472617461))
	lengths := plannedLengths(r, o)
	kinds := r.Perm(len(samples))
	long, most := 0, max(leastLong, o.Count/longShare)
	for i := 0; len(stems) < o.Count; i++ {
		s := samples[kinds[i%len(kinds)]]
		stem := Stem{Kind: s.Kind}
		switch {
		case s.Kind == KindOnPolicy:
			stem.Length = min(o.MaxTokens+commonStem, o.Longest)
		case s.Kind == KindLong && long >= most && len(samples) > 1:
			continue // they cost the most
		case s.Kind == KindLong:
			stem.Length = min(max(o.Long, o.MaxTokens+shortest), o.Longest)
			long++
		default:
			stem.Length, lengths = lengths[0], lengths[1:]
		}
		n := max(2, stem.Length-o.MaxTokens)
		if stem.Length < o.MaxTokens+shortest/2 && s.Kind != KindOnPolicy {
			n = max(2, stem.Length/2)
		}
		stem.Tokens = window(r, s.Tokens, n)
		if s.Kind == KindRare && o.Vocab > 0 {
			sprinkle(r, stem.Tokens, o)
		}
		stems = append(stems, stem)
	}
	r.Shuffle(len(stems), func(i, j int) { stems[i], stems[j] = stems[j], stems[i] })
	if slices.ContainsFunc(samples, func(s Sample) bool { return s.Kind == KindLong }) && o.Longest < o.Long {
		scope = append(scope, fmt.Sprintf("long context up to %d tokens, not %d: that is what both sides take", o.Longest, o.Long))
	}
	return stems, scope, nil
}

// plannedLengths meets every residue modulo 8 and the borders of powers of two
// first, in random order, and is log-uniform after that.
func plannedLengths(r *rand.Rand, o PlanOptions) []int {
	most := min(natural+o.MaxTokens, o.Longest)
	var fixed []int
	for n := 32; n <= most; n *= 2 {
		for _, l := range []int{n - 1, n, n + 1} {
			if l <= most {
				fixed = append(fixed, l)
			}
		}
	}
	for residue := range modulus {
		low := min(max(shortest, o.MaxTokens+8), most-modulus)
		fixed = append(fixed, min(most, low/modulus*modulus+modulus+residue))
	}
	r.Shuffle(len(fixed), func(i, j int) { fixed[i], fixed[j] = fixed[j], fixed[i] })
	least := math.Log(float64(min(max(shortest, o.MaxTokens+shortest/2), most)))
	for len(fixed) < o.Count {
		fixed = append(fixed, int(math.Exp(least+r.Float64()*(math.Log(float64(most))-least))))
	}
	return fixed
}

// window is n tokens from a random place on, around the end if need be.
func window(r *rand.Rand, tokens []int, n int) []int {
	out, at := make([]int, n), r.IntN(len(tokens))
	for i := range out {
		out[i] = tokens[(at+i)%len(tokens)]
	}
	return out
}

// sprinkle replaces half of p by ids drawn from the whole vocabulary: most of
// those are tokens that text hardly ever has.
func sprinkle(r *rand.Rand, p []int, o PlanOptions) {
	for i := range p {
		if id := r.IntN(o.Vocab); r.IntN(2) == 0 && !slices.Contains(o.Avoid, id) {
			p[i] = id
		}
	}
}
