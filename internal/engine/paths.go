package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// Scorer gives teacher-forced log-probabilities of token-id prompts and the k
// likeliest tokens at each position. *Client is one, over prompt_logprobs;
// Client.Open finds one that an endpoint can bear.
type Scorer interface {
	Score(ctx context.Context, prompts [][]int, k int) ([][]Position, error)
}

// Path is a way to teacher-forced log-probabilities.
type Path string

// The paths, the cheapest first.
const (
	PromptLogProbs Path = "prompt_logprobs" // one prefill a prompt
	EchoLogProbs   Path = "echo"            // echo with logprobs: one prefill a prompt
	SGLangGenerate Path = "generate"        // SGLang's /generate: one prefill a prompt
	NativePrefixes Path = "completion"      // llama-server's /completion, one request a prefix
	ForcedPrefixes Path = "prefixes"        // one request a prefix, the token forced by logit_bias
)

// Refusal says why one path is closed.
type Refusal struct {
	Path   Path   `json:"path"`
	Reason string `json:"reason"`
}

// Open tries the paths in turn on one short prompt (token ids, at least two)
// and returns the first that answers, with what the others said. The error, if
// none does, names every reason. A gateway that drops prompt_logprobs (Portkey)
// or an engine that ignores it (llama-server) is thereby told apart from one
// that refuses token ids (LiteLLM, sglang-router), through which nothing can be
// scored.
func (c *Client) Open(ctx context.Context, prompt []int, k int) (*Access, error) {
	var closed []Refusal
	paths, of := ways(c)
	for i, w := range of {
		got, err := w.Score(ctx, [][]int{prompt}, k)
		if err == nil {
			err = CheckPositions(0, prompt, got[0], k, c.Vocab)
		}
		if err == nil {
			return &Access{Client: c, Path: paths[i], Closed: closed, way: w}, nil
		}
		if ctx.Err() != nil || away(err) {
			return nil, err // it is not there: no path will be
		}
		closed = append(closed, Refusal{paths[i], explain(err)})
	}
	reasons := make([]string, len(closed))
	for i, r := range closed {
		reasons[i] = string(r.Path) + ": " + r.Reason
	}
	return nil, fmt.Errorf("%s: %w: %s", c.URL, ErrNoPath, strings.Join(reasons, "; "))
}

// away reports an endpoint that cannot be reached at all.
func away(err error) bool {
	var status *StatusError
	return transient(err) && !errors.As(err, &status)
}

// explain says what a refusal means, where it is a known one.
func explain(err error) string {
	var status *StatusError
	switch {
	case errors.As(err, &status) && (strings.Contains(status.Message, "StringOrArray") || strings.Contains(status.Message, "Unmapped prompt format")):
		return "a gateway refuses token-id prompts (" + strings.Join(strings.Fields(status.Message), " ") + "): verify the engine behind it directly"
	case errors.As(err, &status) && status.Code == 404:
		return "no such route"
	case errors.Is(err, ErrNoPromptLogProbs):
		return "the field is ignored by the engine (llama-server) or dropped by a gateway (Portkey, LiteLLM)"
	}
	return err.Error()
}

// each runs f for every prompt with the client's concurrency and keeps errors
// in prompt order.
func (c *Client) each(ctx context.Context, prompts [][]int, f func(ctx context.Context, i int) ([]Position, error)) ([][]Position, error) {
	out, errs := make([][]Position, len(prompts)), make([]error, len(prompts))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var g errgroup.Group
	g.SetLimit(c.concurrency())
	for i := range prompts {
		g.Go(func() error {
			if errs[i] = ctx.Err(); errs[i] == nil {
				if out[i], errs[i] = f(ctx, i); errs[i] != nil {
					cancel()
				}
			}
			return nil
		})
	}
	_ = g.Wait() // its functions return nil: errs keeps them in prompt order
	if err := firstCause(errs); err != nil {
		return nil, err
	}
	return out, nil
}

type echoScorer struct{ *Client }

// Score asks for the prompt back with log-probabilities.
func (s *echoScorer) Score(ctx context.Context, prompts [][]int, k int) ([][]Position, error) {
	return s.each(ctx, prompts, func(ctx context.Context, i int) ([]Position, error) {
		got, err := s.Generate(ctx, GenerateRequest{Tokens: prompts[i], MaxTokens: 1, Echo: true, Top: k})
		if err != nil {
			return nil, &Violation{Prompt: i, Position: -1, Kind: err}
		}
		p := got[0].Positions
		switch {
		case got[0].Keys == KeysText:
			return nil, &Violation{Prompt: i, Position: -1, Kind: ErrToken, Detail: "tokens are named by text, not id"}
		case len(p) < len(prompts[i]) || p[0].Top != nil:
			return nil, &Violation{Prompt: i, Position: -1, Kind: ErrNoPromptLogProbs, Detail: "echo is ignored"}
		}
		p = p[:len(prompts[i])]
		return p, CheckPositions(i, prompts[i], p, k, s.Vocab)
	})
}

type prefixScorer struct{ *Client }

// Score asks for one token after each prefix and forces it by logit_bias to be
// the prompt's own: raw log-probabilities are those before the bias, and the
// written token's is always among them.
func (s *prefixScorer) Score(ctx context.Context, prompts [][]int, k int) ([][]Position, error) {
	return s.each(ctx, prompts, func(ctx context.Context, i int) ([]Position, error) {
		out := make([]Position, len(prompts[i]))
		for t := 1; t < len(prompts[i]); t++ {
			token := prompts[i][t]
			got, err := s.Generate(ctx, GenerateRequest{
				Tokens: prompts[i][:t], MaxTokens: 1, Top: k, LogitBias: map[int]float64{token: 100},
			})
			if err != nil {
				return nil, &Violation{Prompt: i, Position: t, Kind: err}
			}
			p := got[0].Positions
			switch {
			case len(p) != 1:
				return nil, &Violation{Prompt: i, Position: t, Kind: ErrMissing, Detail: "no log-probabilities by token id"}
			case p[0].Token != token:
				return nil, &Violation{Prompt: i, Position: t, Kind: ErrToken, Detail: "logit_bias is not honoured"}
			case p[0].LogProb > -1e-9 && t < len(prompts[i])-1:
				return nil, &Violation{Prompt: i, Position: t, Kind: ErrNotDistribution,
					Detail: "the forced token is certain: log-probabilities are processed; start the engine with --logprobs-mode raw_logprobs"}
			}
			out[t] = p[0]
		}
		return out, CheckPositions(i, prompts[i], out, k, s.Vocab)
	})
}

// NativeScorer scores through llama-server's own /completion: one request for
// each prefix, whose next-token distribution comes from n_probs. With
// Client.Vocab set the whole vocabulary is asked for; without it a token that
// is not among the n_probs likeliest is asked for again, forced by logit_bias.
type NativeScorer struct {
	*Client
	safe atomic.Int64 // 1 + a token whose text is whole; 0 = none seen
}

type nativeRequest struct {
	Prompt      []int    `json:"prompt"`
	NPredict    int      `json:"n_predict"`
	NProbs      int      `json:"n_probs"`
	Temperature float64  `json:"temperature"`
	CachePrompt bool     `json:"cache_prompt"`
	LogitBias   [][2]any `json:"logit_bias,omitempty"`
}

// Score implements Scorer.
func (s *NativeScorer) Score(ctx context.Context, prompts [][]int, k int) ([][]Position, error) {
	return s.each(ctx, prompts, func(ctx context.Context, i int) ([]Position, error) {
		out := make([]Position, len(prompts[i]))
		for t := 1; t < len(prompts[i]); t++ {
			p, err := s.next(ctx, prompts[i][:t], prompts[i][t], k)
			if err != nil {
				return nil, &Violation{Prompt: i, Position: t, Kind: err}
			}
			out[t] = p
		}
		return out, CheckPositions(i, prompts[i], out, k, s.Vocab)
	})
}

// next is what the engine thinks of token after prefix. An answer carries no
// probabilities when the token it chose ends the text or is part of a
// character; then, and when token is not in the list, another is forced.
func (s *NativeScorer) next(ctx context.Context, prefix []int, token, k int) (Position, error) {
	entries, err := s.distribution(ctx, prefix, k, -1)
	for _, id := range s.shown(prefix, token) {
		if !errors.Is(err, ErrMissing) {
			break
		}
		entries, err = s.distribution(ctx, prefix, k, id)
	}
	if err != nil {
		return Position{}, err
	}
	if _, ok := entries[token]; !ok {
		forced, err := s.distribution(ctx, prefix, k, token)
		if err != nil {
			return Position{}, err
		}
		lp, ok := forced[token]
		if !ok {
			return Position{}, fmt.Errorf("%w: of token %d, and logit_bias does not force it", ErrMissing, token)
		}
		entries[token] = lp
	}
	return ordered(token, entries, k)
}

// shown are tokens to force where the engine's own choice is not shown: one that
// was shown before, else those at hand and some others, of which many are whole
// characters.
func (s *NativeScorer) shown(prefix []int, token int) []int {
	if id := s.safe.Load(); id > 0 {
		return []int{int(id) - 1}
	}
	ids := append([]int{token}, prefix[:min(len(prefix), 8)]...)
	for i := range 24 {
		ids = append(ids, i*s.Vocab/24)
	}
	return ids
}

func (s *NativeScorer) distribution(ctx context.Context, prefix []int, k, force int) (map[int]float64, error) {
	q := nativeRequest{Prompt: prefix, NPredict: 1, NProbs: max(k, s.Vocab), CachePrompt: true}
	if force >= 0 {
		q.LogitBias = [][2]any{{force, 1e4}}
	}
	body, err := s.do(ctx, "POST", "/completion", q)
	if err != nil {
		return nil, err
	}
	var a struct {
		Evaluated *int          `json:"tokens_evaluated"`
		Truncated bool          `json:"truncated"`
		Content   string        `json:"content"`
		Probs     []nativeToken `json:"completion_probabilities"`
	}
	if err := decode("completion", quoteNonFinite(body), &a); err != nil {
		return nil, err
	}
	if a.Truncated || (a.Evaluated != nil && *a.Evaluated != len(prefix)) {
		return nil, fmt.Errorf("%w: sent %d token ids, truncated %t", ErrPrompt, len(prefix), a.Truncated)
	}
	if len(a.Probs) == 0 {
		return nil, fmt.Errorf("%w: no completion_probabilities", ErrMissing)
	}
	t := a.Probs[0]
	if t.ID == nil || t.LogProb == nil {
		return nil, ErrMissing
	}
	out := map[int]float64{*t.ID: float64(*t.LogProb)}
	for _, e := range t.Top {
		if e.ID == nil || e.LogProb == nil {
			return nil, fmt.Errorf("%w: a likely token has no id or no log-probability", ErrToken)
		}
		out[*e.ID] = float64(*e.LogProb)
	}
	if a.Content != "" && !slices.Contains([]rune(a.Content), '\uFFFD') {
		s.safe.Store(int64(*t.ID) + 1)
	}
	return out, nil
}
