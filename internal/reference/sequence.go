package reference

import (
	"fmt"

	"tarbert/internal/reference/kernel"
)

// Sequence is the KV cache of one growing text. A Sequence belongs to the
// model that made it and is used by one Forward at a time.
type Sequence struct {
	net    *network
	n      int
	cap    int
	layers []cache
	routes Routing // nil: not recorded
}

// cache holds one layer's keys, per head as panels of 32 keys in the layout of
// kernel.Packed, and values, [heads, cap, dim]: attention reads both where they
// lie. cap is a multiple of 32.
type cache struct{ k, v []float32 }

// NewSequence returns an empty sequence.
func (m *Model) NewSequence() *Sequence {
	return &Sequence{net: m.net, layers: make([]cache, len(m.net.layers))}
}

// Len is the number of tokens in the cache.
func (s *Sequence) Len() int { return s.n }

// Truncate forgets all tokens after the first n. It panics if there are fewer.
func (s *Sequence) Truncate(n int) {
	if n < 0 || n > s.n {
		panic(fmt.Sprintf("reference: truncate a sequence of %d tokens to %d", s.n, n))
	}
	s.n = n
}

// Clone copies the sequence, so that several continuations can share the work
// of one prompt.
func (s *Sequence) Clone() *Sequence {
	out := &Sequence{net: s.net, n: s.n, layers: make([]cache, len(s.layers))}
	if s.n > 0 {
		s.copyTo(out, s.cap)
	}
	out.routes = s.routes.clone()
	return out
}

// kvHeads is the number of cached heads: all of them with latent attention,
// whose keys and values are cached expanded.
func (n *network) kvHeads() int { return n.c.NumKeyValueHeads }

// Reserve makes room for n tokens in all, so that the cache of a text whose
// length is known does not have to grow under way. It changes no bits. More
// than max_position_embeddings is taken as that.
func (s *Sequence) Reserve(n int) {
	if n = min(n, s.net.c.MaxPositionEmbeddings); n > s.cap {
		s.copyTo(s, n)
	}
}

// reserve makes room for n tokens, and more where it has to grow.
func (s *Sequence) reserve(n int) {
	s.routes.grow(n * s.net.c.NumExpertsPerTok)
	if n <= s.cap {
		return
	}
	room := max(2*s.cap, n+31) // with room for a short answer
	room = min(room, max(n, s.net.c.MaxPositionEmbeddings))
	s.copyTo(s, room)
}

// copyTo gives to a cache for room tokens, in whole panels, with s's contents;
// to may be s.
func (s *Sequence) copyTo(to *Sequence, room int) {
	room = (room + kernel.PanelCols - 1) / kernel.PanelCols * kernel.PanelCols
	heads, dk, dv := s.net.kvHeads(), s.net.c.QKHeadDim(), s.net.c.ValueHeadDim()
	for i, old := range s.layers {
		grown := cache{k: make([]float32, heads*dk*room), v: make([]float32, heads*room*dv)}
		for h := range heads {
			copy(grown.k[h*room*dk:], old.k[h*s.cap*dk:][:s.cap*dk])
			copy(grown.v[h*room*dv:], old.v[h*s.cap*dv:][:s.n*dv])
		}
		to.layers[i] = grown
	}
	to.cap = room
}

// Rewrite lets f change what the cache holds of every token from the given
// position on, head by head: what a cache in fewer bits would give back.
func (s *Sequence) Rewrite(from int, f func(key, value []float32)) {
	heads, dk, dv := s.net.kvHeads(), s.net.c.QKHeadDim(), s.net.c.ValueHeadDim()
	key := make([]float32, dk)
	for layer, c := range s.layers {
		for h := range heads {
			for pos := from; pos < s.n; pos++ {
				column := c.k[(h*s.cap+pos/kernel.PanelCols*kernel.PanelCols)*dk+pos%kernel.PanelCols:]
				for d := range key {
					key[d] = column[d*kernel.PanelCols]
				}
				value := c.v[(h*s.cap+pos)*dv:][:dv]
				f(key, value)
				s.put(layer, h, pos, key, value)
			}
		}
	}
}

// put stores one head's key and value at a position.
func (s *Sequence) put(layer, head, pos int, k, v []float32) {
	c := &s.layers[layer]
	column := c.k[(head*s.cap+pos/kernel.PanelCols*kernel.PanelCols)*len(k)+pos%kernel.PanelCols:]
	for d, x := range k {
		column[d*kernel.PanelCols] = x
	}
	copy(c.v[(head*s.cap+pos)*len(v):], v)
}
