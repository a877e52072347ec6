package reference

import (
	"context"
	"fmt"
	"runtime"
	"sync"

	"tarbert/internal/reference/kernel"
)

// Options say how a model computes.
type Options struct {
	Precision Precision // empty: by the weights' format
	Threads   int       // 0: as many as Go runs at a time
}

// Model is a model for inference. It does not change and is safe for
// concurrent use, with one exception: a Model made by Trainable.Inference
// shows the trained weights and must not be used while they are changed.
type Model struct {
	net       *network
	precision Precision
	pool      *kernel.Pool
	work      sync.Pool // of *workspace
}

// workspace is one Forward's memory.
type workspace struct {
	batch  batch
	acts   *activations
	hidden []float32
	norm   []float32
	rstd   []float32
	logits []float32
}

func newModel(n *network, p Precision, pool *kernel.Pool) *Model {
	m := &Model{net: n, precision: p, pool: pool}
	m.work.New = func() any { return &workspace{acts: newActivations(false)} }
	return m
}

func newPool(threads int) *kernel.Pool {
	if threads <= 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	return kernel.NewPool(threads)
}

// Config is the model's config. It must not be changed.
func (m *Model) Config() *Config { return m.net.c }

// Precision is the profile the model computes in.
func (m *Model) Precision() Precision { return m.precision }

// Input is one sequence's part of a batch: Tokens are appended to Seq.
type Input struct {
	Seq    *Sequence
	Tokens []int
	All    bool // logits after every token, not only after the last
}

// Forward appends every input's tokens to its sequence and returns, per input,
// the logits after its last token, or after each of them. Prefill and decoding
// may be mixed freely; what else is in the batch does not change a bit. On an
// error the sequences are as they were.
func (m *Model) Forward(ctx context.Context, in []Input) ([][][]float32, error) {
	w := m.work.Get().(*workspace)
	defer m.work.Put(w)
	if err := m.gather(&w.batch, in); err != nil {
		return nil, err
	}
	if err := m.net.forward(ctx, m.pool, &w.batch, w.acts); err != nil {
		return nil, err
	}
	for _, g := range w.batch.segs {
		g.seq.n += g.rows
	}
	return m.wanted(w, in), nil
}

// gather packs the inputs into b and makes room in their caches.
func (m *Model) gather(b *batch, in []Input) error {
	b.reset()
	seen := make(map[*Sequence]bool, len(in))
	for i, x := range in {
		switch {
		case x.Seq == nil || x.Seq.net != m.net:
			return fmt.Errorf("forward pass: input %d has no sequence of this model", i)
		case seen[x.Seq]:
			return fmt.Errorf("forward pass: input %d repeats another input's sequence", i)
		case len(x.Tokens) == 0:
			return fmt.Errorf("forward pass: input %d has no tokens", i)
		}
		seen[x.Seq] = true
		if err := b.add(m.net, x.Tokens, x.Seq.n, x.Seq); err != nil {
			return fmt.Errorf("forward pass: input %d: %w", i, err)
		}
	}
	for _, x := range in {
		x.Seq.reserve(x.Seq.n + len(x.Tokens))
	}
	b.plan(m.net.c.NumAttentionHeads)
	return nil
}

// wanted computes the logits asked for.
func (m *Model) wanted(w *workspace, in []Input) [][][]float32 {
	h, vocab := m.net.c.HiddenSize, m.net.c.VocabSize
	w.hidden = w.hidden[:0]
	for i, g := range w.batch.segs {
		first := g.row
		if !in[i].All {
			first = g.row + g.rows - 1
		}
		w.hidden = append(w.hidden, w.acts.last[first*h:(g.row+g.rows)*h]...)
	}
	rows := len(w.hidden) / h
	norm, rstd := fit(&w.norm, rows*h), fit(&w.rstd, rows)
	flat := make([]float32, rows*vocab)
	inBlocks := largeBlocks
	if m.net.head.narrow != nil {
		inBlocks = oneBlock
	}
	inBlocks(m.pool, rows, func(r0, r1 int) {
		s := w.acts.spare.Get().(*scratch)
		defer w.acts.spare.Put(s)
		m.net.logits(m.pool, w.hidden[r0*h:r1*h], norm[r0*h:r1*h], rstd[r0:r1], flat[r0*vocab:r1*vocab], s)
	})
	out := make([][][]float32, len(in))
	for i, x := range in {
		n := 1
		if x.All {
			n = len(x.Tokens)
		}
		out[i] = make([][]float32, n)
		for j := range out[i] {
			out[i][j], flat = flat[:vocab:vocab], flat[vocab:]
		}
	}
	return out
}
