// Command train measures one training step (forward, backward, clipping,
// AdamW) of a dense 3.5 M-parameter model in float32: 4 layers, width 256, 4
// heads, SwiGLU 704, vocabulary 512, 16 sequences of 128 tokens. With -python it
// runs PyTorch's variants of the same step in turns with ours, so that the
// machine's noise falls on all alike, and prints medians and ratios.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"tarbert/internal/reference"
	"tarbert/internal/reference/kernel"
)

const config = `{
  "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 512, "hidden_size": 256,
  "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4,
  "head_dim": 64, "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
  "tie_word_embeddings": false, "hidden_act": "silu", "attention_bias": false, "torch_dtype": "float32"
}`

const batch, length = 16, 128

func main() {
	threads := flag.Int("threads", 2, "processors")
	steps := flag.Int("steps", 15, "measured steps per turn")
	turns := flag.Int("turns", 3, "turns of every variant")
	python := flag.String("python", "", "python with torch: measure PyTorch beside ours")
	clock := flag.String("clock", "wall", `"cpu" counts processor time, for one thread on a machine that others use`)
	profile := flag.String("cpuprofile", "", "where to write a CPU profile")
	flag.Parse()
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			panic(err)
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			panic(err)
		}
		defer pprof.StopCPUProfile()
	}
	if *clock == "cpu" {
		*threads = 1
		now = processorTime
	}
	if err := run(*threads, *steps, *turns, *python, *clock); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// now is the clock: the wall's, or the processor time of this process.
var now = func() time.Duration { return time.Since(start) }

var start = time.Now()

func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // the arguments are constant
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// variant is one way to take the step.
type variant struct {
	name string
	rate func() (float64, error) // tokens per second, median of its steps
	got  []float64
}

func run(threads, steps, turns int, python, clock string) error {
	c, err := reference.ParseConfig([]byte(config))
	if err != nil {
		return err
	}
	step := ours(c, threads)
	variants := []*variant{{name: fmt.Sprintf("tarbert, %d threads, %s", threads, kernel.Describe()), rate: func() (float64, error) { return median(step, steps) }}}
	if python != "" {
		for _, v := range []struct{ name, mode, wait string }{
			{"PyTorch eager, passive waiting", "eager", "PASSIVE"},
			{"PyTorch eager, default waiting", "eager", ""},
			{"PyTorch compiled, fused AdamW, passive", "compile", "PASSIVE"},
			{"PyTorch compiled, fused AdamW, default", "compile", ""},
		} {
			variants = append(variants, &variant{name: v.name, rate: func() (float64, error) { return torch(python, v.mode, v.wait, threads, steps, clock) }})
		}
	}
	for range turns {
		for _, v := range variants {
			r, err := v.rate()
			if err != nil {
				return fmt.Errorf("%s: %w", v.name, err)
			}
			v.got = append(v.got, r)
		}
	}
	fmt.Printf("| step | tokens/s, median of %d turns | lowest to highest | tarbert is |\n|---|---|---|---|\n", turns)
	base := mid(variants[0].got)
	for _, v := range variants {
		fmt.Printf("| %s | %.0f | %.0f to %.0f | %.2f × |\n", v.name, mid(v.got), slices.Min(v.got), slices.Max(v.got), base/mid(v.got))
	}
	return nil
}

func mid(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}

// median takes warm-up steps, then n measured ones.
func median(step func() error, n int) (float64, error) {
	var rates []float64
	for i := range n + 3 {
		began := now()
		if err := step(); err != nil {
			return 0, err
		}
		if i >= 3 {
			rates = append(rates, batch*length/(now()-began).Seconds())
		}
	}
	return mid(rates), nil
}

func ours(c *reference.Config, threads int) func() error {
	t := reference.NewTrainable(c, 1, threads)
	params := t.Params()
	moments := make([][2][]float32, len(params))
	for i, p := range params {
		moments[i] = [2][]float32{make([]float32, len(p.Data)), make([]float32, len(p.Data))}
	}
	pool := kernel.NewPool(threads)
	rng := rand.New(rand.NewPCG(1, 2))
	samples := make([]reference.Sample, batch)
	n := 0
	return func() error {
		for i := range samples {
			s := reference.Sample{Tokens: make([]int, length+1), Mask: make([]bool, length+1)}
			for j := range s.Tokens {
				s.Tokens[j], s.Mask[j] = rng.IntN(c.VocabSize), true
			}
			samples[i] = s
		}
		t.ZeroGrad()
		if _, err := t.ForwardBackward(context.Background(), samples, crossEntropy); err != nil {
			return err
		}
		squares, norm := make([]float64, len(params)), 0.0
		pool.Run(len(params), func(i int) { squares[i] = float64(kernel.SumSquares(params[i].Grad)) })
		for _, s := range squares {
			norm += s
		}
		n++
		h := kernel.AdamWStep{
			LR: 1e-3, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: 0.01,
			Correction1: float32(1 - math.Pow(0.9, float64(n))), Correction2: float32(1 - math.Pow(0.95, float64(n))),
			GradScale: float32(min(1, 1/math.Sqrt(norm))),
		}
		pool.Run(len(params), func(i int) { kernel.AdamW(params[i].Data, params[i].Grad, moments[i][0], moments[i][1], h) })
		return nil
	}
}

// crossEntropy is the mean over all targets.
func crossEntropy(logp [][]float32) (float64, [][]float32) {
	n := 0
	for _, s := range logp {
		n += len(s)
	}
	loss, grad := 0.0, make([][]float32, len(logp))
	for i, s := range logp {
		grad[i] = make([]float32, len(s))
		for j, x := range s {
			loss -= float64(x) / float64(n)
			grad[i][j] = -1 / float32(n)
		}
	}
	return loss, grad
}

func torch(python, mode, wait string, threads, steps int, clock string) (float64, error) {
	script := "step.py"
	for _, dir := range []string{"train", "bench/train", "."} {
		if _, err := os.Stat(filepath.Join(dir, "step.py")); err == nil {
			script = filepath.Join(dir, "step.py")
			break
		}
	}
	cmd := exec.Command(python, script, mode, strconv.Itoa(threads), strconv.Itoa(steps), clock)
	cmd.Env = os.Environ()
	if wait != "" {
		cmd.Env = append(cmd.Env, "OMP_WAIT_POLICY="+wait)
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("%w\n%s", err, errs.String())
	}
	return strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
}
