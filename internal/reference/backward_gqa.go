package reference

import "tarbert/internal/reference/kernel"

// groupedBack takes the gradients of q and k (rotated) and v to that of norm1
// in g.norm.
func (p *backward) groupedBack(m *gqa, la *layerActs, r0, r1 int, s *scratch) {
	a, g, c := &la.gqa, p.g, p.c
	p.turnBack(&m.qNorm, g.qRaw, g.q, a.q, a.qRstd, r0, r1, c.NumAttentionHeads, s)
	p.turnBack(&m.kNorm, g.kRaw, g.k, a.k, a.kRstd, r0, r1, c.NumKeyValueHeads, s)
	norm := view(g.norm, r0, r1, c.HiddenSize)
	for i, x := range []struct {
		l  *linear
		dy []float32
	}{{m.q, g.qRaw}, {m.k, g.kRaw}, {m.v, g.v}} {
		dy := view(x.dy, r0, r1, x.l.out)
		x.l.biasGrad(dy, r0)
		x.l.backward(p.pool, dy, norm, i > 0)
	}
}

// turnBack undoes turnHeads: from dy, the gradient of the turned heads, to dx,
// that of the heads as projected.
func (p *backward) turnBack(norm *vec, dx, dy, x, rstd []float32, r0, r1, heads int, s *scratch) {
	d := p.c.HeadDim
	tmp := fit(&s.a, d)
	clear(dx[r0*heads*d : r1*heads*d])
	for r := r0; r < r1; r++ {
		dw := norm.partial(r)
		for h := range heads {
			at := r*heads + h
			p.rope.back(p.angles, dy[at*d:][:d], p.batch.pos[r], tmp)
			kernel.RMSNormBackward(dx[at*d:][:d], dw, x[at*d:][:d], norm.w, dy[at*d:][:d], rstd[at])
		}
	}
}
