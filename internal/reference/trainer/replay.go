package trainer

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"tarbert/internal/reference"
	"tarbert/internal/reference/kernel"
	"tarbert/internal/store"
)

// batchesFile is what TARBERT_REPLAY's folder holds: one batch a line.
const batchesFile = "batches.jsonl"

// replayBatches is how many are stored where none are yet.
const replayBatches = 4

// storedBatch is a batch as token ids, so that two trainers compute on the same
// numbers whatever their tokenizers do.
type storedBatch struct {
	Batch     int              `json:"batch"` // from 1
	Sequences []storedSequence `json:"sequences"`
}

// storedSequence: the tokens from index From on are targets, each predicted from those before it.
type storedSequence struct {
	Tokens []int `json:"tokens"`
	From   int   `json:"from"`
}

// replayEvent is a batch's loss and gradient at the checkpoint's weights.
type replayEvent struct {
	Event    string  `json:"event"` // "replay"
	Batch    int     `json:"batch"`
	Loss     float64 `json:"loss"`      // mean over targets, nats
	GradNorm float64 `json:"grad_norm"` // before clipping
	Tokens   int     `json:"tokens"`
	// Layers holds the gradient's norm by layer: see layerOf.
	Layers map[string]float64 `json:"layers"`
}

// replay computes loss and gradients of the stored batches at the weights of
// the checkpoint that was resumed. It changes nothing and saves nothing.
func (t *training) replay(ctx context.Context, dir string) error {
	path := filepath.Join(dir, batchesFile)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if err := t.storeBatches(path); err != nil {
			return fmt.Errorf("store batches to replay: %w", err)
		}
	}
	batches, err := readBatches(path, t.model.Config())
	if err != nil {
		return err
	}
	if err := t.events.enter("eval"); err != nil {
		return err
	}
	for _, b := range batches {
		e, err := t.replayOne(ctx, b)
		if err != nil {
			return fmt.Errorf("replay batch %d: %w", b.Batch, err)
		}
		if err := t.events.write(e); err != nil {
			return err
		}
	}
	return t.events.write(doneEvent{Event: "done", Step: t.step})
}

func (t *training) replayOne(ctx context.Context, b storedBatch) (replayEvent, error) {
	var batch []reference.Sample
	e := replayEvent{Event: "replay", Batch: b.Batch, Layers: map[string]float64{}}
	for _, s := range b.Sequences {
		mask := make([]bool, len(s.Tokens))
		for i := max(s.From, 1); i < len(mask); i++ {
			mask[i] = true
		}
		batch = append(batch, reference.Sample{Tokens: s.Tokens, Mask: mask})
		e.Tokens += len(s.Tokens)
	}
	objectives := make([]objective, len(batch))
	for i := range objectives {
		objectives[i] = crossEntropy(targets(batch))
	}
	sum, err := t.backward(ctx, batch, objectives, reference.Penalties{}, nil)
	if err != nil {
		return e, err
	}
	e.Loss, e.GradNorm = sum.loss, t.opt.norm()
	if math.IsNaN(e.Loss+e.GradNorm) || math.IsInf(e.Loss+e.GradNorm, 0) {
		return e, fmt.Errorf("loss %g, gradient norm %g: %w", e.Loss, e.GradNorm, ErrNotFinite)
	}
	for _, p := range t.model.Params() {
		e.Layers[layerOf(p.Name)] += float64(kernel.SumSquares(p.Grad))
	}
	for name, squares := range e.Layers {
		e.Layers[name] = math.Sqrt(squares)
	}
	return e, nil
}

// layerOf groups parameters: "model.layers.3" for all of a layer, else the
// name without its last part ("model.embed_tokens", "model.norm", "lm_head").
func layerOf(name string) string {
	parts := strings.Split(name, ".")
	for i, p := range parts {
		if p == "layers" && i+1 < len(parts) {
			return strings.Join(parts[:i+2], ".")
		}
	}
	return strings.Join(parts[:max(len(parts)-1, 1)], ".")
}

// storeBatches writes the next batches of the recipe after the checkpoint's step.
func (t *training) storeBatches(path string) error {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	for k := range replayBatches {
		b := storedBatch{Batch: k + 1}
		if len(t.examples) > 0 {
			for _, i := range t.order.step(t.step + k) {
				s := t.examples[i]
				from := 0
				for from < len(s.Mask) && !s.Mask[from] {
					from++
				}
				b.Sequences = append(b.Sequences, storedSequence{Tokens: s.Tokens, From: from})
			}
		} else {
			r := t.recipe.Train.GRPO
			for i := range r.Prompts { // reinforcement learning alone: the problems' own text
				p := t.problems[((t.step+k)*r.Prompts+i)%len(t.problems)]
				b.Sequences = append(b.Sequences, storedSequence{Tokens: p.prompt, From: 1})
			}
		}
		if err := enc.Encode(b); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return store.WriteFile(path, out.Bytes(), 0o644)
}

// readBatches reads stored batches and refuses what the model cannot take.
func readBatches(path string, c *reference.Config) ([]storedBatch, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read stored batches: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, maxLine)
	var out []storedBatch
	for n := 1; lines.Scan(); n++ {
		var b storedBatch
		if err := json.Unmarshal(lines.Bytes(), &b); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n, err)
		}
		for i, s := range b.Sequences {
			if len(s.Tokens) < 2 || len(s.Tokens) > c.MaxPositionEmbeddings || s.From < 0 || max(s.From, 1) >= len(s.Tokens) {
				return nil, fmt.Errorf("%s:%d: sequence %d: %d tokens, targets from %d; want 2 to %d tokens with a target", path, n, i, len(s.Tokens), s.From, c.MaxPositionEmbeddings)
			}
			for _, id := range s.Tokens {
				if id < 0 || id >= c.VocabSize {
					return nil, fmt.Errorf("%s:%d: sequence %d: token %d of a vocabulary of %d", path, n, i, id, c.VocabSize)
				}
			}
		}
		if len(b.Sequences) == 0 {
			return nil, fmt.Errorf("%s:%d: no sequences", path, n)
		}
		out = append(out, b)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read stored batches %s: %w", path, err)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: no batches", path)
	}
	return out, nil
}
