package server

import (
	"context"
	"net/http"
)

// answer builds the response.
func (q *chatRequest) answer(s *Server, results []result) chatAnswer {
	a := chatAnswer{
		ID: q.id, Object: "chat.completion", Created: s.o.Now().Unix(), Model: s.o.Model, Fingerprint: s.print,
		PromptLogprobs: results[0].prompt,
	}
	a.Usage.Prompt = len(q.ids)
	for i := range results {
		r := &results[i]
		choice := chatChoice{
			Index: i, Message: chatMessage{Role: "assistant", Content: r.text.String()},
			Logprobs: q.list(r.positions), Finish: &r.finish, Reason: r.reason,
		}
		if q.tokenIDs {
			choice.TokenIDs = r.ids
		}
		a.Choices = append(a.Choices, choice)
		a.Usage.Completion += len(r.ids)
	}
	a.Usage.Total = a.Usage.Prompt + a.Usage.Completion
	a.PromptIDs, a.PromptText = q.aboutPrompt()
	return a
}

// aboutPrompt is what the answer tells about the prompt: nothing unless asked.
func (q *chatRequest) aboutPrompt() (ids []int, text *string) {
	if q.tokenIDs {
		ids = q.ids
	}
	if q.promptShown {
		text = &q.text
	}
	return ids, text
}

// list writes positions in OpenAI's newer form, nil where they were not asked for.
func (q *chatRequest) list(positions []position) *chatLogprobs {
	if !q.listed {
		return nil
	}
	l := &chatLogprobs{Content: []chatLogprob{}}
	for _, p := range positions {
		if p != nil {
			l.Content = append(l.Content, chatLogprobOf(p, q.top, q.tokensAsIDs))
		}
	}
	return l
}

// streamChat answers /v1/chat/completions: a chunk with the role, then one per token.
func (s *Server) streamChat(ctx context.Context, w http.ResponseWriter, q *chatRequest, out *mailbox) {
	stream := newSSE(w)
	created := s.o.Now().Unix()
	chunk := func(choices ...any) chatChunk {
		return chatChunk{
			ID: q.id, Object: "chat.completion.chunk", Created: created, Model: s.o.Model, Choices: append([]any{}, choices...),
		}
	}
	counts := make([]counter, q.n)
	gone, err := eachEvent(ctx, out, q.n, func(e event) error {
		n := &counts[e.choice]
		if !n.begun {
			n.begun = true
			first := chatFirst{Index: e.choice}
			first.Delta.Role = "assistant"
			c := chatFirstChunk{chatChunk: chunk(first)}
			c.PromptIDs, c.PromptText = q.aboutPrompt()
			if q.running {
				c.Usage = newStreamUsage(len(q.ids), 0)
			}
			if err := stream.send(c); err != nil {
				return err
			}
		}
		if e.token >= 0 {
			n.tokens++
		}
		c := chunk(q.delta(e))
		if e.finish != "" && !q.usage {
			c.Fingerprint = s.print
		}
		if q.running {
			c.Usage = newStreamUsage(len(q.ids), n.tokens)
		}
		return stream.send(c)
	})
	if gone {
		return
	}
	if err == nil && q.usage {
		c := chunk()
		made := 0
		for _, n := range counts {
			made += n.tokens
		}
		c.Usage, c.Fingerprint = newStreamUsage(len(q.ids), made), s.print
		if stream.send(c) != nil {
			return
		}
	}
	stream.done(err)
}

// delta is one event as a chunk's choice.
func (q *chatRequest) delta(e event) any {
	d := chatDelta{Index: e.choice, Delta: contentDelta{e.text}}
	if e.token >= 0 {
		d.Logprobs = q.list([]position{e.position})
		if q.tokenIDs {
			d.TokenIDs = []int{e.token}
		}
	}
	if e.finish == "" {
		return d
	}
	return chatLast{
		Index: d.Index, Delta: d.Delta, Logprobs: d.Logprobs, Finish: &e.finish, Reason: e.reason, TokenIDs: d.TokenIDs,
	}
}
