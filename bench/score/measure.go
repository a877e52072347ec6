package main

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"tarbert/internal/reference"
	"tarbert/internal/reference/kernel"
)

// scoring holds each round's figures.
type scoring struct {
	seconds, gemm   []float64 // of scoring; the rate of matrix products around it, GFLOP/s
	linear, attends float64   // 10^9 operations of a pass
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
		before := kernel.MeasureGFLOPS(o.threads, time.Second)
		err := profiled(o.profile, func() error {
			start := time.Now()
			_, err := m.Score(ctx, tokens, 1)
			s.seconds = append(s.seconds, time.Since(start).Seconds())
			return err
		})
		if err != nil {
			return nil, err
		}
		s.gemm = append(s.gemm, (before+kernel.MeasureGFLOPS(o.threads, time.Second))/2)
	}
	return s, nil
}

func (s *scoring) print(w io.Writer, o options) {
	var rates, shares, all []float64
	for i, t := range s.seconds {
		rates = append(rates, float64(o.tokens)/t)
		shares = append(shares, 100*s.linear/t/s.gemm[i])
		all = append(all, 100*(s.linear+s.attends)/t/s.gemm[i])
	}
	fmt.Fprintf(w, "| scoring %d tokens | %.2f s, %.0f tokens/s |\n", o.tokens, median(s.seconds), median(rates))
	fmt.Fprintf(w, "| float32 matrix products, 512³, same rounds | %.0f GFLOP/s |\n", median(s.gemm))
	fmt.Fprintf(w, "| share of it: linears alone (%.0f GFLOP) | %.0f %% |\n", s.linear, median(shares))
	fmt.Fprintf(w, "| share of it: with attention (%.0f GFLOP more) | %.0f %% |\n", s.attends, median(all))
}

// decoding holds each round's figures.
type decoding struct {
	rates, bandwidth []float64 // tokens/s; GB/s
	bytes            int64
}

const prompt = 32

func measureDecoding(ctx context.Context, m *reference.Model, o options, bytes int64) (*decoding, error) {
	d := &decoding{bytes: bytes}
	reader := newReader(o.threads)
	for range o.rounds {
		before := reader.rate()
		seq := m.NewSequence()
		in := []reference.Input{{Seq: seq, Tokens: make([]int, prompt)}}
		if _, err := m.Forward(ctx, in); err != nil {
			return nil, err
		}
		start := time.Now()
		for i := range o.decode {
			in[0].Tokens = []int{i * 7919 % m.Config().VocabSize}
			if _, err := m.Forward(ctx, in); err != nil {
				return nil, err
			}
		}
		d.rates = append(d.rates, float64(o.decode)/time.Since(start).Seconds())
		d.bandwidth = append(d.bandwidth, (before+reader.rate())/2)
	}
	return d, nil
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
	next  int
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
