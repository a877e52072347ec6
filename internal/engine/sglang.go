package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// generateScorer speaks SGLang's own /generate: its OpenAI routes name tokens
// by text and ignore prompt_logprobs.
type generateScorer struct{ *Client }

type sglangRequest struct {
	InputIDs []int          `json:"input_ids"`
	Sampling sglangSampling `json:"sampling_params"`
	LogProb  bool           `json:"return_logprob"`
	// StartLen is the first position scored, -1 for what is generated only.
	StartLen int `json:"logprob_start_len"`
	Top      int `json:"top_logprobs_num"`
}

type sglangSampling struct {
	MaxNewTokens int      `json:"max_new_tokens"`
	Temperature  float64  `json:"temperature"`
	TopP         float64  `json:"top_p,omitempty"`
	TopK         int      `json:"top_k,omitempty"`
	IgnoreEOS    bool     `json:"ignore_eos,omitempty"`
	Stop         []string `json:"stop,omitempty"`
	Seed         *int64   `json:"sampling_seed,omitempty"`
	N            int      `json:"n,omitempty"`
}

type sglangAnswer struct {
	Text string `json:"text"`
	Meta struct {
		FinishReason struct {
			Type string `json:"type"`
		} `json:"finish_reason"`
		PromptTokens     *int            `json:"prompt_tokens"`
		CompletionTokens *int            `json:"completion_tokens"`
		CachedTokens     int             `json:"cached_tokens"`
		Input            []sglangToken   `json:"input_token_logprobs"`
		InputTop         [][]sglangToken `json:"input_top_logprobs"`
		Output           []sglangToken   `json:"output_token_logprobs"`
		OutputTop        [][]sglangToken `json:"output_top_logprobs"`
	} `json:"meta_info"`
}

// sglangToken is [logprob or null, id, text or null].
type sglangToken struct {
	logProb *number
	id      *int
}

func (t *sglangToken) UnmarshalJSON(b []byte) error {
	var parts []json.RawMessage
	if err := json.Unmarshal(b, &parts); err != nil || len(parts) < 2 {
		return fmt.Errorf("%q is not [logprob, id, text]", clip(b, 40))
	}
	return errors.Join(json.Unmarshal(parts[0], &t.logProb), json.Unmarshal(parts[1], &t.id))
}

// Score implements Scorer.
func (s *generateScorer) Score(ctx context.Context, prompts [][]int, k int) ([][]Position, error) {
	return s.each(ctx, prompts, func(ctx context.Context, i int) ([]Position, error) {
		a, err := s.ask(ctx, sglangRequest{InputIDs: prompts[i], Sampling: sglangSampling{MaxNewTokens: 1}, LogProb: true, Top: k})
		if err != nil {
			return nil, &Violation{Prompt: i, Position: -1, Kind: err}
		}
		in, top := a.Meta.Input, a.Meta.InputTop
		switch {
		case in == nil:
			return nil, &Violation{Prompt: i, Position: -1, Kind: ErrNoPromptLogProbs, Detail: "no input_token_logprobs"}
		case a.Meta.PromptTokens != nil && *a.Meta.PromptTokens != len(prompts[i]):
			return nil, &Violation{Prompt: i, Position: -1, Kind: ErrPrompt, Detail: fmt.Sprintf("sent %d token ids, it read %d", len(prompts[i]), *a.Meta.PromptTokens)}
		case len(in) != len(prompts[i]) || len(top) != len(prompts[i]):
			return nil, &Violation{Prompt: i, Position: -1, Kind: ErrLength, Detail: fmt.Sprintf("%d and %d entries for %d tokens", len(in), len(top), len(prompts[i]))}
		}
		out := make([]Position, len(in))
		for t := 1; t < len(in); t++ {
			if out[t], err = sglangPosition(in[t], top[t], k); err != nil {
				return nil, &Violation{Prompt: i, Position: t, Kind: err}
			}
			if out[t].Token != prompts[i][t] {
				return nil, &Violation{Prompt: i, Position: t, Kind: ErrPrompt, Detail: fmt.Sprintf("token %d came back as %d", prompts[i][t], out[t].Token)}
			}
		}
		return out, CheckPositions(i, prompts[i], out, k, s.Vocab)
	})
}

// Generate continues token ids through /generate; text goes OpenAI's way.
func (s *generateScorer) Generate(ctx context.Context, r GenerateRequest) ([]Generated, error) {
	if r.Tokens == nil || r.Echo || r.N > 1 || len(r.LogitBias) > 0 {
		return s.Client.Generate(ctx, r)
	}
	a, err := s.ask(ctx, sglangRequest{InputIDs: r.Tokens, LogProb: r.Top > 0, StartLen: -1, Top: r.Top, Sampling: sglangSampling{
		MaxNewTokens: r.MaxTokens, Temperature: r.Temperature, TopP: r.TopP, TopK: r.TopK, IgnoreEOS: r.IgnoreEOS, Stop: r.Stop, Seed: r.Seed}})
	if err != nil {
		return nil, fmt.Errorf("generate: %w", err)
	}
	g := Generated{Text: a.Text, FinishReason: a.Meta.FinishReason.Type, CachedTokens: a.Meta.CachedTokens,
		PromptTokens: orAbsent(a.Meta.PromptTokens), CompletionTokens: orAbsent(a.Meta.CompletionTokens)}
	if r.Top == 0 {
		return []Generated{g}, nil
	}
	if len(a.Meta.Output) != len(a.Meta.OutputTop) {
		return nil, fmt.Errorf("generate: %w: %d tokens, %d lists of likely ones", ErrMalformed, len(a.Meta.Output), len(a.Meta.OutputTop))
	}
	for i, t := range a.Meta.Output {
		p, err := sglangPosition(t, a.Meta.OutputTop[i], r.Top)
		if err != nil {
			return nil, fmt.Errorf("generate: token %d: %w", i, err)
		}
		g.Positions, g.Keys = append(g.Positions, p), KeysID
	}
	return []Generated{g}, nil
}

// Complete continues token ids; the ids are those that log-probabilities name.
func (s *generateScorer) Complete(ctx context.Context, r CompletionRequest) ([]Completion, error) {
	if r.Tokens == nil || r.N > 1 || !r.TokenIDs {
		return s.Client.Complete(ctx, r)
	}
	return nil, ErrNoTokenIDs // Access.Complete asks Generate
}

func (s *generateScorer) ask(ctx context.Context, q sglangRequest) (sglangAnswer, error) {
	var a sglangAnswer
	body, err := s.do(ctx, "POST", "/generate", q)
	if err != nil {
		return a, err
	}
	return a, decode("generate", quoteNonFinite(body), &a)
}

func sglangPosition(t sglangToken, top []sglangToken, k int) (Position, error) {
	if t.id == nil {
		return Position{}, ErrToken
	}
	if t.logProb == nil {
		return Position{}, fmt.Errorf("%w: of token %d", ErrMissing, *t.id)
	}
	entries := map[int]float64{*t.id: float64(*t.logProb)}
	for _, e := range top {
		if e.id == nil || e.logProb == nil {
			return Position{}, fmt.Errorf("%w: a likely token has no id or no log-probability", ErrToken)
		}
		entries[*e.id] = float64(*e.logProb)
	}
	return ordered(*t.id, entries, k)
}
