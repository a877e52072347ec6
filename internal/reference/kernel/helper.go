package kernel

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// Waking a sleeping thread takes tens of microseconds, on a virtual machine
// near a hundred: as long as a small product. So who waits looks for a moment
// before it sleeps: the helper for its next run, the caller for the helpers to
// finish. A moment is so many turns, each of which lets other goroutines run; it
// is counted, not timed, because time stands still in a synctest bubble.
const (
	lookTurns = 400 // about a tenth of a millisecond
	looks     = 64  // in a turn
)

// look calls ready until it is true; false means that the moment is over.
func look(ready func() bool) bool {
	for range lookTurns {
		for range looks {
			if ready() {
				return true
			}
		}
		runtime.Gosched()
	}
	return false
}

// helper is a goroutine that works for one run after another.
type helper struct {
	next atomic.Pointer[run]
}

// lingerers are helpers that wait for a moment before they end; any pool's next
// run takes them.
type lingerers struct {
	mu   sync.Mutex
	idle []*helper
}

// lingering holds goroutines and nothing that a result depends on.
var lingering lingerers

// take removes the helper that came last, if there is one. Whoever takes a
// helper sets its next run.
func (l *lingerers) take() *helper {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.idle)
	if n == 0 {
		return nil
	}
	h := l.idle[n-1]
	l.idle = l.idle[:n-1]
	return h
}

func (l *lingerers) add(h *helper) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.idle = append(l.idle, h)
}

// remove is false when the helper has been taken.
func (l *lingerers) remove(h *helper) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(l.idle, h)
	if i < 0 {
		return false
	}
	l.idle = slices.Delete(l.idle, i, i+1)
	return true
}

// serve works for r, then for what comes within a moment.
func (h *helper) serve(r *run) {
	for r != nil {
		r.work()
		r.pool.spare.Add(1) // as soon as this one is idle, not when all are
		lingering.add(h)    // before the caller goes on, so that its next run finds it
		r.leave()
		r = h.wait()
	}
}

// wait returns the next run, nil if there was none for a moment.
func (h *helper) wait() *run {
	there := func() bool { return h.next.Load() != nil }
	if !look(there) && lingering.remove(h) {
		return nil
	}
	for !there() { // taken: the run is on its way
		runtime.Gosched()
	}
	return h.next.Swap(nil)
}

// leave says that one helper is done.
func (r *run) leave() {
	if r.helping.Add(-1) == 0 {
		r.gate.Unlock()
	}
}

// join returns when all helpers are done.
func (r *run) join() {
	if !look(func() bool { return r.helping.Load() == 0 }) {
		r.gate.Lock()
	}
}
