package trainer

import (
	"context"

	"tarbert/internal/reference"
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

// backward adds the batch's gradient to the model's. objectives has one per
// sample; seen, if set, gets each sample's log-probabilities.
func (t *training) backward(ctx context.Context, batch []reference.Sample, objectives []objective, seen func(i int, logp []float32)) (loss float64, load [][]int, err error) {
	t.model.ZeroGrad()
	for _, cut := range micro(batch) {
		first := cut[0]
		stats, err := t.model.ForwardBackward(ctx, batch[first:cut[1]], func(logp [][]float32) (float64, [][]float32) {
			sum, d := 0.0, make([][]float32, len(logp))
			for i, l := range logp {
				if seen != nil {
					seen(first+i, l)
				}
				var own float64
				own, d[i] = objectives[first+i](l)
				sum += own
			}
			return sum, d
		})
		if err != nil {
			return 0, nil, err
		}
		loss += stats.Loss
		load = addLoad(load, stats.ExpertLoad)
	}
	return loss, load, nil
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
	loss, load, err := t.backward(ctx, batch, objectives, nil)
	if err != nil {
		return err
	}
	if err := t.finish(sft.Optimizer, rate(sft.Optimizer, t.step, sft.Steps), loss, tokens, nil); err != nil {
		return err
	}
	if sft.RouterBias > 0 {
		for i, b := range t.model.RouterBias() {
			balance(b.Data, load[i], sft.RouterBias)
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
	s := sampling{seed: t.recipe.Seed, samples: r.Samples, maxTokens: r.MaxTokens, temperature: r.Temperature, eos: t.tok.EOS(), pool: t.opt.pool}
	rollouts, err := roll(ctx, t.model.Inference(), s, g, problems)
	if err != nil {
		return err
	}
	j := judge(rollouts, problems, r.Samples, t.check, t.tok)
	if err := t.events.enter("step"); err != nil {
		return err
	}
	return t.learn(ctx, j, g)
}

// learn takes the policy gradient step. Groups without a signal are left out;
// where no group has one, the first is still computed for the mismatch meter.
func (t *training) learn(ctx context.Context, j judged, g int) error {
	r := t.recipe.Train.GRPO
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
	clip := clipping{low: r.ClipLow, high: r.ClipHigh}
	objectives := make([]objective, len(batch))
	for i, k := range of {
		if r.Objective == "gspo" {
			objectives[i] = gspo(j.rollouts[k].logp, j.advantages[k], clip, len(batch))
		} else {
			objectives[i] = grpo(j.rollouts[k].logp, j.advantages[k], clip, predicted)
		}
	}
	var mismatch gap
	loss, _, err := t.backward(ctx, batch, objectives, func(i int, logp []float32) { mismatch.add(logp, j.rollouts[of[i]].logp) })
	if err != nil {
		return err
	}
	if err := t.finish(r.Optimizer, rate(r.Optimizer, g, r.Steps), loss, tokens, &j.meters); err != nil {
		return err
	}
	return t.events.write(mismatchEvent{Event: "mismatch", Step: t.step, Gap: mismatch.mean()})
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
