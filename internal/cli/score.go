package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/spf13/cobra"

	"tarbert/internal/reference"
)

// scoreLine is one input line of `tarbert score`.
type scoreLine struct {
	ID     string `json:"id"`
	Tokens []int  `json:"tokens"`
}

// scored is one output line: entry t belongs to token t given those before it.
type scored struct {
	ID       string     `json:"id"`
	LogProbs []*float64 `json:"logprobs"`
	Top      []any      `json:"top,omitempty"`
}

func (a *app) scoreCommand() *cobra.Command {
	var tokens, precision string
	var top int
	c := &cobra.Command{
		Use:   "score MODEL --tokens FILE.jsonl",
		Short: "Teacher-forced log-probabilities of token sequences under the reference model",
		Long: `Reads lines {"id":"…","tokens":[…]} and writes, per line, {"id":"…","logprobs":[null,…],"top":[null,[[token,logprob],…],…]}:
entry t is the natural-log probability of token t given those before it, and the K likeliest tokens there in falling order.`,
		Args: exactArgs(1, "a model directory (config.json and safetensors)"),
		RunE: func(c *cobra.Command, args []string) error {
			return a.score(c.Context(), args[0], tokens, reference.Precision(precision), top)
		},
	}
	c.Flags().StringVar(&tokens, "tokens", "", "JSON Lines file; - for standard input")
	c.Flags().StringVar(&precision, "precision", "", "f32, bf16 or w8a8; default: what the weights are stored for")
	c.Flags().IntVar(&top, "top", 0, "also write the K likeliest tokens at every position")
	return c
}

func (a *app) score(ctx context.Context, dir, tokens string, precision reference.Precision, top int) error {
	if tokens == "" {
		return badUsage("score needs --tokens FILE.jsonl (or - for standard input)")
	}
	if top < 0 {
		return badUsage("--top %d: a count cannot be negative", top)
	}
	in, err := a.open(tokens)
	if err != nil {
		return err
	}
	defer in.Close()
	model, err := reference.Load(dir, reference.Options{Precision: precision, Threads: a.cores()})
	if err != nil {
		return err
	}
	out := bufio.NewWriter(a.Out)
	err = eachLine(in, tokens, func(line int, raw []byte) error {
		var l scoreLine
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&l); err != nil {
			return badUsage(`%s:%d: want {"id":"…","tokens":[…]}: %w`, tokens, line, err)
		}
		for i, tok := range l.Tokens {
			if tok < 0 || tok >= model.Config().VocabSize {
				return badUsage("%s:%d: token %d at position %d is outside the vocabulary of %d", tokens, line, tok, i, model.Config().VocabSize)
			}
		}
		positions, err := model.Score(ctx, l.Tokens, top)
		if err != nil {
			return fmt.Errorf("%s:%d: %w", tokens, line, err)
		}
		b, err := json.Marshal(scoredLine(l.ID, positions, top))
		if err != nil {
			return err
		}
		out.Write(append(b, '\n'))
		return nil
	})
	return errors.Join(err, out.Flush())
}

func scoredLine(id string, positions []reference.Position, top int) scored {
	s := scored{ID: id, LogProbs: make([]*float64, len(positions))}
	if top > 0 {
		s.Top = make([]any, len(positions))
	}
	for t := 1; t < len(positions); t++ {
		s.LogProbs[t] = &positions[t].LogProb
		if top > 0 {
			pairs := make([][2]any, len(positions[t].Top))
			for i, p := range positions[t].Top {
				pairs[i] = [2]any{p.Token, p.LogProb}
			}
			s.Top[t] = pairs
		}
	}
	return s
}

// open opens an input file, or standard input for "-".
func (a *app) open(path string) (io.ReadCloser, error) {
	if path == "-" {
		return io.NopCloser(a.In), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, badUsage("%w", err)
	}
	return f, nil
}

// eachLine calls f with every non-empty line, numbered from 1. A line may be long, but not endless.
func eachLine(r io.Reader, name string, f func(line int, raw []byte) error) error {
	const longest = 64 << 20
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 1<<16), longest)
	n := 0
	for s.Scan() {
		n++
		if len(bytes.TrimSpace(s.Bytes())) == 0 {
			continue
		}
		if err := f(n, s.Bytes()); err != nil {
			return err
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("%s:%d: %w", name, n+1, err)
	}
	return nil
}

// cores is how many processors to use.
func (a *app) cores() int {
	if a.threads > 0 {
		return a.threads
	}
	return runtime.NumCPU()
}
