package reference

// loraEps is the epsilon of the norms inside multi-head latent attention:
// transformers fixes it whatever rms_norm_eps says (vLLM uses rms_norm_eps;
// published models have 1e-6, where the two agree).
const loraEps = 1e-6

func (a *mlaActs) size(c *Config, n int) {
	if c.QLoraRank > 0 {
		fit(&a.qa, n*c.QLoraRank)
		fit(&a.qaNorm, n*c.QLoraRank)
		fit(&a.qaRstd, n)
	}
	fit(&a.kva, n*(c.KVLoraRank+c.QKRopeHeadDim))
	fit(&a.latent, n*c.KVLoraRank)
	fit(&a.rstd, n)
	fit(&a.kvb, n*c.NumAttentionHeads*(c.QKNopeHeadDim+c.VHeadDim))
}

// latentQKV makes q, k and (inside kvb) v for rows of norm1.
func (p *pass) latentQKV(m *mla, la *layerActs, r0, r1 int, s *scratch) {
	a, c := &la.mla, p.c
	x := view(la.norm1, r0, r1, c.HiddenSize)
	heads, dk, lora := c.NumAttentionHeads, c.QKHeadDim(), c.KVLoraRank
	q := application{m.q, view(la.q, r0, r1, heads*dk)}
	if m.q == nil {
		q = application{m.qa, view(a.qa, r0, r1, c.QLoraRank)}
	}
	applyAll(p.pool, x, s, q, application{m.kva, view(a.kva, r0, r1, m.kva.out)})
	p.each(r0, r1, func(r int, s *scratch) {
		if w := c.QLoraRank; m.q == nil {
			a.qaRstd[r] = p.rmsNorm(a.qaNorm[r*w:][:w], a.qa[r*w:][:w], m.qaNorm.w, loraEps, s)
		}
		a.rstd[r] = p.rmsNorm(a.latent[r*lora:][:lora], a.kva[r*m.kva.out:][:lora], m.kvaNorm.w, loraEps, s)
	})
	if m.q == nil {
		m.qb.apply(p.pool, view(a.qaNorm, r0, r1, c.QLoraRank), view(la.q, r0, r1, heads*dk), s)
	}
	m.kvb.apply(p.pool, view(a.latent, r0, r1, lora), view(a.kvb, r0, r1, m.kvb.out), s)
	p.each(r0, r1, func(r int, s *scratch) { p.latentKeys(m, la, r, s) })
}

// latentKeys rotates a row's queries and puts each head's key together: its own
// part from kvb, then the rotated part that all heads share.
func (p *pass) latentKeys(m *mla, la *layerActs, r int, s *scratch) {
	a, c := &la.mla, p.c
	heads, dk, nope, rope := c.NumAttentionHeads, c.QKHeadDim(), c.QKNopeHeadDim, c.QKRopeHeadDim
	tmp, shared := fit(&s.a, rope), fit(&s.b, rope)
	pos := p.batch.pos[r]
	copy(shared, a.kva[r*m.kva.out+c.KVLoraRank:][:rope])
	p.rope.rotate(p.angles, shared, pos, tmp)
	for h := range heads {
		p.rope.rotate(p.angles, la.q[(r*heads+h)*dk+nope:][:rope], pos, tmp)
		k := la.k[(r*heads+h)*dk:][:dk]
		copy(k, a.kvb[(r*heads+h)*(nope+c.VHeadDim):][:nope])
		copy(k[nope:], shared)
	}
}
