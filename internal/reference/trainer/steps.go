package trainer

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/fnv"

	"tarbert/internal/reference"
	"tarbert/internal/spec"
)

// microTokens is about how many tokens go through the model at once: enough
// for full-sized matrix products, few enough for activations to stay small.
const microTokens = 4096

// micro cuts a batch into runs of samples of at most microTokens tokens each (or
// one sample). It looks at nothing but lengths, so the cuts are those of the
// data.
func micro(batch []reference.Sample) [][2]int {
	var cuts [][2]int
	first, tokens := 0, 0
	for i, s := range batch {
		if i > first && tokens+len(s.Tokens) > microTokens {
			cuts = append(cuts, [2]int{first, i})
			first, tokens = i, 0
		}
		tokens += len(s.Tokens)
	}
	return append(cuts, [2]int{first, len(batch)})
}

// totals are a batch's sums over its micro-batches.
type totals struct {
	loss, z, routerZ float64 // z and routerZ are parts of loss
	load             [][]int
	rerouted, routed int
}

// penalties are the means over a batch as the sums over its parts that a step
// takes.
func penalties(z, routerZ float64, batch []reference.Sample) reference.Penalties {
	rows := 0
	for _, s := range batch {
		for t := len(s.Mask) - 1; t > 0; t-- {
			if s.Mask[t] {
				rows += t // tokens before the last target are computed
				break
			}
		}
	}
	return reference.Penalties{Z: z / float64(max(targets(batch), 1)), RouterZ: routerZ / float64(max(rows, 1))}
}

// backward adds the batch's gradient to the model's. objectives has one per
// sample; seen, if set, gets each sample's log-probabilities.
func (t *training) backward(ctx context.Context, batch []reference.Sample, objectives []objective, extra reference.Penalties, seen func(i int, logp []float32)) (totals, error) {
	t.model.ZeroGrad()
	var sum totals
	for _, cut := range micro(batch) {
		first := cut[0]
		stats, err := t.model.ForwardBackwardWith(ctx, batch[first:cut[1]], func(logp [][]float32) (float64, [][]float32) {
			loss, d := 0.0, make([][]float32, len(logp))
			for i, l := range logp {
				if seen != nil {
					seen(first+i, l)
				}
				var own float64
				own, d[i] = objectives[first+i](l)
				loss += own
			}
			return loss, d
		}, extra)
		if err != nil {
			return totals{}, err
		}
		sum.loss += stats.Loss
		sum.z += stats.Z
		sum.routerZ += stats.RouterZ
		sum.rerouted += stats.Rerouted
		sum.routed += stats.Routed
		sum.load = addLoad(sum.load, stats.ExpertLoad)
	}
	return sum, nil
}

func addLoad(sum, x [][]int) [][]int {
	if sum == nil {
		return x
	}
	for i := range x {
		for j, n := range x[i] {
			sum[i][j] += n
		}
	}
	return sum
}

// nextSFT takes one step on the next examples.
func (t *training) nextSFT(ctx context.Context) error {
	if err := t.events.enter("step"); err != nil {
		return err
	}
	sft := t.recipe.Train.SFT
	var batch []reference.Sample
	tokens := 0
	for _, i := range t.order.step(t.step) {
		batch = append(batch, t.examples[i])
		tokens += len(t.examples[i].Tokens)
	}
	ce := crossEntropy(targets(batch))
	objectives := make([]objective, len(batch))
	for i := range objectives {
		objectives[i] = ce
	}
	o := t.recipe.Options.SFT
	sum, err := t.backward(ctx, batch, objectives, penalties(o.ZLoss, o.RouterZLoss, batch), nil)
	if err != nil {
		return err
	}
	if err := t.finish(sft.Optimizer, rate(sft.Optimizer, t.step, sft.Steps), sum, tokens, digest(tokensOf(batch)), nil); err != nil {
		return err
	}
	if sft.RouterBias > 0 {
		for i, b := range t.model.RouterBias() {
			balance(b.Data, sum.load[i], sft.RouterBias)
		}
	}
	return nil
}

// balance is the auxiliary-loss-free load balancing of DeepSeek-V3 (§2.1.2):
// the routing bias of an expert that got less than its share rises by step, of
// one that got more falls.
func balance(bias []float32, load []int, step float64) {
	total := 0
	for _, n := range load {
		total += n
	}
	for e, n := range load {
		switch d := total - n*len(load); { // sign(mean − load), in integers
		case d > 0:
			bias[e] += float32(step)
		case d < 0:
			bias[e] -= float32(step)
		}
	}
}

// nextGRPO samples completions of step g's problems (from 0), judges them and
// takes one step.
func (t *training) nextGRPO(ctx context.Context, g int) error {
	if err := t.events.enter("rollout"); err != nil {
		return err
	}
	r := t.recipe.Train.GRPO
	problems := t.problems[g*r.Prompts : (g+1)*r.Prompts]
	o := t.recipe.Options.GRPO
	s := sampling{seed: t.recipe.Seed, samples: r.Samples, maxTokens: r.MaxTokens, temperature: r.Temperature, eos: t.tok.EOS(), routing: o.Replay, pool: t.opt.pool}
	m, err := t.sampler(o.Rollout)
	if err != nil {
		return err
	}
	rollouts, err := roll(ctx, m, s, g, problems)
	if err != nil {
		return err
	}
	j := judge(rollouts, problems, r.Samples, t.check, t.tok)
	if err := t.events.enter("step"); err != nil {
		return err
	}
	return t.learn(ctx, j, g)
}

// sampler is the model that completions are drawn from.
func (t *training) sampler(p reference.Precision) (*reference.Model, error) {
	if p == "" {
		p = reference.F32
	}
	return t.model.Rounded(p)
}

// learn takes the policy gradient step. Groups without a signal are left out;
// where no group has one, the first is still computed for the mismatch meter.
func (t *training) learn(ctx context.Context, j judged, g int) error {
	r, o := t.recipe.Train.GRPO, t.recipe.Options.GRPO
	var batch []reference.Sample
	var of []int // rollout of each sample
	tokens, predicted := 0, 0
	for i, roll := range j.rollouts {
		if j.kept[i] || j.meters.Kept == 0 && roll.problem == 0 {
			batch, of = append(batch, roll.sample()), append(of, i)
			tokens += len(roll.tokens)
			predicted += len(roll.logp)
		}
	}
	var weights tally
	objectives := make([]objective, len(batch))
	for i, k := range of {
		objectives[i] = policy(r, o.Correction, j.rollouts[k].logp, j.advantages[k], predicted, len(batch), &weights)
	}
	prompts := make([][]int, r.Prompts)
	for i, p := range t.problems[g*r.Prompts : (g+1)*r.Prompts] {
		prompts[i] = p.prompt
	}
	mismatch := mismatchEvent{Event: "mismatch", Step: t.step + 1}
	var apart gap
	sum, err := t.backward(ctx, batch, objectives, penalties(o.ZLoss, o.RouterZLoss, batch), func(i int, logp []float32) { apart.add(logp, j.rollouts[of[i]].logp) })
	if err != nil {
		return err
	}
	if err := t.finish(r.Optimizer, rate(r.Optimizer, g, r.Steps), sum, tokens, digest(prompts), &j.meters); err != nil {
		return err
	}
	mismatch.Gap, mismatch.Most, mismatch.Far = apart.mean(), apart.most, apart.share()
	if o.Correction.on() {
		mismatch.corrections = &corrections{Weight: weights.share(weights.sum), Truncated: weights.share(float64(weights.truncated)), Masked: weights.share(float64(weights.masked))}
	}
	if o.Replay {
		share := float64(sum.rerouted) / float64(max(sum.routed, 1))
		mismatch.Rerouted = &share
	}
	return t.events.write(mismatch)
}

// policy is one rollout's objective. Without a correction the ratio is to the
// policy that drew it.
func policy(r spec.GRPO, c Correction, mu []float32, advantage float64, targets, samples int, seen *tally) objective {
	clip := clipping{low: r.ClipLow, high: r.ClipHigh}
	to := func(old []float32, weights []float64) objective {
		if r.Objective == "gspo" {
			return gspo(old, weights, advantage, clip, samples)
		}
		return grpo(old, weights, advantage, clip, targets)
	}
	if !c.on() {
		return to(mu, nil)
	}
	return c.corrected(mu, to, func(w []float64) { seen.add(c, w) })
}

// MeanLoss is SFT's objective for a batch that goes through the model at once:
// −log p averaged over the batch's targets.
func MeanLoss(batch []reference.Sample) reference.Objective {
	ce := crossEntropy(targets(batch))
	return func(logp [][]float32) (float64, [][]float32) {
		loss, d := 0.0, make([][]float32, len(logp))
		for i, l := range logp {
			var own float64
			own, d[i] = ce(l)
			loss += own
		}
		return loss, d
	}
}

// digest names a step's data by its tokens, in order. It tells a supervisor
// whether a resumed run goes on with the data that it would have had.
func digest(data [][]int) string {
	h := fnv.New64a()
	var b [4]byte
	for _, tokens := range data {
		for _, id := range tokens {
			binary.LittleEndian.PutUint32(b[:], uint32(id))
			h.Write(b[:])
		}
		h.Write([]byte("\n"))
	}
	return fmt.Sprintf("%016x", h.Sum64())
}

func tokensOf(batch []reference.Sample) [][]int {
	out := make([][]int, len(batch))
	for i, s := range batch {
		out[i] = s.Tokens
	}
	return out
}
