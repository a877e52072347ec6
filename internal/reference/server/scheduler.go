package server

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"
)

// scheduler owns the running sequences. See the package comment.
type scheduler struct {
	model   model
	limits  limits
	places  int // running sequences at most
	queue   int // waiting sequences at most
	now     func() time.Time
	metrics *metrics

	mu      sync.Mutex
	waiting []*job
	closed  bool
	wake    chan struct{} // capacity one

	running []*job // only the loop touches it
	kill    context.CancelFunc
	done    chan struct{}
}

var (
	errClosed     = errors.New("the server is shutting down")
	errOverloaded = errors.New("too many requests are waiting")
)

func newScheduler(m model, l limits, places, queue int, now func() time.Time, ms *metrics) *scheduler {
	ctx, cancel := context.WithCancel(context.Background())
	s := &scheduler{
		model: m, limits: l, places: places, queue: queue, now: now, metrics: ms,
		wake: make(chan struct{}, 1), kill: cancel, done: make(chan struct{}),
	}
	go s.loop(ctx)
	return s
}

// submit queues jobs, all or none.
func (s *scheduler) submit(jobs []*job) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return errClosed
	case len(s.waiting)+len(jobs) > s.queue:
		return errOverloaded
	}
	for _, j := range jobs {
		j.arrived = s.now()
	}
	s.waiting = append(s.waiting, jobs...)
	s.signal()
	return nil
}

func (s *scheduler) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// close refuses new jobs, lets those there are finish until ctx ends, and then
// fails the rest. It returns when the loop has ended.
func (s *scheduler) close(ctx context.Context) {
	s.mu.Lock()
	s.closed = true
	s.signal()
	s.mu.Unlock()
	select {
	case <-s.done:
	case <-ctx.Done():
		s.kill()
		<-s.done
	}
	s.kill()
}

// loop runs until it is closed and idle, or killed.
func (s *scheduler) loop(ctx context.Context) {
	defer close(s.done)
	for {
		idle, closed := s.refill()
		switch {
		case ctx.Err() != nil:
			s.failAll(errClosed)
			return
		case idle && closed:
			return
		case idle:
			select {
			case <-s.wake:
			case <-ctx.Done():
			}
		default:
			s.step(ctx)
		}
	}
}

// refill drops what its client gave up, starts waiting jobs and says whether nothing is left to do.
func (s *scheduler) refill() (idle, closed bool) {
	s.running = slices.DeleteFunc(s.running, s.abandoned)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = slices.DeleteFunc(s.waiting, s.abandoned)
	tokens := make([]int, 0, min(len(s.waiting), s.places))
	for _, j := range s.waiting[:min(len(s.waiting), s.places)] {
		tokens = append(tokens, len(j.tokens))
	}
	n := admit(s.loads(), tokens, s.places, s.limits)
	for _, j := range s.waiting[:n] {
		j.seq = s.model.newSequence()
		if j.admitted.IsZero() {
			j.admitted = s.now()
			s.metrics.admitted(j.admitted.Sub(j.arrived))
		}
		s.running = append(s.running, j)
	}
	s.waiting = slices.Delete(s.waiting, 0, n)
	s.metrics.queues(len(s.running), len(s.waiting), s.cached(), s.limits.kv)
	return len(s.running) == 0, s.closed
}

// abandoned reports whether a job's client went away, and counts it.
func (s *scheduler) abandoned(j *job) bool {
	if j.ctx.Err() == nil {
		return false
	}
	s.metrics.finished("abort", j, s.now())
	return true
}

func (s *scheduler) loads() []load {
	out := make([]load, len(s.running))
	for i, j := range s.running {
		out[i] = load{j.cached(), len(j.tokens) - j.cached()}
	}
	return out
}

func (s *scheduler) cached() int {
	n := 0
	for _, j := range s.running {
		n += j.cached()
	}
	return n
}

// step sends one batch through the model and acts on what comes back.
func (s *scheduler) step(ctx context.Context) {
	chunks, keep := plan(s.loads(), s.limits)
	s.preempt(keep)
	var jobs []*job
	var batch []input
	from := make([]int, 0, keep)
	tokens := 0
	for i, n := range chunks {
		if n == 0 {
			continue
		}
		j := s.running[i]
		at := j.cached()
		jobs = append(jobs, j)
		from = append(from, at)
		batch = append(batch, input{j.seq, j.tokens[at : at+n], j.wantsAll()})
		tokens += n
	}
	s.metrics.step(tokens)
	rows, err := s.forward(ctx, batch)
	if err != nil {
		if ctx.Err() != nil {
			err = errClosed
		}
		for _, j := range jobs {
			s.end(j, event{choice: j.choice, token: -1, err: err})
		}
		s.sweep()
		return
	}
	events := make([]event, len(jobs))
	ready := make([]bool, len(jobs))
	each(len(jobs), func(i int) {
		events[i], ready[i] = jobs[i].advance(from[i], len(batch[i].tokens), rows[i])
	})
	for i, j := range jobs {
		if ready[i] {
			s.deliver(j, events[i])
		}
	}
	s.sweep()
}

// forward turns a panic of the model into an error of this batch.
func (s *scheduler) forward(ctx context.Context, batch []input) (rows [][][]float32, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the model panicked: %v", r)
		}
	}()
	rows, err = s.model.forward(ctx, batch)
	if err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	if len(rows) != len(batch) {
		return nil, fmt.Errorf("model: %d results for %d inputs", len(rows), len(batch))
	}
	for i, r := range rows {
		want := 1
		if batch[i].all {
			want = len(batch[i].tokens)
		}
		if len(r) != want {
			return nil, fmt.Errorf("model: input %d has %d rows of logits, want %d", i, len(r), want)
		}
	}
	return rows, nil
}

// deliver passes an event on and ends the job with its last one.
func (s *scheduler) deliver(j *job, e event) {
	now := s.now()
	if e.token >= 0 {
		s.metrics.token(j, now)
		j.last = now
	}
	if e.finish != "" || e.err != nil {
		s.end(j, e)
		return
	}
	j.out.put(e)
}

// end marks a job as done and passes its last event on.
func (s *scheduler) end(j *job, e event) {
	j.done = true
	j.seq = nil
	why := e.finish
	if e.err != nil {
		why = "error"
	}
	s.metrics.finished(why, j, s.now())
	j.out.put(e)
}

// sweep removes jobs that are done.
func (s *scheduler) sweep() {
	s.running = slices.DeleteFunc(s.running, func(j *job) bool { return j.done })
}

// preempt takes the caches of the sequences from keep on and puts them back in
// front of the queue.
func (s *scheduler) preempt(keep int) {
	if keep == len(s.running) {
		return
	}
	back := slices.Clone(s.running[keep:])
	for _, j := range back {
		j.seq = nil
	}
	s.running = slices.Delete(s.running, keep, len(s.running))
	s.metrics.preempted(len(back))
	s.mu.Lock()
	s.waiting = append(back, s.waiting...)
	s.mu.Unlock()
}

func (s *scheduler) failAll(err error) {
	s.mu.Lock()
	jobs := append(s.running, s.waiting...)
	s.running, s.waiting = nil, nil
	s.mu.Unlock()
	for _, j := range jobs {
		s.end(j, event{choice: j.choice, token: -1, err: err})
	}
}

// each calls f for 0 … n-1 on all cores. The calls share nothing.
func each(n int, f func(i int)) {
	workers := min(n, runtime.GOMAXPROCS(0))
	if workers <= 1 {
		for i := range n {
			f(i)
		}
		return
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				f(i)
			}
		})
	}
	wg.Wait()
}
