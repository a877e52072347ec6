package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
)

// CompletionRequest asks for continuations of one prompt.
type CompletionRequest struct {
	// Prompt is text; Tokens, if set, is used instead and reaches the model as it is.
	Prompt string
	Tokens []int
	// N continuations; 0 = 1.
	N           int
	MaxTokens   int
	Temperature float64 // 0 = the likeliest token each time
	TopP        float64 // 0 = off
	// Seed makes sampling repeatable; nil lets the engine choose.
	Seed *int64
	Stop []string
	// IgnoreEOS goes on to MaxTokens: for measuring speed.
	IgnoreEOS bool
	// TokenIDs asks for the generated ids too.
	TokenIDs bool
}

// Completion is one continuation.
type Completion struct {
	Text         string `json:"text"`
	FinishReason string `json:"finish_reason"` // "stop", "length"
	TokenIDs     []int  `json:"token_ids,omitempty"`
}

type completionWire struct {
	Model          string         `json:"model"`
	Prompt         any            `json:"prompt"` // string or []int
	N              int            `json:"n,omitempty"`
	MaxTokens      int            `json:"max_tokens"`
	Temperature    float64        `json:"temperature"`
	TopP           float64        `json:"top_p,omitempty"`
	Seed           *int64         `json:"seed,omitempty"`
	Stop           []string       `json:"stop,omitempty"`
	IgnoreEOS      bool           `json:"ignore_eos,omitempty"`
	ReturnTokenIDs bool           `json:"return_token_ids,omitempty"`
	Stream         bool           `json:"stream,omitempty"`
	StreamOptions  *streamOptions `json:"stream_options,omitempty"`
}

type streamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

func (c *Client) wire(r CompletionRequest) completionWire {
	w := completionWire{
		Model: c.Model, Prompt: r.Prompt, N: r.N, MaxTokens: r.MaxTokens, Temperature: r.Temperature, TopP: r.TopP,
		Seed: r.Seed, Stop: r.Stop, IgnoreEOS: r.IgnoreEOS, ReturnTokenIDs: r.TokenIDs,
	}
	if r.Tokens != nil {
		w.Prompt = r.Tokens
	}
	return w
}

// Complete returns r.N continuations in the engine's order of index.
func (c *Client) Complete(ctx context.Context, r CompletionRequest) ([]Completion, error) {
	body, err := c.do(ctx, "POST", "/v1/completions", c.wire(r))
	if err != nil {
		return nil, fmt.Errorf("complete: %w", err)
	}
	var a struct {
		Choices []struct {
			Index        int     `json:"index"`
			Text         *string `json:"text"`
			FinishReason string  `json:"finish_reason"`
			TokenIDs     []int   `json:"token_ids"`
		} `json:"choices"`
	}
	if err := decode("complete", body, &a); err != nil {
		return nil, err
	}
	if want := max(r.N, 1); len(a.Choices) != want {
		return nil, fmt.Errorf("complete: %w: %d choices, asked for %d", ErrMalformed, len(a.Choices), want)
	}
	out := make([]Completion, len(a.Choices))
	for i, ch := range a.Choices {
		switch {
		case ch.Index != i:
			return nil, fmt.Errorf("complete: %w: choice %d has index %d", ErrMalformed, i, ch.Index)
		case ch.Text == nil:
			return nil, fmt.Errorf("complete: %w: choice %d has no text", ErrMalformed, i)
		case ch.FinishReason == "":
			return nil, fmt.Errorf("complete: choice %d: %w", i, ErrUnfinished)
		case r.TokenIDs && ch.TokenIDs == nil:
			return nil, fmt.Errorf("complete: choice %d: %w", i, ErrNoTokenIDs)
		case slices.ContainsFunc(ch.TokenIDs, func(id int) bool { return id < 0 || (c.Vocab > 0 && id >= c.Vocab) }):
			return nil, fmt.Errorf("complete: choice %d: %w", i, ErrToken)
		}
		out[i] = Completion{Text: *ch.Text, FinishReason: ch.FinishReason, TokenIDs: ch.TokenIDs}
	}
	return out, nil
}

// ModelInfo is one entry of /v1/models.
type ModelInfo struct {
	ID          string `json:"id"`
	Root        string `json:"root"`
	MaxModelLen int    `json:"max_model_len"`
}

// Models lists what the endpoint serves.
func (c *Client) Models(ctx context.Context) ([]ModelInfo, error) {
	var a struct {
		Data []ModelInfo `json:"data"`
	}
	if err := c.get(ctx, "/v1/models", &a); err != nil {
		return nil, err
	}
	return a.Data, nil
}

// Version is the engine's own, as /version gives it.
func (c *Client) Version(ctx context.Context) (string, error) {
	var a struct {
		Version string `json:"version"`
	}
	if err := c.get(ctx, "/version", &a); err != nil {
		return "", err
	}
	if a.Version == "" {
		return "", fmt.Errorf("version: %w: no version", ErrMalformed)
	}
	return a.Version, nil
}

// Health returns nil when /health answers 200.
func (c *Client) Health(ctx context.Context) error {
	_, err := c.do(ctx, "GET", "/health", nil)
	return err
}

// Tokenize encodes text without special tokens.
func (c *Client) Tokenize(ctx context.Context, text string) ([]int, error) {
	body, err := c.do(ctx, "POST", "/tokenize", map[string]any{
		"model": c.Model, "prompt": text, "add_special_tokens": false,
		"content": text, "add_special": false, // llama-server's names
	})
	if err != nil {
		return nil, fmt.Errorf("tokenize: %w", err)
	}
	var a struct {
		Count  int   `json:"count"`
		Tokens []int `json:"tokens"`
	}
	if err := decode("tokenize", body, &a); err != nil {
		return nil, err
	}
	if a.Tokens == nil || cmp.Or(a.Count, len(a.Tokens)) != len(a.Tokens) {
		return nil, fmt.Errorf("tokenize: %w: %d tokens, count %d", ErrMalformed, len(a.Tokens), a.Count)
	}
	return a.Tokens, nil
}

// Detokenize is the text of token ids.
func (c *Client) Detokenize(ctx context.Context, tokens []int) (string, error) {
	body, err := c.do(ctx, "POST", "/detokenize", map[string]any{"model": c.Model, "tokens": tokens})
	if err != nil {
		return "", fmt.Errorf("detokenize: %w", err)
	}
	var a struct {
		Prompt *string `json:"prompt"`
	}
	if err := decode("detokenize", body, &a); err != nil {
		return "", err
	}
	if a.Prompt == nil {
		return "", fmt.Errorf("detokenize: %w: no prompt", ErrMalformed)
	}
	return *a.Prompt, nil
}

func (c *Client) get(ctx context.Context, path string, v any) error {
	body, err := c.do(ctx, "GET", path, nil)
	if err != nil {
		return err
	}
	return decode(path, body, v)
}

// IsStatus reports whether err is an HTTP answer with this status.
func IsStatus(err error, code int) bool {
	var s *StatusError
	return errors.As(err, &s) && s.Code == code
}
