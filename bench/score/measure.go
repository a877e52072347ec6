package main

import (
	"context"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"

	"tarbert/internal/reference"
	"tarbert/internal/reference/kernel"
)

// rates are what one measurement gave by two clocks: the wall's, and the
// processor time of all threads, which other programs disturb only through the
// caches, and which does not see threads that wait.
type rates struct{ wall, cpu float64 }

// scoring holds each round's figures.
type scoring struct {
	seconds         []float64 // of scoring
	linear, attends float64   // 10^9 operations of a pass
	score, gemm     []rates   // 10^9 operations of linears a second; of matrix products around it, by cpu on one thread
}

func measureScoring(ctx context.Context, m *reference.Model, o options) (*scoring, error) {
	c := m.Config()
	s := &scoring{}
	h, d := float64(c.HiddenSize), float64(c.HeadDim)
	perLayer := h*d*float64(2*c.NumAttentionHeads+2*c.NumKeyValueHeads) + 3*h*float64(c.IntermediateSize)
	n := float64(o.tokens - 1)
	s.linear = 2 * n * (float64(c.NumHiddenLayers)*perLayer + h*float64(c.VocabSize)) / 1e9
	s.attends = 4 * n * (n + 1) / 2 * d * float64(c.NumAttentionHeads*c.NumHiddenLayers) / 1e9 // keys that a row may see
	tokens := make([]int, o.tokens)
	for i := range tokens {
		tokens[i] = i * 7919 % c.VocabSize
	}
	if _, err := m.Score(ctx, tokens[:min(o.tokens, 64)], 1); err != nil { // wakes the pages of the weights
		return nil, err
	}
	for range o.rounds {
		before := gemmRates(o.threads)
		start, used := time.Now(), processorTime()
		err := profiled(o.profile, func() error {
			_, err := m.Score(ctx, tokens, 1)
			return err
		})
		if err != nil {
			return nil, err
		}
		took := time.Since(start).Seconds()
		s.seconds = append(s.seconds, took)
		s.score = append(s.score, rates{s.linear / took, s.linear / (processorTime() - used).Seconds()})
		after := gemmRates(o.threads)
		s.gemm = append(s.gemm, rates{(before.wall + after.wall) / 2, (before.cpu + after.cpu) / 2})
	}
	return s, nil
}

// gemmRates measures products of 512×512×512, for about a second by each clock.
func gemmRates(threads int) rates {
	const n = 512
	a, b, c := make([]float32, n*n), make([]float32, n*n), make([]float32, n*n)
	for i := range a {
		a[i], b[i] = float32(i%7)-3, float32(i%5)-2
	}
	var byCPU []float64
	for start := time.Now(); len(byCPU) < 3 || time.Since(start) < time.Second; {
		used := processorTime()
		kernel.Gemm(nil, kernel.Dense(a, n, n), kernel.Dense(b, n, n), kernel.Dense(c, n, n), false)
		byCPU = append(byCPU, 2*n*n*n/float64((processorTime()-used).Nanoseconds()))
	}
	return rates{kernel.MeasureGFLOPS(threads, time.Second), median(byCPU)}
}

// processorTime is what this process has used.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // the arguments are constant
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func (s *scoring) print(w io.Writer, o options) {
	var perSecond, wall, cpu, gemmWall, gemmCPU []float64
	for i, t := range s.seconds {
		perSecond = append(perSecond, float64(o.tokens)/t)
		wall, cpu = append(wall, 100*s.score[i].wall/s.gemm[i].wall), append(cpu, 100*s.score[i].cpu/s.gemm[i].cpu)
		gemmWall, gemmCPU = append(gemmWall, s.gemm[i].wall), append(gemmCPU, s.gemm[i].cpu)
	}
	more := 1 + s.attends/s.linear
	fmt.Fprintf(w, "| scoring %d tokens | %.2f s, %.0f tokens/s |\n", o.tokens, median(s.seconds), median(perSecond))
	fmt.Fprintf(w, "| float32 products of 512³, same rounds | %.0f GFLOP/s; by processor time, one thread: %.0f |\n", median(gemmWall), median(gemmCPU))
	fmt.Fprintf(w, "| share of it, counting linears only (%.0f GFLOP) | %.0f %%; by processor time %.0f %% |\n", s.linear, median(wall), median(cpu))
	fmt.Fprintf(w, "| share of it, with attention (%.0f GFLOP more) | %.0f %%; by processor time %.0f %% |\n", s.attends, more*median(wall), more*median(cpu))
}

// decoding holds each round's figures.
type decoding struct {
	rates, bandwidth []float64 // tokens/s; GB/s
	bytes            int64
}

const prompt = 32

// measureDecoding notes the memory of decoding before it takes its own, which
// it reads to see how fast that goes.
func measureDecoding(ctx context.Context, m *reference.Model, o options, memory *meter) (*decoding, error) {
	d := &decoding{bytes: memory.weights}
	now := func() time.Duration { return time.Since(processStart) }
	if _, err := decode(ctx, m, o.decode, now); err != nil {
		return nil, err
	}
	memory.note("decoding")
	reader := newReader(o.threads)
	for range o.rounds {
		before := reader.rate()
		rate, err := decode(ctx, m, o.decode, now)
		if err != nil {
			return nil, err
		}
		d.rates = append(d.rates, rate)
		d.bandwidth = append(d.bandwidth, (before+reader.rate())/2)
	}
	return d, nil
}

// decode is how many tokens a second follow a prompt, its own time left out.
func decode(ctx context.Context, m *reference.Model, tokens int, now func() time.Duration) (float64, error) {
	in := []reference.Input{{Seq: m.NewSequence(), Tokens: make([]int, prompt)}}
	if _, err := m.Forward(ctx, in); err != nil {
		return 0, err
	}
	start := now()
	for i := range tokens {
		in[0].Tokens = []int{i * 7919 % m.Config().VocabSize}
		if _, err := m.Forward(ctx, in); err != nil {
			return 0, err
		}
	}
	return float64(tokens) / (now() - start).Seconds(), nil
}

func (d *decoding) print(w io.Writer) {
	var share []float64
	for i, r := range d.rates {
		share = append(share, 100*r*float64(d.bytes)/1e9/d.bandwidth[i])
	}
	limit := median(d.bandwidth) * 1e9 / float64(d.bytes)
	fmt.Fprintf(w, "| decoding one sequence | %.1f tokens/s |\n", median(d.rates))
	fmt.Fprintf(w, "| reading memory, same rounds | %.1f GB/s, which would allow %.1f tokens/s |\n", median(d.bandwidth), limit)
	fmt.Fprintf(w, "| share of it | %.0f %% |\n", median(share))
}

// reader reads memory that no cache holds.
type reader struct {
	parts [][]float32
}

// newReader shares 512 MiB out to threads: with less, a server's last cache
// would answer.
func newReader(threads int) *reader {
	r := &reader{}
	for range threads {
		part := make([]float32, (128<<20)/threads)
		for i := 0; i < len(part); i += 512 {
			part[i] = 1
		}
		r.parts = append(r.parts, part)
	}
	return r
}

// rate is the best of three readings, in GB/s.
func (r *reader) rate() float64 {
	top := 0.0
	for range 3 {
		start := time.Now()
		var wait sync.WaitGroup
		bytes := 0
		for _, part := range r.parts {
			bytes += 4 * len(part)
			wait.Go(func() {
				if kernel.MaxAbs(part) != 1 {
					panic("memory does not hold what was written")
				}
			})
		}
		wait.Wait()
		top = max(top, float64(bytes)/float64(time.Since(start).Nanoseconds()))
	}
	return top
}
