package server

import (
	"context"
	"net/http"
)

// sse writes server-sent events.
type sse struct {
	w       http.ResponseWriter
	flusher *http.ResponseController
}

func newSSE(w http.ResponseWriter) *sse {
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	w.WriteHeader(http.StatusOK)
	return &sse{w, http.NewResponseController(w)}
}

// send writes one event and flushes it; an error means that the client is gone.
func (s *sse) send(v any) error {
	b, err := encode(v)
	if err != nil {
		return err
	}
	return s.raw(b)
}

func (s *sse) raw(b []byte) error {
	if _, err := s.w.Write(append(append([]byte("data: "), b...), "\n\n"...)); err != nil {
		return err
	}
	return s.flusher.Flush()
}

// done ends a stream, with an error first if the engine had one.
func (s *sse) done(err error) {
	if err != nil && s.send(map[string]*apiError{"error": engineError(err)}) != nil {
		return
	}
	_ = s.raw([]byte("[DONE]")) // the client may be gone: there is nobody to tell
}

// each waits for events until n choices have ended and gives every one to f.
// It returns the engine's error; gone says that the client went away.
func eachEvent(ctx context.Context, out *mailbox, n int, f func(event) error) (gone bool, err error) {
	for n > 0 {
		events, err := out.take(ctx)
		if err != nil {
			return true, nil
		}
		for _, e := range events {
			if e.err != nil {
				return false, e.err
			}
			if f(e) != nil {
				return true, nil
			}
			if e.finish != "" {
				n--
			}
		}
	}
	return false, nil
}

// counter counts what a stream has sent, by choice.
type counter struct {
	offset int // characters of tokens, for text_offset
	tokens int
	begun  bool
}

// streamText answers /v1/completions with one chunk per token.
func (s *Server) streamText(ctx context.Context, w http.ResponseWriter, q *textRequest, out *mailbox) {
	stream := newSSE(w)
	created := s.o.Now().Unix()
	chunk := func() completionChunk {
		return completionChunk{
			ID: q.id, Object: "text_completion", Created: created, Model: s.o.Model, Choices: []completionChunkChoice{},
		}
	}
	counts := make([]counter, len(q.prompts)*q.n)
	// With echo every sample shows the prompt's log-probabilities, and the first has them.
	scores := make([][]position, len(q.prompts))
	gone, err := eachEvent(ctx, out, len(counts), func(e event) error {
		p := e.choice / q.n
		if e.prompt != nil {
			scores[p] = e.prompt
		}
		c := chunk()
		c.Choices = append(c.Choices, q.delta(s, e, scores[p], &counts[e.choice]))
		if e.finish != "" && !q.usage {
			c.Fingerprint = s.print
		}
		if q.running {
			c.Usage = newStreamUsage(len(q.ids[p]), counts[e.choice].tokens)
		}
		return stream.send(c)
	})
	if gone {
		return
	}
	if err == nil && q.usage {
		c := chunk()
		prompt, made := 0, 0
		for _, ids := range q.ids {
			prompt += len(ids)
		}
		for _, n := range counts {
			made += n.tokens
		}
		c.Usage, c.Fingerprint = newStreamUsage(prompt, made), s.print
		if stream.send(c) != nil {
			return
		}
	}
	stream.done(err)
}

func newStreamUsage(prompt, made int) *streamUsage {
	return &streamUsage{Prompt: prompt, Completion: made, Total: prompt + made}
}

// delta is one event as a chunk's choice.
func (q *textRequest) delta(s *Server, e event, scores []position, n *counter) completionChunkChoice {
	p := e.choice / q.n
	choice := completionChunkChoice{Index: e.choice, Text: e.text, Reason: e.reason}
	if e.finish != "" {
		choice.Finish = &e.finish
	}
	var ids []int
	var positions []position
	if e.token >= 0 {
		ids, positions = []int{e.token}, []position{e.position}
		n.tokens++
	}
	if q.tokenIDs {
		choice.TokenIDs = ids
	}
	if !n.begun {
		n.begun = true
		if q.tokenIDs || q.echo {
			choice.PromptIDs = q.ids[p]
		}
		if q.echo {
			choice.Text = q.promptText(s, p) + choice.Text
			ids = append(append([]int{}, q.ids[p]...), ids...)
			positions = append(append([]position{}, scores...), positions...)
		}
	}
	if q.onlyPrompt {
		choice.Text, ids, positions = q.promptText(s, p), q.ids[p], scores
	}
	if q.logprobs >= 0 {
		choice.Logprobs = q.list(s, ids, positions, &n.offset)
	}
	return choice
}
