package tokenizer

import "container/heap"

// bpe is the merge model. Its words are raw bytes; the vocabulary's spelling
// (byteSpelling) is only met at load.
type bpe struct {
	vocab        map[string]int // by spelling
	byByte       [256]int       // id of the token for one byte, -1 without one
	words        map[string]int // by raw bytes, for ignoreMerges
	merges       map[pair]merge
	unk          int // -1: bytes without a token are dropped
	fuseUnk      bool
	ignoreMerges bool
}

type pair struct{ left, right int32 }

type merge struct {
	rank int32
	id   int32
}

// encode appends the ids of one pre-token, given as raw bytes.
func (m *bpe) encode(ids []int, word string) []int {
	if m.ignoreMerges {
		if id, ok := m.words[word]; ok {
			return append(ids, id)
		}
	}
	if len(m.merges) == 0 {
		return m.symbols(ids, word)
	}
	start := len(ids)
	ids = m.symbols(ids, word)
	return append(ids[:start], m.merged(ids[start:])...)
}

// symbols appends the ids of single bytes.
func (m *bpe) symbols(ids []int, word string) []int {
	unknown := false
	for i := range len(word) {
		id := m.byByte[word[i]]
		if id < 0 {
			id = m.unk
			if id < 0 || (unknown && m.fuseUnk) {
				continue
			}
			unknown = true
		} else {
			unknown = false
		}
		ids = append(ids, id)
	}
	return ids
}

// small words are merged by repeated scans; longer ones with a heap, so that a
// megabyte without a space costs n log n and not n squared.
const small = 24

// merged applies the merges to ids in rank order, leftmost first, in place.
func (m *bpe) merged(ids []int) []int {
	if len(ids) > small {
		return m.mergedByHeap(ids)
	}
	for {
		best, at := merge{rank: -1}, -1
		for i := 0; i+1 < len(ids); i++ {
			g, ok := m.merges[pair{int32(ids[i]), int32(ids[i+1])}]
			if ok && (at < 0 || g.rank < best.rank) {
				best, at = g, i
			}
		}
		if at < 0 {
			return ids
		}
		ids[at] = int(best.id)
		ids = append(ids[:at+1], ids[at+2:]...)
	}
}

type symbol struct {
	id, prev, next int32
}

type candidate struct {
	rank, at int32
	left     int32 // ids when it was queued: a change makes it stale
	right    int32
	id       int32
}

type candidates []candidate

func (q candidates) Len() int { return len(q) }
func (q candidates) Less(i, j int) bool {
	if q[i].rank != q[j].rank {
		return q[i].rank < q[j].rank
	}
	return q[i].at < q[j].at
}
func (q candidates) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *candidates) Push(x any)   { *q = append(*q, x.(candidate)) }
func (q *candidates) Pop() any {
	old := *q
	x := old[len(old)-1]
	*q = old[:len(old)-1]
	return x
}

func (m *bpe) mergedByHeap(ids []int) []int {
	symbols := make([]symbol, len(ids))
	for i, id := range ids {
		symbols[i] = symbol{int32(id), int32(i - 1), int32(i + 1)}
	}
	symbols[len(ids)-1].next = -1
	var queue candidates
	candidateAt := func(at int32) (candidate, bool) {
		next := symbols[at].next
		if next < 0 {
			return candidate{}, false
		}
		g, ok := m.merges[pair{symbols[at].id, symbols[next].id}]
		return candidate{g.rank, at, symbols[at].id, symbols[next].id, g.id}, ok
	}
	for i := range ids {
		if c, ok := candidateAt(int32(i)); ok {
			queue = append(queue, c)
		}
	}
	heap.Init(&queue)
	for queue.Len() > 0 {
		c := heap.Pop(&queue).(candidate)
		next := symbols[c.at].next
		if symbols[c.at].id != c.left || next < 0 || symbols[next].id != c.right {
			continue
		}
		symbols[c.at].id = c.id
		symbols[c.at].next = symbols[next].next
		symbols[next].id = -1
		if n := symbols[next].next; n >= 0 {
			symbols[n].prev = c.at
		}
		if n, ok := candidateAt(c.at); ok {
			heap.Push(&queue, n)
		}
		if p := symbols[c.at].prev; p >= 0 {
			if n, ok := candidateAt(p); ok {
				heap.Push(&queue, n)
			}
		}
	}
	out := ids[:0]
	for at := int32(0); at >= 0; at = symbols[at].next {
		out = append(out, int(symbols[at].id))
	}
	return out
}
