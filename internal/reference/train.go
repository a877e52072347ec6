package reference

import (
	"context"
	"errors"
	"fmt"

	"tarbert/internal/reference/kernel"
)

// Sample is a token sequence and which of its tokens are targets: with
// Mask[t], token t is predicted from those before it. Mask[0] counts as false.
type Sample struct {
	Tokens []int
	Mask   []bool
	// Routing, if not nil, takes the place of the model's own choice of experts
	// for every token before the last target. The choice's weights and their
	// gradient stay the model's.
	Routing Routing
}

// Objective gets, per sample, the log-probability of every target in order and
// returns the loss and its derivative by each of them, in the same shape. It
// is called once per step. The slices it gets are reused after the step.
type Objective func(logp [][]float32) (loss float64, dlogp [][]float32)

// Penalties are terms that a step adds to its objective's loss.
type Penalties struct {
	// Z times the square of each target's log-sum-exp of the logits, summed over
	// all targets (z-loss, PaLM, arXiv:2204.02311 §5): it keeps logits from
	// drifting away together, which the log-probabilities do not see.
	Z float64
	// RouterZ times the square of the log-sum-exp of the router's logits, summed
	// over all tokens and MoE layers (ST-MoE, arXiv:2202.08906 §3).
	RouterZ float64
}

// StepStats is what a step did.
type StepStats struct {
	Loss    float64 // the objective's and the penalties'
	Z       float64 // Penalties.Z's part of it
	RouterZ float64 // Penalties.RouterZ's part
	Tokens  int     // of all samples
	Targets int
	// ExpertLoad[i][e] counts how many tokens the i-th MoE layer sent to
	// expert e; the order of layers is that of RouterBias.
	ExpertLoad [][]int
	// Rerouted counts the choices, of one token in one layer, in which a replayed
	// routing differs from the model's own; Routed counts all choices, of the
	// tokens before each sample's last target.
	Rerouted, Routed int
}

// headWork is the memory of the output head in training.
type headWork struct {
	most         int     // logits held at a time, roughly
	rows         []int32 // batch row each target is predicted from
	tokens       []int   // the target
	hidden, norm []float32
	rstd         []float32
	logits       []float32
	lse          []float32
	logp         []float32
	dlogp        []float32
	dnorm        []float32
}

// logitsMost bounds the logits held at a time.
const logitsMost = 1 << 24

// chunk is how many targets are taken at a time. With more chunks than one the
// backward pass computes their logits again.
func (w *headWork) chunk(vocab int) int { return max(blockRows, w.most/vocab/blockRows*blockRows) }

// pack makes the batch: of each sample the tokens up to the last target.
func (t *Trainable) pack(samples []Sample) error {
	t.batch.reset()
	w := &t.head
	w.rows, w.tokens = w.rows[:0], w.tokens[:0]
	for i, s := range samples {
		if len(s.Mask) != len(s.Tokens) {
			return fmt.Errorf("sample %d has %d tokens and a mask of %d", i, len(s.Tokens), len(s.Mask))
		}
		row, last := len(t.batch.tokens), 0
		for at := 1; at < len(s.Tokens); at++ {
			if s.Mask[at] {
				if tok := s.Tokens[at]; tok < 0 || tok >= t.net.c.VocabSize {
					return fmt.Errorf("sample %d: token %d at position %d is outside the vocabulary of %d", i, tok, at, t.net.c.VocabSize)
				}
				w.rows = append(w.rows, int32(row+at-1))
				w.tokens = append(w.tokens, s.Tokens[at])
				last = at
			}
		}
		if last == 0 {
			continue
		}
		if err := t.batch.add(t.net, s.Tokens[:last], 0, nil); err != nil {
			return fmt.Errorf("sample %d: %w", i, err)
		}
		if s.Routing != nil {
			if err := s.Routing.check(t.net, last); err != nil {
				return fmt.Errorf("sample %d: %w", i, err)
			}
			t.batch.segs[len(t.batch.segs)-1].replay = s.Routing
		}
	}
	if len(w.rows) == 0 {
		return errors.New("the batch has no target: no token after the first of any sample is masked in")
	}
	t.batch.plan(t.net.c.NumAttentionHeads)
	return nil
}

// forward runs the network and computes every target's log-probability.
func (t *Trainable) forward(ctx context.Context, samples []Sample, a *activations) error {
	if err := t.pack(samples); err != nil {
		return err
	}
	t.refresh()
	if err := t.net.forward(ctx, t.pool, &t.batch, a); err != nil {
		return err
	}
	w, h := &t.head, t.net.c.HiddenSize
	n := len(w.rows)
	fit(&w.hidden, n*h)
	fit(&w.norm, n*h)
	fit(&w.rstd, n)
	fit(&w.lse, n)
	fit(&w.logp, n)
	for i, r := range w.rows {
		copy(w.hidden[i*h:][:h], a.last[int(r)*h:][:h])
	}
	for from := 0; from < n; from += w.chunk(t.net.c.VocabSize) {
		t.predict(from, min(from+w.chunk(t.net.c.VocabSize), n), a)
	}
	return nil
}

// predict computes logits and log-probabilities of targets [from, to).
func (t *Trainable) predict(from, to int, a *activations) {
	w, h, vocab := &t.head, t.net.c.HiddenSize, t.net.c.VocabSize
	fit(&w.logits, (to-from)*vocab)
	rowBlocks(t.pool, to-from, func(r0, r1 int) {
		s := a.spare.Get().(*scratch)
		defer a.spare.Put(s)
		i0, i1 := from+r0, from+r1
		t.net.logits(t.pool, w.hidden[i0*h:i1*h], w.norm[i0*h:i1*h], w.rstd[i0:i1], w.logits[r0*vocab:r1*vocab], s)
		for i := i0; i < i1; i++ {
			row := w.logits[(i-from)*vocab:][:vocab]
			w.lse[i] = kernel.LogSumExp(row)
			w.logp[i] = row[w.tokens[i]] - w.lse[i]
		}
	})
}

// split cuts a flat slice of targets into the samples'.
func split(samples []Sample, flat []float32) [][]float32 {
	out := make([][]float32, len(samples))
	for i, s := range samples {
		n := 0
		for at := 1; at < len(s.Mask); at++ {
			if s.Mask[at] {
				n++
			}
		}
		out[i], flat = flat[:n:n], flat[n:]
	}
	return out
}

// LogProbs gives, per sample, the log-probability of every target in order:
// the same bits as ForwardBackward hands its objective and as the model of
// Inference gives.
func (t *Trainable) LogProbs(ctx context.Context, samples []Sample) ([][]float32, error) {
	if err := t.forward(ctx, samples, t.light); err != nil {
		return nil, fmt.Errorf("log-probabilities: %w", err)
	}
	return split(samples, append([]float32(nil), t.head.logp...)), nil
}

// ForwardBackward computes the targets' log-probabilities, asks the objective
// for the loss, and adds its gradient into every parameter's Grad. Gradients
// are the same bits for any number of threads. On an error Grad may have been
// added to in part.
func (t *Trainable) ForwardBackward(ctx context.Context, samples []Sample, obj Objective) (StepStats, error) {
	return t.ForwardBackwardWith(ctx, samples, obj, Penalties{})
}

// ForwardBackwardWith is ForwardBackward with terms of its own in the loss.
func (t *Trainable) ForwardBackwardWith(ctx context.Context, samples []Sample, obj Objective, extra Penalties) (StepStats, error) {
	if err := t.forward(ctx, samples, t.acts); err != nil {
		return StepStats{}, fmt.Errorf("training step: %w", err)
	}
	w := &t.head
	loss, dlogp := obj(split(samples, w.logp))
	if err := w.take(samples, dlogp); err != nil {
		return StepStats{}, fmt.Errorf("training step: %w", err)
	}
	p := &backward{pass: newPass(t.net, t.pool, &t.batch, t.acts), g: &t.grads, extra: extra}
	t.headBack(p)
	if err := p.layers(ctx); err != nil {
		return StepStats{}, fmt.Errorf("training step: %w", err)
	}
	h := t.net.c.HiddenSize
	for i, tok := range t.batch.tokens {
		kernel.Add(t.net.embed.g[tok*h:][:h], t.grads.dy[i*h:][:h])
	}
	stats := StepStats{Z: w.penalty(extra.Z), RouterZ: p.routerZ, Targets: len(w.rows), ExpertLoad: t.load(), Rerouted: int(t.batch.rerouted.Load())}
	stats.Loss = loss + stats.Z + stats.RouterZ
	stats.Routed = len(stats.ExpertLoad) * len(t.batch.tokens)
	for _, s := range samples {
		stats.Tokens += len(s.Tokens)
	}
	return stats, nil
}

// take flattens the objective's derivative and checks its shape.
func (w *headWork) take(samples []Sample, dlogp [][]float32) error {
	if len(dlogp) != len(samples) {
		return fmt.Errorf("the objective returned derivatives of %d samples for %d", len(dlogp), len(samples))
	}
	w.dlogp = w.dlogp[:0]
	for i, want := range split(samples, w.logp) {
		if len(dlogp[i]) != len(want) {
			return fmt.Errorf("the objective returned %d derivatives for the %d targets of sample %d", len(dlogp[i]), len(want), i)
		}
		w.dlogp = append(w.dlogp, dlogp[i]...)
	}
	return nil
}

// penalty is the z-loss over all targets.
func (w *headWork) penalty(z float64) float64 {
	if z == 0 {
		return 0
	}
	sum := 0.0
	for _, lse := range w.lse {
		sum += float64(lse) * float64(lse)
	}
	return z * sum
}

// headBack takes the derivative by each log-probability to the gradient of the
// last layer's output, in grads.dy.
func (t *Trainable) headBack(p *backward) {
	w, n := &t.head, t.net
	h, vocab, all := n.c.HiddenSize, n.c.VocabSize, len(t.head.rows)
	fit(&w.dnorm, all*h)
	clear(fit(&t.grads.dy, len(t.batch.tokens)*h))
	n.norm.open(all)
	size := w.chunk(vocab)
	for from := 0; from < all; from += size {
		to := min(from+size, all)
		if all > size {
			t.predict(from, to, t.acts)
		}
		rowBlocks(t.pool, to-from, func(r0, r1 int) {
			for r := r0; r < r1; r++ {
				i := from + r
				row := w.logits[r*vocab:][:vocab]
				share := -w.dlogp[i]
				if z := p.extra.Z; z != 0 {
					share += float32(2 * z * float64(w.lse[i]))
				}
				kernel.Softmax(row, row)
				kernel.Scale(row, share)
				row[w.tokens[i]] += w.dlogp[i]
			}
			n.head.backward(t.pool, view(w.logits, r0, r1, vocab), view(w.dnorm, from+r0, from+r1, h), false)
			dw := n.norm.partial(from + r0)
			for i := from + r0; i < from+r1; i++ {
				kernel.RMSNormBackward(t.grads.dy[int(w.rows[i])*h:][:h], dw, w.hidden[i*h:][:h], n.norm.w, w.dnorm[i*h:][:h], w.rstd[i])
			}
		})
		dy := view(w.logits, 0, to-from, vocab)
		kernel.Gemm(t.pool, dy.Transpose(), view(w.norm, from, to, h), kernel.Dense(n.head.weight.g, vocab, h), true)
	}
	n.norm.close()
}

// load counts each MoE layer's tokens per expert.
func (t *Trainable) load() [][]int {
	var out [][]int
	for i := range t.net.layers {
		if t.net.layers[i].moe == nil {
			continue
		}
		start := t.acts.layers[i].moe.start
		counts := make([]int, len(start)-1)
		for e := range counts {
			counts[e] = start[e+1] - start[e]
		}
		out = append(out, counts)
	}
	return out
}
