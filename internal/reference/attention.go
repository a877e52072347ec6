package reference

import "tarbert/internal/reference/kernel"

// attend computes causal attention for one task. A row's scores are chains
// over the head's width, its softmax covers exactly the keys it may see, and
// its output is a chain over those keys in order; keys after it enter with
// probability zero, which leaves a chain as it is.
func (p *pass) attend(layer int, la *layerActs, t attnTask) {
	s := p.acts.spare.Get().(*scratch)
	defer p.acts.spare.Put(s)
	g := p.batch.segs[t.seg]
	heads, dv := p.c.NumAttentionHeads, p.c.ValueHeadDim()
	rows, keys := t.row1-t.row0, g.past+t.row1
	first := g.row + t.row0
	scores := kernel.Dense(fit(&s.scores, rows*keys), rows, keys)
	for h := t.head0; h < t.head1; h++ {
		q := p.queries(la.q, first, h, rows)
		var v kernel.Mat
		if g.seq != nil {
			var k kernel.Packed
			k, v = p.cached(layer, g, h, keys)
			kernel.GemmPacked(nil, q, &k, scores, false)
			p.softmax(scores, g.past+t.row0+1)
		} else {
			var k kernel.Mat
			k, v = p.keysValues(la, g, h, keys)
			p.probabilities(scores, q, k, t.row0+1)
		}
		out := kernel.Mat{Data: la.ctx[(first*heads+h)*dv:], Rows: rows, Cols: dv, Stride: heads * dv}
		kernel.Gemm(nil, scores, v, out, false)
		if p.bf16 {
			for r := range rows {
				kernel.RoundBF16(out.Data[r*out.Stride:][:dv])
			}
		}
	}
}

// queries views one head's rows of a [N, heads·dk] buffer.
func (p *pass) queries(q []float32, first, head, rows int) kernel.Mat {
	heads, dk := p.c.NumAttentionHeads, p.c.QKHeadDim()
	return kernel.Mat{Data: q[(first*heads+head)*dk:], Rows: rows, Cols: dk, Stride: heads * dk}
}

// probabilities fills scores with softmax(scale · q·k) row by row; row r sees
// seen+r keys.
func (p *pass) probabilities(scores, q, k kernel.Mat, seen int) {
	kernel.Gemm(nil, q, k, scores, false)
	p.softmax(scores, seen)
}

// softmax turns products of queries and keys into probabilities; row r sees
// seen+r keys.
func (p *pass) softmax(scores kernel.Mat, seen int) {
	for r := range scores.Rows {
		row := scores.Data[r*scores.Stride:][:scores.Cols]
		visible := row[:seen+r]
		kernel.Scale(visible, p.scale)
		kernel.Softmax(visible, visible)
		if p.bf16 {
			kernel.RoundBF16(visible)
		}
		clear(row[seen+r:])
	}
}

// cached views a head's keys, [dk, keys], and values, [keys, dv], in the
// sequence's cache.
func (p *pass) cached(layer int, g segment, head, keys int) (k kernel.Packed, v kernel.Mat) {
	dk, dv := p.c.QKHeadDim(), p.c.ValueHeadDim()
	c, at := &g.seq.layers[layer], head*p.kvHeads()/p.c.NumAttentionHeads*g.seq.cap
	return kernel.View(c.k[at*dk:], dk, keys), kernel.Mat{Data: c.v[at*dv:], Rows: keys, Cols: dv, Stride: dv}
}

// keysValues views a head's keys, transposed [dk, keys], and values [keys, dv]
// among the activations of training.
func (p *pass) keysValues(la *layerActs, g segment, head, keys int) (k, v kernel.Mat) {
	dk, kv := p.c.QKHeadDim(), p.kvHeads()
	head = head * kv / p.c.NumAttentionHeads
	k = kernel.Mat{Data: la.k[(g.row*kv+head)*dk:], Rows: dk, Cols: keys, Stride: kv * dk, T: true}
	data, at := p.value(la, g.row, head)
	v = kernel.Mat{Data: data[at:], Rows: keys, Cols: p.c.ValueHeadDim(), Stride: p.valueStride()}
	return k, v
}

// valueStride is the distance between rows where value finds them.
func (p *pass) valueStride() int {
	if p.c.ModelType == DeepseekV3 {
		return p.c.NumAttentionHeads * (p.c.QKNopeHeadDim + p.c.VHeadDim)
	}
	return p.c.NumKeyValueHeads * p.c.HeadDim
}
