package verify

import (
	"context"
	"sync"
	"testing"

	"tarbert/internal/engine"
)

// writer is a toy that writes as many tokens as it is asked for.
type writer struct {
	toy
	mu    sync.Mutex
	asked map[int]int // length of the prompt → tokens
}

func (w *writer) Complete(_ context.Context, r engine.CompletionRequest) ([]engine.Completion, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked[len(r.Tokens)] = r.MaxTokens
	return []engine.Completion{{TokenIDs: w.write(1, r.MaxTokens, uint64(len(r.Tokens)))[0], FinishReason: "length"}}, nil
}

// A candidate is asked for as many tokens as the reference's own text might
// have, prompt by prompt: asked for more, it would seem to write longer texts,
// and be sent past the end of the context.
func TestReverseAsksForWhatTheReferenceHad(t *testing.T) {
	c := &writer{toy: toy{seed: 2}, asked: map[int]int{}}
	prompts := toy{}.write(20, 40, 1)
	in := verification(t.TempDir(), c, prompts)
	for i := range prompts {
		in.From = append(in.From, 5+i)
		in.Limits = append(in.Limits, 40-(5+i))
	}
	in.Reverse = ReverseOptions{Prompts: len(prompts)}
	r := run(t, in)
	if len(c.asked) != len(prompts) {
		t.Fatalf("asked for %v", c.asked)
	}
	for from, n := range c.asked {
		if n != 40-from {
			t.Errorf("after %d tokens asked for %d, not %d", from, n, 40-from)
		}
	}
	if r.Reverse == nil || r.Reverse.Length.Value != 1 || r.Reverse.Ended.Value != 0 {
		t.Errorf("equal texts are told as %+v", r.Reverse)
	}
}

// Short texts give few tokens to compare, so more prompts are continued; how many
// depends on the reference's texts alone.
func TestDecodeTakesMorePromptsOfShortTexts(t *testing.T) {
	o := DecodeOptions{Prompts: 4, Cuts: 4, Tokens: 8, Least: 100}
	for _, tt := range []struct{ written, prompts, want int }{
		{64, 50, 4}, // 32 tokens each: as many as asked for
		{8, 50, 5},  // 8 + 6 + 4 + 2
		{2, 50, 34}, // 2 + 1
		{2, 20, 20}, // all there are
	} {
		in := Input{}
		for range tt.prompts {
			in.Prompts, in.From = append(in.Prompts, make([]int, 10+tt.written)), append(in.From, 10)
		}
		if got := in.decodePrompts(o); got != tt.want {
			t.Errorf("%d prompts of %d written tokens: %d are continued, not %d", tt.prompts, tt.written, got, tt.want)
		}
	}
}
