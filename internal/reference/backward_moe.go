package reference

import "tarbert/internal/reference/kernel"

// routeBack takes g.dy to the gradient of the router's logits and, through
// them, starts that of norm2 in g.norm. The choice of experts has no gradient.
func (p *backward) routeBack(m *moe, la *layerActs, r0, r1 int) {
	s := p.acts.spare.Get().(*scratch)
	defer p.acts.spare.Put(s)
	a, g, c := &la.moe, p.g, p.c
	h, e, k := c.HiddenSize, c.NumExperts, c.NumExpertsPerTok
	dw := fit(&s.a, k)
	for r := r0; r < r1; r++ {
		for j := range k {
			dw[j] = kernel.Dot(g.dy[r*h:][:h], a.y[int(a.slot[r*k+j])*h:][:h])
		}
		c.weighBack(g.scores[r*e:][:e], dw, a.ids[r*k:][:k], a.scores[r*e:][:e])
	}
	if p.extra.RouterZ != 0 {
		p.routerZBack(m, la, r0, r1, s)
	}
	m.router.backward(p.pool, view(g.scores, r0, r1, e), view(g.norm, r0, r1, h), false)
}

// routerZBack adds the gradient of the router's z-loss to that of its logits,
// which are computed again, and keeps each row's log-sum-exp.
func (p *backward) routerZBack(m *moe, la *layerActs, r0, r1 int, s *scratch) {
	g, e := p.g, p.c.NumExperts
	logits := fit(&s.b, (r1-r0)*e)
	m.router.apply(p.pool, view(la.norm2, r0, r1, p.c.HiddenSize), kernel.Dense(logits, r1-r0, e), s)
	for r := r0; r < r1; r++ {
		row := logits[(r-r0)*e:][:e]
		g.routerLSE[r] = kernel.LogSumExp(row)
		kernel.Softmax(row, row)
		kernel.Axpy(g.scores[r*e:][:e], float32(2*p.extra.RouterZ*float64(g.routerLSE[r])), row)
	}
}

// addRouterZ adds a layer's rows to the router's z-loss, in order.
func (p *backward) addRouterZ(rows int) {
	if p.extra.RouterZ == 0 {
		return
	}
	sum := 0.0
	for _, lse := range p.g.routerLSE[:rows] {
		sum += float64(lse) * float64(lse)
	}
	p.routerZ += p.extra.RouterZ * sum
}

// weighBack takes the gradient of the chosen experts' weights to that of the
// router's logits.
func (c *Config) weighBack(dlogits, dw []float32, ids []int32, scores []float32) {
	if c.ModelType == DeepseekV3 {
		kernel.Scale(dw, float32(c.RoutedScalingFactor))
	}
	if c.NormTopKProb {
		var sum, mean float32
		for i, e := range ids {
			sum += scores[e]
			mean += float32(dw[i] * scores[e])
		}
		if c.ModelType == DeepseekV3 {
			sum += 1e-20
		}
		mean /= sum
		for i := range dw {
			dw[i] = (dw[i] - mean) / sum
		}
	}
	clear(dlogits)
	if c.ModelType == DeepseekV3 { // sigmoid
		for i, e := range ids {
			dlogits[e] = dw[i] * float32(scores[e]*(1-scores[e]))
		}
		return
	}
	var mean float32 // softmax
	for i, e := range ids {
		dlogits[e] = dw[i]
		mean += float32(dw[i] * scores[e])
	}
	for e, s := range scores {
		dlogits[e] = s * (dlogits[e] - mean)
	}
}

// expertBack is one expert's gradient for some of its slots.
func (p *backward) expertBack(m *moe, la *layerActs, b slotBlock) {
	a, g, c := &la.moe, p.g, p.c
	h, w, k := c.HiddenSize, c.MoEIntermediateSize, c.NumExpertsPerTok
	for j := b.from; j < b.to; j++ {
		pair := int(a.pair[j])
		dy := g.slotY[j*h:][:h]
		copy(dy, g.dy[pair/k*h:][:h])
		kernel.Scale(dy, a.weights[pair])
	}
	f := &m.experts[b.expert]
	f.down.backward(p.pool, view(g.slotY, b.from, b.to, h), view(g.slotAct, b.from, b.to, w), false)
	lo, hi := b.from*w, b.to*w
	kernel.SiLUMulBackward(g.slotGate[lo:hi], g.slotUp[lo:hi], a.gate[lo:hi], a.up[lo:hi], g.slotAct[lo:hi])
	dx := view(g.slotX, b.from, b.to, h)
	f.gate.backward(p.pool, view(g.slotGate, b.from, b.to, w), dx, false)
	f.up.backward(p.pool, view(g.slotUp, b.from, b.to, w), dx, true)
}

// gatherBack adds the experts' gradients of norm2 to each row, in ascending
// order of the experts.
func (p *backward) gatherBack(la *layerActs, r0, r1 int) {
	a, g, h, k := &la.moe, p.g, p.c.HiddenSize, p.c.NumExpertsPerTok
	for r := r0; r < r1; r++ {
		for j := r * k; j < (r+1)*k; j++ {
			kernel.Add(g.norm[r*h:][:h], g.slotX[int(a.slot[j])*h:][:h])
		}
	}
}
