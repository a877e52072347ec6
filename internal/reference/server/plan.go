package server

// load is what the planner knows of a running sequence.
type load struct {
	cached  int // tokens in its KV cache
	pending int // tokens not in it yet: 1 while generating, more while its prompt is read
}

// limits bound one step and the caches.
type limits struct {
	batch int // tokens in one step
	kv    int // tokens in all caches together
}

// plan decides what the next step computes: chunks[i] tokens of sequence i, in
// order of arrival. Sequences from keep on lose their caches, because the
// others would not fit beside them; they are computed again later.
//
// It relies on batch being at least the number of sequences, and on kv holding
// the longest possible sequence, so that the first one always goes on.
func plan(running []load, l limits) (chunks []int, keep int) {
	used := 0
	for _, r := range running {
		used += r.cached + 1
	}
	keep = len(running)
	for keep > 1 && used > l.kv {
		keep--
		used -= running[keep].cached + 1
	}
	chunks = make([]int, keep)
	budget, room := l.batch, l.kv
	for _, r := range running[:keep] {
		room -= r.cached
	}
	for i, r := range running[:keep] { // those that generate never wait for prompts
		if r.pending == 1 {
			chunks[i] = 1
			budget--
			room--
		}
	}
	for i, r := range running[:keep] {
		if chunks[i] == 0 {
			chunks[i] = max(0, min(r.pending, budget, room))
			budget -= chunks[i]
			room -= chunks[i]
		}
	}
	return chunks, keep
}

// admit returns how many of the waiting sequences start now: in order, while
// there are places and their prompts fit beside the tokens of the running ones.
func admit(running []load, waiting []int, places int, l limits) int {
	used := 0
	for _, r := range running {
		used += r.cached + r.pending + 1
	}
	n := 0
	for _, tokens := range waiting {
		if len(running)+n >= places || (len(running)+n > 0 && used+tokens+1 > l.kv) {
			break
		}
		used += tokens + 1
		n++
	}
	return n
}
