// Gradcheck trains a model for some steps and writes down what gradients.py
// compares with PyTorch: every gradient, and every weight after each step.
//
//	gradcheck MODEL PLAN.json OUT
//
// The plan is {"batches": [[{"tokens": […], "mask": […]}, …], …],
// "rate", "beta1", "beta2", "eps", "decay", "clip", "threads"}: one optimizer
// step per batch. OUT gets gradients-K.safetensors and weights-K.safetensors
// for step K (tensors by their Hugging Face names), and losses.json. The loss
// is cross-entropy, averaged over the batch's targets; gradients are clipped
// to a global norm and applied by AdamW, as the embedded trainer does.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"path/filepath"

	"tarbert/internal/reference"
	"tarbert/internal/reference/kernel"
	"tarbert/internal/tensor"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "gradcheck:", err)
		os.Exit(1)
	}
}

type plan struct {
	Batches [][]sample `json:"batches"`
	Rate    float64    `json:"rate"`
	Beta1   float64    `json:"beta1"`
	Beta2   float64    `json:"beta2"`
	Eps     float64    `json:"eps"`
	Decay   float64    `json:"decay"`
	Clip    float64    `json:"clip"`
	Threads int        `json:"threads"`
}

type sample struct {
	Tokens []int  `json:"tokens"`
	Mask   []bool `json:"mask"`
}

func run(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return errors.New("want MODEL PLAN.json OUT")
	}
	raw, err := os.ReadFile(args[1])
	if err != nil {
		return err
	}
	var p plan
	if err := json.Unmarshal(raw, &p); err != nil {
		return fmt.Errorf("%s: %w", args[1], err)
	}
	model, err := reference.LoadTrainable(args[0], p.Threads)
	if err != nil {
		return err
	}
	losses, err := train(ctx, model, p, args[2])
	if err != nil {
		return err
	}
	out, err := json.Marshal(losses)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(args[2], "losses.json"), out, 0o644)
}

// train takes one step per batch and writes each step's gradients and weights.
func train(ctx context.Context, model *reference.Trainable, p plan, out string) (losses []float64, err error) {
	params := model.Params()
	m, v := moments(params), moments(params)
	for step, batch := range p.Batches {
		model.ZeroGrad()
		stats, err := model.ForwardBackward(ctx, samples(batch), crossEntropy)
		if err != nil {
			return nil, fmt.Errorf("step %d: %w", step, err)
		}
		losses = append(losses, stats.Loss)
		if err := write(out, "gradients", step, params, func(q reference.Param) []float32 { return q.Grad }); err != nil {
			return nil, err
		}
		update(params, m, v, p, step+1)
		if err := write(out, "weights", step, params, func(q reference.Param) []float32 { return q.Data }); err != nil {
			return nil, err
		}
	}
	return losses, nil
}

func moments(params []reference.Param) [][]float32 {
	zero := make([][]float32, len(params))
	for i, q := range params {
		zero[i] = make([]float32, len(q.Data))
	}
	return zero
}

func samples(batch []sample) []reference.Sample {
	out := make([]reference.Sample, len(batch))
	for i, s := range batch {
		out[i] = reference.Sample{Tokens: s.Tokens, Mask: s.Mask}
	}
	return out
}

// crossEntropy is −log p averaged over all targets.
func crossEntropy(logp [][]float32) (loss float64, dlogp [][]float32) {
	n := 0
	for _, l := range logp {
		n += len(l)
	}
	for _, l := range logp {
		d := make([]float32, len(l))
		for i := range l {
			loss -= float64(l[i]) / float64(n)
			d[i] = float32(-1 / float64(n))
		}
		dlogp = append(dlogp, d)
	}
	return loss, dlogp
}

// update is one step of AdamW; steps count from 1.
func update(params []reference.Param, m, v [][]float32, p plan, step int) {
	squares := 0.0
	for _, q := range params {
		squares += float64(kernel.SumSquares(q.Grad))
	}
	scale := 1.0
	if norm := math.Sqrt(squares); norm > p.Clip {
		scale = p.Clip / norm
	}
	for i, q := range params {
		s := kernel.AdamWStep{
			LR: float32(p.Rate), Beta1: float32(p.Beta1), Beta2: float32(p.Beta2), Eps: float32(p.Eps), GradScale: float32(scale),
			Correction1: float32(1 - math.Pow(p.Beta1, float64(step))), Correction2: float32(1 - math.Pow(p.Beta2, float64(step))),
		}
		if q.Decay {
			s.WeightDecay = float32(p.Decay)
		}
		kernel.AdamW(q.Data, q.Grad, m[i], v[i], s)
	}
}

func write(dir, kind string, step int, params []reference.Param, values func(reference.Param) []float32) error {
	var tensors []tensor.Tensor
	for _, q := range params {
		tensors = append(tensors, tensor.FromFloat32(q.Name, q.Shape, values(q), tensor.F32))
	}
	return tensor.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-%d.safetensors", kind, step)), tensors, nil)
}
