package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// GenerateRequest asks for continuations with what the engine thought of each
// of their tokens. Zero values leave a parameter at OpenAI's default.
type GenerateRequest struct {
	// Prompt is text; Tokens, if set, is used instead.
	Prompt string
	Tokens []int
	N      int
	// MaxTokens to write; 0 only together with Echo.
	MaxTokens   int
	Temperature float64
	TopP        float64
	TopK        int
	Seed        *int64
	Stop        []string
	LogitBias   map[int]float64
	IgnoreEOS   bool
	// Top is k: how many of the likeliest tokens come with each token. 0: no
	// log-probabilities at all.
	Top int
	// Echo returns the prompt's own tokens, scored, before what was written.
	Echo bool
}

// KeyStyle is how an engine names tokens in log-probabilities.
type KeyStyle string

// The styles. Text is lossy: tokens with equal text overwrite each other.
const (
	KeysNone KeyStyle = ""
	KeysID   KeyStyle = "id"   // numbers, or "token_id:17"
	KeysText KeyStyle = "text" // "the"
)

// Generated is one continuation.
type Generated struct {
	Text         string
	FinishReason string
	// Positions are the tokens, first the prompt's if Echo was asked for (then
	// entry 0 is the zero Position). They are there only if Keys is KeysID.
	Positions []Position
	Keys      KeyStyle
	// PromptTokens and CompletionTokens are usage's, -1 where it says nothing.
	PromptTokens, CompletionTokens int
	// CachedTokens of the prompt were not computed, as far as usage says.
	CachedTokens int
}

type generateWire struct {
	Model                  string             `json:"model"`
	Prompt                 any                `json:"prompt"`
	N                      int                `json:"n,omitempty"`
	MaxTokens              int                `json:"max_tokens"`
	Temperature            float64            `json:"temperature"`
	TopP                   float64            `json:"top_p,omitempty"`
	TopK                   int                `json:"top_k,omitempty"`
	Seed                   *int64             `json:"seed,omitempty"`
	Stop                   []string           `json:"stop,omitempty"`
	LogitBias              map[string]float64 `json:"logit_bias,omitempty"`
	IgnoreEOS              bool               `json:"ignore_eos,omitempty"`
	LogProbs               *int               `json:"logprobs,omitempty"`
	Echo                   bool               `json:"echo,omitempty"`
	ReturnTokensAsTokenIDs bool               `json:"return_tokens_as_token_ids,omitempty"`
}

// Generate returns r.N continuations (at least one) in the engine's order.
// Log-probabilities are checked like Score's; an engine that names tokens by
// text only gives Generated without Positions.
func (c *Client) Generate(ctx context.Context, r GenerateRequest) ([]Generated, error) {
	w := generateWire{
		Model: c.Model, Prompt: r.Prompt, N: r.N, MaxTokens: r.MaxTokens, Temperature: r.Temperature, TopP: r.TopP, TopK: r.TopK,
		Seed: r.Seed, Stop: r.Stop, IgnoreEOS: r.IgnoreEOS, Echo: r.Echo,
	}
	if r.Tokens != nil {
		w.Prompt = r.Tokens
	}
	if r.Top > 0 {
		w.LogProbs, w.ReturnTokensAsTokenIDs = &r.Top, true
	}
	if len(r.LogitBias) > 0 {
		w.LogitBias = make(map[string]float64, len(r.LogitBias))
		for id, b := range r.LogitBias {
			w.LogitBias[strconv.Itoa(id)] = b
		}
	}
	body, err := c.do(ctx, "POST", "/v1/completions", w)
	if err != nil {
		return nil, fmt.Errorf("generate: %w", err)
	}
	var a generateAnswer
	if err := decode("generate", quoteNonFinite(body), &a); err != nil {
		return nil, err
	}
	if want := max(r.N, 1); len(a.Choices) != want {
		return nil, fmt.Errorf("generate: %w: %d choices, asked for %d", ErrMalformed, len(a.Choices), want)
	}
	out := make([]Generated, len(a.Choices))
	for i, ch := range a.Choices {
		g := Generated{Text: ch.Text, FinishReason: ch.FinishReason, PromptTokens: -1, CompletionTokens: -1}
		if u := a.Usage; u != nil {
			g.PromptTokens, g.CompletionTokens = orAbsent(u.PromptTokens), orAbsent(u.CompletionTokens)
			g.CachedTokens = u.Details.Cached
		}
		if ch.LogProbs != nil && r.Top > 0 {
			if g.Positions, g.Keys, err = ch.LogProbs.positions(r); err != nil {
				return nil, fmt.Errorf("generate: choice %d: %w", i, err)
			}
		}
		out[i] = g
	}
	return out, nil
}

type generateAnswer struct {
	Choices []struct {
		Text         string        `json:"text"`
		FinishReason string        `json:"finish_reason"`
		LogProbs     *logProbsWire `json:"logprobs"`
	} `json:"choices"`
	Usage *struct {
		usage
		Details struct {
			Cached int `json:"cached_tokens"`
		} `json:"prompt_tokens_details"`
	} `json:"usage"`
}

func orAbsent(v *int) int {
	if v == nil {
		return -1
	}
	return *v
}

// logProbsWire is OpenAI's completions form, and the chat form that
// llama-server gives on this route too.
type logProbsWire struct {
	Tokens  []string             `json:"tokens"`
	Values  []*number            `json:"token_logprobs"`
	Top     []map[string]*number `json:"top_logprobs"`
	Content []nativeToken        `json:"content"`
}

// nativeToken is one token as llama-server writes it.
type nativeToken struct {
	ID      *int    `json:"id"`
	LogProb *number `json:"logprob"`
	Top     []struct {
		ID      *int    `json:"id"`
		LogProb *number `json:"logprob"`
	} `json:"top_logprobs"`
}

func (w *logProbsWire) positions(r GenerateRequest) ([]Position, KeyStyle, error) {
	if w.Content != nil {
		out := make([]Position, len(w.Content))
		for i, t := range w.Content {
			p, err := t.position(r.Top)
			if err != nil {
				return nil, KeysID, err
			}
			out[i] = p
		}
		return out, KeysID, nil
	}
	if len(w.Tokens) != len(w.Values) || len(w.Tokens) != len(w.Top) {
		return nil, KeysNone, fmt.Errorf("%w: %d tokens, %d log-probabilities, %d lists of likely ones", ErrMalformed, len(w.Tokens), len(w.Values), len(w.Top))
	}
	out := make([]Position, len(w.Tokens))
	for i, name := range w.Tokens {
		id, ok := tokenID(name)
		if !ok {
			return nil, KeysText, nil
		}
		if i == 0 && r.Echo && w.Values[0] == nil {
			continue // nothing precedes the prompt's first token
		}
		p, err := w.position(i, id, r.Top)
		if err != nil {
			return nil, KeysID, fmt.Errorf("token %d: %w", i, err)
		}
		out[i] = p
	}
	return out, KeysID, nil
}

func (w *logProbsWire) position(i, id, k int) (Position, error) {
	if w.Values[i] == nil {
		return Position{}, ErrMissing
	}
	entries := map[int]float64{id: float64(*w.Values[i])}
	for name, lp := range w.Top[i] {
		other, ok := tokenID(name)
		if !ok || lp == nil {
			return Position{}, fmt.Errorf("%w: %q", ErrToken, name)
		}
		entries[other] = float64(*lp)
	}
	return ordered(id, entries, k)
}

func (t nativeToken) position(k int) (Position, error) {
	if t.ID == nil || t.LogProb == nil {
		return Position{}, ErrMissing
	}
	entries := map[int]float64{*t.ID: float64(*t.LogProb)}
	for _, e := range t.Top {
		if e.ID == nil || e.LogProb == nil {
			return Position{}, fmt.Errorf("%w: a likely token has no id or no log-probability", ErrToken)
		}
		entries[*e.ID] = float64(*e.LogProb)
	}
	return ordered(*t.ID, entries, k)
}

// ordered makes a checked Position of a token and everything known there.
func ordered(token int, entries map[int]float64, k int) (Position, error) {
	all := make([]TokenLogProb, 0, len(entries))
	for id, lp := range entries {
		if lp > 0 && lp <= slack {
			lp = 0
		}
		all = append(all, TokenLogProb{id, lp})
	}
	slices.SortFunc(all, func(a, b TokenLogProb) int {
		return cmp.Or(cmp.Compare(b.LogProb, a.LogProb), cmp.Compare(a.Token, b.Token))
	})
	p := Position{Token: token}
	for i, e := range all {
		if e.Token == token {
			p.LogProb = e.LogProb
			if i < k {
				p.Rank = i + 1 // further down there is one that the list does not show
			}
		}
	}
	p.Top = all[:min(k, len(all))]
	if detail, kind := checkOne(p, 1, 0); kind != nil {
		return p, fmt.Errorf("%w: %s", kind, detail)
	}
	return p, nil
}

// tokenID reads "token_id:17"; a bare "17" is text.
func tokenID(name string) (int, bool) {
	id, err := strconv.Atoi(strings.TrimPrefix(name, "token_id:"))
	return id, err == nil && id >= 0 && strings.HasPrefix(name, "token_id:")
}

// ChatTokens is how many tokens the endpoint's chat template makes of messages
// (raw JSON, so that tools and odd contents pass), by usage.prompt_tokens.
func (c *Client) ChatTokens(ctx context.Context, messages, tools json.RawMessage) (int, error) {
	body, err := c.do(ctx, "POST", "/v1/chat/completions", struct {
		Model     string          `json:"model"`
		Messages  json.RawMessage `json:"messages"`
		Tools     json.RawMessage `json:"tools,omitempty"`
		Choice    string          `json:"tool_choice,omitempty"`
		MaxTokens int             `json:"max_tokens"`
	}{c.Model, messages, tools, choiceOf(tools), 1})
	if err != nil {
		return 0, fmt.Errorf("chat: %w", err)
	}
	var a struct {
		Usage *usage `json:"usage"`
	}
	if err := decode("chat", body, &a); err != nil {
		return 0, err
	}
	if a.Usage == nil || a.Usage.PromptTokens == nil {
		return 0, fmt.Errorf("chat: %w: no usage.prompt_tokens", ErrMalformed)
	}
	return *a.Usage.PromptTokens, nil
}

func choiceOf(tools json.RawMessage) string {
	if tools == nil {
		return ""
	}
	return "none"
}

// Metrics is the endpoint's Prometheus page.
func (c *Client) Metrics(ctx context.Context) (string, error) {
	body, err := c.do(ctx, "GET", "/metrics", nil)
	return string(body), err
}
