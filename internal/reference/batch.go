package reference

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"tarbert/internal/reference/kernel"
)

// batch is a ragged batch packed without gaps: the rows of all segments after
// one another.
type batch struct {
	tokens []int
	pos    []int // position of each row in its sequence
	segs   []segment
	owner  []int32 // segment of each row
	tasks  []attnTask

	rerouted atomic.Int64 // choices that a replay replaced by others
}

// segment is the part of one sequence that a pass computes.
type segment struct {
	row, rows int       // its rows in the batch
	past      int       // tokens of the sequence before them, in seq's cache
	seq       *Sequence // nil in training, where past is 0
	replay    Routing   // experts to take instead of choosing them; nil: choose
}

// attnTask is attention for some heads and rows of one segment.
type attnTask struct {
	seg          int
	head0, head1 int
	row0, row1   int // within the segment
}

const (
	blockRows = 64 // rows that one task takes through a layer
	largeRows = 2 * blockRows
	fewRows   = 8 // with fewer rows than this, one task does all heads
)

// reset empties the batch and keeps its memory.
func (b *batch) reset() {
	b.tokens, b.pos, b.segs, b.owner, b.tasks = b.tokens[:0], b.pos[:0], b.segs[:0], b.owner[:0], b.tasks[:0]
	b.rerouted.Store(0)
}

// add appends one sequence's new tokens.
func (b *batch) add(n *network, tokens []int, past int, seq *Sequence) error {
	if past+len(tokens) > n.c.MaxPositionEmbeddings {
		return fmt.Errorf("%d tokens exceed max_position_embeddings %d", past+len(tokens), n.c.MaxPositionEmbeddings)
	}
	for i, t := range tokens {
		if t < 0 || t >= n.c.VocabSize {
			return fmt.Errorf("token %d at position %d is outside the vocabulary of %d", t, past+i, n.c.VocabSize)
		}
		b.pos = append(b.pos, past+i)
		b.owner = append(b.owner, int32(len(b.segs)))
	}
	b.segs = append(b.segs, segment{row: len(b.tokens), rows: len(tokens), past: past, seq: seq})
	b.tokens = append(b.tokens, tokens...)
	return nil
}

// positions is the number of positions that the batch's tokens reach.
func (b *batch) positions() int {
	top := 0
	for _, g := range b.segs {
		top = max(top, g.past+g.rows)
	}
	return top
}

// plan divides the attention into tasks; what they are changes no bits.
func (b *batch) plan(heads int) {
	for i, g := range b.segs {
		if g.rows < fewRows && len(b.segs) > 1 {
			b.tasks = append(b.tasks, attnTask{seg: i, head1: heads, row1: g.rows})
			continue
		}
		for h := range heads {
			for r := 0; r < g.rows; r += blockRows {
				b.tasks = append(b.tasks, attnTask{i, h, h + 1, r, min(r+blockRows, g.rows)})
			}
		}
	}
}

// activations are what a forward pass computes, layer by layer. With keep,
// every layer has its own for the backward pass; otherwise all share one.
type activations struct {
	keep   bool
	layers []*layerActs
	last   []float32 // the last layer's output, [rows, hidden]
	blocks []slotBlock
	spare  *sync.Pool // of *scratch
}

func newActivations(keep bool) *activations {
	return &activations{keep: keep, spare: &sync.Pool{New: func() any { return &scratch{} }}}
}

// layerActs are one layer's activations; N is the number of rows.
type layerActs struct {
	x, y   []float32 // [N, hidden] input and output
	input  []float32 // memory of x
	norm1  []float32 // [N, hidden]
	rstd1  []float32 // [N]
	q      []float32 // [N, heads·dk], rotated
	k      []float32 // [N, kvHeads·dk], rotated
	ctx    []float32 // [N, heads·dv]
	mid    []float32 // [N, hidden] after attention and its residual
	norm2  []float32
	rstd2  []float32
	gate   []float32 // [N, width] of the dense MLP or the shared experts
	up     []float32
	act    []float32
	shared []float32 // [N, hidden] shared experts' output
	mla    mlaActs
	gqa    gqaActs
	moe    moeActs
}

type mlaActs struct {
	qa, qaNorm, qaRstd []float32 // [N, q_lora], [N]
	kva                []float32 // [N, latent + rope]
	latent, rstd       []float32 // [N, latent] normalised, [N]
	kvb                []float32 // [N, heads·(nope+dv)]
}

type gqaActs struct {
	q, k         []float32 // as projected
	qRstd, kRstd []float32 // [N·heads], [N·kvHeads]
	v            []float32 // [N, kvHeads·d]
}

type moeActs struct {
	scores  []float32 // [N, experts] after sigmoid or softmax
	ids     []int32   // [N·k] chosen experts, ascending per row
	weights []float32 // [N·k]
	start   []int     // [experts+1] first slot of each expert
	pair    []int32   // [slots] n·k+j: which choice of which row a slot serves
	slot    []int32   // [N·k] the slot that serves a choice
	x       []float32 // [slots, hidden] input rows
	gate    []float32 // [slots, width]
	up      []float32
	act     []float32
	y       []float32 // [slots, hidden]
}

// prepare sizes the layer's buffers for n rows.
func (a *activations) prepare(net *network, i, rows int) *layerActs {
	if !a.keep {
		i = 0
	}
	for len(a.layers) <= i {
		a.layers = append(a.layers, &layerActs{})
	}
	la := a.layers[i]
	fit(&la.input, rows*net.c.HiddenSize)
	return la
}

// rowBlocks runs f over [0, rows) in blocks.
func rowBlocks(p *kernel.Pool, rows int, f func(r0, r1 int)) { blocksOf(blockRows, p, rows, f) }

// largeBlocks is rowBlocks for where no part of a gradient goes with a block:
// weights are read fewer times when more rows share them.
func largeBlocks(p *kernel.Pool, rows int, f func(r0, r1 int)) {
	share := (rows + p.Threads() - 1) / p.Threads()
	blocksOf(min(max(share/blockRows*blockRows, blockRows), largeRows), p, rows, f)
}

// oneBlock is all rows at once, for weights that a product must widen first:
// whatever f does with them shares out the work itself.
func oneBlock(_ *kernel.Pool, rows int, f func(r0, r1 int)) {
	if rows > 0 {
		f(0, rows)
	}
}

func blocksOf(size int, p *kernel.Pool, rows int, f func(r0, r1 int)) {
	if rows <= size {
		oneBlock(p, rows, f)
		return
	}
	p.Run((rows+size-1)/size, func(i int) { f(i*size, min((i+1)*size, rows)) })
}

// view is rows [r0, r1) of a row-major buffer of the given width.
func view(buf []float32, r0, r1, width int) kernel.Mat {
	return kernel.Dense(buf[r0*width:r1*width], r1-r0, width)
}

// cancelled is the context's error in words.
func cancelled(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("forward pass: %w", err)
	}
	return nil
}
