package server

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"tarbert/internal/reference/tokenizer"
)

// textRequest is one request to /v1/completions, checked.
type textRequest struct {
	asked
	id      string
	prompts []prompt
	ids     [][]int // by prompt
	echo    bool
	// onlyPrompt: echo with max_tokens 0. One token is made and not shown, as in vLLM.
	onlyPrompt bool
}

func (s *Server) completions(w http.ResponseWriter, r *http.Request) {
	s.load.Add(1)
	defer s.load.Add(-1)
	f, e := s.readBody(w, r)
	if e != nil {
		writeError(w, e)
		return
	}
	q, e := s.readText(f)
	if e != nil {
		writeError(w, e)
		return
	}
	q.id = s.newID("cmpl-", r, q.requestID)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	out := newMailbox()
	if e := s.submit(q.jobs(ctx, s, out)); e != nil {
		writeError(w, e)
		return
	}
	if q.stream {
		s.streamText(ctx, w, q, out)
		return
	}
	results, err := collect(ctx, out, len(q.prompts)*q.n)
	switch {
	case ctx.Err() != nil: // nobody is listening
	case err != nil:
		writeError(w, engineError(err))
	default:
		writeJSON(w, http.StatusOK, q.answer(s, results))
	}
}

// readText reads and checks a request to /v1/completions.
func (s *Server) readText(f *fields) (*textRequest, *apiError) {
	raw, ok := f.get("prompt")
	if !ok || string(raw) == `""` {
		return nil, refuseParam("prompt", "Either prompt or prompt_embeds must be provided and non-empty.")
	}
	if e := checkLogprobs(f); e != nil {
		return nil, e
	}
	q := &textRequest{}
	var faults []fault
	q.prompts, faults = readPrompts(raw)
	f.faults = append(f.faults, faults...)
	q.echo = f.bool("echo", false)
	logprobs := f.int("logprobs", noLogprobs)
	maxTokens := f.int("max_tokens", 16)
	q.asked = readAsked(f, s.o.Defaults)
	q.logprobs, q.maxTokens = logprobs, maxTokens
	q.addSpecial = f.bool("add_special_tokens", true)
	if e := f.err(); e != nil {
		return nil, e
	}
	if e := s.checkModel(q.model); e != nil {
		return nil, e
	}
	if len(q.prompts) == 0 {
		return nil, refuse("You must pass at least one prompt")
	}
	if q.echo && q.maxTokens == 0 {
		q.onlyPrompt, q.maxTokens = true, 1
	}
	if q.echo && q.promptLogprobs == noLogprobs {
		q.promptLogprobs = q.logprobs
	}
	if most := s.o.MaxWaiting / max(1, q.n); len(q.prompts) > most {
		return nil, refuseParam("prompt", fmt.Sprintf("prompt list length %d exceeds the maximum allowed count of %d.", len(q.prompts), most))
	}
	for _, p := range q.prompts {
		most := s.limits.context - 1
		if q.onlyPrompt {
			most++
		}
		ids, e := p.tokens(s.tok, &q.asked, s.limits, most)
		if e != nil {
			return nil, e
		}
		q.ids = append(q.ids, ids)
	}
	return q, q.check(s.limits)
}

// jobs makes one job per prompt and sample; the choice's index counts prompts first.
func (q *textRequest) jobs(ctx context.Context, s *Server, out *mailbox) []*job {
	var jobs []*job
	for _, ids := range q.ids {
		jobs = append(jobs, q.jobsFor(ctx, s, ids, len(jobs), out)...)
	}
	return jobs
}

// jobsFor makes the n jobs of one prompt, the first of which has choice index from.
func (a *asked) jobsFor(ctx context.Context, s *Server, ids []int, from int, out *mailbox) []*job {
	p := a.params
	p.maxTokens = min(a.maxTokens, s.limits.context-len(ids))
	p.minTokens = min(a.minTokens, p.maxTokens)
	p.eos = -1
	p.eosIDs = endsWithin(s.tok, s.limits.vocab)
	if !a.ignoreEOS && len(p.eosIDs) > 0 {
		p.eos = p.eosIDs[0]
		p.stopIDs = append(append([]int{}, p.stopIDs...), p.eosIDs[1:]...)
	}
	if !a.seeded {
		p.seed = s.o.Entropy()
	}
	jobs := make([]*job, a.n)
	for i := range jobs {
		own := p
		if i > 0 {
			own.promptLogprobs = -1 // the first sample has them for all
		}
		jobs[i] = newJob(ctx, s.tok, ids, own, out)
		jobs[i].choice, jobs[i].sample = from+i, i
	}
	return jobs
}

// endsWithin are the ends of text that the model can produce.
func endsWithin(tok *tokenizer.Tokenizer, vocab int) []int {
	var ids []int
	for _, id := range tok.EOS() {
		if id < vocab {
			ids = append(ids, id)
		}
	}
	return ids
}

// result is one finished choice.
type result struct {
	text      strings.Builder
	ids       []int
	positions []position
	prompt    []position
	finish    string
	reason    any
}

// collect waits for all choices to end.
func collect(ctx context.Context, out *mailbox, n int) ([]result, error) {
	results := make([]result, n)
	for left := n; left > 0; {
		events, err := out.take(ctx)
		if err != nil {
			return nil, err
		}
		for _, e := range events {
			if e.err != nil {
				return nil, e.err
			}
			r := &results[e.choice]
			r.text.WriteString(e.text)
			if e.prompt != nil {
				r.prompt = e.prompt
			}
			if e.token >= 0 {
				r.ids = append(r.ids, e.token)
				r.positions = append(r.positions, e.position)
			}
			if e.finish != "" {
				r.finish, r.reason = e.finish, e.reason
				left--
			}
		}
	}
	return results, nil
}

// promptText is what echo puts before the completion.
func (q *textRequest) promptText(s *Server, i int) string {
	switch {
	case q.tokenIDs:
		return ""
	case q.prompts[i].isText:
		return q.prompts[i].text
	}
	return s.tok.Decode(q.ids[i])
}

// answer builds the response.
func (q *textRequest) answer(s *Server, results []result) completion {
	c := completion{
		ID: q.id, Object: "text_completion", Created: s.o.Now().Unix(), Model: s.o.Model, Fingerprint: s.print,
		Choices: make([]completionChoice, 0, len(results)),
	}
	for i := range results {
		r, p := &results[i], i/q.n
		scores := results[p*q.n].prompt
		choice := completionChoice{
			Index: i, Text: r.text.String(), Finish: &r.finish, Reason: r.reason, PromptLogprobs: scores,
		}
		ids, positions := r.ids, r.positions
		switch {
		case q.onlyPrompt:
			choice.Text = q.promptText(s, p)
			ids, positions = q.ids[p], scores
		case q.echo:
			choice.Text = q.promptText(s, p) + choice.Text
			ids = append(append([]int{}, q.ids[p]...), r.ids...)
			positions = append(append([]position{}, scores...), r.positions...)
		}
		if q.logprobs >= 0 {
			offset := 0
			choice.Logprobs = q.list(s, ids, positions, &offset)
		}
		if q.tokenIDs {
			choice.TokenIDs, choice.PromptIDs = r.ids, q.ids[p]
		}
		c.Choices = append(c.Choices, choice)
		c.Usage.Completion += len(r.ids)
		if i%q.n == 0 {
			c.Usage.Prompt += len(q.ids[p])
		}
	}
	c.Usage.Total = c.Usage.Prompt + c.Usage.Completion
	return c
}

// list writes positions in OpenAI's older form. offset is where the text stands.
func (q *textRequest) list(s *Server, ids []int, positions []position, offset *int) *textLogprobs {
	l := &textLogprobs{Offset: []int{}, Values: []*float64{}, Tokens: []string{}, Top: []*topByText{}}
	for i, p := range positions {
		first := entry{id: ids[i]}
		if p == nil {
			first.text = s.tok.Decode(ids[i : i+1])
		}
		l.add(p, first, q.logprobs, q.tokensAsIDs, offset)
	}
	return l
}
