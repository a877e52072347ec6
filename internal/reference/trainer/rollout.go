package trainer

import (
	"context"

	"tarbert/internal/reference"
	"tarbert/internal/reference/kernel"
	"tarbert/internal/reference/tokenizer"
	"tarbert/internal/reward"
)

// sampling says how completions are drawn.
type sampling struct {
	seed        uint64
	samples     int // per prompt
	maxTokens   int
	temperature float64
	eos         []int
	pool        *kernel.Pool // nil: one thread; the draws are the same
}

// rollout is one sampled completion.
type rollout struct {
	problem int       // index in the step's problems
	tokens  []int     // prompt, completion and, unless cut, the end-of-text token
	prompt  int       // how many of them are the prompt's
	logp    []float32 // log-probability of each sampled token at temperature 1
	entropy float64   // sum over sampled tokens, nats
	ended   bool      // by an end-of-text token, which is the last
}

// completion is the text after the prompt, without the end.
func (r rollout) completion(tok *tokenizer.Tokenizer) string {
	end := len(r.tokens)
	if r.ended {
		end--
	}
	return tok.Decode(r.tokens[r.prompt:end])
}

// sample is the rollout as training data: its prompt masked.
func (r rollout) sample() reference.Sample {
	s := reference.Sample{Tokens: r.tokens, Mask: make([]bool, len(r.tokens))}
	for t := r.prompt; t < len(s.Mask); t++ {
		s.Mask[t] = true
	}
	return s
}

// roll draws the completions of one step's problems, all together and with a KV
// cache. Each prompt is read once; a sequence that has ended leaves the
// batch. Every draw is keyed by (seed, step, problem, sample, position), and the
// model's bits do not depend on the batch, so a completion does not depend on
// what it is computed beside.
func roll(ctx context.Context, m *reference.Model, s sampling, step int, problems []problem) ([]rollout, error) {
	out := make([]rollout, 0, len(problems)*s.samples)
	live := make([]*drawing, 0, cap(out))
	heads := make([]reference.Input, len(problems))
	for i, p := range problems {
		heads[i] = reference.Input{Seq: m.NewSequence(), Tokens: p.prompt}
	}
	logits, err := m.Forward(ctx, heads)
	if err != nil {
		return nil, err
	}
	for i, p := range problems {
		for k := range s.samples {
			out = append(out, rollout{problem: i, prompt: len(p.prompt), tokens: append([]int(nil), p.prompt...)})
			d := &drawing{r: &out[len(out)-1], seq: heads[i].Seq.Clone(), key: []uint64{s.seed, streamSample, uint64(step), uint64(i), uint64(k), 0}}
			d.logits = logits[i][0]
			live = append(live, d)
		}
	}
	inputs := make([]reference.Input, 0, len(live))
	for {
		s.pool.Run(len(live), func(i int) { live[i].draw(s) })
		live = unfinished(live, s.maxTokens)
		if len(live) == 0 {
			return out, nil
		}
		inputs = inputs[:0]
		for _, d := range live {
			inputs = append(inputs, reference.Input{Seq: d.seq, Tokens: d.r.tokens[len(d.r.tokens)-1:]})
		}
		if logits, err = m.Forward(ctx, inputs); err != nil {
			return nil, err
		}
		for i, d := range live {
			d.logits = logits[i][0]
		}
	}
}

// drawing is a rollout that is not finished.
type drawing struct {
	r      *rollout
	seq    *reference.Sequence
	key    []uint64  // of the draws; the last word is the position
	logits []float32 // of the next token
	probs  []float32 // working memory
}

// draw appends one token.
func (d *drawing) draw(s sampling) {
	d.key[len(d.key)-1] = uint64(len(d.r.logp))
	id := reference.Sampler{Temperature: s.temperature}.Pick(d.logits, uniform(d.key...))
	norm := kernel.LogSumExp(d.logits)
	d.r.tokens = append(d.r.tokens, id)
	d.r.logp = append(d.r.logp, d.logits[id]-norm)
	if d.probs == nil {
		d.probs = make([]float32, len(d.logits))
	}
	kernel.Softmax(d.probs, d.logits)
	d.r.entropy += float64(norm - kernel.Dot(d.probs, d.logits)) // −Σ p·(l − norm)
	for _, e := range s.eos {
		d.r.ended = d.r.ended || id == e
	}
}

// unfinished keeps the drawings that go on, in place.
func unfinished(live []*drawing, maxTokens int) []*drawing {
	kept := live[:0]
	for _, d := range live {
		if !d.r.ended && len(d.r.logp) < maxTokens {
			kept = append(kept, d)
		}
	}
	return kept
}

// judged is a step's rollouts with what they earned.
type judged struct {
	rollouts   []rollout
	advantages []float64 // per rollout
	kept       []bool    // per rollout: its group's rewards differ
	meters     meters
}

// judge rewards each completion and normalises the rewards within each
// problem's group of samples. Rollouts lie in order of problem.
func judge(rollouts []rollout, problems []problem, samples int, check reward.Checker, tok *tokenizer.Tokenizer) judged {
	j := judged{rollouts: rollouts, advantages: make([]float64, len(rollouts)), kept: make([]bool, len(rollouts))}
	rewards := make([]float64, len(rollouts))
	tokens, entropy := 0, 0.0
	for i, r := range rollouts {
		result := check(r.completion(tok), problems[r.problem].answer)
		if result.Correct && r.ended {
			rewards[i] = 1
			j.meters.Reward++
		}
		if result.Thinks {
			j.meters.Thinks++
		}
		if !r.ended {
			j.meters.Cut++
		}
		tokens += len(r.logp)
		entropy += r.entropy
	}
	for first := 0; first < len(rollouts); first += samples {
		a, ok := advantages(rewards[first : first+samples])
		if !ok {
			continue
		}
		copy(j.advantages[first:], a)
		for i := range samples {
			j.kept[first+i] = true
		}
		j.meters.Kept += float64(samples)
	}
	n := float64(len(rollouts))
	j.meters.Reward /= n
	j.meters.Thinks /= n
	j.meters.Cut /= n
	j.meters.Kept /= n
	j.meters.Length = float64(tokens) / n
	j.meters.Entropy = entropy / float64(tokens)
	return j
}
