package trainer

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"

	"tarbert/internal/reference"
	"tarbert/internal/reference/kernel"
	"tarbert/internal/spec"
	"tarbert/internal/tensor"
)

// optimizer is AdamW over a model's parameters (arXiv:1711.05101, in PyTorch's
// form) with clipping of the global gradient norm.
type optimizer struct {
	params []reference.Param
	m, v   [][]float32 // first and second moments, per parameter
	steps  int         // updates since the moments were zero
	pool   *kernel.Pool
}

func newOptimizer(params []reference.Param, pool *kernel.Pool) *optimizer {
	o := &optimizer{params: params, pool: pool}
	o.reset()
	return o
}

// reset forgets the moments, as a new stage does.
func (o *optimizer) reset() {
	o.steps = 0
	o.m, o.v = make([][]float32, len(o.params)), make([][]float32, len(o.params))
	for i, p := range o.params {
		o.m[i], o.v[i] = make([]float32, len(p.Data)), make([]float32, len(p.Data))
	}
}

// norm is the Euclidean norm of all gradients together.
func (o *optimizer) norm() float64 {
	squares := make([]float64, len(o.params))
	o.pool.Run(len(o.params), func(i int) { squares[i] = float64(kernel.SumSquares(o.params[i].Grad)) })
	sum := 0.0
	for _, s := range squares {
		sum += s
	}
	return math.Sqrt(sum)
}

// step moves the parameters. Norm is that of the gradients as they are.
func (o *optimizer) step(h spec.Optimizer, rate, norm float64) {
	o.steps++
	scale := 1.0
	if h.Clip > 0 && norm > h.Clip {
		scale = h.Clip / norm
	}
	s := kernel.AdamWStep{
		LR: float32(rate), Beta1: float32(h.Betas[0]), Beta2: float32(h.Betas[1]), Eps: float32(h.Epsilon),
		Correction1: float32(1 - math.Pow(h.Betas[0], float64(o.steps))),
		Correction2: float32(1 - math.Pow(h.Betas[1], float64(o.steps))),
		GradScale:   float32(scale),
	}
	o.pool.Run(len(o.params), func(i int) {
		own, p := s, o.params[i]
		if p.Decay {
			own.WeightDecay = float32(h.WeightDecay)
		}
		kernel.AdamW(p.Data, p.Grad, o.m[i], o.v[i], own)
	})
}

const (
	optimizerFile = "optimizer.safetensors"
	firstMoment   = "exp_avg."
	secondMoment  = "exp_avg_sq."
)

// save writes the moments under torch's names for them.
func (o *optimizer) save(dir string) error {
	var tensors []tensor.Tensor
	for i, p := range o.params {
		tensors = append(tensors,
			tensor.FromFloat32(firstMoment+p.Name, p.Shape, o.m[i], tensor.F32),
			tensor.FromFloat32(secondMoment+p.Name, p.Shape, o.v[i], tensor.F32))
	}
	if err := tensor.WriteFile(filepath.Join(dir, optimizerFile), tensors, nil); err != nil {
		return fmt.Errorf("write the optimizer's moments: %w", err)
	}
	return nil
}

// load reads what save wrote.
func (o *optimizer) load(dir string, steps int) error {
	path := filepath.Join(dir, optimizerFile)
	f, err := tensor.Open(path)
	if err != nil {
		return fmt.Errorf("read the optimizer's moments: %w", err)
	}
	defer f.Close()
	if got, want := len(f.Infos()), 2*len(o.params); got != want {
		return fmt.Errorf("%s holds %d tensors, this model has %d moments", path, got, want)
	}
	for i, p := range o.params {
		for prefix, into := range map[string][]float32{firstMoment: o.m[i], secondMoment: o.v[i]} {
			info, ok := f.Info(prefix + p.Name)
			if !ok || !slices.Equal(info.Shape, p.Shape) {
				return fmt.Errorf("%s: tensor %s: want shape %v, found %v", path, prefix+p.Name, p.Shape, info.Shape)
			}
			x, err := f.Float32(prefix + p.Name)
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			copy(into, x)
		}
	}
	o.steps = steps
	return nil
}
