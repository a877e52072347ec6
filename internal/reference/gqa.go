package reference

func (a *gqaActs) size(c *Config, n int) {
	fit(&a.q, n*c.NumAttentionHeads*c.HeadDim)
	fit(&a.k, n*c.NumKeyValueHeads*c.HeadDim)
	fit(&a.v, n*c.NumKeyValueHeads*c.HeadDim)
	fit(&a.qRstd, n*c.NumAttentionHeads)
	fit(&a.kRstd, n*c.NumKeyValueHeads)
}

// groupedQKV makes q, k and v for rows of norm1; each head of q and k is
// normalised before it is rotated.
func (p *pass) groupedQKV(m *gqa, la *layerActs, r0, r1 int, s *scratch) {
	a, c := &la.gqa, p.c
	x := view(la.norm1, r0, r1, c.HiddenSize)
	applyAll(p.pool, x, s, application{m.q, view(a.q, r0, r1, m.q.out)},
		application{m.k, view(a.k, r0, r1, m.k.out)}, application{m.v, view(a.v, r0, r1, m.v.out)})
	p.each(r0, r1, func(r int, s *scratch) {
		p.turnHeads(la.q, a.q, a.qRstd, m.qNorm.w, r, c.NumAttentionHeads, s)
		p.turnHeads(la.k, a.k, a.kRstd, m.kNorm.w, r, c.NumKeyValueHeads, s)
	})
}

// turnHeads normalises and rotates every head of a row.
func (p *pass) turnHeads(dst, src, rstd, weight []float32, r, heads int, s *scratch) {
	d := p.c.HeadDim
	tmp := fit(&s.a, d)
	for at := r * heads; at < (r+1)*heads; at++ {
		rstd[at] = p.rmsNorm(dst[at*d:][:d], src[at*d:][:d], weight, float32(p.c.RMSNormEps), s)
		p.rope.rotate(p.angles, dst[at*d:][:d], p.batch.pos[r], tmp)
	}
}
