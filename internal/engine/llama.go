package engine

import (
	"context"
	"errors"
	"fmt"
)

// llama-server's OpenAI route drops the log-probabilities of tokens that are
// part of a character, so that writing goes through /completion as well.

type nativeSample struct {
	Prompt      []int    `json:"prompt"`
	NPredict    int      `json:"n_predict"`
	Temperature float64  `json:"temperature"`
	Seed        *int64   `json:"seed,omitempty"`
	TopK        int      `json:"top_k"` // 0 = off, as top_p 1 and min_p 0 are: its defaults are not
	TopP        float64  `json:"top_p"`
	MinP        float64  `json:"min_p"`
	IgnoreEOS   bool     `json:"ignore_eos,omitempty"`
	Stop        []string `json:"stop,omitempty"`
	Tokens      bool     `json:"return_tokens"`
	CachePrompt bool     `json:"cache_prompt"`
}

type nativeWritten struct {
	Content   string `json:"content"`
	Tokens    []int  `json:"tokens"`
	StopType  string `json:"stop_type"` // "eos", "limit", "word"
	Predicted *int   `json:"tokens_predicted"`
	Evaluated *int   `json:"tokens_evaluated"`
}

// Generate writes greedily, one request a token: each shows the whole
// distribution. What is not greedy and of token ids goes OpenAI's way.
func (s *NativeScorer) Generate(ctx context.Context, r GenerateRequest) ([]Generated, error) {
	if r.Tokens == nil || r.Temperature > 0 || r.Top == 0 || r.N > 1 || len(r.LogitBias) > 0 || len(r.Stop) > 0 {
		return s.Client.Generate(ctx, r)
	}
	g := Generated{FinishReason: "length", Keys: KeysID, PromptTokens: len(r.Tokens)}
	text := append([]int{}, r.Tokens...)
	for range r.MaxTokens {
		entries, err := s.distribution(ctx, text, r.Top, -1)
		if errors.Is(err, ErrMissing) && s.safe.Load() > 0 {
			entries, err = s.distribution(ctx, text, r.Top, int(s.safe.Load())-1)
		}
		if err != nil {
			return nil, fmt.Errorf("generate: %w", err)
		}
		best := -1
		for id, lp := range entries {
			if best < 0 || lp > entries[best] || (lp == entries[best] && id < best) {
				best = id
			}
		}
		p, err := ordered(best, entries, r.Top)
		if err != nil {
			return nil, fmt.Errorf("generate: %w", err)
		}
		g.Positions, text = append(g.Positions, p), append(text, best)
	}
	g.CompletionTokens = len(g.Positions)
	return []Generated{g}, nil
}

// Complete samples through /completion, whose tokens it returns on request.
func (s *NativeScorer) Complete(ctx context.Context, r CompletionRequest) ([]Completion, error) {
	if r.Tokens == nil || r.N > 1 || !r.TokenIDs {
		return s.Client.Complete(ctx, r)
	}
	q := nativeSample{Prompt: r.Tokens, NPredict: r.MaxTokens, Temperature: r.Temperature, Seed: r.Seed, TopP: 1,
		IgnoreEOS: r.IgnoreEOS, Stop: r.Stop, Tokens: true, CachePrompt: true}
	if r.TopP > 0 {
		q.TopP = r.TopP
	}
	body, err := s.do(ctx, "POST", "/completion", q)
	if err != nil {
		return nil, fmt.Errorf("complete: %w", err)
	}
	var a nativeWritten
	if err := decode("completion", body, &a); err != nil {
		return nil, err
	}
	if a.Tokens == nil || (a.Predicted != nil && *a.Predicted > 0 && len(a.Tokens) == 0) {
		return nil, ErrNoTokenIDs
	}
	reason := "stop"
	if a.StopType == "limit" {
		reason = "length"
	}
	return []Completion{{Text: a.Content, FinishReason: reason, TokenIDs: a.Tokens}}, nil
}
