package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"

	"tarbert/internal/reference/tokenizer"
)

// chatRequest is one request to /v1/chat/completions, checked.
type chatRequest struct {
	asked
	id          string
	text        string // the rendered conversation
	ids         []int
	promptShown bool // return_prompt_text
	listed      bool // logprobs: true
	top         int  // top_logprobs
}

func (s *Server) chat(w http.ResponseWriter, r *http.Request) {
	s.load.Add(1)
	defer s.load.Add(-1)
	f, e := s.readBody(w, r)
	if e != nil {
		writeError(w, e)
		return
	}
	q, e := s.readChat(f)
	if e != nil {
		writeError(w, e)
		return
	}
	q.id = s.newID("chatcmpl-", r, q.requestID)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	out := newMailbox()
	if e := s.submit(q.jobsFor(ctx, s, q.ids, 0, out)); e != nil {
		writeError(w, e)
		return
	}
	if q.stream {
		s.streamChat(ctx, w, q, out)
		return
	}
	results, err := collect(ctx, out, q.n)
	switch {
	case ctx.Err() != nil: // nobody is listening
	case err != nil:
		writeError(w, engineError(err))
	default:
		writeJSON(w, http.StatusOK, q.answer(s, results))
	}
}

// readChat reads and checks a request to /v1/chat/completions.
func (s *Server) readChat(f *fields) (*chatRequest, *apiError) {
	if e := checkLogprobs(f); e != nil {
		return nil, e
	}
	q := &chatRequest{}
	if _, ok := f.get("top_logprobs"); ok && !truthy(f, "logprobs") {
		return nil, refuseParam("top_logprobs", "when using `top_logprobs`, `logprobs` must be set to true.")
	}
	if truthy(f, "continue_final_message") && truthy(f, "add_generation_prompt") {
		return nil, refuse("Cannot set both `continue_final_message` and `add_generation_prompt` to True.")
	}
	if _, ok := f.get("messages"); !ok {
		f.missing("messages")
		return nil, f.err()
	}
	q.listed = f.bool("logprobs", false)
	q.top = f.int("top_logprobs", 0)
	maxTokens := f.int("max_completion_tokens", f.int("max_tokens", math.MaxInt32))
	q.asked = readAsked(f, s.o.Defaults)
	q.maxTokens, q.logprobs = maxTokens, noLogprobs
	if q.listed {
		q.logprobs = q.top
	}
	q.addSpecial = f.bool("add_special_tokens", false)
	q.promptShown = f.bool("return_prompt_text", false)
	if e := f.err(); e != nil {
		return nil, e
	}
	if e := s.checkModel(q.model); e != nil {
		return nil, e
	}
	if e := checkTools(f); e != nil {
		return nil, e
	}
	var e *apiError
	if q.text, e = s.renderChat(f); e != nil {
		return nil, e
	}
	p := prompt{text: q.text, isText: true}
	if q.ids, e = p.tokens(s.tok, &q.asked, s.limits, s.limits.context-1); e != nil {
		return nil, e
	}
	if q.listed && q.logprobs == -1 && s.limits.maxLogprobs >= 0 {
		q.logprobs = s.limits.vocab // refused below, with the number
	}
	return q, q.check(s.limits)
}

// checkTools refuses what needs a parser for tool calls. Tools that the model
// only sees (tool_choice "none") are the template's business.
func checkTools(f *fields) *apiError {
	if truthy(f, "echo") {
		return refuseParam("echo", "`echo` is not supported for chats by the reference server.")
	}
	raw, ok := f.get("tools")
	if !ok || string(raw) == "[]" {
		return nil
	}
	if choice, ok := f.get("tool_choice"); ok && string(choice) == `"none"` {
		return nil
	}
	return refuse(`"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set`)
}

// renderChat renders messages with the members of the request that templates know.
func (s *Server) renderChat(f *fields) (string, *apiError) {
	raw, _ := f.get("messages")
	messages, err := flatten(raw)
	if err != nil {
		return "", refuse("%v", err)
	}
	open := truthy(f, "continue_final_message")
	options := []keyed{{"add_generation_prompt", boolJSON(addPrompt(f, open))}, {"continue_final_message", boolJSON(open)}}
	for _, name := range []string{"tools", "documents"} {
		if raw, ok := f.get(name); ok {
			options = append(options, keyed{name, raw})
		}
	}
	kwargs, ok := f.get("chat_template_kwargs")
	if ok {
		more, err := orderedMembers(kwargs)
		if err != nil {
			return "", formError([]fault{{
				kind: "dict_type", loc: "body.chat_template_kwargs", msg: "Input should be a valid dictionary", input: describe(kwargs),
			}})
		}
		options = append(options, more...)
	}
	text, err := s.tok.Chat(messages, joinMembers(options))
	if err != nil {
		if errors.Is(err, tokenizer.ErrNoTemplate) {
			return "", refuse("As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template if the tokenizer does not define one.")
		}
		return "", refuse("%v", err)
	}
	return text, nil
}

// addPrompt is add_generation_prompt's value: true unless it is given or the last message stays open.
func addPrompt(f *fields, open bool) bool {
	if raw, ok := f.get("add_generation_prompt"); ok {
		b, w := toBool(raw)
		return w == nil && b
	}
	return !open
}

// keyed is one member of an object whose order matters.
type keyed struct {
	key   string
	value json.RawMessage
}

func boolJSON(b bool) json.RawMessage { return json.RawMessage(fmt.Sprint(b)) }

// orderedMembers reads an object in order.
func orderedMembers(raw json.RawMessage) ([]keyed, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("not an object")
	}
	var out []keyed
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, err
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, err
		}
		out = append(out, keyed{key.(string), value}) // the decoder only lets strings be keys
	}
	return out, nil
}

func joinMembers(members []keyed) json.RawMessage {
	parts := make([]string, len(members))
	for i, m := range members {
		key, err := encode(m.key)
		if err != nil {
			continue // strings always encode
		}
		parts[i] = string(key) + ":" + string(m.value)
	}
	return json.RawMessage("{" + strings.Join(parts, ",") + "}")
}

// flatten makes messages what templates expect: content as one text, and the
// arguments of tool calls as objects, as vLLM does.
func flatten(raw json.RawMessage) (json.RawMessage, error) {
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, errors.New("messages: want a list of messages")
	}
	parts := make([]string, len(list))
	for i, m := range list {
		members, err := orderedMembers(m)
		if err != nil {
			return nil, fmt.Errorf("messages[%d]: want an object", i)
		}
		for k := range members {
			switch members[k].key {
			case "content":
				members[k].value, err = contentText(members[k].value)
			case "tool_calls":
				members[k].value = openArguments(members[k].value)
			}
			if err != nil {
				return nil, fmt.Errorf("messages[%d].content: %w", i, err)
			}
		}
		parts[i] = string(joinMembers(members))
	}
	return json.RawMessage("[" + strings.Join(parts, ",") + "]"), nil
}

// contentText joins the text parts of a content by line breaks.
func contentText(raw json.RawMessage) (json.RawMessage, error) {
	if len(raw) == 0 || raw[0] != '[' {
		return raw, nil
	}
	var parts []json.RawMessage
	if err := json.Unmarshal(raw, &parts); err != nil {
		return nil, err
	}
	var texts []string
	for i, p := range parts {
		if s, w := toString(p); w == nil {
			texts = append(texts, s)
			continue
		}
		var part struct {
			Type string  `json:"type"`
			Text *string `json:"text"`
		}
		if err := json.Unmarshal(p, &part); err != nil || part.Text == nil {
			return nil, fmt.Errorf("part %d of type %q is not text, and this model reads only text", i, part.Type)
		}
		texts = append(texts, *part.Text)
	}
	return encode(strings.Join(texts, "\n"))
}

// openArguments replaces the arguments of tool calls, which clients send as
// JSON inside a string, by the objects they stand for.
func openArguments(raw json.RawMessage) json.RawMessage {
	var calls []json.RawMessage
	if json.Unmarshal(raw, &calls) != nil {
		return raw
	}
	parts := make([]string, len(calls))
	for i, c := range calls {
		parts[i] = string(replace(c, "function", func(f json.RawMessage) json.RawMessage {
			return replace(f, "arguments", func(a json.RawMessage) json.RawMessage {
				text, w := toString(a)
				switch {
				case w == nil && text == "":
					return json.RawMessage("{}")
				case w == nil && json.Valid([]byte(text)):
					return json.RawMessage(text)
				}
				return a
			})
		}))
	}
	return json.RawMessage("[" + strings.Join(parts, ",") + "]")
}

// replace applies f to one member of an object; what is no object stays as it is.
func replace(raw json.RawMessage, key string, f func(json.RawMessage) json.RawMessage) json.RawMessage {
	members, err := orderedMembers(raw)
	if err != nil {
		return raw
	}
	for i := range members {
		if members[i].key == key && len(members[i].value) > 0 {
			members[i].value = f(members[i].value)
		}
	}
	return joinMembers(members)
}
