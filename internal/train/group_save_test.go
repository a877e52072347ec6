package train

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"tarbert/internal/checkpoint"
	"tarbert/internal/tensor"
)

func (g *group) resume(dir string) error {
	if dir == "" {
		return nil
	}
	state, err := checkpoint.ReadState(dir)
	if err != nil {
		return err
	}
	d, err := tensor.OpenDir(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	b, err := d.Bytes("w")
	if err != nil {
		return err
	}
	for i := range g.w {
		g.w[i] = math.Float64frombits(binary.LittleEndian.Uint64(b[8*i:]))
	}
	g.step = state.Step
	if g.strikes("lost-sampler", g.step, 0) {
		g.offset = 1000
	}
	if g.strikes("wrong-weights", g.step, 0) {
		for i := range g.w {
			g.w[i] = 30
		}
	}
	return nil
}

func (g *group) save() error {
	w, err := checkpoint.Begin(g.root, g.step)
	if err != nil {
		return err
	}
	b := make([]byte, 8*groupWidth)
	for i, x := range g.w {
		binary.LittleEndian.PutUint64(b[8*i:], math.Float64bits(x))
	}
	// Two shards, so that one can be missing.
	err = errors.Join(
		tensor.WriteFile(filepath.Join(w.Dir(), "model.safetensors"), []tensor.Tensor{{Name: "w", DType: tensor.F64, Shape: []int64{groupWidth}, Data: b}}, nil),
		os.WriteFile(filepath.Join(w.Dir(), "notes.txt"), []byte(strings.Repeat("x", 1<<16)), 0o644))
	if err != nil {
		return errors.Join(err, w.Abort())
	}
	dir, err := w.Commit(checkpoint.State{Step: g.step, Tokens: int64(64 * g.step), Stage: "sft", Writer: checkpoint.Identity{Trainer: "group"}})
	if err != nil {
		return errors.Join(err, w.Abort())
	}
	g.say(map[string]any{"event": "checkpoint", "step": g.step, "dir": dir})
	return nil
}

// replay speaks the contract's replay with one batch per stored line. Parity is
// by how much its gradients are off.
func (g *group) replay(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "batches.jsonl")); err != nil {
		var b strings.Builder
		for k := range 4 {
			fmt.Fprintf(&b, `{"batch":%d,"sequences":[{"tokens":[%d,1],"from":1}]}`+"\n", k+1, g.step+k+1)
		}
		if err := os.WriteFile(filepath.Join(dir, "batches.jsonl"), []byte(b.String()), 0o644); err != nil {
			return err
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "batches.jsonl"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		var batch struct {
			Batch     int
			Sequences []struct{ Tokens []int }
		}
		if err := json.Unmarshal([]byte(line), &batch); err != nil {
			return err
		}
		if g.planned("replay-crash") {
			return errors.New("this pool cannot compute it")
		}
		layers, all := map[string]float64{}, 0.0
		for i, w := range g.w {
			x := gradient(g.plan.Seed, batch.Sequences[0].Tokens[0], 0, i, w)
			if i < 4 && g.plan.Parity != 0 { // the loss is right, the first layer's gradient is not
				x *= g.plan.Parity
			}
			layers[fmt.Sprintf("model.layers.%d", i/4)] += x * x
			all += x * x
		}
		for name, x := range layers {
			layers[name] = math.Sqrt(x)
		}
		g.say(map[string]any{"event": "replay", "batch": batch.Batch, "loss": 1 + float64(batch.Batch), "grad_norm": math.Sqrt(all), "tokens": 2, "layers": layers})
	}
	g.say(map[string]any{"event": "done", "step": g.step})
	return nil
}
