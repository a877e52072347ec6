package verifytest

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"tarbert/internal/engine"
	"tarbert/internal/reference"
)

// Engine serves a model in process. The zero hooks change nothing.
type Engine struct {
	Model *reference.Model
	// EOS ends a continuation.
	EOS int

	// Prompt rewrites what reaches the model. The positions of the prompt's own
	// tokens are counted from the end of what it returns.
	Prompt func(tokens []int) []int
	// Window keeps only so many tokens before each position; 0 = all. With Above,
	// it acts only on prefixes longer than that.
	Window, Above int
	// Chunk makes every so many tokens forget those before them; 0 = none do.
	Chunk int
	// Cache changes what generation finds in its KV cache.
	Cache func(key, value []float32)
	// Strip changes a finished continuation's tokens.
	Strip func(tokens []int) []int
	// Logits changes what the model said after prefix (of a prompt of n tokens).
	Logits func(prefix []int, n int, logits []float32)
	// Decode does the same in generation only, from the second written token on.
	Decode func(prefix []int, logits []float32)
	// Sample changes logits before a token is drawn, and not what is reported.
	Sample func(prefix []int, temperature float64, logits []float32)
	// Pick replaces the drawn token.
	Pick func(r *rand.Rand, token int) int
}

// Score implements verify.Scorer.
func (e *Engine) Score(ctx context.Context, prompts [][]int, k int) ([][]engine.Position, error) {
	out := make([][]engine.Position, len(prompts))
	for i, p := range prompts {
		rows, err := e.rows(ctx, p)
		if err != nil {
			return nil, err
		}
		out[i] = make([]engine.Position, len(p))
		for t := 1; t < len(p); t++ {
			out[i][t] = e.position(p[:t], len(p), rows[t-1], p[t], k)
		}
	}
	return out, nil
}

// rows gives the logits after each of p's tokens but the last.
func (e *Engine) rows(ctx context.Context, p []int) ([][]float32, error) {
	if e.Window > 0 && len(p)-1 > max(e.Window, e.Above) {
		return e.windowed(ctx, p)
	}
	if e.Chunk > 0 && len(p) > e.Chunk {
		return e.chunked(ctx, p)
	}
	fed, shift := p, 0
	if e.Prompt != nil {
		fed = e.Prompt(p)
		shift = len(fed) - len(p)
	}
	got, err := e.Model.Forward(ctx, []reference.Input{{Seq: e.Model.NewSequence(), Tokens: fed[:len(fed)-1], All: true}})
	if err != nil {
		return nil, err
	}
	rows := make([][]float32, len(p)-1)
	for t := range rows {
		rows[t] = got[0][max(t+shift, 0)] // before what was cut off there is nothing: the first row stands in
	}
	return rows, nil
}

func (e *Engine) windowed(ctx context.Context, p []int) ([][]float32, error) {
	first := max(e.Window, e.Above) // the last prefix that is whole
	got, err := e.Model.Forward(ctx, []reference.Input{{Seq: e.Model.NewSequence(), Tokens: p[:first], All: true}})
	if err != nil {
		return nil, err
	}
	rows := make([][]float32, 0, len(p)-1)
	for _, row := range got[0] {
		rows = append(rows, slices.Clone(row))
	}
	for at := first + 1; at < len(p); at += windows {
		var in []reference.Input
		for t := at; t < min(at+windows, len(p)); t++ {
			in = append(in, reference.Input{Seq: e.Model.NewSequence(), Tokens: p[t-e.Window : t]})
		}
		got, err := e.Model.Forward(ctx, in)
		if err != nil {
			return nil, err
		}
		for _, g := range got {
			rows = append(rows, slices.Clone(g[0]))
		}
	}
	return rows, nil
}

// windows go through the model at once.
const windows = 16

func (e *Engine) chunked(ctx context.Context, p []int) ([][]float32, error) {
	var rows [][]float32
	for at := 0; at < len(p)-1; at += e.Chunk {
		got, err := e.Model.Forward(ctx, []reference.Input{{Seq: e.Model.NewSequence(), Tokens: p[at:min(at+e.Chunk, len(p)-1)], All: true}})
		if err != nil {
			return nil, err
		}
		for _, row := range got[0] {
			rows = append(rows, slices.Clone(row))
		}
	}
	return rows, nil
}

func (e *Engine) position(prefix []int, n int, logits []float32, token, k int) engine.Position {
	if e.Logits != nil {
		logits = append([]float32{}, logits...)
		e.Logits(prefix, n, logits)
	}
	return convert(token, reference.LogProbs(logits, token, k))
}

func convert(token int, got reference.Position) engine.Position {
	p := engine.Position{Token: token, LogProb: min(got.LogProb, 0), Rank: got.Rank}
	for _, t := range got.Top {
		p.Top = append(p.Top, engine.TokenLogProb{Token: t.Token, LogProb: min(t.LogProb, 0)})
	}
	return p
}

// Generate implements verify.Generator for token-id prompts: greedy at
// temperature 0, else sampled by the seed.
func (e *Engine) Generate(ctx context.Context, r engine.GenerateRequest) ([]engine.Generated, error) {
	tokens, pos, ended, err := e.write(ctx, r.Tokens, r.MaxTokens, r.Temperature, r.Seed, r.Top)
	if err != nil {
		return nil, err
	}
	g := engine.Generated{FinishReason: "length", Positions: pos, Keys: engine.KeysID, PromptTokens: len(r.Tokens), CompletionTokens: len(tokens)}
	if ended {
		g.FinishReason = "stop"
	}
	return []engine.Generated{g}, nil
}

// Complete implements verify.Completer.
func (e *Engine) Complete(ctx context.Context, r engine.CompletionRequest) ([]engine.Completion, error) {
	tokens, _, ended, err := e.write(ctx, r.Tokens, r.MaxTokens, r.Temperature, r.Seed, 1)
	if err != nil {
		return nil, err
	}
	if e.Strip != nil {
		tokens = e.Strip(tokens)
	}
	c := engine.Completion{FinishReason: "length", TokenIDs: tokens}
	if ended {
		c.FinishReason = "stop"
	}
	return []engine.Completion{c}, nil
}

func (e *Engine) write(ctx context.Context, prompt []int, most int, temperature float64, seed *int64, k int) (tokens []int, pos []engine.Position, ended bool, err error) {
	s := uint64(1)
	if seed != nil {
		s = uint64(*seed)
	}
	r := rand.New(rand.NewPCG(s, 2))
	fed, text := prompt, append([]int{}, prompt...)
	if e.Prompt != nil {
		fed = e.Prompt(prompt)
	}
	seq := e.Model.NewSequence()
	for len(tokens) < most && len(fed) > 0 {
		got, err := e.Model.Forward(ctx, []reference.Input{{Seq: seq, Tokens: fed}})
		if err != nil {
			return nil, nil, false, fmt.Errorf("after %d tokens: %w", len(text), err)
		}
		if e.Cache != nil {
			seq.Rewrite(seq.Len()-len(fed), e.Cache)
		}
		logits := append([]float32{}, got[0][0]...)
		if e.Logits != nil {
			e.Logits(text, len(text), logits)
		}
		if e.Decode != nil && len(tokens) > 0 {
			e.Decode(text, logits)
		}
		next := e.draw(r, text, temperature, logits)
		tokens, pos = append(tokens, next), append(pos, convert(next, reference.LogProbs(logits, next, k)))
		text, fed = append(text, next), []int{next}
		if next == e.EOS {
			return tokens, pos, true, nil
		}
	}
	return tokens, pos, false, nil
}

func (e *Engine) draw(r *rand.Rand, text []int, temperature float64, logits []float32) int {
	u := r.Float64()
	from := logits
	if e.Sample != nil {
		from = append([]float32{}, logits...)
		e.Sample(text, temperature, from)
	}
	next := reference.Sampler{Temperature: temperature}.Pick(from, u)
	if e.Pick != nil {
		next = e.Pick(r, next)
	}
	return next
}

// Noise adds Gaussian noise of a size to logits, the same for the same prefix.
func Noise(prefix []int, logits []float32, size float64, seed uint64) {
	h := seed
	for _, t := range prefix {
		h = (h ^ uint64(t)) * 0x100000001b3
	}
	r := rand.New(rand.NewPCG(h, seed))
	for i := range logits {
		logits[i] += float32(size * r.NormFloat64())
	}
}

// Scale multiplies centred logits: another temperature.
func Scale(logits []float32, by float64) {
	for i := range logits {
		logits[i] *= float32(by)
	}
}

// Softcap is the soft cap of logits at a height.
func Softcap(logits []float32, at float64) {
	for i, x := range logits {
		logits[i] = float32(at * math.Tanh(float64(x)/at))
	}
}
