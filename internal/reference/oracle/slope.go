package oracle

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// Example is a token sequence and which of its tokens are targets: Mask[t]
// says that token t is predicted from those before it. Mask[0] is ignored.
type Example struct {
	Tokens []int
	Mask   []bool
	// Routing, if not nil, holds per sparse layer the experts that each token
	// is sent to instead of those that the router chooses, so many per token.
	Routing [][]int32
}

// Penalties are terms of the loss beside −log p: the mean over targets of Z
// times the square of the logits' log-sum-exp, and, summed over the sparse
// layers, the mean over all tokens up to each example's last target of RouterZ
// times the square of the router's.
type Penalties struct{ Z, RouterZ float64 }

// With is the model with penalties in its loss.
func (m *Model) With(p Penalties) *Model {
	n := *m
	n.extra = p
	return &n
}

// Loss is the mean of −log p over all targets of the batch, in nats.
func (m *Model) Loss(batch []Example) (float64, error) {
	loss, _, err := m.loss(batch)
	return loss, err
}

func (m *Model) loss(batch []Example) (float64, []int, error) {
	total, targets, router, rows := 0.0, 0, 0.0, 0
	var chosen []int
	for i, e := range batch {
		if len(e.Mask) != len(e.Tokens) {
			return 0, nil, fmt.Errorf("example %d has %d tokens and a mask of %d", i, len(e.Tokens), len(e.Mask))
		}
		pass, err := m.forward(e.Tokens, e.Routing)
		if err != nil {
			return 0, nil, fmt.Errorf("example %d: %w", i, err)
		}
		chosen = append(chosen, pass.chosen...)
		last := 0
		for t := 1; t < len(e.Tokens); t++ {
			if e.Mask[t] {
				lse := logSumExp(pass.Logits[t-1])
				total += lse - pass.Logits[t-1][e.Tokens[t]] + m.extra.Z*lse*lse
				targets++
				last = t
			}
		}
		rows += last
		for t := range last {
			router += pass.router[t]
		}
	}
	if targets == 0 {
		return 0, nil, errors.New("the batch has no target")
	}
	return total/float64(targets) + m.extra.RouterZ*router/float64(rows), chosen, nil
}

func logSumExp(x []float64) float64 {
	top, sum := slices.Max(x), 0.0
	for _, v := range x {
		sum += math.Exp(v - top)
	}
	return top + math.Log(sum)
}

// Slope is a directional derivative of the loss.
type Slope struct {
	Value float64 // dL/dε at ε = 0 along the direction
	Step  float64 // the ε of the central difference
}

// ErrKink is wrapped when no step is small enough to leave the routing as it
// is: the loss has a jump there and no derivative to compare with.
var ErrKink = errors.New("the loss is not smooth here: routing changes within the smallest step")

// Slope measures (L(w+εd) − L(w−εd)) / 2ε. Direction holds, per tensor name, a
// vector of the tensor's size; tensors that it lacks do not move. It starts
// with the step given and takes a tenth of it, up to three times, while the
// choice of experts differs between the two sides.
func (m *Model) Slope(batch []Example, direction map[string][]float64, step float64) (Slope, error) {
	for name, d := range direction {
		if t, ok := m.w[name]; !ok || len(t.Data) != len(d) {
			return Slope{}, fmt.Errorf("direction for %s has %d values, the model's tensor %d", name, len(d), len(t.Data))
		}
	}
	for try := 0; try < 4; try, step = try+1, step/10 {
		up, routeUp, err := m.moved(direction, step).loss(batch)
		if err != nil {
			return Slope{}, err
		}
		down, routeDown, err := m.moved(direction, -step).loss(batch)
		if err != nil {
			return Slope{}, err
		}
		if slices.Equal(routeUp, routeDown) {
			return Slope{Value: (up - down) / (2 * step), Step: step}, nil
		}
	}
	return Slope{}, fmt.Errorf("differences down to a step of %g: %w", step*10, ErrKink)
}

// moved is the model at w + ε·d. Tensors that do not move are shared.
func (m *Model) moved(direction map[string][]float64, eps float64) *Model {
	n := *m
	n.w = make(map[string]Tensor, len(m.w))
	for name, t := range m.w {
		d, ok := direction[name]
		if ok {
			data := make([]float64, len(t.Data))
			for i, v := range t.Data {
				data[i] = v + eps*d[i]
			}
			t.Data = data
		}
		n.w[name] = t
	}
	return &n
}
