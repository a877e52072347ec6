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
	routing     bool         // keep the experts chosen
	window      int          // completions at a time; 0: windowMost
	pool        *kernel.Pool // nil: one thread; the draws are the same
}

// rollout is one sampled completion.
type rollout struct {
	problem int               // index in the step's problems
	tokens  []int             // prompt, completion and, unless cut, the end-of-text token
	prompt  int               // how many of them are the prompt's
	logp    []float32         // log-probability of each sampled token at temperature 1
	entropy float64           // sum over sampled tokens, nats
	ended   bool              // by an end-of-text token, which is the last
	routing reference.Routing // of all tokens but the last; nil unless asked for
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
	s := reference.Sample{Tokens: r.tokens, Mask: make([]bool, len(r.tokens)), Routing: r.routing}
	for t := r.prompt; t < len(s.Mask); t++ {
		s.Mask[t] = true
	}
	return s
}

// reserveMost bounds the tokens that a completion's cache has room for from the
// start. With longer ones the cache grows under way.
const reserveMost = 256

// windowMost is how many completions are drawn at a time: enough rows to fill
// the matrix products, few enough for their caches to stay near the cores.
const windowMost = 64

// roll draws the completions of one step's problems, many at a time and with a
// KV cache. Each prompt is read once; a sequence that has ended makes room for
// the next. Every draw is keyed by (seed, step, problem, sample, position), and
// the model's bits do not depend on the batch, so a completion does not depend
// on what it is computed beside.
func roll(ctx context.Context, m *reference.Model, s sampling, step int, problems []problem) ([]rollout, error) {
	w := window{m: m, s: s, step: step, problems: problems, out: make([]rollout, len(problems)*s.samples), heads: make([]head, len(problems))}
	if w.s.window <= 0 {
		w.s.window = windowMost
	}
	for {
		if err := w.admit(ctx); err != nil {
			return nil, err
		}
		if len(w.live) == 0 {
			return w.out, nil
		}
		s.pool.Run(len(w.live), func(i int) { w.live[i].draw(s) })
		w.live = unfinished(w.live, s.maxTokens)
		if err := w.advance(ctx); err != nil {
			return nil, err
		}
	}
}

// window is the completions that are being drawn, and those that wait.
type window struct {
	m        *reference.Model
	s        sampling
	step     int
	problems []problem
	out      []rollout
	heads    []head // of the problems
	begun    int    // rollouts of out
	live     []*drawing
	inputs   []reference.Input
}

// head is a prompt once it is read.
type head struct {
	seq    *reference.Sequence
	logits []float32
}

// admit begins waiting completions while there is room, and reads their prompts.
func (w *window) admit(ctx context.Context) error {
	to := min(w.begun+w.s.window-len(w.live), len(w.out))
	if err := w.read(ctx, w.begun/w.s.samples, (to+w.s.samples-1)/w.s.samples); err != nil {
		return err
	}
	for ; w.begun < to; w.begun++ {
		i, k := w.begun/w.s.samples, w.begun%w.s.samples
		h, p := &w.heads[i], w.problems[i].prompt
		d := &drawing{r: &w.out[w.begun], logits: h.logits, key: []uint64{w.s.seed, streamSample, uint64(w.step), uint64(i), uint64(k), 0}}
		*d.r = rollout{problem: i, prompt: len(p), tokens: append(make([]int, 0, len(p)+min(w.s.maxTokens, reserveMost)), p...)}
		if d.seq = h.seq; k+1 < w.s.samples {
			d.seq = h.seq.Clone()
		}
		w.live = append(w.live, d)
	}
	return nil
}

// read runs the prompts of problems [from, to) that are not read yet.
func (w *window) read(ctx context.Context, from, to int) error {
	for from < to && w.heads[from].seq != nil {
		from++
	}
	if from >= to {
		return nil
	}
	w.inputs = w.inputs[:0]
	for _, p := range w.problems[from:to] {
		seq := w.m.NewSequence()
		seq.Reserve(len(p.prompt) + min(w.s.maxTokens, reserveMost))
		if w.s.routing {
			seq.RecordRouting()
		}
		w.inputs = append(w.inputs, reference.Input{Seq: seq, Tokens: p.prompt})
	}
	logits, err := w.m.Forward(ctx, w.inputs)
	if err != nil {
		return err
	}
	for i, in := range w.inputs {
		w.heads[from+i] = head{seq: in.Seq, logits: logits[i][0]}
	}
	return nil
}

// advance feeds every live completion's last token to the model.
func (w *window) advance(ctx context.Context) error {
	if len(w.live) == 0 {
		return nil
	}
	w.inputs = w.inputs[:0]
	for _, d := range w.live {
		w.inputs = append(w.inputs, reference.Input{Seq: d.seq, Tokens: d.r.tokens[len(d.r.tokens)-1:]})
	}
	logits, err := w.m.Forward(ctx, w.inputs)
	if err != nil {
		return err
	}
	for i, d := range w.live {
		d.logits = logits[i][0]
	}
	return nil
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
			continue
		}
		d.r.routing = d.seq.Routing()
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
