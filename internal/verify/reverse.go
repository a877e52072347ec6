package verify

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"tarbert/internal/engine"
	"tarbert/internal/gate"
)

const (
	// surprise: a sampled token less likely than this, in nats, should hardly
	// ever be seen.
	surprise = -13.0
	// reverseMargin is how far the samples' mean NLL under the reference may
	// be from its own samples', nats per token, before the difference is one
	// for certain; repetition and length are shares.
	reverseMargin = 0.05
	reverseSpan   = 0.6
	shapeMargin   = 0.2
)

// ReverseOptions let the candidate write, and the reference judge it. Teacher
// forcing never runs a sampler: a broken one, stray tokens and early ends show
// only here.
type ReverseOptions struct {
	Prompts   int // the first so many; 0 = none
	MaxTokens int // of each sample: what the reference's had; default 64
	// Completer of the candidate; default its Scorer, if it is one.
	Completer Completer
}

// ReverseEvidence is what both sides wrote and what the reference thought of it.
type ReverseEvidence struct {
	Prompts   []ReversePrompt `json:"prompts"`
	MaxTokens int             `json:"max_tokens,omitempty"` // of a sample
}

// ReversePrompt is one prompt, continued by each side at temperature 1.
type ReversePrompt struct {
	Candidate ReverseSample `json:"candidate"`
	Reference ReverseSample `json:"reference"`
}

// ReverseSample is one continuation under the reference.
type ReverseSample struct {
	Tokens []int `json:"tokens"`
	// LogProb under the reference. Beyond is the most that all tokens below
	// the surprise level can have together at each position.
	LogProb []float64 `json:"logprob"`
	Beyond  []float64 `json:"beyond"`
	Ended   bool      `json:"ended"` // by itself, not at the limit
}

// collectReverse samples the candidate on the prompts as people typed them.
func collectReverse(ctx context.Context, in Input, main *Evidence) (*ReverseEvidence, error) {
	c := in.Reverse.Completer
	if c == nil {
		c, _ = in.Candidate.Scorer.(Completer)
	}
	if c == nil {
		return nil, errors.New("candidate: does not complete")
	}
	longest := 0
	n := min(in.Reverse.Prompts, len(main.Prompts))
	made := make([]*ReversePrompt, n)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(reverseInFlight)
	var done atomic.Int64
	for i := range n {
		p := main.Prompts[i]
		if p.From >= len(p.Tokens) {
			continue
		}
		longest = max(longest, in.limit(i))
		g.Go(func() error {
			var err error
			if made[i], err = in.reverseOne(gctx, c, p, i, in.limit(i)); err != nil {
				return err
			}
			in.report("reverse", int(done.Add(1)), n, "prompts", "")
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	out := &ReverseEvidence{MaxTokens: longest}
	for _, p := range made {
		if p != nil {
			out.Prompts = append(out.Prompts, *p)
		}
	}
	return out, nil
}

// limit is the most tokens of prompt i's sample: as many as the reference's own
// text might have, or the shorter one would look as if it had ended.
func (in *Input) limit(i int) int {
	switch {
	case in.Limits != nil:
		return in.Limits[i]
	case in.Reverse.MaxTokens > 0:
		return in.Reverse.MaxTokens
	}
	return 64
}

// reverseInFlight samples are written at once.
const reverseInFlight = 8

func (in Input) reverseOne(ctx context.Context, c Completer, p Prompt, i, limit int) (*ReversePrompt, error) {
	s := promptSeed(in.Seed^0x72657665, i)
	got, err := c.Complete(ctx, engine.CompletionRequest{
		Tokens: p.Tokens[:p.From], MaxTokens: limit, Temperature: 1, Seed: &s, TokenIDs: true,
	})
	if err != nil {
		return nil, fmt.Errorf("candidate: prompt %d: %w", i, err)
	}
	if len(got) != 1 || len(got[0].TokenIDs) == 0 {
		return nil, fmt.Errorf("candidate: prompt %d: %w", i, engine.ErrNoTokenIDs)
	}
	whole := append(append([]int{}, p.Tokens[:p.From]...), got[0].TokenIDs...)
	pos, err := in.positions(ctx, in.Reference.Scorer, [][]int{whole, p.Tokens})
	if err != nil {
		return nil, fmt.Errorf("reference: %w", err)
	}
	return &ReversePrompt{
		Candidate: sampleOf(pos[0], p.From, in.Vocab, len(whole)-p.From < limit),
		Reference: sampleOf(pos[1], p.From, in.Vocab, len(p.Tokens)-p.From < limit),
	}, nil
}

func sampleOf(pos []engine.Position, from, vocab int, ended bool) ReverseSample {
	s := ReverseSample{Ended: ended}
	for _, p := range pos[from:] {
		s.Tokens, s.LogProb = append(s.Tokens, p.Token), append(s.LogProb, p.LogProb)
		s.Beyond = append(s.Beyond, beyond(p, vocab))
	}
	return s
}

// beyond bounds the probability that a token sampled at p is a surprise: what
// the named tokens leave, and no more than the level for each of the others.
func beyond(p engine.Position, vocab int) float64 {
	rest, low := 1.0, 0.0
	for _, e := range p.Top {
		if rest -= math.Exp(e.LogProb); e.LogProb < surprise {
			low += math.Exp(e.LogProb)
		}
	}
	rest = max(rest, massResolution)
	if vocab > 0 {
		rest = min(rest, float64(max(vocab-len(p.Top), 1))*math.Exp(surprise))
	}
	return min(1, rest+low)
}

// Reverse is the outcome of the reverse test.
type Reverse struct {
	Prompts int `json:"prompts"`
	Tokens  int `json:"tokens"` // the candidate's
	// DeltaNLL is the mean NLL under the reference of the candidate's samples
	// minus that of its own, paired by prompt.
	DeltaNLL Interval `json:"delta_nll"`
	// Surprises among the candidate's tokens, and how many were to be expected at most.
	Surprises int     `json:"surprises"`
	Expected  float64 `json:"expected"`
	// EValues against "inside the margin": of nll, length, ended, repeats, surprises.
	EValues []float64 `json:"e_values"`
	// Length is the candidate's mean length over the reference's; Ended and
	// Repeats are shares of samples and of four-token groups, candidate − reference.
	Length  Interval `json:"length"`
	Ended   Interval `json:"ended"`
	Repeats Interval `json:"repeats"`
}

// reverseStatistics are the alarms as bounded numbers, like a statistic's, per
// prompt: at most 0 on average inside the margin.
var reverseStatistics = []struct {
	name string
	low  float64
	of   func(p ReversePrompt, longest float64) []float64
}{
	{"nll", 1, func(p ReversePrompt, _ float64) []float64 {
		d := mean(p.Reference.LogProb) - mean(p.Candidate.LogProb)
		return []float64{bounded((d - reverseMargin) / reverseSpan), bounded((-d - reverseMargin) / reverseSpan)}
	}},
	{"length", 1, func(p ReversePrompt, longest float64) []float64 {
		c, r := float64(len(p.Candidate.Tokens)), float64(len(p.Reference.Tokens))
		return []float64{(c - (1+shapeMargin)*r) / ((1 + shapeMargin) * longest), ((1-shapeMargin)*r - c) / longest}
	}},
	{"ended", 1 + shapeMargin, func(p ReversePrompt, _ float64) []float64 {
		d := indicator(p.Candidate.Ended) - indicator(p.Reference.Ended)
		return []float64{d - shapeMargin, -d - shapeMargin}
	}},
	{"repeats", 1 + shapeMargin, func(p ReversePrompt, _ float64) []float64 {
		d := repetition(p.Candidate.Tokens) - repetition(p.Reference.Tokens)
		return []float64{d - shapeMargin, -d - shapeMargin}
	}},
}

// reverseBets are e-values against "inside the margin", in the order of
// reverseStatistics, and that of surprises last. longest is the most tokens
// that either side was asked for; nothing known only afterwards scales a bet.
func (ev *ReverseEvidence) reverseBets() []float64 {
	longest := 1
	for _, p := range ev.Prompts {
		longest = max(longest, len(p.Candidate.Tokens), len(p.Reference.Tokens))
	}
	if ev.MaxTokens > 0 {
		longest = max(ev.MaxTokens, longest)
	}
	var out []float64
	for _, s := range reverseStatistics {
		up, down := newWealth(s.low), newWealth(s.low)
		for _, p := range ev.Prompts {
			x := s.of(p, float64(longest))
			up.add(x[0])
			down.add(x[1])
		}
		out = append(out, (up.e()+down.e())/2)
	}
	count, expected := ev.surprises()
	return append(out, poissonE(count, expected))
}

// surprises counts the candidate's, and how many were to be expected at most.
func (ev *ReverseEvidence) surprises() (count int, expected float64) {
	for _, p := range ev.Prompts {
		for i, lp := range p.Candidate.LogProb {
			if lp < surprise {
				count++
			}
			expected += p.Candidate.Beyond[i]
		}
	}
	return count, expected
}

// judgeReverse gives the numbers and alarms: each check fails when e-BH over
// all of them finds it outside at the level, and says nothing otherwise.
func judgeReverse(ev *ReverseEvidence, seed uint64, level float64) (*Reverse, []gate.Check) {
	r := &Reverse{Prompts: len(ev.Prompts)}
	if len(ev.Prompts) < leastPrompts {
		return r, []gate.Check{{Name: "reverse", Verdict: gate.Inconclusive, Detail: fmt.Sprintf(
			"%d prompts were sampled, at least %d are needed", len(ev.Prompts), leastPrompts)}}
	}
	var nll, lengthC, lengthR, ended, repeats []float64
	for _, p := range ev.Prompts {
		nll = append(nll, mean(p.Reference.LogProb)-mean(p.Candidate.LogProb))
		lengthC, lengthR = append(lengthC, float64(len(p.Candidate.Tokens))), append(lengthR, float64(len(p.Reference.Tokens)))
		ended = append(ended, indicator(p.Candidate.Ended)-indicator(p.Reference.Ended))
		repeats = append(repeats, repetition(p.Candidate.Tokens)-repetition(p.Reference.Tokens))
		r.Tokens += len(p.Candidate.Tokens)
	}
	b := newBootstrap(len(ev.Prompts), seed, alpha)
	r.DeltaNLL, r.Ended, r.Repeats = b.mean(nll), b.mean(ended), b.mean(repeats)
	r.Length, _ = b.ratio(lengthC, lengthR, 0)
	r.Surprises, r.Expected = ev.surprises()
	r.EValues = ev.reverseBets()
	outside := rejectedByEBH(r.EValues, level)
	alarm := func(i int, name, format string, args ...any) gate.Check {
		return gate.Check{Name: "reverse-" + name, Verdict: verdict(true, outside[i]), Detail: fmt.Sprintf(format, args...) + fmt.Sprintf(" (e-value %.3g)", r.EValues[i])}
	}
	shift := func(i int, iv Interval, centre, margin float64, what string) gate.Check {
		return alarm(i, reverseStatistics[i].name, "%s %.3g [%.3g, %.3g], alarm beyond %g from %g", what, iv.Value, iv.Lower, iv.Upper, margin, centre)
	}
	return r, []gate.Check{
		shift(0, r.DeltaNLL, 0, reverseMargin, "the candidate's samples differ in NLL under the reference by"),
		shift(1, r.Length, 1, shapeMargin, "its samples' length over the reference's is"),
		shift(2, r.Ended, 0, shapeMargin, "the share that ends by itself differs by"),
		shift(3, r.Repeats, 0, shapeMargin, "the share of repeated groups differs by"),
		alarm(4, "surprise", "%d of %d sampled tokens are below %g nats, %.2g expected at most", r.Surprises, r.Tokens, surprise, r.Expected),
	}
}

// reverseFailed says that the reverse test fails the run.
func (ev *Evidence) reverseFailed() bool {
	return len(ev.Reverse.Prompts) >= leastPrompts && slices.Contains(rejectedByEBH(ev.Reverse.reverseBets(), ev.otherLevel()), true)
}

// poissonE is evidence that more happened than expected: the mean over θ of
// exp(θ·count − (e^θ−1)·expected), each of which is a supermartingale in the
// tokens when the chance of an event at every token is at most what was added
// to expected (Freedman 1975); so it may be looked at any time.
func poissonE(count int, expected float64) float64 {
	e := 0.0
	for _, theta := range []float64{1, 2, 3, 4, 5} {
		e += math.Exp(min(600, theta*float64(count)-math.Expm1(theta)*expected)) / 5
	}
	return e
}

func indicator(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// repetition is the share of four-token groups that were there before.
func repetition(tokens []int) float64 {
	seen, again := map[[4]int]bool{}, 0
	for i := 0; i+4 <= len(tokens); i++ {
		g := [4]int(tokens[i : i+4])
		if seen[g] {
			again++
		}
		seen[g] = true
	}
	return float64(again) / float64(max(len(tokens)-3, 1))
}

func (r *ReverseEvidence) validate() error {
	for i, p := range r.Prompts {
		for _, s := range []ReverseSample{p.Candidate, p.Reference} {
			if len(s.Tokens) == 0 || len(s.LogProb) != len(s.Tokens) || len(s.Beyond) != len(s.Tokens) {
				return fmt.Errorf("reverse prompt %d: %d tokens with %d log-probabilities", i, len(s.Tokens), len(s.LogProb))
			}
			for t, lp := range s.LogProb {
				if lp > 0 || s.Beyond[t] < 0 || s.Beyond[t] > 1 {
					return fmt.Errorf("reverse prompt %d: token %d is out of range", i, t)
				}
			}
		}
	}
	return nil
}
