package server

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"time"

	"tarbert/internal/reference"
	"tarbert/internal/reference/tokenizer"
)

// params is what one request asks of each of its sequences.
type params struct {
	sampling
	maxTokens, minTokens int
	stop                 []string
	stopIDs              []int // end the sequence and are named as the reason
	eos                  int   // ends it without being named; -1: none or ignored
	eosIDs               []int // all ends of text, for minTokens
	includeStop          bool
	skipSpecial          bool
	logprobs             int // likeliest tokens per generated token; -1: no log-probabilities
	promptLogprobs       int // and per prompt token
}

// entry is one token at a position with its log-probability.
type entry struct {
	id      int
	logprob float64
	rank    int // 1: the likeliest
	text    string
}

// position lists the actual token first and then the likeliest ones in order;
// the actual one is not repeated. nil: the first prompt token, which nothing
// predicts.
type position []entry

// event is one step of a sequence.
type event struct {
	choice   int
	token    int // -1: none (a prompt that was only scored, or an error)
	text     string
	position position   // of the token, if log-probabilities were asked for
	prompt   []position // of the whole prompt, with the first event
	finish   string     // "stop", "length"; "" while it goes on
	reason   any        // stop string or id, nil for the end of text
	err      error
}

// mailbox hands events to a request without ever making the sender wait.
type mailbox struct {
	mu     sync.Mutex
	events []event
	wake   chan struct{} // capacity one
}

func newMailbox() *mailbox { return &mailbox{wake: make(chan struct{}, 1)} }

func (m *mailbox) put(e event) {
	m.mu.Lock()
	m.events = append(m.events, e)
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// take waits for events and returns all there are.
func (m *mailbox) take(ctx context.Context) ([]event, error) {
	for {
		m.mu.Lock()
		events := m.events
		m.events = nil
		m.mu.Unlock()
		if len(events) > 0 {
			return events, nil
		}
		select {
		case <-m.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// job is one sequence. Everything below out belongs to the scheduler once the
// job is submitted.
type job struct {
	ctx    context.Context
	choice int // index in the response
	sample int // index among the samples of one prompt
	prompt []int
	params params
	out    *mailbox

	tok      *tokenizer.Tokenizer
	tokens   []int    // prompt and what was generated
	seq      sequence // nil: nothing is cached
	scored   int      // prompt positions that have log-probabilities
	scores   []position
	stream   *textStream
	inPrompt map[int]bool // for the repetition penalty
	counts   map[int]int  // generated tokens
	arrived  time.Time
	admitted time.Time
	last     time.Time // of the last token
	done     bool
}

func newJob(ctx context.Context, tok *tokenizer.Tokenizer, prompt []int, p params, out *mailbox) *job {
	j := &job{
		ctx: ctx, prompt: prompt, params: p, out: out, tok: tok,
		tokens: slices.Clone(prompt), stream: newTextStream(tok, prompt, p), counts: map[int]int{},
	}
	if p.promptLogprobs >= 0 {
		j.scores = append(make([]position, 0, len(prompt)), nil)
		j.scored = 1
	}
	if p.repetition != 1 {
		j.inPrompt = map[int]bool{}
		for _, id := range prompt {
			j.inPrompt[id] = true
		}
	}
	return j
}

// generated is how many tokens were made so far.
func (j *job) generated() int { return len(j.tokens) - len(j.prompt) }

// cached is how many of the tokens the KV cache holds.
func (j *job) cached() int {
	if j.seq == nil {
		return 0
	}
	return j.seq.Len()
}

// wantsAll reports whether every row of a chunk is needed, not only the last.
func (j *job) wantsAll() bool {
	return j.params.promptLogprobs >= 0 && j.scored < len(j.prompt)
}

var errNotFinite = errors.New("the model's logits are not finite: its weights or its precision are broken")

// advance takes the logits of a chunk that started at position from. It
// returns false while the prompt is not finished.
func (j *job) advance(from, n int, rows [][]float32) (event, bool) {
	if j.wantsAll() {
		j.score(from, rows)
	}
	if from+n < len(j.tokens) {
		return event{}, false
	}
	e := event{choice: j.choice, token: -1}
	if j.generated() == 0 {
		e.prompt = j.scores
		for _, p := range j.scores {
			if p != nil && math.IsNaN(p[0].logprob) {
				e.err = errNotFinite
				return e, true
			}
		}
	}
	if j.params.maxTokens == 0 {
		e.finish = "length"
		return e, true
	}
	return j.generate(e, rows[len(rows)-1]), true
}

// score fills in prompt positions from rows that start at position from: the
// row of one token is about the next.
func (j *job) score(from int, rows [][]float32) {
	for i, row := range rows {
		at := from + i + 1
		if at < j.scored || at >= len(j.prompt) {
			continue
		}
		before := j.prompt[max(1, at-contextTokens):at] // the first token has no entry, and vLLM takes context from entries
		j.scores = append(j.scores, positionOf(j.tok, row, before, j.prompt[at], j.params.promptLogprobs))
		j.scored = at + 1
	}
}

// positionOf lists the actual token and the k likeliest.
func positionOf(tok *tokenizer.Tokenizer, logits []float32, before []int, actual, k int) position {
	lp := reference.LogProbs(logits, actual, min(k, len(logits)))
	out := position{{actual, lp.LogProb, lp.Rank, tokenText(tok, before, actual)}}
	for i, t := range lp.Top {
		if t.Token != actual {
			out = append(out, entry{t.Token, t.LogProb, i + 1, tokenText(tok, before, t.Token)})
		}
	}
	return out
}

// generate draws the next token from logits and fills in the event.
func (j *job) generate(e event, logits []float32) event {
	if v := logits[argmax(logits)]; v != v || v-v != 0 {
		e.err = errNotFinite
		return e
	}
	p := j.params
	var banned []int
	if j.generated() < p.minTokens {
		banned = slices.Concat(p.eosIDs, p.stopIDs)
	}
	adjusted := p.adjusted(logits, banned, j.inPrompt, j.counts)
	var u float64
	if !p.greedy() {
		u = uniform(p.seed, j.sample, j.generated())
	}
	id := p.pick(adjusted, u)
	if p.logprobs >= 0 {
		made := j.tokens[len(j.prompt):]
		e.position = positionOf(j.tok, logits, made[max(0, len(made)-contextTokens):], id, p.logprobs)
		if math.IsNaN(e.position[0].logprob) {
			e.err = errNotFinite
			return e
		}
	}
	j.tokens = append(j.tokens, id)
	j.counts[id]++
	e.token = id
	j.finish(&e, id)
	e.text = j.stream.next(e.finish != "")
	return e
}

// finish decides whether the token just made was the last one and why.
func (j *job) finish(e *event, id int) {
	p := j.params
	switch {
	case id == p.eos:
		e.finish = "stop"
	case slices.Contains(p.stopIDs, id):
		e.finish, e.reason = "stop", id
	case j.generated() >= p.maxTokens:
		e.finish = "length"
	}
	if e.finish == "stop" && !p.includeStop {
		return // the token that ended it is not part of the text
	}
	if stop, ok := j.stream.add(id, j.generated() > p.minTokens); ok {
		e.finish, e.reason = "stop", stop
	}
}
