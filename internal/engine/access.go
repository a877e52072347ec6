package engine

import (
	"context"
	"errors"
)

// Access is an endpoint with the way to its numbers that it can bear: the same
// three questions, whatever protocol answers them.
type Access struct {
	*Client
	Path   Path
	Closed []Refusal // the cheaper paths that did not answer, and why
	way    way
}

// way asks one engine's protocol.
type way interface {
	Scorer
	Generate(ctx context.Context, r GenerateRequest) ([]Generated, error)
	Complete(ctx context.Context, r CompletionRequest) ([]Completion, error)
	over(c *Client) way // the same protocol through another client
}

func (c *Client) over(other *Client) way     { return other }
func (s *echoScorer) over(c *Client) way     { return &echoScorer{c} }
func (s *prefixScorer) over(c *Client) way   { return &prefixScorer{c} }
func (s *NativeScorer) over(c *Client) way   { return &NativeScorer{Client: c} }
func (s *generateScorer) over(c *Client) way { return &generateScorer{c} }
func ways(c *Client) (paths []Path, of []way) {
	return []Path{PromptLogProbs, EchoLogProbs, SGLangGenerate, NativePrefixes, ForcedPrefixes},
		[]way{c, &echoScorer{c}, &generateScorer{c}, &NativeScorer{Client: c}, &prefixScorer{c}}
}

// With is the same endpoint with another number of requests in flight.
func (a *Access) With(concurrency int) *Access {
	c := *a.Client
	c.Concurrency = concurrency
	return &Access{Client: &c, Path: a.Path, Closed: a.Closed, way: a.way.over(&c)}
}

// Score implements Scorer.
func (a *Access) Score(ctx context.Context, prompts [][]int, k int) ([][]Position, error) {
	return a.way.Score(ctx, prompts, k)
}

// Generate continues a prompt with log-probabilities by token id.
func (a *Access) Generate(ctx context.Context, r GenerateRequest) ([]Generated, error) {
	return a.way.Generate(ctx, r)
}

// Complete continues a prompt. An endpoint that does not return token ids is
// asked once more with log-probabilities, which name them.
func (a *Access) Complete(ctx context.Context, r CompletionRequest) ([]Completion, error) {
	got, err := a.way.Complete(ctx, r)
	if !r.TokenIDs || !errors.Is(err, ErrNoTokenIDs) {
		return got, err
	}
	named, genErr := a.way.Generate(ctx, GenerateRequest{
		Prompt: r.Prompt, Tokens: r.Tokens, N: r.N, MaxTokens: r.MaxTokens, Temperature: r.Temperature, TopP: r.TopP,
		Seed: r.Seed, Stop: r.Stop, IgnoreEOS: r.IgnoreEOS, Top: 1,
	})
	if genErr != nil {
		return nil, errors.Join(err, genErr)
	}
	out := make([]Completion, len(named))
	for i, g := range named {
		if g.Keys != KeysID || (g.CompletionTokens >= 0 && len(g.Positions) != g.CompletionTokens) {
			return nil, err
		}
		out[i] = Completion{Text: g.Text, FinishReason: g.FinishReason}
		for _, p := range g.Positions {
			out[i].TokenIDs = append(out[i].TokenIDs, p.Token)
		}
	}
	return out, nil
}
