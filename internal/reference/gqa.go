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
	m.q.apply(p.pool, x, view(a.q, r0, r1, m.q.out), s)
	m.k.apply(p.pool, x, view(a.k, r0, r1, m.k.out), s)
	m.v.apply(p.pool, x, view(a.v, r0, r1, m.v.out), s)
	p.turnHeads(la.q, a.q, a.qRstd, m.qNorm.w, r0, r1, c.NumAttentionHeads, s)
	p.turnHeads(la.k, a.k, a.kRstd, m.kNorm.w, r0, r1, c.NumKeyValueHeads, s)
}

// turnHeads normalises and rotates every head of rows [r0, r1).
func (p *pass) turnHeads(dst, src, rstd, weight []float32, r0, r1, heads int, s *scratch) {
	d := p.c.HeadDim
	tmp := fit(&s.a, d)
	for r := r0; r < r1; r++ {
		for h := range heads {
			at := r*heads + h
			rstd[at] = p.rmsNorm(dst[at*d:][:d], src[at*d:][:d], weight, float32(p.c.RMSNormEps), s)
			p.rope.rotate(p.angles, dst[at*d:][:d], p.batch.pos[r], tmp)
		}
	}
}
