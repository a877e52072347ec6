package serve

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"tarbert/internal/engine"
)

// measure gives the tokens per second that a small batch of equal requests is
// generated with, from the first request sent to the last answered.
func measure(ctx context.Context, c *engine.Client, prompt string, now func() time.Time) (float64, error) {
	counts := make([]int, speedBatch)
	g, ctx := errgroup.WithContext(ctx)
	began := now()
	for i := range counts {
		g.Go(func() error {
			got, err := c.Complete(ctx, engine.CompletionRequest{
				Prompt: prompt, MaxTokens: speedTokens, IgnoreEOS: true, TokenIDs: true,
			})
			if err == nil {
				counts[i] = len(got[0].TokenIDs)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	took, tokens := now().Sub(began).Seconds(), 0
	for _, n := range counts {
		tokens += n
	}
	if took <= 0 || tokens == 0 {
		return 0, errors.New("nothing was generated to measure the speed on")
	}
	return float64(tokens) / took, nil
}
