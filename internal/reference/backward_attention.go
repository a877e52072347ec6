package reference

import "tarbert/internal/reference/kernel"

// attentionBack takes g.ctx to the gradients of q, k and v. A task is one
// sequence and one key head, whose query heads and row blocks follow one
// another, so every sum has one order.
func (p *backward) attentionBack(layer int, la *layerActs) {
	heads := p.kvHeads()
	p.pool.Run(len(p.batch.segs)*heads, func(i int) {
		p.attendBack(layer, la, p.batch.segs[i/heads], i%heads)
	})
}

func (p *backward) attendBack(layer int, la *layerActs, g segment, kvHead int) {
	s := p.acts.spare.Get().(*scratch)
	defer p.acts.spare.Put(s)
	group := p.c.NumAttentionHeads / p.kvHeads()
	dk, dv := p.keyValueGrads(g, kvHead)
	for r := range g.rows {
		clear(dk.Data[r*dk.Stride:][:dk.Cols])
		clear(dv.Data[r*dv.Stride:][:dv.Cols])
	}
	for h := kvHead * group; h < (kvHead+1)*group; h++ {
		for r0 := 0; r0 < g.rows; r0 += blockRows {
			r1 := min(r0+blockRows, g.rows)
			p.attendBlockBack(layer, la, attnTask{head0: h, row0: r0, row1: r1}, g, dk.RowRange(0, r1), dv.RowRange(0, r1), s)
		}
	}
}

// keyValueGrads views where one key head's gradients go: keys [rows, dk] and
// values [rows, dv].
func (p *backward) keyValueGrads(g segment, head int) (dk, dv kernel.Mat) {
	width, kv := p.c.QKHeadDim(), p.kvHeads()
	dk = kernel.Mat{Data: p.g.k[(g.row*kv+head)*width:], Rows: g.rows, Cols: width, Stride: kv * width}
	values, at := p.g.v, (g.row*kv+head)*p.c.ValueHeadDim()
	if p.c.ModelType == DeepseekV3 {
		values, at = p.g.kvb, (g.row*kv+head)*(p.c.QKNopeHeadDim+p.c.VHeadDim)+p.c.QKNopeHeadDim
	}
	dv = kernel.Mat{Data: values[at:], Rows: g.rows, Cols: p.c.ValueHeadDim(), Stride: p.valueStride()}
	return dk, dv
}

// attendBlockBack is attention's gradient for one head and one block of rows:
// with P the probabilities (computed again) and dO the gradient of the output,
// dV += Pᵀ·dO, dP = dO·Vᵀ, dS = scale·P∘(dP − rowsum(P∘dP)), dQ = dS·K and
// dK += dSᵀ·Q.
func (p *backward) attendBlockBack(layer int, la *layerActs, t attnTask, g segment, dk, dv kernel.Mat, s *scratch) {
	rows, keys, first, h := t.row1-t.row0, t.row1, g.row+t.row0, t.head0
	heads, width := p.c.NumAttentionHeads, p.c.ValueHeadDim()
	probs := kernel.Dense(fit(&s.scores, rows*keys), rows, keys)
	ds := kernel.Dense(fit(&s.more, rows*keys), rows, keys)
	q := p.queries(la.q, first, h, rows)
	k, v := p.keysValues(la, g, h, keys)
	p.probabilities(probs, q, k, t.row0+1)

	do := kernel.Mat{Data: p.g.ctx[(first*heads+h)*width:], Rows: rows, Cols: width, Stride: heads * width}
	kernel.Gemm(nil, probs.Transpose(), do, dv, true)
	kernel.Gemm(nil, do, v.Transpose(), ds, false)
	for r := range rows {
		pr, dr := probs.Data[r*keys:][:keys], ds.Data[r*keys:][:keys]
		mean := kernel.Dot(pr, dr)
		kernel.Mul(dr, pr)
		kernel.Axpy(dr, -mean, pr)
		kernel.Scale(dr, p.scale)
	}
	kernel.Gemm(nil, ds, k.Transpose(), p.queries(p.g.q, first, h, rows), false)
	kernel.Gemm(nil, ds.Transpose(), q, dk, true)
}
