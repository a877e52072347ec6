package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode"

	"tarbert/internal/reference/jinja"
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
	all, err := jinja.FromJSON(messages)
	if err != nil {
		return "", fmt.Errorf("messages: %w", err)
	}
	msgs, ok := all.(*jinja.List)
	if !ok {
		return "", errors.New("messages: want a list of messages")
	}
	for i, m := range msgs.Items {
		if _, ok := m.(*jinja.Dict); !ok {
			return "", fmt.Errorf("messages[%d]: want an object", i)
		}
	}
	vars := map[string]jinja.Value{"tools": nil, "documents": nil, "add_generation_prompt": false, "strftime_now": jinja.Strftime(time.Now)}
	for name, token := range t.config.Special {
		vars[name] = token
	}
	if len(options) > 0 {
		o, err := jinja.FromJSON(options)
		if err != nil {
			return "", fmt.Errorf("options: %w", err)
		}
		d, ok := o.(*jinja.Dict)
		if !ok && o != nil {
			return "", errors.New("options: want an object")
		}
		if ok {
			for _, k := range d.Keys() {
				vars[k.(string)], _ = d.Get(k) // JSON's keys are strings
			}
		}
	}
	vars["messages"] = msgs
	return t.render(vars, msgs)
}

func (t *Tokenizer) render(vars map[string]jinja.Value, msgs *jinja.List) (string, error) {
	open := vars["continue_final_message"] == true
	delete(vars, "continue_final_message")
	var final string
	if open {
		if vars["add_generation_prompt"] == true {
			return "", errors.New("continue_final_message and add_generation_prompt exclude each other")
		}
		var err error
		if final, err = tagFinal(msgs); err != nil {
			return "", err
		}
	}
	source := t.chat.named[defaultTemplate]
	if s, ok := t.chat.named[toolTemplate]; ok && hasTools(vars["tools"]) {
		source = s
	}
	if source == "" {
		return "", ErrNoTemplate
	}
	tmpl, err := t.chat.get(source)
	if err != nil {
		return "", err
	}
	text, err := tmpl.Render(vars)
	if err != nil {
		return "", fmt.Errorf("chat template: %w", err)
	}
	if open {
		return cutAtTag(text, final)
	}
	return text, nil
}

func hasTools(v jinja.Value) bool {
	l, ok := v.(*jinja.List)
	return ok && len(l.Items) > 0
}

// tagFinal appends the tag to the last message's text and returns that text.
func tagFinal(msgs *jinja.List) (string, error) {
	if len(msgs.Items) == 0 {
		return "", errors.New("continue_final_message: there is no message")
	}
	last := msgs.Items[len(msgs.Items)-1].(*jinja.Dict)
	content, _ := last.Get("content")
	holder, key := last, "content"
	if parts, ok := content.(*jinja.List); ok {
		for _, p := range parts.Items {
			if d, ok := p.(*jinja.Dict); ok {
				if v, _ := d.Get("text"); isText(v) {
					content, holder, key = v, d, "text"
				}
			}
		}
	}
	text, ok := content.(string)
	if !ok {
		return "", errors.New("continue_final_message: the last message has no text content")
	}
	return text, holder.Set(key, text+continueTag)
}

func isText(v jinja.Value) bool {
	_, ok := v.(string)
	return ok
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
