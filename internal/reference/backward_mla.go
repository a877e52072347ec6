package reference

import "tarbert/internal/reference/kernel"

// latentBack takes the gradients of q and k (rotated) and of kvb's values to
// that of norm1 in g.norm.
func (p *backward) latentBack(m *mla, la *layerActs, r0, r1 int, s *scratch) {
	a, g, c := &la.mla, p.g, p.c
	lora, all := c.KVLoraRank, m.kva.out
	p.latentKeysBack(m, r0, r1, s)
	m.kvb.backward(p.pool, view(g.kvb, r0, r1, m.kvb.out), view(g.latent, r0, r1, lora), false)
	for r := r0; r < r1; r++ {
		dx := g.kva[r*all:][:lora]
		clear(dx)
		kernel.RMSNormBackward(dx, m.kvaNorm.partial(r), a.kva[r*all:][:lora], m.kvaNorm.w, g.latent[r*lora:][:lora], a.rstd[r])
	}
	norm, kva := view(g.norm, r0, r1, c.HiddenSize), view(g.kva, r0, r1, all)
	m.kva.biasGrad(kva, r0)
	m.kva.backward(p.pool, kva, norm, false)
	if m.q != nil {
		m.q.backward(p.pool, view(g.q, r0, r1, m.q.out), norm, true)
		return
	}
	w := c.QLoraRank
	m.qb.backward(p.pool, view(g.q, r0, r1, m.qb.out), view(g.qaNorm, r0, r1, w), false)
	clear(g.qa[r0*w : r1*w])
	for r := r0; r < r1; r++ {
		kernel.RMSNormBackward(g.qa[r*w:][:w], m.qaNorm.partial(r), a.qa[r*w:][:w], m.qaNorm.w, g.qaNorm[r*w:][:w], a.qaRstd[r])
	}
	m.qa.biasGrad(view(g.qa, r0, r1, w), r0)
	m.qa.backward(p.pool, view(g.qa, r0, r1, w), norm, true)
}

// latentKeysBack undoes latentKeys: turns the queries' gradients back, hands
// each head's own key part to kvb and the sum of the shared parts to kva.
func (p *backward) latentKeysBack(m *mla, r0, r1 int, s *scratch) {
	g, c := p.g, p.c
	heads, dk, nope, rope := c.NumAttentionHeads, c.QKHeadDim(), c.QKNopeHeadDim, c.QKRopeHeadDim
	tmp := fit(&s.a, rope)
	for r := r0; r < r1; r++ {
		pos := p.batch.pos[r]
		shared := g.kva[r*m.kva.out+c.KVLoraRank:][:rope]
		clear(shared)
		for h := range heads {
			p.rope.back(p.angles, g.q[(r*heads+h)*dk+nope:][:rope], pos, tmp)
			k := g.k[(r*heads+h)*dk:][:dk]
			copy(g.kvb[(r*heads+h)*(nope+c.VHeadDim):][:nope], k)
			kernel.Add(shared, k[nope:])
		}
		p.rope.back(p.angles, shared, pos, tmp)
	}
}
