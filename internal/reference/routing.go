package reference

import (
	"fmt"
	"slices"
)

// Routing names the experts that the tokens of a sequence were sent to: one
// entry per MoE layer, in the order of RouterBias, with NumExpertsPerTok
// ascending ids per token, token after token.
//
// A policy that was sampled in other arithmetic than it is trained in sends
// some tokens elsewhere; training with the rollout's routing (routing replay,
// R3, arXiv:2510.11370) judges the network that drew the tokens.
type Routing [][]int32

// RecordRouting makes the sequence remember where its tokens are sent. It
// panics if the sequence has tokens already.
func (s *Sequence) RecordRouting() {
	if s.n > 0 {
		panic(fmt.Sprintf("reference: record the routing of a sequence that has %d tokens already", s.n))
	}
	s.routes = Routing{}
	for i := range s.net.layers {
		if s.net.layers[i].moe != nil {
			s.routes = append(s.routes, nil)
		}
	}
}

// Routing is a copy of what was recorded, of all the sequence's tokens; nil if
// nothing was.
func (s *Sequence) Routing() Routing {
	out := s.routes.clone()
	for i := range out {
		out[i] = out[i][:s.n*s.net.c.NumExpertsPerTok]
	}
	return out
}

func (r Routing) clone() Routing {
	if r == nil {
		return nil
	}
	out := make(Routing, len(r))
	for i := range r {
		out[i] = slices.Clone(r[i])
	}
	return out
}

// grow makes room for n choices per layer.
func (r Routing) grow(n int) {
	for i := range r {
		if len(r[i]) < n {
			r[i] = append(r[i], make([]int32, n-len(r[i]))...)
		}
	}
}

// check refuses a routing that so many tokens of this network cannot have.
func (r Routing) check(n *network, tokens int) error {
	layers, k := 0, n.c.NumExpertsPerTok
	for i := range n.layers {
		if n.layers[i].moe != nil {
			layers++
		}
	}
	if len(r) != layers {
		return fmt.Errorf("routing of %d layers for a model with %d of experts", len(r), layers)
	}
	for l, ids := range r {
		if len(ids) < tokens*k {
			return fmt.Errorf("routing has %d choices in layer %d of experts, and %d tokens need %d", len(ids), l, tokens, tokens*k)
		}
		for at := range tokens {
			last := int32(-1)
			for _, e := range ids[at*k:][:k] {
				if e <= last || int(e) >= n.c.NumExperts {
					return fmt.Errorf("routing of token %d in layer %d of experts is %v: want ascending ids below %d", at, l, ids[at*k:][:k], n.c.NumExperts)
				}
				last = e
			}
		}
	}
	return nil
}

// assign chooses a row's experts, puts those to be replayed in their place,
// and writes them down where its sequence records them.
func (p *pass) assign(m *moe, row int, ids []int32, scores []float32, s *scratch) {
	p.c.choose(ids, scores, m.bias, s)
	g, at := &p.batch.segs[p.batch.owner[row]], p.batch.pos[row]*len(ids)
	if g.replay != nil {
		if want := g.replay[m.order][at:][:len(ids)]; !slices.Equal(ids, want) {
			copy(ids, want)
			p.batch.rerouted.Add(1)
		}
	}
	if g.seq != nil && g.seq.routes != nil {
		copy(g.seq.routes[m.order][at:], ids)
	}
}
