package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"unicode"

	"github.com/ardanlabs/jinja"
)

// defaultTemplate is the name of the template used where there are several;
// toolTemplate is preferred where tools are given.
const (
	defaultTemplate = "default"
	toolTemplate    = "tool_use"
)

// ErrNoTemplate says that the tokenizer came without a chat template.
var ErrNoTemplate = errors.New("the model has no chat template: add chat_template.jinja, or use plain prompts")

type chatTemplates struct {
	named map[string]string

	mu       sync.Mutex
	compiled map[string]*jinja.Template // by source
}

// get compiles a template once.
func (c *chatTemplates) get(source string) (*jinja.Template, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, ok := c.compiled[source]; ok {
		return t, nil
	}
	t, err := jinja.Compile(source)
	if err != nil {
		return nil, fmt.Errorf("chat template: %w", err)
	}
	if c.compiled == nil {
		c.compiled = map[string]*jinja.Template{}
	}
	c.compiled[source] = t
	return t, nil
}

// continueTag marks where the final message ends while a template renders a
// conversation whose last message is to be continued.
const continueTag = "CONTINUE_FINAL_MESSAGE_TAG "

// Chat renders messages (a JSON array of objects) through the chat template.
// Options (a JSON object, or empty) are the template's variables: "tools",
// "add_generation_prompt", "enable_thinking" and whatever else the template
// knows; "continue_final_message" leaves the last message open.
// Key order is kept, since templates print objects.
func (t *Tokenizer) Chat(messages, options json.RawMessage) (string, error) {
	if t.chat == nil {
		return "", ErrNoTemplate
	}
	py := newPython(messages, options)
	msgs, err := jinjaValue(py, messages)
	if err != nil {
		return "", fmt.Errorf("messages: %w", err)
	}
	if !msgs.IsList() {
		return "", errors.New("messages: want a list of messages")
	}
	for i, m := range msgs.AsList().Items {
		if !m.IsDict() {
			return "", fmt.Errorf("messages[%d]: want an object", i)
		}
	}
	vars := map[string]jinja.Value{
		"tools": jinja.None(), "documents": jinja.None(), "add_generation_prompt": jinja.NewBool(false),
	}
	for name, token := range t.config.Special {
		vars[name] = jinja.NewString(token)
	}
	if len(options) > 0 {
		o, err := jinjaValue(py, options)
		if err != nil {
			return "", fmt.Errorf("options: %w", err)
		}
		if !o.IsDict() && !o.IsNone() {
			return "", errors.New("options: want an object")
		}
		if o.IsDict() {
			for _, k := range o.AsDict().OrderedKeys() {
				vars[k], _ = o.AsDict().Get(k)
			}
		}
	}
	vars["messages"] = msgs
	text, err := t.render(vars, msgs)
	return py.restore(text), err
}

func (t *Tokenizer) render(vars map[string]jinja.Value, msgs jinja.Value) (string, error) {
	open := vars["continue_final_message"]
	delete(vars, "continue_final_message")
	var final string
	if open.IsBool() && open.AsBool() {
		if add := vars["add_generation_prompt"]; add.IsBool() && add.AsBool() {
			return "", errors.New("continue_final_message and add_generation_prompt exclude each other")
		}
		var err error
		if final, err = tagFinal(msgs); err != nil {
			return "", err
		}
	}
	source := t.chat.named[defaultTemplate]
	if s, ok := t.chat.named[toolTemplate]; ok && vars["tools"].IsTruthy() {
		source = s
	}
	if source == "" {
		return "", ErrNoTemplate
	}
	tmpl, err := t.chat.get(source)
	if err != nil {
		return "", err
	}
	text, err := renderSafely(tmpl, vars)
	if err != nil {
		return "", fmt.Errorf("chat template: %w", err)
	}
	if open.IsBool() && open.AsBool() {
		return cutAtTag(text, final)
	}
	return text, nil
}

// renderSafely turns a panic inside the template engine into an error: a
// request must not be able to stop the server.
func renderSafely(tmpl *jinja.Template, vars map[string]jinja.Value) (text string, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("rendering panicked: %v", r)
		}
	}()
	return tmpl.RenderValues(vars)
}

// tagFinal appends the tag to the last message's text and returns that text.
func tagFinal(msgs jinja.Value) (string, error) {
	items := msgs.AsList().Items
	if len(items) == 0 {
		return "", errors.New("continue_final_message: there is no message")
	}
	last := items[len(items)-1].AsDict()
	content, _ := last.Get("content")
	if content.IsList() {
		parts := content.AsList().Items
		for i := len(parts) - 1; i >= 0; i-- {
			if !parts[i].IsDict() {
				continue
			}
			if text, _ := parts[i].AsDict().Get("text"); text.IsString() {
				parts[i].AsDict().Set("text", jinja.NewString(text.AsString()+continueTag))
				return text.AsString(), nil
			}
		}
	}
	if !content.IsString() {
		return "", errors.New("continue_final_message: the last message has no text content")
	}
	last.Set("content", jinja.NewString(content.AsString()+continueTag))
	return content.AsString(), nil
}

// cutAtTag ends the text where the tag stands, as transformers does.
func cutAtTag(text, final string) (string, error) {
	at := strings.LastIndex(text, strings.TrimSpace(continueTag))
	if at < 0 || !strings.Contains(text, strings.TrimSpace(final)) {
		return "", errors.New("continue_final_message: the final message does not appear in the chat after applying the template")
	}
	if strings.HasPrefix(text[at:], continueTag) {
		return text[:at], nil
	}
	return strings.TrimRightFunc(text[:at], unicode.IsSpace), nil // the template trimmed the message, so this does too
}

// deepestJSON bounds nesting in messages and options.
const deepestJSON = 200

// jinjaValue converts JSON, keeping the order of keys.
func jinjaValue(py *python, raw json.RawMessage) (jinja.Value, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	v, err := nextValue(py, dec, 0)
	if err != nil {
		return jinja.Value{}, err
	}
	if dec.More() {
		return jinja.Value{}, errors.New("more than one JSON value")
	}
	return v, nil
}

func nextValue(py *python, dec *json.Decoder, depth int) (jinja.Value, error) {
	if depth > deepestJSON {
		return jinja.Value{}, fmt.Errorf("nested more than %d deep", deepestJSON)
	}
	token, err := dec.Token()
	if err != nil {
		return jinja.Value{}, err
	}
	switch x := token.(type) {
	case nil:
		return jinja.None(), nil
	case bool:
		return jinja.NewBool(x), nil
	case string:
		return jinja.NewString(py.text(x)), nil
	case json.Number:
		return py.num(x)
	case json.Delim:
		if x == '[' {
			return list(py, dec, depth)
		}
		return dict(py, dec, depth)
	}
	return jinja.Value{}, fmt.Errorf("unexpected %v", token)
}

func list(py *python, dec *json.Decoder, depth int) (jinja.Value, error) {
	var items []jinja.Value
	for dec.More() {
		v, err := nextValue(py, dec, depth+1)
		if err != nil {
			return jinja.Value{}, err
		}
		items = append(items, v)
	}
	_, err := dec.Token()
	return jinja.NewList(items), err
}

func dict(py *python, dec *json.Decoder, depth int) (jinja.Value, error) {
	d := jinja.NewDict()
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return jinja.Value{}, err
		}
		v, err := nextValue(py, dec, depth+1)
		if err != nil {
			return jinja.Value{}, err
		}
		d.AsDict().Set(py.text(key.(string)), v) // the decoder only lets strings be keys
	}
	_, err := dec.Token()
	return d, err
}
