package verify

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"tarbert/internal/engine"
	"tarbert/internal/progress"
)

// Completer continues prompts; *engine.Client is one.
type Completer interface {
	Complete(ctx context.Context, r engine.CompletionRequest) ([]engine.Completion, error)
}

// PromptOptions of BuildPrompts.
type PromptOptions struct {
	Seed      uint64
	MaxTokens int // of each continuation
	// Lengths, if set, are how many tokens each prompt has in the end, with its
	// continuation, unless the reference stops by itself before that.
	Lengths []int
	// Concurrency bounds the requests in flight; default 4.
	Concurrency int
	Progress    progress.Func
	Stage       string // of the progress; default "verify"
}

// BuildPrompts lets the reference continue each prompt (token ids) at
// temperature 1 and returns prompt and continuation together. Text that the
// model itself would write keeps its entropy realistic, so that differences
// show where they will matter. The same seed asks for the same text.
func BuildPrompts(ctx context.Context, c Completer, prompts [][]int, o PromptOptions) ([][]int, error) {
	if len(prompts) == 0 {
		return nil, errors.New("build prompts: none given")
	}
	if o.MaxTokens < 1 {
		return nil, fmt.Errorf("build prompts: at most %d tokens each is none", o.MaxTokens)
	}
	if o.Lengths != nil && len(o.Lengths) != len(prompts) {
		return nil, fmt.Errorf("build prompts: %d lengths for %d prompts", len(o.Lengths), len(prompts))
	}
	for i, n := range o.Lengths {
		if n <= len(prompts[i]) {
			return nil, fmt.Errorf("build prompts: prompt %d has %d tokens already, not under %d", i, len(prompts[i]), n)
		}
	}
	limit := o.Concurrency
	if limit <= 0 {
		limit = 4
	}
	out := make([][]int, len(prompts))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(limit)
	var done atomic.Int64
	for i, p := range prompts {
		g.Go(func() error {
			seed, most := promptSeed(o.Seed, i), o.MaxTokens
			if o.Lengths != nil {
				most = o.Lengths[i] - len(p)
			}
			got, err := c.Complete(ctx, engine.CompletionRequest{
				Tokens: p, MaxTokens: most, Temperature: 1, Seed: &seed, TokenIDs: true,
			})
			if err != nil {
				return fmt.Errorf("build prompts: prompt %d: %w", i, err)
			}
			if len(got) != 1 {
				return fmt.Errorf("build prompts: prompt %d: %d continuations", i, len(got))
			}
			out[i] = append(slices.Clip(p), got[0].TokenIDs...)
			o.Progress.Report(progress.Update{
				Stage: cmp.Or(o.Stage, "verify"), Done: float64(done.Add(1)), Total: float64(len(prompts)), Unit: "prompts", Note: "reference writes",
			})
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return out, nil
}

// promptSeed is a seed per prompt, below 2^53 so that every JSON reader keeps it.
func promptSeed(seed uint64, i int) int64 {
	h := fnv.New64a()
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:8], seed)
	binary.LittleEndian.PutUint64(b[8:], uint64(i))
	h.Write(b[:]) // a hash's Write does not fail
	return int64(h.Sum64() >> 11)
}
