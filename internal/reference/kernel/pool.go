package kernel

import (
	"sync"
	"sync/atomic"
)

// Pool is a number of threads that matrix products may share. It keeps no
// goroutines, but for a moment after each call, so it needs no closing. A nil
// *Pool is serial.
type Pool struct {
	threads int
	spare   atomic.Int64 // threads not at work now, beside the callers' own
}

// NewPool returns a pool of so many threads; less than one counts as one.
func NewPool(threads int) *Pool {
	p := &Pool{threads: max(threads, 1)}
	p.spare.Store(int64(p.threads) - 1)
	return p
}

// Threads is the number given to NewPool; 1 for a nil pool.
func (p *Pool) Threads() int {
	if p == nil {
		return 1
	}
	return p.threads
}

// Run calls f(0) … f(n-1), each once, on up to Threads goroutines including
// the caller's, and returns when all are done. Which goroutine runs which i is
// not defined: f(i) must depend on i alone and write where no other f does.
// Run may be called from inside f; it then uses threads that are idle, if any.
// A panic in f is raised again in the caller.
func (p *Pool) Run(n int, f func(i int)) {
	extra := p.borrow(n - 1)
	if extra == 0 {
		for i := range n {
			f(i)
		}
		return
	}
	r := &run{pool: p, n: int64(n), f: f}
	r.helping.Store(int64(extra))
	r.gate.Lock()
	for range extra {
		if h := lingering.take(); h != nil {
			h.next.Store(r)
		} else {
			go new(helper).serve(r)
		}
	}
	r.work()
	r.join()
	if v := r.panicked.Load(); v != nil {
		panic(*v)
	}
}

// idle is how many threads a call of Run could use now, the caller's included.
func (p *Pool) idle() int {
	if p == nil {
		return 1
	}
	return 1 + int(p.spare.Load())
}

// borrow takes up to want idle threads.
func (p *Pool) borrow(want int) int {
	if p == nil || want <= 0 {
		return 0
	}
	for {
		have := p.spare.Load()
		take := min(have, int64(want))
		if take <= 0 {
			return 0
		}
		if p.spare.CompareAndSwap(have, have-take) {
			return int(take)
		}
	}
}

// run is one call of Run.
type run struct {
	pool     *Pool
	n        int64
	f        func(int)
	next     atomic.Int64
	helping  atomic.Int64 // helpers that are not done
	gate     sync.Mutex   // unlocked when no helper is left (a mutex, because a helper may come from outside a synctest bubble)
	panicked atomic.Pointer[any]
}

func (r *run) work() {
	defer func() {
		if v := recover(); v != nil {
			r.next.Store(r.n)
			r.panicked.CompareAndSwap(nil, &v)
		}
	}()
	for {
		i := r.next.Add(1) - 1
		if i >= r.n {
			return
		}
		r.f(int(i))
	}
}
