package reference

import (
	"context"

	"tarbert/internal/reference/kernel"
)

// partials are a vector's gradient per block of rows. Blocks are cut the same
// way for any number of threads and added in order, so the sum's bits do not
// depend on who computed what.
type partials struct {
	buf  []float32
	rows int
}

// partial is the part of a vector's gradient that belongs to row r's block.
func (v *vec) partial(r int) []float32 {
	n := len(v.w)
	return v.part.buf[r/blockRows*n:][:n]
}

// open zeroes the parts for a batch of so many rows.
func (v *vec) open(rows int) {
	v.part.rows = rows
	clear(fit(&v.part.buf, (rows+blockRows-1)/blockRows*len(v.w)))
}

// close adds the parts into the gradient.
func (v *vec) close() {
	for r := 0; r < v.part.rows; r += blockRows {
		kernel.Add(v.g, v.partial(r))
	}
}

// backward sets, or adds to, dx = dy·W for rows of dy.
func (l *linear) backward(p *kernel.Pool, dy, dx kernel.Mat, accumulate bool) {
	kernel.GemmPacked(p, dy, l.back, dx, accumulate)
}

// biasGrad adds the rows of dy, from row r0 on, to their blocks' parts of the
// bias's gradient.
func (l *linear) biasGrad(dy kernel.Mat, r0 int) {
	if l.bias.w == nil {
		return
	}
	for i := range dy.Rows {
		kernel.Add(l.bias.partial(r0+i), dy.Data[i*dy.Stride:][:l.out])
	}
}

// layerGrads are the gradients inside one layer; the layers take turns.
type layerGrads struct {
	dy, mid, dx   []float32 // of the layer's output, of mid, of its input
	norm          []float32 // of norm2, later of norm1
	gate, up, act []float32
	ctx, q, k     []float32
	v             []float32 // gqa
	qRaw, kRaw    []float32 // gqa: as projected
	kvb           []float32 // mla, as are the following
	kva, latent   []float32
	qa, qaNorm    []float32
	scores        []float32 // moe: of the router's logits
	routerLSE     []float32 // moe, with the router's z-loss: log-sum-exp of its logits
	slotX, slotY  []float32 // moe, per slot
	slotGate      []float32
	slotUp        []float32
	slotAct       []float32

	weights []weightGrad
	inputs  []*kernel.Packed // of weights, in memory that the layers share
	tasks   []weightTask
}

// backward is one backward pass.
type backward struct {
	*pass
	g       *layerGrads
	extra   Penalties
	routerZ float64 // the router's z-loss so far
}

// layers takes g.dy, the gradient of the last layer's output, down to that of
// the embedded tokens, adding every parameter's gradient on the way.
func (p *backward) layers(ctx context.Context) error {
	for i := len(p.network.layers) - 1; i >= 0; i-- {
		if err := cancelled(ctx); err != nil {
			return err
		}
		p.layerBack(i, p.acts.layers[i])
		p.g.dy, p.g.dx = p.g.dx, p.g.dy
	}
	return nil
}

// layerBack takes g.dy to g.dx.
func (p *backward) layerBack(i int, la *layerActs) {
	l, rows, g := &p.network.layers[i], len(p.batch.tokens), p.g
	p.sizeGrads(l, rows)
	vectors := l.vectors()
	for _, v := range vectors {
		v.open(rows)
	}
	g.weights = g.weights[:0]
	if l.moe != nil {
		p.acts.blocks = la.moe.blocks(p.acts.blocks)
		rowBlocks(p.pool, rows, func(r0, r1 int) { p.routeBack(l.moe, la, r0, r1) })
		p.addRouterZ(rows)
		p.pool.Run(len(p.acts.blocks), func(b int) { p.expertBack(l.moe, la, p.acts.blocks[b]) })
	}
	largeBlocks(p.pool, rows, func(r0, r1 int) { p.afterAttentionBack(l, la, r0, r1) })
	p.attentionBack(i, la)
	largeBlocks(p.pool, rows, func(r0, r1 int) { p.beforeAttentionBack(l, la, r0, r1) })
	p.collect(l, la, rows)
	g.multiply(p.pool)
	for _, v := range vectors {
		v.close()
	}
}

func (p *backward) sizeGrads(l *layer, n int) {
	c, g := p.c, p.g
	h, heads, dk, dv := c.HiddenSize, c.NumAttentionHeads, c.QKHeadDim(), c.ValueHeadDim()
	fit(&g.mid, n*h)
	fit(&g.dx, n*h)
	fit(&g.norm, n*h)
	fit(&g.ctx, n*heads*dv)
	fit(&g.q, n*heads*dk)
	fit(&g.k, n*p.kvHeads()*dk)
	if l.mla != nil {
		fit(&g.kvb, n*l.mla.kvb.out)
		fit(&g.kva, n*l.mla.kva.out)
		fit(&g.latent, n*c.KVLoraRank)
		fit(&g.qa, n*c.QLoraRank)
		fit(&g.qaNorm, n*c.QLoraRank)
	} else {
		fit(&g.v, n*l.gqa.v.out)
		fit(&g.qRaw, n*l.gqa.q.out)
		fit(&g.kRaw, n*l.gqa.k.out)
	}
	width := 0
	switch {
	case l.mlp != nil:
		width = l.mlp.gate.out
	case l.moe.shared != nil:
		width = l.moe.shared.gate.out
	}
	fit(&g.gate, n*width)
	fit(&g.up, n*width)
	fit(&g.act, n*width)
	if l.moe != nil {
		slots := n * c.NumExpertsPerTok
		fit(&g.scores, n*c.NumExperts)
		fit(&g.routerLSE, n)
		fit(&g.slotX, slots*h)
		fit(&g.slotY, slots*h)
		fit(&g.slotGate, slots*c.MoEIntermediateSize)
		fit(&g.slotUp, slots*c.MoEIntermediateSize)
		fit(&g.slotAct, slots*c.MoEIntermediateSize)
	}
}

// vectors lists the layer's norms and biases.
func (l *layer) vectors() []*vec {
	all := []*vec{&l.attnNorm, &l.mlpNorm}
	var linears []*linear
	if l.mla != nil {
		all = append(all, &l.mla.kvaNorm)
		if l.mla.qa != nil {
			all = append(all, &l.mla.qaNorm)
			linears = append(linears, l.mla.qa)
		}
		linears = append(linears, l.mla.kva, l.o)
	} else {
		all = append(all, &l.gqa.qNorm, &l.gqa.kNorm)
		linears = append(linears, l.gqa.q, l.gqa.k, l.gqa.v, l.o)
	}
	for _, x := range linears {
		if x.bias.w != nil {
			all = append(all, &x.bias)
		}
	}
	return all
}

// afterAttentionBack takes g.dy to g.mid and g.ctx.
func (p *backward) afterAttentionBack(l *layer, la *layerActs, r0, r1 int) {
	g, h := p.g, p.c.HiddenSize
	if l.mlp != nil {
		p.denseBack(l.mlp, la, r0, r1, false)
	} else {
		if l.moe.shared != nil {
			p.denseBack(l.moe.shared, la, r0, r1, true)
		}
		p.gatherBack(la, r0, r1)
	}
	copy(g.mid[r0*h:r1*h], g.dy[r0*h:r1*h])
	for r := r0; r < r1; r++ {
		dw := l.mlpNorm.partial(r)
		kernel.RMSNormBackward(g.mid[r*h:][:h], dw, la.mid[r*h:][:h], l.mlpNorm.w, g.norm[r*h:][:h], la.rstd2[r])
	}
	mid := view(g.mid, r0, r1, h)
	l.o.biasGrad(mid, r0)
	l.o.backward(p.pool, mid, view(g.ctx, r0, r1, l.o.in), false)
}

// denseBack takes g.dy to the gradient of norm2, set or added in g.norm.
func (p *backward) denseBack(m *mlp, la *layerActs, r0, r1 int, accumulate bool) {
	g, w := p.g, m.gate.out
	act := view(g.act, r0, r1, w)
	m.down.backward(p.pool, view(g.dy, r0, r1, m.down.out), act, false)
	lo, hi := r0*w, r1*w
	kernel.SiLUMulBackward(g.gate[lo:hi], g.up[lo:hi], la.gate[lo:hi], la.up[lo:hi], g.act[lo:hi])
	norm := view(g.norm, r0, r1, m.gate.in)
	m.gate.backward(p.pool, view(g.gate, r0, r1, w), norm, accumulate)
	m.up.backward(p.pool, view(g.up, r0, r1, w), norm, true)
}

// beforeAttentionBack takes the gradients of q, k, v and mid to g.dx.
func (p *backward) beforeAttentionBack(l *layer, la *layerActs, r0, r1 int) {
	s := p.acts.spare.Get().(*scratch)
	defer p.acts.spare.Put(s)
	g, h := p.g, p.c.HiddenSize
	if l.mla != nil {
		p.latentBack(l.mla, la, r0, r1, s)
	} else {
		p.groupedBack(l.gqa, la, r0, r1, s)
	}
	copy(g.dx[r0*h:r1*h], g.mid[r0*h:r1*h])
	for r := r0; r < r1; r++ {
		dw := l.attnNorm.partial(r)
		kernel.RMSNormBackward(g.dx[r*h:][:h], dw, la.x[r*h:][:h], l.attnNorm.w, g.norm[r*h:][:h], la.rstd1[r])
	}
}

// collect queues the layer's weight gradients, experts apart by their slots.
func (p *backward) collect(l *layer, la *layerActs, n int) {
	g := p.g
	mlps := func(m *mlp) {
		g.need(m.gate, g.gate, la.norm2, 0, n)
		g.need(m.up, g.up, la.norm2, 0, n)
		g.need(m.down, g.dy, la.act, 0, n)
	}
	if l.mlp != nil {
		mlps(l.mlp)
	}
	if m := l.moe; m != nil {
		if m.shared != nil {
			mlps(m.shared)
		}
		a := &la.moe
		for e := range m.experts {
			x, from, to := &m.experts[e], a.start[e], a.start[e+1]
			g.need(x.gate, g.slotGate, a.x, from, to)
			g.need(x.up, g.slotUp, a.x, from, to)
			g.need(x.down, g.slotY, a.act, from, to)
		}
		g.need(m.router, g.scores, la.norm2, 0, n)
	}
	g.need(l.o, g.mid, la.ctx, 0, n)
	if m := l.mla; m != nil {
		g.need(m.kvb, g.kvb, la.mla.latent, 0, n)
		g.need(m.kva, g.kva, la.norm1, 0, n)
		if m.q != nil {
			g.need(m.q, g.q, la.norm1, 0, n)
		} else {
			g.need(m.qb, g.q, la.mla.qaNorm, 0, n)
			g.need(m.qa, g.qa, la.norm1, 0, n)
		}
		return
	}
	g.need(l.gqa.q, g.qRaw, la.norm1, 0, n)
	g.need(l.gqa.k, g.kRaw, la.norm1, 0, n)
	g.need(l.gqa.v, g.v, la.norm1, 0, n)
}
