package reference

import (
	"context"

	"tarbert/internal/reference/kernel"
)

// pass is one forward pass of a network over a batch.
type pass struct {
	*network
	pool   *kernel.Pool
	batch  *batch
	acts   *activations
	angles *ropeTable
}

func newPass(n *network, pool *kernel.Pool, b *batch, a *activations) *pass {
	return &pass{network: n, pool: pool, batch: b, acts: a, angles: n.rope.upTo(b.positions())}
}

// forward runs all layers; a.last is the hidden state before the final norm.
func (n *network) forward(ctx context.Context, pool *kernel.Pool, b *batch, a *activations) error {
	rows, h := len(b.tokens), n.c.HiddenSize
	p := newPass(n, pool, b, a)
	la := a.prepare(n, 0, rows)
	la.x = la.input
	n.embedTokens(pool, la.x, b.tokens)
	for i := range n.layers {
		if err := cancelled(ctx); err != nil {
			return err
		}
		switch {
		case !a.keep:
			la.y = la.x
		case i+1 < len(n.layers):
			la.y = a.prepare(n, i+1, rows).input
		default:
			la.y = fit(&a.last, rows*h)
		}
		p.layer(i, la)
		if a.keep && i+1 < len(n.layers) {
			next := a.layers[i+1]
			next.x, la = la.y, next
		}
	}
	a.last = la.y
	return nil
}

// embedTokens copies the tokens' embeddings to the rows of x.
func (n *network) embedTokens(pool *kernel.Pool, x []float32, tokens []int) {
	h := n.c.HiddenSize
	rowBlocks(pool, len(tokens), func(r0, r1 int) {
		for r := r0; r < r1; r++ {
			n.embed.row(x[r*h:][:h], tokens[r])
		}
	})
}

// layer computes la.y from la.x.
func (p *pass) layer(i int, la *layerActs) {
	l, rows := &p.layers[i], len(p.batch.tokens)
	p.size(l, la, rows)
	inBlocks := largeBlocks
	if l.o.narrow != nil {
		inBlocks = oneBlock
	}
	inBlocks(p.pool, rows, func(r0, r1 int) { p.beforeAttention(i, la, r0, r1) })
	p.pool.Run(len(p.batch.tasks), func(t int) { p.attend(i, la, p.batch.tasks[t]) })
	inBlocks(p.pool, rows, func(r0, r1 int) { p.afterAttention(l, la, r0, r1) })
	if l.moe != nil {
		p.experts(l.moe, la)
	}
}

// size makes the layer's buffers fit.
func (p *pass) size(l *layer, la *layerActs, n int) {
	c := p.c
	h, heads, dk, dv := c.HiddenSize, c.NumAttentionHeads, c.QKHeadDim(), c.ValueHeadDim()
	fit(&la.norm1, n*h)
	fit(&la.rstd1, n)
	fit(&la.q, n*heads*dk)
	fit(&la.k, n*p.kvHeads()*dk)
	fit(&la.ctx, n*heads*dv)
	fit(&la.mid, n*h)
	fit(&la.norm2, n*h)
	fit(&la.rstd2, n)
	if l.mla != nil {
		la.mla.size(c, n)
	} else {
		la.gqa.size(c, n)
	}
	width := 0
	if l.mlp != nil {
		width = l.mlp.gate.out
	} else {
		la.moe.size(c, n)
		if l.moe.shared != nil {
			width = l.moe.shared.gate.out
			fit(&la.shared, n*h)
		}
	}
	fit(&la.gate, n*width)
	fit(&la.up, n*width)
	fit(&la.act, n*width)
}

// beforeAttention normalises the rows and makes queries, keys and values.
func (p *pass) beforeAttention(i int, la *layerActs, r0, r1 int) {
	s := p.acts.spare.Get().(*scratch)
	defer p.acts.spare.Put(s)
	l, h := &p.layers[i], p.c.HiddenSize
	p.each(r0, r1, func(r int, s *scratch) {
		la.rstd1[r] = p.rmsNorm(la.norm1[r*h:][:h], la.x[r*h:][:h], l.attnNorm.w, float32(p.c.RMSNormEps), s)
	})
	if l.mla != nil {
		p.latentQKV(l.mla, la, r0, r1, s)
	} else {
		p.groupedQKV(l.gqa, la, r0, r1, s)
	}
	p.remember(i, la, r0, r1)
}

// each calls f for rows [r0, r1), on several threads where some are idle.
func (p *pass) each(r0, r1 int, f func(r int, s *scratch)) {
	rowBlocks(p.pool, r1-r0, func(from, to int) {
		s := p.acts.spare.Get().(*scratch)
		defer p.acts.spare.Put(s)
		for r := r0 + from; r < r0+to; r++ {
			f(r, s)
		}
	})
}

// remember stores the rows' keys and values in their sequences' caches.
func (p *pass) remember(i int, la *layerActs, r0, r1 int) {
	dk, dv, heads := p.c.QKHeadDim(), p.c.ValueHeadDim(), p.kvHeads()
	p.each(r0, r1, func(r int, _ *scratch) {
		seq := p.batch.segs[p.batch.owner[r]].seq
		if seq == nil {
			return
		}
		for h := range heads {
			v, at := p.value(la, r, h)
			seq.put(i, h, p.batch.pos[r], la.k[(r*heads+h)*dk:][:dk], v[at:][:dv])
		}
	})
}

// value says where the value of a row and head lies.
func (p *pass) value(la *layerActs, row, head int) (data []float32, at int) {
	if la.mla.kvb != nil {
		width := p.c.QKNopeHeadDim + p.c.VHeadDim
		return la.mla.kvb, (row*p.c.NumAttentionHeads+head)*width + p.c.QKNopeHeadDim
	}
	return la.gqa.v, (row*p.c.NumKeyValueHeads + head) * p.c.HeadDim
}

// afterAttention projects the attention's output, adds the residual and, but
// for routed experts, computes the MLP.
func (p *pass) afterAttention(l *layer, la *layerActs, r0, r1 int) {
	s := p.acts.spare.Get().(*scratch)
	defer p.acts.spare.Put(s)
	h := p.c.HiddenSize
	l.o.apply(p.pool, view(la.ctx, r0, r1, l.o.in), view(la.mid, r0, r1, h), s)
	p.each(r0, r1, func(r int, s *scratch) {
		row := la.mid[r*h:][:h]
		kernel.Add(row, la.x[r*h:][:h])
		p.round(row)
		la.rstd2[r] = p.rmsNorm(la.norm2[r*h:][:h], row, l.mlpNorm.w, float32(p.c.RMSNormEps), s)
	})
	if l.moe != nil {
		p.route(l.moe, la, r0, r1, s)
		if l.moe.shared != nil {
			p.dense(l.moe.shared, la, la.shared, r0, r1, s)
		}
		return
	}
	p.dense(l.mlp, la, la.y, r0, r1, s)
	p.each(r0, r1, func(r int, _ *scratch) {
		row := la.y[r*h:][:h]
		kernel.Add(row, la.mid[r*h:][:h])
		p.round(row)
	})
}

// dense is down(SiLU(gate)·up) on rows of norm2.
func (p *pass) dense(m *mlp, la *layerActs, out []float32, r0, r1 int, s *scratch) {
	x, w := view(la.norm2, r0, r1, m.gate.in), m.gate.out
	applyAll(p.pool, x, s, application{m.gate, view(la.gate, r0, r1, w)}, application{m.up, view(la.up, r0, r1, w)})
	p.each(r0, r1, func(r int, _ *scratch) {
		p.siluMul(la.act[r*w:][:w], la.gate[r*w:][:w], la.up[r*w:][:w])
	})
	m.down.apply(p.pool, view(la.act, r0, r1, w), view(out, r0, r1, m.down.out), s)
}

// logits normalises gathered hidden rows into norm and multiplies them with
// the output head.
func (n *network) logits(pool *kernel.Pool, hidden, norm, rstd, out []float32, spare *scratch) {
	h, rows := n.c.HiddenSize, len(rstd)
	for r := range rows {
		rstd[r] = n.rmsNorm(norm[r*h:][:h], hidden[r*h:][:h], n.norm.w, float32(n.c.RMSNormEps), spare)
	}
	n.head.apply(pool, kernel.Dense(norm, rows, h), kernel.Dense(out, rows, n.c.VocabSize), spare)
}
