package engine

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"golang.org/x/sync/errgroup"
)

// TokenLogProb is a token with its natural-log probability.
type TokenLogProb struct {
	Token   int     `json:"token"`
	LogProb float64 `json:"logprob"`
}

// Position is what a model thought of one token of a prompt, given those
// before it. Entry 0 of a prompt is the zero Position: nothing precedes it.
type Position struct {
	Token   int     `json:"token"`
	LogProb float64 `json:"logprob"` // nats, ≤ 0
	Rank    int     `json:"rank"`    // 1 = the likeliest; 0 = not known
	// Top is the k likeliest tokens, falling; equal ones by id.
	Top []TokenLogProb `json:"top"`
}

const (
	// slack is how far above zero a log-probability may be by rounding;
	// engines that take the log of a normalised float32 overshoot by an ulp.
	slack = 1e-6
	// overfull is how far above one the top k may sum: bfloat16 log-probs
	// are off by up to 2^-8 of their size.
	overfull = 0.05
)

type scoreRequest struct {
	Model          string  `json:"model"`
	Prompt         []int   `json:"prompt"`
	MaxTokens      int     `json:"max_tokens"`
	Temperature    float64 `json:"temperature"`
	PromptLogProbs int     `json:"prompt_logprobs"`
	ReturnTokenIDs bool    `json:"return_token_ids"`
}

type scoreAnswer struct {
	Choices []struct {
		PromptLogProbs []map[string]logProbEntry `json:"prompt_logprobs"`
		PromptTokenIDs []int                     `json:"prompt_token_ids"`
	} `json:"choices"`
	Usage *usage `json:"usage"`
}

type usage struct {
	PromptTokens     *int `json:"prompt_tokens"`
	CompletionTokens *int `json:"completion_tokens"`
}

// logProbEntry tolerates what must be told apart later: absent, null, NaN.
type logProbEntry struct {
	LogProb *number `json:"logprob"`
	Rank    int     `json:"rank"`
}

// number is a JSON number, or one of Python's NaN, Infinity and -Infinity,
// which quoteNonFinite has put in quotes.
type number float64

func (n *number) UnmarshalJSON(b []byte) error {
	f, err := strconv.ParseFloat(string(bytes.Trim(b, `"`)), 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return fmt.Errorf("%q is not a number", clip(b, 20))
	}
	*n = number(f) // out of range parses as ±Inf, which is what it means here
	return nil
}

// Score asks, for every token of every prompt, its log-probability given those
// before it and the k likeliest tokens there (teacher forcing: one prefill, no
// generation that counts). Prompts are token ids, so no tokenizer or template
// is between the caller and the weights. Every number is checked; a violation
// ends the call with an error that names it, and no partial result is returned.
func (c *Client) Score(ctx context.Context, prompts [][]int, k int) ([][]Position, error) {
	if k < 1 {
		return nil, fmt.Errorf("score: k is %d, must be at least 1", k)
	}
	out, errs := make([][]Position, len(prompts)), make([]error, len(prompts))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var g errgroup.Group
	g.SetLimit(c.concurrency())
	for i, p := range prompts {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				errs[i] = err
				return nil
			}
			if out[i], errs[i] = c.scoreOne(ctx, i, p, k); errs[i] != nil {
				cancel()
			}
			return nil
		})
	}
	_ = g.Wait() // its functions return nil: errs keeps them in prompt order
	if err := firstCause(errs); err != nil {
		return nil, fmt.Errorf("score: %w", err)
	}
	return out, nil
}

// firstCause prefers the error that began it over the cancellations it caused.
func firstCause(errs []error) error {
	for _, err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	return cmp.Or(errs...)
}

func (c *Client) scoreOne(ctx context.Context, i int, prompt []int, k int) ([]Position, error) {
	if len(prompt) == 0 {
		return nil, &Violation{Prompt: i, Position: -1, Kind: ErrLength, Detail: "the prompt is empty"}
	}
	body, err := c.do(ctx, "POST", "/v1/completions", scoreRequest{
		Model: c.Model, Prompt: prompt, MaxTokens: 1, PromptLogProbs: k, ReturnTokenIDs: true,
	})
	if err != nil {
		return nil, &Violation{Prompt: i, Position: -1, Kind: err}
	}
	var a scoreAnswer
	if err := decode("score", quoteNonFinite(body), &a); err != nil {
		return nil, &Violation{Prompt: i, Position: -1, Kind: ErrMalformed, Detail: err.Error()}
	}
	whole := func(kind error, format string, args ...any) error {
		return &Violation{Prompt: i, Position: -1, Kind: kind, Detail: fmt.Sprintf(format, args...)}
	}
	if len(a.Choices) != 1 {
		return nil, whole(ErrMalformed, "%d choices for one prompt", len(a.Choices))
	}
	ch := a.Choices[0]
	if ch.PromptLogProbs == nil {
		return nil, whole(ErrNoPromptLogProbs, "it, or a gateway before it, ignores the field")
	}
	if ch.PromptTokenIDs != nil && !slices.Equal(ch.PromptTokenIDs, prompt) {
		return nil, whole(ErrPrompt, "sent %d token ids, it read %d, equal up to %d",
			len(prompt), len(ch.PromptTokenIDs), commonPrefix(prompt, ch.PromptTokenIDs))
	}
	if a.Usage != nil && a.Usage.PromptTokens != nil && *a.Usage.PromptTokens != len(prompt) {
		return nil, whole(ErrPrompt, "sent %d token ids, usage.prompt_tokens is %d", len(prompt), *a.Usage.PromptTokens)
	}
	if len(ch.PromptLogProbs) != len(prompt) {
		return nil, whole(ErrLength, "%d prompt_logprobs for %d tokens", len(ch.PromptLogProbs), len(prompt))
	}
	return c.positions(i, prompt, ch.PromptLogProbs, k)
}

// positions turns the wire's maps into checked positions.
func (c *Client) positions(i int, prompt []int, wire []map[string]logProbEntry, k int) ([]Position, error) {
	if wire[0] != nil {
		return nil, &Violation{Prompt: i, Position: 0, Kind: ErrFirst}
	}
	out := make([]Position, len(prompt))
	for t := 1; t < len(prompt); t++ {
		p, err := position(prompt[t], wire[t], k)
		if err != nil {
			err.Prompt, err.Position = i, t
			return nil, err
		}
		out[t] = p
	}
	if err := CheckPositions(i, prompt, out, k, c.Vocab); err != nil {
		return nil, err
	}
	return out, nil
}

func position(token int, entries map[string]logProbEntry, k int) (Position, *Violation) {
	if entries == nil {
		return Position{}, &Violation{Kind: ErrMissing, Detail: "entry is null"}
	}
	all := make([]TokenLogProb, 0, len(entries))
	p, found := Position{Token: token}, false
	for key, e := range entries {
		id, err := strconv.Atoi(key)
		if err != nil || id < 0 {
			return p, &Violation{Kind: ErrToken, Detail: fmt.Sprintf("%q: entries must be keyed by id, not text", clip([]byte(key), 40))}
		}
		if e.LogProb == nil {
			return p, &Violation{Kind: ErrMissing, Detail: fmt.Sprintf("of token %d", id)}
		}
		lp := float64(*e.LogProb)
		if lp > 0 && lp <= slack {
			lp = 0
		}
		all = append(all, TokenLogProb{id, lp})
		if id == token {
			p.LogProb, p.Rank, found = lp, max(e.Rank, 0), true
		}
	}
	if !found {
		return p, &Violation{Kind: ErrMissing, Detail: fmt.Sprintf("of the prompt's own token %d", token)}
	}
	slices.SortFunc(all, func(a, b TokenLogProb) int {
		return cmp.Or(cmp.Compare(b.LogProb, a.LogProb), cmp.Compare(a.Token, b.Token))
	})
	p.Top = all[:min(k, len(all))]
	return p, nil
}

// CheckPositions reports the first thing that is wrong with the scores of one
// prompt: their number, an entry at 0, another token than the prompt's, a
// log-probability that is not finite or above zero, fewer than k entries
// (unless they are all of vocab; vocab 0 = not known), a token named twice,
// top entries out of order, or probabilities that sum to more than one. The
// error is a *Violation naming prompt index and position.
func CheckPositions(prompt int, tokens []int, got []Position, k, vocab int) error {
	fail := func(t int, kind error, format string, args ...any) error {
		return &Violation{Prompt: prompt, Position: t, Kind: kind, Detail: fmt.Sprintf(format, args...)}
	}
	if len(got) != len(tokens) {
		return fail(-1, ErrLength, "%d positions for %d tokens", len(got), len(tokens))
	}
	for t, p := range got {
		if t == 0 {
			if p.Top != nil || p.LogProb != 0 {
				return fail(0, ErrFirst, "")
			}
			continue
		}
		if p.Token != tokens[t] {
			return fail(t, ErrToken, "scored token %d, the prompt has %d", p.Token, tokens[t])
		}
		if detail, kind := checkOne(p, k, vocab); kind != nil {
			return fail(t, kind, "%s", detail)
		}
	}
	return nil
}

// checkOne returns a detail and the kind of what is wrong with p.
func checkOne(p Position, k, vocab int) (string, error) {
	if detail, kind := checkNumber(p.LogProb, p.Token); kind != nil {
		return detail, kind
	}
	if len(p.Top) < k && (vocab == 0 || len(p.Top) < vocab) {
		return fmt.Sprintf("%d of %d", len(p.Top), k), ErrTooFew
	}
	seen, sum, last := make(map[int]bool, len(p.Top)), 0.0, math.Inf(1)
	for _, e := range p.Top {
		switch detail, kind := checkNumber(e.LogProb, e.Token); {
		case kind != nil:
			return detail, kind
		case e.Token < 0 || (vocab > 0 && e.Token >= vocab):
			return fmt.Sprintf("%d, the vocabulary has %d", e.Token, vocab), ErrToken
		case seen[e.Token]:
			return fmt.Sprintf("%d is there twice", e.Token), ErrToken
		case e.LogProb > last:
			return "top entries are not falling", ErrMalformed
		}
		seen[e.Token], last = true, e.LogProb
		sum += math.Exp(e.LogProb)
	}
	if sum > 1+overfull {
		return fmt.Sprintf("top %d sum to %.4f: processed log-probabilities?", len(p.Top), sum), ErrNotDistribution
	}
	return "", nil
}

func checkNumber(lp float64, token int) (string, error) {
	if math.IsNaN(lp) || math.IsInf(lp, 0) {
		return fmt.Sprintf("%v for token %d", lp, token), ErrNotFinite
	}
	if lp > 0 {
		return fmt.Sprintf("%g for token %d", lp, token), ErrPositive
	}
	return "", nil
}

func commonPrefix(a, b []int) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// quoteNonFinite puts bare NaN, Infinity and -Infinity, which Python's json
// module writes and JSON does not have, in quotes, so that one bad number is
// reported with its place instead of as unreadable JSON. Valid JSON is
// returned as it is.
func quoteNonFinite(b []byte) []byte {
	if !bytes.Contains(b, []byte("NaN")) && !bytes.Contains(b, []byte("Infinity")) || json.Valid(b) {
		return b
	}
	out := make([]byte, 0, len(b)+16)
	inString := false
	for i := 0; i < len(b); i++ {
		switch {
		case inString && b[i] == '\\' && i+1 < len(b):
			out = append(out, b[i])
			i++
		case b[i] == '"':
			inString = !inString
		case !inString:
			if w := nonFinite(b[i:]); w > 0 {
				out = append(out, '"')
				out = append(out, b[i:i+w]...)
				out = append(out, '"')
				i += w - 1
				continue
			}
		}
		out = append(out, b[i])
	}
	return out
}

func nonFinite(b []byte) int {
	for _, w := range []string{"NaN", "Infinity", "-Infinity"} {
		if bytes.HasPrefix(b, []byte(w)) {
			return len(w)
		}
	}
	return 0
}
