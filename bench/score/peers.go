package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"tarbert/internal/reference"
)

// result is one process's figures: tokens a second, and its largest resident
// memory. A zero was not measured.
type result struct {
	Score   float64 `json:"score"`   // every token's log-probability
	Prefill float64 `json:"prefill"` // logits of the last token only
	Decode  float64 `json:"decode"`
	Peak    int64   `json:"peak"`
}

// contender is one program with one form of the weights.
type contender struct {
	name    string
	command []string
	got     []result
}

var processStart = time.Now()

// measureOnce is a contender of our own: it measures and prints a result.
func measureOnce(ctx context.Context, w io.Writer, o options) error {
	m, err := reference.Load(o.dir, reference.Options{Precision: reference.Precision(o.precision), Threads: o.threads})
	if err != nil {
		return err
	}
	tokens := make([]int, o.tokens)
	for i := range tokens {
		tokens[i] = i * 7919 % m.Config().VocabSize
	}
	if _, err := m.Score(ctx, tokens[:min(o.tokens, 64)], 1); err != nil {
		return err
	}
	now := func() time.Duration { return time.Since(processStart) }
	if o.clock == "cpu" {
		now = processorTime
	}
	var r result
	start := now()
	err = profiled(o.profile, func() error {
		_, err := m.Score(ctx, tokens, 1)
		return err
	})
	if err != nil {
		return err
	}
	r.Score = float64(o.tokens) / (now() - start).Seconds()
	if r.Peak, err = peakBytes(); err != nil {
		return err
	}
	start = now()
	if _, err := m.Forward(ctx, []reference.Input{{Seq: m.NewSequence(), Tokens: tokens}}); err != nil {
		return err
	}
	r.Prefill = float64(o.tokens) / (now() - start).Seconds()
	if r.Decode, err = decode(ctx, m, o.decode, now); err != nil {
		return err
	}
	return json.NewEncoder(w).Encode(r)
}

// measurePeers runs all contenders in turns and prints a table.
func measurePeers(ctx context.Context, w io.Writer, o options) error {
	all, err := contenders(ctx, o)
	if err != nil {
		return err
	}
	for range o.rounds {
		for _, c := range all {
			var errs bytes.Buffer
			cmd := exec.CommandContext(ctx, c.command[0], c.command[1:]...)
			cmd.Env = append(os.Environ(), "HF_HUB_OFFLINE=1")
			cmd.Stderr = &errs
			out, err := cmd.Output()
			var r result
			if err := errors.Join(err, json.Unmarshal(out, &r)); err != nil {
				return fmt.Errorf("%s: %w\n%s", c.name, err, errs.String())
			}
			c.got = append(c.got, r)
		}
	}
	fmt.Fprintf(w, "tokens/s by the %s clock, median (best) of %d rounds; %d threads, %d tokens; prefill computes the last token's logits only.\n\n", o.clock, o.rounds, o.threads, o.tokens)
	fmt.Fprintf(w, "| | scoring | prefill | decoding | peak memory |\n|---|---|---|---|---|\n")
	for _, c := range all {
		peak := int64(0)
		for _, r := range c.got {
			peak = max(peak, r.Peak)
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %.0f MB |\n", c.name, c.column(func(r result) float64 { return r.Score }),
			c.column(func(r result) float64 { return r.Prefill }), c.column(func(r result) float64 { return r.Decode }), float64(peak)/1e6)
	}
	return nil
}

func (c *contender) column(of func(result) float64) string {
	var x []float64
	top := 0.0
	for _, r := range c.got {
		x = append(x, of(r))
		top = max(top, of(r))
	}
	if top == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f (%.1f)", median(x), top)
}

// contenders makes what the peers that are here need.
func contenders(ctx context.Context, o options) ([]*contender, error) {
	own, err := os.Executable()
	if err != nil {
		return nil, err
	}
	itself := func(name, dir, precision string) *contender {
		return &contender{name: name, command: []string{own, "-once", "-dir", dir, "-precision", precision,
			"-tokens", strconv.Itoa(o.tokens), "-decode", strconv.Itoa(o.decode), "-threads", strconv.Itoa(o.threads), "-clock", o.clock}}
	}
	numbers := []string{strconv.Itoa(o.tokens), strconv.Itoa(prompt), strconv.Itoa(o.decode), strconv.Itoa(o.threads), o.clock}
	all := []*contender{itself("tarbert, bf16 weights, f32", o.dir, "f32")}
	if o.tarbert != "" {
		w8a8, err := converted(ctx, o, "w8a8-ascend", "w8a8")
		if err != nil {
			return nil, err
		}
		all = append(all, itself("tarbert, int8 weights, w8a8", w8a8, "w8a8"))
	}
	if o.python != "" {
		for _, dtype := range []string{"float32", "bfloat16"} {
			all = append(all, &contender{name: "PyTorch, " + dtype, command: append([]string{o.python, beside("torch_model.py"), o.dir, dtype}, numbers...)})
		}
	}
	if o.node != "" && o.tarbert != "" {
		gguf, err := converted(ctx, o, "gguf-bf16", "model.gguf")
		if err != nil {
			return nil, err
		}
		all = append(all, &contender{name: "llama.cpp, bf16 weights", command: append([]string{"node", beside("llama_model.mjs"), o.node, gguf}, numbers...)})
	}
	return all, nil
}

// converted is the model in another form, by tarbert convert, made unless it is
// there. GGUF holds a tokenizer: a small one, whose missing tokens are padding.
func converted(ctx context.Context, o options, to, name string) (string, error) {
	for _, f := range []string{"tokenizer.json", "tokenizer_config.json"} {
		data, err := os.ReadFile(filepath.Join(beside("../../internal/convert/testdata/gguf/tokenizer-qwen"), f))
		if err == nil {
			err = os.WriteFile(filepath.Join(o.dir, f), data, 0o644)
		}
		if err != nil {
			return "", fmt.Errorf("give the model a tokenizer: %w", err)
		}
	}
	out := o.dir + "-" + name
	if _, err := os.Stat(out); err != nil {
		if msg, err := exec.CommandContext(ctx, o.tarbert, "convert", o.dir, out, "--to", to).CombinedOutput(); err != nil {
			return "", fmt.Errorf("convert to %s: %w\n%s", to, err, msg)
		}
	}
	if st, err := os.Stat(out); err != nil || !st.IsDir() || to == "w8a8-ascend" {
		return out, err
	}
	files, err := filepath.Glob(filepath.Join(out, "*.gguf"))
	if err != nil || len(files) != 1 {
		return "", fmt.Errorf("convert to %s: %d files in %s, want one", to, len(files), out)
	}
	return files[0], nil
}

// beside finds a file of this directory from it, from bench or from the root.
func beside(name string) string {
	for _, dir := range []string{".", "score", "bench/score"} {
		if path := filepath.Join(dir, name); exists(path) {
			return path
		}
	}
	return name
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
