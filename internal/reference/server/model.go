package server

import (
	"context"
	"fmt"

	"tarbert/internal/reference"
)

// model is what the scheduler needs of a language model. *reference.Model is
// one through its adapter; tests put a scripted one in its place.
type model interface {
	newSequence() sequence
	// forward appends each input's tokens to its sequence and returns logits
	// rows [vocab]: one for the last token, or one per token where all is set.
	forward(ctx context.Context, in []input) ([][][]float32, error)
}

// sequence is one KV cache.
type sequence interface{ Len() int }

type input struct {
	seq    sequence
	tokens []int
	all    bool
}

// adapter makes the reference model a model.
type adapter struct{ m *reference.Model }

func (a adapter) newSequence() sequence { return a.m.NewSequence() }

func (a adapter) forward(ctx context.Context, in []input) ([][][]float32, error) {
	batch := make([]reference.Input, len(in))
	for i, x := range in {
		seq, ok := x.seq.(*reference.Sequence)
		if !ok {
			return nil, fmt.Errorf("input %d: a sequence of another model (%T)", i, x.seq)
		}
		batch[i] = reference.Input{Seq: seq, Tokens: x.tokens, All: x.all}
	}
	return a.m.Forward(ctx, batch)
}
