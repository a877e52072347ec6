package reference

import "tarbert/internal/reference/kernel"

// weightGrad is one product dW += dyᵀ·x, over all rows in order.
type weightGrad struct {
	l     *linear
	dy, x kernel.Mat
	input int // which of the packed inputs is x; -1: it is read where it lies
}

// weightTask is some rows of one weight's gradient.
type weightTask struct{ weight, from, to int }

const (
	narrowInput = 128 // inputs up to this width are read where they lie
	taskOutputs = 128 // fewest rows of a weight's gradient in a task of its own
)

// need queues one weight's gradient.
func (g *layerGrads) need(l *linear, dy, x []float32, from, to int) {
	if from < to {
		g.weights = append(g.weights, weightGrad{l, view(dy, from, to, l.out), view(x, from, to, l.in), -1})
	}
}

// multiply computes the queued gradients. An input that several weights share
// is packed once.
func (g *layerGrads) multiply(pool *kernel.Pool) {
	g.tasks = g.tasks[:0]
	used := 0
	for i := range g.weights {
		w := &g.weights[i]
		parts := max(w.l.out/taskOutputs, 1)
		for part := range parts {
			g.tasks = append(g.tasks, weightTask{i, part * w.l.out / parts, (part + 1) * w.l.out / parts})
		}
		if w.l.in <= narrowInput {
			continue
		}
		for j := range g.weights[:i] {
			if before := &g.weights[j]; &before.x.Data[0] == &w.x.Data[0] && before.l.in == w.l.in && before.x.Rows == w.x.Rows {
				w.input = before.input
			}
		}
		if w.input < 0 {
			if used == len(g.inputs) {
				g.inputs = append(g.inputs, new(kernel.Packed))
			}
			w.input = used
			g.inputs[used].RepackOn(pool, w.x)
			used++
		}
	}
	pool.Run(len(g.tasks), func(i int) {
		t := g.tasks[i]
		w := &g.weights[t.weight]
		dy := w.dy.Transpose().RowRange(t.from, t.to)
		dw := kernel.Dense(w.l.weight.g, w.l.out, w.l.in).RowRange(t.from, t.to)
		if w.input < 0 {
			kernel.Gemm(pool, dy, w.x, dw, true)
		} else {
			kernel.GemmPacked(pool, dy, g.inputs[w.input], dw, true)
		}
	})
}
