package convert

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"tarbert/internal/convert/kernel"
	"tarbert/internal/tensor"
)

// deviation is what converting some bands cost.
type deviation struct {
	kernel.Loss
	Other   float64  `json:",omitempty"` // noise of the other rounding
	Tiles   int64    `json:",omitempty"` // of FP4, proved
	Spreads *spreads `json:",omitempty"` // tiles by log2 of their scales' ratio; nil without tiles
}

type spreads [16]int64

// tile counts a tile of FP4 whose scales are so far apart.
func (d *deviation) tile(spread int) {
	if d.Spreads == nil {
		d.Spreads = new(spreads)
	}
	d.Tiles++
	d.Spreads[min(spread, len(d.Spreads)-1)]++
}

func (d *deviation) merge(o *deviation) {
	d.Add(o.Loss)
	d.Other += o.Other
	d.Tiles += o.Tiles
	if o.Spreads == nil {
		return
	}
	if d.Spreads == nil {
		d.Spreads = new(spreads)
	}
	for i, n := range o.Spreads {
		d.Spreads[i] += n
	}
}

// decibels is 10 log10(signal/noise); 0 where there is no noise.
func decibels(signal, noise float64) float64 {
	if noise == 0 || signal == 0 {
		return 0
	}
	return 10 * math.Log10(signal/noise)
}

// stream is the weights of a conversion on their way.
type stream struct {
	*conversion
	files   []*os.File
	journal *journal
	buffers chan *buffer

	mu    sync.Mutex
	done  []uint64 // a bit for each band
	steps []progressOf
	bytes int64    // of the source, converted
	all   int64    // of the source
	left  []int64  // bytes of each file's tensors that are not yet written
	full  chan int // files without any left; room for all
}

// progressOf is how far a step is. Bands are merged in order, whichever was done
// first, so that the sums depend on nothing else.
type progressOf struct {
	next    int64 // the first band that is not merged, counted from the step's first
	sum     *deviation
	waiting map[int64]*deviation // done before one that goes before them
}

// writeWeights writes every file of weights, or finishes what a killed conversion
// began, and fills in the report on them.
func (c *conversion) writeWeights(ctx context.Context, p *partial, rep *Report) (err error) {
	s := &stream{conversion: c, journal: p.journal, done: make([]uint64, (c.budget.bands()+63)/64),
		steps: make([]progressOf, len(c.steps)), buffers: make(chan *buffer, c.budget.workers)}
	for range c.budget.workers {
		s.buffers <- &buffer{}
	}
	s.count()
	defer func() {
		for _, f := range s.files {
			if f != nil {
				err = errors.Join(err, f.Close())
			}
		}
	}()
	if err := s.create(p.dir); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.finishFiles(gctx, p.dir) })
	g.Go(func() (err error) {
		defer close(s.full)
		if rep.Resumed, err = s.resume(gctx); err != nil {
			return err
		}
		if err := s.run(gctx); err != nil {
			return err
		}
		return s.allWritten()
	})
	if err := g.Wait(); err != nil {
		return err
	}
	rep.Tensors, rep.Totals = s.reports()
	return syncPath(p.dir)
}

// count sums up what is to be written where.
func (s *stream) count() {
	s.left, s.full = make([]int64, len(s.conversion.files)), make(chan int, len(s.conversion.files))
	seen := map[*output]bool{}
	for i := range s.conversion.steps {
		step := &s.conversion.steps[i]
		s.all += step.weight.bytes()
		for _, o := range step.slots {
			if o.left = o.size; !seen[o.output] {
				seen[o.output] = true
				s.left[o.file] += o.size
			}
		}
	}
	for i, n := range s.left {
		if n == 0 { // all its tensors are empty
			s.full <- i
		}
	}
}

// create makes the files, or opens what is there, of their full size and with
// their headers: a full disk is found here.
func (s *stream) create(dir string) error {
	for _, l := range s.conversion.files {
		f, err := os.OpenFile(filepath.Join(dir, l.name), os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return fmt.Errorf("write weights: %w", err)
		}
		s.files = append(s.files, f)
		st, err := f.Stat()
		if err == nil && st.Size() != l.size {
			if err = f.Truncate(0); err == nil {
				err = tensor.Reserve(f, l.size)
			}
		}
		if err == nil {
			_, err = f.WriteAt(l.header, 0)
		}
		if err != nil {
			return fmt.Errorf("write %s (%d bytes): %w", l.name, l.size, err)
		}
	}
	return nil
}

// resume takes over the bands of a killed conversion whose bytes are still what
// the journal says; the others are converted again.
func (s *stream) resume(ctx context.Context) (bytes int64, err error) {
	var b []byte
	err = s.journal.replay(func(r *record) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if r.Band < 0 || r.Band >= s.budget.bands() || s.isDone(r.Band) {
			return nil
		}
		ok, err := s.intact(&s.conversion.steps[s.budget.step(r.Band)], r, &b)
		if err != nil || !ok {
			return err
		}
		s.complete(r)
		for _, w := range r.Writes {
			bytes += w.Length
		}
		return nil
	})
	return bytes, err
}

// intact reads back what a record says was written.
func (s *stream) intact(step *step, r *record, b *[]byte) (bool, error) {
	for _, w := range r.Writes {
		if w.Slot < 0 || w.Slot >= len(step.slots) {
			return false, nil
		}
		o := step.slots[w.Slot]
		if w.Offset < 0 || w.Length < 0 || o.base+w.Offset > o.size || w.Length > o.size-o.base-w.Offset {
			return false, nil
		}
		sum := uint32(0)
		for at := int64(0); at < w.Length; at += bandElements {
			*b = grow(*b, min(bandElements, w.Length-at))
			if _, err := s.files[o.file].ReadAt(*b, o.offset+o.base+w.Offset+at); err != nil {
				return false, fmt.Errorf("read back what was converted: %w", err)
			}
			sum = crc32.Update(sum, castagnoli(), *b)
		}
		if sum != w.Sum {
			return false, nil
		}
	}
	return true, nil
}

// run converts the bands that are not done, several at once.
func (s *stream) run(ctx context.Context) error {
	return inOrder(ctx, int(s.budget.bands()), s.budget.workers, func(i int) error {
		if s.isDone(int64(i)) {
			return nil
		}
		buf := <-s.buffers
		defer func() { s.buffers <- buf }()
		return s.convert(int64(i), buf)
	})
}

func (s *stream) isDone(band int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done[band/64]>>(band%64)&1 != 0
}

// convert reads, converts, measures, writes and journals one band.
func (s *stream) convert(band int64, buf *buffer) error {
	step := &s.conversion.steps[s.budget.step(band)]
	k := step.cut()
	first := (band - s.budget.first[s.budget.step(band)]) * k.per
	r := record{Band: band}
	v := &values{weight: step.weight, first: first, rows: min(k.per, k.rows-first), cols: k.cols, buf: buf,
		loss: &r.Loss, rounding: s.options.Rounding, scaleKind: s.options.Scales}
	v.write = func(out int, off int64, b []byte) error {
		o := step.slots[out]
		if _, err := s.files[o.file].WriteAt(b, o.offset+o.base+off); err != nil {
			return fmt.Errorf("write %s: tensor %q: %w", s.conversion.files[o.file].name, o.name, err)
		}
		startWriteback(s.files[o.file], o.offset+o.base+off, int64(len(b)))
		r.Writes = append(r.Writes, written{Slot: out, Offset: off, Length: int64(len(b)), Sum: crc32.Checksum(b, castagnoli())})
		return nil
	}
	if err := v.read(s.weights); err != nil {
		return err
	}
	if err := step.encode(v); err != nil {
		return err
	}
	if err := s.journal.append(&r, s.files); err != nil {
		return err
	}
	s.complete(&r)
	return nil
}

// complete takes a finished band into account.
func (s *stream) complete(r *record) {
	i := s.budget.step(r.Band)
	step, p := &s.conversion.steps[i], &s.steps[i]
	k := step.cut()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done[r.Band/64] |= 1 << (r.Band % 64)
	for _, w := range r.Writes {
		o := step.slots[w.Slot]
		o.left -= w.Length
		if s.left[o.file] -= w.Length; s.left[o.file] == 0 {
			s.full <- o.file
		}
	}
	at := r.Band - s.budget.first[i]
	s.bytes += step.weight.bytes() * min(k.per, k.rows-at*k.per) / k.rows
	p.merge(at, &r.Loss)
	s.tell(s.bytes, s.all, step.weight.stored.Name)
}

// merge adds a band's measurement, or keeps it until those before it are there.
func (p *progressOf) merge(at int64, d *deviation) {
	if at != p.next {
		if p.waiting == nil {
			p.waiting = map[int64]*deviation{}
		}
		p.waiting[at] = d
		return
	}
	for ok := true; ok; d, ok = p.waiting[p.next] {
		if p.sum == nil && *d != (deviation{}) {
			p.sum = &deviation{}
		}
		if p.sum != nil {
			p.sum.merge(d)
		}
		delete(p.waiting, p.next)
		p.next++
	}
	if len(p.waiting) == 0 {
		p.waiting = nil
	}
}

// allWritten makes sure that every byte was written, and none twice.
func (s *stream) allWritten() error {
	for i := range s.conversion.steps {
		for _, o := range s.conversion.steps[i].slots {
			if n := o.left; n != 0 {
				return fmt.Errorf("write %s: tensor %q: %d of its %d bytes were not written, or written twice", s.conversion.files[o.file].name, o.name, n, o.size)
			}
		}
	}
	return nil
}

// finishFiles puts each file on disk and takes its digest as soon as it is full,
// while it is in memory still and others are being converted.
func (s *stream) finishFiles(ctx context.Context, dir string) error {
	s.digests = make([]FileReport, len(s.files))
	for i := range s.full {
		g, ctx := errgroup.WithContext(ctx)
		g.Go(s.files[i].Sync)
		g.Go(func() (err error) {
			s.digests[i], err = digestFile(ctx, filepath.Join(dir, s.conversion.files[i].name))
			return err
		})
		if err := g.Wait(); err != nil {
			return fmt.Errorf("write %s: %w", s.conversion.files[i].name, err)
		}
	}
	return nil
}

// reports makes the report on every weight, and their sum.
func (s *stream) reports() ([]TensorReport, Totals) {
	reports := make([]TensorReport, 0, len(s.steps))
	var int8s deviation
	for i := range s.steps {
		step, d := &s.conversion.steps[i], s.steps[i].sum
		w := step.weight
		if d == nil {
			d = &deviation{}
		}
		r := TensorReport{
			Name: w.stored.Name, Action: step.action, Reason: step.reason, From: w.spelling(), To: step.to(), Shape: w.shape,
			MaxAbsError: d.Max, Bound: d.Bound, SQNR: decibels(d.Signal, d.Noise), BytesIn: w.bytes(), BytesOut: step.bytes(), Tiles: d.Tiles,
		}
		if step.action == Quantised && s.format.int8 {
			r.OtherSQNR = decibels(d.Signal, d.Other)
			int8s.merge(d)
		}
		if d.Tiles > 0 {
			r.Spread = d.Spreads[:]
		}
		for _, o := range step.slots {
			r.Outputs, r.File = append(r.Outputs, o.name), s.conversion.files[o.file].name
		}
		reports = append(reports, r)
	}
	t := total(reports)
	t.CompatibleSQNR, t.ExactSQNR = decibels(int8s.Signal, int8s.Noise), decibels(int8s.Signal, int8s.Other)
	if s.options.Rounding == Exact {
		t.CompatibleSQNR, t.ExactSQNR = t.ExactSQNR, t.CompatibleSQNR
	}
	return reports, t
}

// inOrder calls f(0) to f(n-1), taken up in order by some goroutines, until one
// fails. The error is that of the lowest index that failed, whichever was first.
func inOrder(ctx context.Context, n, workers int, f func(i int) error) error {
	var mu sync.Mutex
	var failure error
	failed := n
	var next atomic.Int64
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range min(workers, n) {
		wg.Go(func() {
			for !stop.Load() && ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := f(i); err != nil {
					stop.Store(true)
					mu.Lock()
					if i < failed {
						failed, failure = i, err
					}
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if failure != nil {
		return failure
	}
	return ctx.Err()
}
