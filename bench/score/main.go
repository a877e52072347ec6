// Command score measures the reference model on weights of a real model's
// shape: teacher-forced scoring beside the rate of matrix products, decoding
// beside the rate at which memory can be read, and the memory both take.
//
// It writes the model itself, with random weights. What is compared is
// measured in turns, round after round, in one run: on a shared machine figures
// of different minutes do not compare.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"time"

	"tarbert/internal/reference"
	"tarbert/internal/reference/kernel"
)

type options struct {
	dir, profile       string
	precision, weights string
	layers, tokens     int
	decode, rounds     int
	threads            int

	once, peers           bool
	python, node, tarbert string
	clock                 string // of the peers' table: wall or cpu
}

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", "", "where to put the model, or where it is from another run; empty: a temporary directory")
	flag.StringVar(&o.weights, "weights", "bf16", "what linears are stored in: bf16, or fp8 in blocks of 128")
	flag.StringVar(&o.precision, "precision", "f32", "precision profile")
	flag.IntVar(&o.layers, "layers", 28, "layers of the model")
	flag.IntVar(&o.tokens, "tokens", 2048, "tokens to score")
	flag.IntVar(&o.decode, "decode", 32, "tokens to decode in each round")
	flag.IntVar(&o.rounds, "rounds", 3, "how often everything is measured")
	flag.IntVar(&o.threads, "threads", runtime.GOMAXPROCS(0), "threads")
	flag.StringVar(&o.profile, "cpuprofile", "", "where to write a CPU profile of scoring")
	flag.BoolVar(&o.peers, "peers", false, "measure the peers that are given beside ours, each in processes of its own, in turns")
	flag.StringVar(&o.python, "python", "", "python with torch and transformers, for -peers")
	flag.StringVar(&o.node, "node", "", "node_modules with node-llama-cpp, for -peers (and -tarbert, which converts)")
	flag.StringVar(&o.tarbert, "tarbert", "", "tarbert's binary, for -peers: converts to GGUF and w8a8")
	flag.BoolVar(&o.once, "once", false, "measure the model in -dir and print a line of JSON; what -peers runs")
	flag.StringVar(&o.clock, "clock", "wall", `of -peers; "cpu" counts processor time, on one thread, for a machine that others use`)
	flag.Parse()
	if o.clock == "cpu" {
		o.threads = 1
	}
	if err := run(context.Background(), os.Stdout, o); err != nil {
		fmt.Fprintln(os.Stderr, "score:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, w io.Writer, o options) (err error) {
	if o.layers < 1 || o.tokens < 2 || o.decode < 1 || o.rounds < 1 || o.threads < 1 {
		return errors.New("-layers, -decode, -rounds and -threads are at least 1, -tokens at least 2")
	}
	if o.once {
		return measureOnce(ctx, w, o)
	}
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "score-*"); err != nil {
			return fmt.Errorf("make a model: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	}
	c := shape(o.layers, max(o.tokens, prompt+o.decode))
	bytes, err := makeModel(o.dir, c, o.weights)
	if err != nil {
		return err
	}
	if o.peers {
		return measurePeers(ctx, w, o)
	}
	memory := newMeter(bytes)
	start := time.Now()
	m, err := reference.Load(o.dir, reference.Options{Precision: reference.Precision(o.precision), Threads: o.threads})
	if err != nil {
		return err
	}
	loaded := time.Since(start)
	memory.note("loading")
	fmt.Fprintf(w, "%s, %d threads of %d logical cores, %s; %d layers, %s weights of %.0f MB, profile %s; medians of %d rounds.\n\n",
		kernel.Describe(), o.threads, runtime.NumCPU(), runtime.Version(), o.layers, o.weights, float64(bytes)/1e6, m.Precision(), o.rounds)
	s, err := measureScoring(ctx, m, o)
	if err != nil {
		return err
	}
	memory.note("scoring")
	d, err := measureDecoding(ctx, m, o, memory)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "| | |\n|---|---|\n| loading | %.1f s, %.2f GB/s |\n", loaded.Seconds(), float64(bytes)/1e9/loaded.Seconds())
	s.print(w, o)
	d.print(w)
	memory.print(w)
	return nil
}

// shape is that of Qwen3-0.6B.
func shape(layers, positions int) *reference.Config {
	return &reference.Config{
		ModelType: reference.Qwen3, VocabSize: 151936, HiddenSize: 1024, IntermediateSize: 3072, NumHiddenLayers: layers,
		NumAttentionHeads: 16, NumKeyValueHeads: 8, HeadDim: 128, MaxPositionEmbeddings: max(positions, 4096), RMSNormEps: 1e-6,
		TieWordEmbeddings: true, InitializerRange: 0.02, RopeTheta: 1e6, DType: "bfloat16", BOS: -1, Pad: -1,
	}
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
}

// profiled runs f, under the profiler if a path is given.
func profiled(path string, f func() error) error {
	if path == "" {
		return f()
	}
	out, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	if err := pprof.StartCPUProfile(out); err != nil {
		return errors.Join(fmt.Errorf("profile: %w", err), out.Close())
	}
	err = f()
	pprof.StopCPUProfile()
	return errors.Join(err, out.Close())
}
