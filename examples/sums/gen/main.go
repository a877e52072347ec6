// Gen writes the sums example's data and tokenizer from a seed:
//
//	go run ./examples/sums/gen -seed 1
//
// Everything it writes is synthetic: the solutions, their mistakes and the
// annotators who judge them. The same seed gives the same bytes.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"tarbert/internal/reference/tokenizer"
	"tarbert/internal/store"
)

func main() {
	seed := flag.Uint64("seed", 1, "seed of everything that is drawn")
	out := flag.String("out", "examples/sums/data", "folder for the data")
	model := flag.String("model", "examples/sums/model", "folder for the tokenizer's files")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "gen: unexpected argument %q\n", flag.Arg(0))
		os.Exit(2)
	}
	if err := run(*seed, *out, *model); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(3)
	}
}

func run(seed uint64, out, model string) error {
	for _, dir := range []string{out, model} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	d := generate(seed)
	for _, f := range []struct {
		name  string
		lines []any
	}{
		{"annotations.jsonl", list(d.annotations)},
		{"problems.jsonl", list(d.problems)},
		{"held-out.jsonl", list(d.heldOut)},
	} {
		b, err := jsonLines(f.lines)
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		if err := store.WriteFile(filepath.Join(out, f.name), b, 0o644); err != nil {
			return err
		}
	}
	return tokenizer.WriteByteLevel(model, tokenizer.ByteLevelFiles{
		// The think tags are not special: they are part of the answer's text.
		Added: []tokenizer.AddedToken{
			{Content: "<think>"}, {Content: "</think>"}, {Content: "<|eos|>", Special: true}, {Content: "<|pad|>", Special: true},
		},
		EOS: "<|eos|>", PAD: "<|pad|>",
		ChatTemplate: "{% for message in messages %}{{ message['content'] }}{% endfor %}",
		ModelMax:     128,
	})
}

func list[T any](in []T) []any {
	out := make([]any, len(in))
	for i, x := range in {
		out[i] = x
	}
	return out
}

// jsonLines writes <think> as <think>, not as \u003cthink\u003e: people read these files.
func jsonLines(lines []any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	for _, l := range lines {
		if err := enc.Encode(l); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}
