package reference

import (
	"math"
	"slices"

	"tarbert/internal/reference/kernel"
)

func (a *moeActs) size(c *Config, n int) {
	pairs := n * c.NumExpertsPerTok
	fit(&a.scores, n*c.NumExperts)
	fit(&a.ids, pairs)
	fit(&a.weights, pairs)
	fit(&a.start, c.NumExperts+1)
	fit(&a.pair, pairs)
	fit(&a.slot, pairs)
	fit(&a.x, pairs*c.HiddenSize)
	fit(&a.gate, pairs*c.MoEIntermediateSize)
	fit(&a.up, pairs*c.MoEIntermediateSize)
	fit(&a.act, pairs*c.MoEIntermediateSize)
	fit(&a.y, pairs*c.HiddenSize)
}

// route scores the experts for rows of norm2 and chooses each row's.
func (p *pass) route(m *moe, la *layerActs, r0, r1 int, s *scratch) {
	a, e, k := &la.moe, p.c.NumExperts, p.c.NumExpertsPerTok
	m.router.apply(p.pool, view(la.norm2, r0, r1, p.c.HiddenSize), view(a.scores, r0, r1, e), s)
	p.each(r0, r1, func(r int, s *scratch) {
		scores := a.scores[r*e:][:e]
		if m.bias != nil {
			kernel.Sigmoid(scores, scores)
		} else {
			kernel.Softmax(scores, scores)
		}
		ids := a.ids[r*k:][:k]
		p.assign(m, r, ids, scores, s)
		p.c.weigh(a.weights[r*k:][:k], ids, scores)
	})
}

// choose fills ids with the chosen experts in ascending order. With a bias
// (deepseek_v3) it is added for the choice only, and experts outside the best
// groups are out (−Inf, as transformers 5 and vLLM have it; transformers 4.57
// counted them as zero); a group's score is the sum of
// its two best. Of equal scores the lower index wins.
func (c *Config) choose(ids []int32, scores, bias []float32, s *scratch) {
	choice := fit(&s.a, len(scores))
	copy(choice, scores)
	if bias != nil {
		kernel.Add(choice, bias)
	}
	if bias != nil && c.NumGroup > 1 {
		c.maskGroups(choice, s)
	}
	for i := range ids {
		best := 0
		for e := 1; e < len(choice); e++ {
			if choice[e] > choice[best] {
				best = e
			}
		}
		ids[i] = int32(best)
		choice[best] = float32(math.Inf(-1))
	}
	slices.Sort(ids)
}

func (c *Config) maskGroups(choice []float32, s *scratch) {
	width := len(choice) / c.NumGroup
	groups := fit(&s.b, c.NumGroup)
	for g := range groups {
		first, second := float32(math.Inf(-1)), float32(math.Inf(-1))
		for _, v := range choice[g*width:][:width] {
			switch {
			case v > first:
				first, second = v, first
			case v > second:
				second = v
			}
		}
		groups[g] = first + second
	}
	for range c.NumGroup - c.TopKGroup {
		worst := -1
		for g, v := range groups {
			if !math.IsInf(float64(v), 1) && (worst < 0 || v <= groups[worst]) {
				worst = g
			}
		}
		for i := range width {
			choice[worst*width+i] = float32(math.Inf(-1))
		}
		groups[worst] = float32(math.Inf(1))
	}
}

// weigh sets the weights of the chosen experts.
func (c *Config) weigh(weights []float32, ids []int32, scores []float32) {
	var sum float32
	for i, e := range ids {
		weights[i] = scores[e]
		sum += scores[e]
	}
	if c.NormTopKProb {
		if c.ModelType == DeepseekV3 {
			sum += 1e-20
		}
		for i := range weights {
			weights[i] /= sum
		}
	}
	if c.ModelType == DeepseekV3 {
		kernel.Scale(weights, float32(c.RoutedScalingFactor))
	}
}

// group sorts the choices by expert: rows in order inside each expert.
func (a *moeActs) group(experts int) {
	clear(a.start)
	for _, e := range a.ids {
		a.start[e+1]++
	}
	for e := range experts {
		a.start[e+1] += a.start[e]
	}
	for pair, e := range a.ids {
		at := a.start[e]
		a.start[e]++
		a.pair[at] = int32(pair)
		a.slot[pair] = int32(at)
	}
	copy(a.start[1:], a.start[:experts])
	a.start[0] = 0
}

// slotBlock is a run of slots of one expert.
type slotBlock struct{ expert, from, to int }

// blocks cuts the experts' slots into tasks of at most blockRows.
func (a *moeActs) blocks(out []slotBlock) []slotBlock {
	out = out[:0]
	for e := range len(a.start) - 1 {
		for from := a.start[e]; from < a.start[e+1]; from += blockRows {
			out = append(out, slotBlock{e, from, min(from+blockRows, a.start[e+1])})
		}
	}
	return out
}

// experts computes the routed experts and adds them, the shared experts and
// the residual into la.y.
func (p *pass) experts(m *moe, la *layerActs) {
	a := &la.moe
	a.group(p.c.NumExperts)
	p.acts.blocks = a.blocks(p.acts.blocks)
	p.pool.Run(len(p.acts.blocks), func(i int) { p.expert(m, la, p.acts.blocks[i]) })
	rowBlocks(p.pool, len(p.batch.tokens), func(r0, r1 int) { p.combine(m, la, r0, r1) })
}

// expert computes one expert for some of its slots.
func (p *pass) expert(m *moe, la *layerActs, b slotBlock) {
	s := p.acts.spare.Get().(*scratch)
	defer p.acts.spare.Put(s)
	a, h, w, k := &la.moe, p.c.HiddenSize, p.c.MoEIntermediateSize, p.c.NumExpertsPerTok
	for j := b.from; j < b.to; j++ {
		copy(a.x[j*h:][:h], la.norm2[int(a.pair[j])/k*h:][:h])
	}
	x := view(a.x, b.from, b.to, h)
	f := &m.experts[b.expert]
	applyAll(p.pool, x, s, application{f.gate, view(a.gate, b.from, b.to, w)}, application{f.up, view(a.up, b.from, b.to, w)})
	for j := b.from; j < b.to; j++ {
		p.siluMul(a.act[j*w:][:w], a.gate[j*w:][:w], a.up[j*w:][:w])
	}
	f.down.apply(p.pool, view(a.act, b.from, b.to, w), view(a.y, b.from, b.to, h), s)
}

// combine adds each row's experts in ascending order.
func (p *pass) combine(m *moe, la *layerActs, r0, r1 int) {
	s := p.acts.spare.Get().(*scratch)
	defer p.acts.spare.Put(s)
	a, h, k := &la.moe, p.c.HiddenSize, p.c.NumExpertsPerTok
	sum := fit(&s.a, h)
	for r := r0; r < r1; r++ {
		clear(sum)
		for j := r * k; j < (r+1)*k; j++ {
			kernel.Axpy(sum, a.weights[j], a.y[int(a.slot[j])*h:][:h])
		}
		p.round(sum)
		if m.shared != nil {
			kernel.Add(sum, la.shared[r*h:][:h])
			p.round(sum)
		}
		y := la.y[r*h:][:h]
		copy(y, la.mid[r*h:][:h])
		kernel.Add(y, sum)
		p.round(y)
	}
}
