package server

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCompletionEndsForTheRightReason(t *testing.T) {
	prompt := []int{'h', 'i'}
	for _, c := range []struct {
		name, says string
		body       map[string]any
		text       string
		finish     string
		reason     any
		tokens     int // usage
	}{
		{"end of text", "abc", nil, "abc", "stop", nil, 4},
		{"length", "abcdef", map[string]any{"max_tokens": 3}, "abc", "length", nil, 3},
		{"ignore_eos", "ab", map[string]any{"max_tokens": 5, "ignore_eos": true}, "ab", "length", nil, 5},
		{"stop string", "one two three", map[string]any{"stop": " t"}, "one", "stop", " t", 5},
		{"stop list, first in the list wins", "abcd", map[string]any{"stop": []string{"d", "c"}}, "ab", "stop", "c", 3},
		{"stop string across tokens at the end", "xxEND", map[string]any{"stop": "END", "max_tokens": 5}, "xx", "stop", "END", 5},
		{"stop string is shown", "a.b", map[string]any{"stop": ".", "include_stop_str_in_output": true}, "a.", "stop", ".", 2},
		{"part of a stop string is released at the end", "abcEN", map[string]any{"stop": "END"}, "abcEN", "stop", nil, 6},
		{"stop token", "abc", map[string]any{"stop_token_ids": []int{'c'}}, "ab", "stop", float64('c'), 3},
		{"whole characters", "é世", nil, "é世", "stop", nil, 6},
		{"half a character is dropped", "é\xe4\xb8", map[string]any{"max_tokens": 4}, "é", "length", nil, 4},
		{"a broken byte before a whole one", "\x80a", map[string]any{"max_tokens": 2}, "\ufffda", "length", nil, 2},
		{"min_tokens holds the end back", "", map[string]any{"min_tokens": 2, "max_tokens": 2}, "", "length", nil, 2},
		{"null is the default", "abc", map[string]any{"stop": nil, "logprobs": nil, "top_p": nil, "n": nil, "seed": nil, "max_tokens": nil}, "abc", "stop", nil, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, url := start(t, &fake{favour: say(len(prompt), c.says)}, nil)
			body := map[string]any{"prompt": prompt, "temperature": 0}
			for k, v := range c.body {
				body[k] = v
			}
			a := complete(t, url, body)
			got := a.Choices[0]
			if c.name == "ignore_eos" || c.name == "min_tokens holds the end back" { // what follows is the hash's business
				got.Text = strings.TrimSuffix(got.Text, strings.TrimPrefix(got.Text, c.text))
			}
			if got.Text != c.text || got.Finish != c.finish || got.Reason != c.reason || a.Usage.Completion != c.tokens {
				t.Errorf("%q, %s, %v, %d tokens; want %q, %s, %v, %d", got.Text, got.Finish, got.Reason, a.Usage.Completion,
					c.text, c.finish, c.reason, c.tokens)
			}
		})
	}
}

// TestStreamIsTheAnswerInPieces holds the concatenation of every stream equal
// to what the same request answers at once.
func TestStreamIsTheAnswerInPieces(t *testing.T) {
	_, url := start(t, &fake{}, nil)
	for _, body := range []map[string]any{
		{"prompt": []int{1, 2, 3}, "max_tokens": 40, "seed": 1},
		{"prompt": "text", "max_tokens": 60, "seed": 2, "stop": []string{"ab", "zzzz", "\ufffd\ufffd"}},
		{"prompt": []int{7}, "max_tokens": 30, "seed": 3, "n": 3, "logprobs": 2},
		{"prompt": [][]int{{7}, {8, 9}}, "max_tokens": 9, "seed": 4, "echo": true, "logprobs": 1},
		{"prompt": "é", "max_tokens": 0, "echo": true, "logprobs": 1},
		{"prompt": []int{1}, "max_tokens": 12, "temperature": 0, "return_token_ids": true, "echo": true, "logprobs": 0},
	} {
		body["model"] = "tiny"
		whole := complete(t, url, body)
		body["stream"] = true
		body["stream_options"] = map[string]any{"include_usage": true, "continuous_usage_stats": true}
		code, text := post(t, url, "/v1/completions", body)
		if code != http.StatusOK {
			t.Fatalf("status %d: %s", code, text)
		}
		got := make([]pieces, len(whole.Choices))
		var usage *streamUsage
		for _, data := range events(t, text) {
			var c struct {
				Choices []struct {
					Index    int
					Text     string
					TokenIDs []int `json:"token_ids"`
					Finish   *string
					Logprobs *struct {
						Offset []int      `json:"text_offset"`
						Values []*float64 `json:"token_logprobs"`
						Tokens []string
					}
				}
				Usage *streamUsage
			}
			if err := json.Unmarshal([]byte(data), &c); err != nil {
				t.Fatal(err)
			}
			usage = c.Usage
			if usage == nil {
				t.Errorf("no usage in %s", data)
			}
			for _, ch := range c.Choices {
				p := &got[ch.Index]
				p.Text += ch.Text
				p.IDs = append(p.IDs, ch.TokenIDs...)
				if ch.Logprobs != nil {
					p.Offset = append(p.Offset, ch.Logprobs.Offset...)
					p.Values = append(p.Values, ch.Logprobs.Values...)
					p.Tokens = append(p.Tokens, ch.Logprobs.Tokens...)
				}
			}
		}
		for i, ch := range whole.Choices {
			want := pieces{Text: ch.Text, IDs: ch.TokenIDs}
			if ch.Logprobs != nil {
				want.Offset, want.Values, want.Tokens = ch.Logprobs.Offset, ch.Logprobs.Values, ch.Logprobs.Tokens
			}
			if diff := cmp.Diff(want, got[i]); diff != "" {
				t.Errorf("%v, choice %d: %s", body, i, diff)
			}
		}
		if usage == nil || usage.Prompt != whole.Usage.Prompt || usage.Completion != whole.Usage.Completion {
			t.Errorf("%v: usage %+v, want %+v", body, usage, whole.Usage)
		}
	}
}

type pieces struct {
	Text   string
	IDs    []int
	Offset []int
	Values []*float64
	Tokens []string
}

// events returns the data of a stream without the end.
func events(t *testing.T, text string) []string {
	t.Helper()
	var out []string
	for _, line := range strings.Split(strings.TrimRight(text, "\n"), "\n\n") {
		out = append(out, strings.TrimPrefix(line, "data: "))
	}
	if len(out) == 0 || out[len(out)-1] != "[DONE]" {
		t.Fatalf("no end in %s", text)
	}
	return out[:len(out)-1]
}

func TestChatStreamIsTheAnswerInPieces(t *testing.T) {
	_, url := start(t, &fake{}, nil)
	body := map[string]any{
		"model": "tiny", "messages": []any{map[string]any{"role": "user", "content": "Hi"}},
		"max_completion_tokens": 30, "seed": 5, "n": 2, "logprobs": true, "top_logprobs": 2,
	}
	type logprobs struct {
		Content []struct {
			Token string
			Top   []struct{ Token string } `json:"top_logprobs"`
		}
	}
	code, text := post(t, url, "/v1/chat/completions", body)
	if code != http.StatusOK {
		t.Fatal(text)
	}
	var whole struct {
		Choices []struct {
			Message  struct{ Role, Content string }
			Logprobs logprobs
		}
	}
	if err := json.Unmarshal([]byte(text), &whole); err != nil {
		t.Fatal(err)
	}
	body["stream"] = true
	_, text = post(t, url, "/v1/chat/completions", body)
	contents, roles := make([]string, 2), make([]string, 2)
	tops := make([]int, 2)
	for _, data := range events(t, text) {
		var c struct {
			Choices []struct {
				Index    int
				Delta    struct{ Role, Content string }
				Logprobs *logprobs
			}
		}
		if err := json.Unmarshal([]byte(data), &c); err != nil {
			t.Fatal(err)
		}
		for _, ch := range c.Choices {
			if contents[ch.Index] != "" && ch.Delta.Role != "" {
				t.Errorf("role after content: %s", data)
			}
			roles[ch.Index] += ch.Delta.Role
			contents[ch.Index] += ch.Delta.Content
			if ch.Logprobs != nil {
				tops[ch.Index] += len(ch.Logprobs.Content[0].Top)
			}
		}
	}
	for i, ch := range whole.Choices {
		if contents[i] != ch.Message.Content || roles[i] != "assistant" || tops[i] != 60 || len(ch.Logprobs.Content) != 30 {
			t.Errorf("choice %d: role %q, %d likely tokens in %d; %q, want %q", i, roles[i], tops[i], len(ch.Logprobs.Content), contents[i], ch.Message.Content)
		}
	}
	if whole.Choices[0].Message.Content == whole.Choices[1].Message.Content {
		t.Error("both samples are the same")
	}
}

func TestChatReadsWhatClientsSend(t *testing.T) {
	f := &fake{}
	_, url := start(t, f, nil)
	ids := func(body map[string]any) string {
		t.Helper()
		code, text := post(t, url, "/tokenize", body)
		if code != http.StatusOK {
			t.Fatal(text)
		}
		var a struct{ Tokens []int }
		if err := json.Unmarshal([]byte(text), &a); err != nil {
			t.Fatal(err)
		}
		_, text = post(t, url, "/detokenize", map[string]any{"tokens": a.Tokens})
		var d struct{ Prompt string }
		if err := json.Unmarshal([]byte(text), &d); err != nil {
			t.Fatal(err)
		}
		return d.Prompt
	}
	user := func(content any) []any { return []any{map[string]any{"role": "user", "content": content}} }
	for _, c := range []struct {
		name string
		body map[string]any
		want string
	}{
		{"text", map[string]any{"messages": user("Hi <b>")}, "<|im_start|>user\nHi <b><|im_end|>\n<|im_start|>assistant\n"},
		{"parts", map[string]any{"messages": user([]any{map[string]any{"type": "text", "text": "a"}, map[string]any{"type": "text", "text": "b"}})},
			"<|im_start|>user\na\nb<|im_end|>\n<|im_start|>assistant\n"},
		{"no generation prompt", map[string]any{"messages": user("x"), "add_generation_prompt": false}, "<|im_start|>user\nx<|im_end|>\n"},
		{"continue", map[string]any{"messages": user("x"), "continue_final_message": true, "add_generation_prompt": false}, "<|im_start|>user\nx"},
		{"kwargs", map[string]any{"messages": user("x"), "chat_template_kwargs": map[string]any{"add_generation_prompt": false}}, "<|im_start|>user\nx<|im_end|>\n"},
	} {
		if got := ids(c.body); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	for _, c := range []struct {
		body map[string]any
		want string
	}{
		{map[string]any{"messages": user([]any{map[string]any{"type": "image_url"}})}, "is not text"},
		{map[string]any{"messages": user("x"), "tools": []any{map[string]any{"type": "function"}}}, "tool choice requires"},
		{map[string]any{"messages": user("x"), "response_format": map[string]any{"type": "json_object"}}, "`response_format` is not supported"},
		{map[string]any{"messages": user("x"), "continue_final_message": true, "add_generation_prompt": true}, "Cannot set both"},
		{map[string]any{"messages": "x"}, "want a list of messages"},
	} {
		code, text := post(t, url, "/v1/chat/completions", c.body)
		if code != http.StatusBadRequest || !strings.Contains(text, c.want) {
			t.Errorf("%v: %d %s, want %q", c.body, code, text, c.want)
		}
	}
}

func TestPromptFormsAgree(t *testing.T) {
	_, url := start(t, &fake{}, nil)
	ids := []int{'a', 'b', 'c'}
	want := complete(t, url, map[string]any{"prompt": ids, "seed": 1}).Choices[0].Text
	for _, p := range []any{"abc", []string{"abc"}, []any{ids}, []any{97.0, "98", 99}} {
		if got := complete(t, url, map[string]any{"prompt": p, "seed": 1}).Choices[0].Text; got != want {
			t.Errorf("%v: %q, want %q", p, got, want)
		}
	}
	many := complete(t, url, map[string]any{"prompt": []string{"abc", "x", "abc"}, "seed": 1, "n": 2})
	if len(many.Choices) != 6 || many.Choices[0].Text != want || many.Choices[4].Text != want || many.Choices[1].Text == want {
		t.Errorf("%d choices: %+v", len(many.Choices), many.Choices)
	}
	if many.Usage.Prompt != 7 {
		t.Errorf("usage %+v", many.Usage)
	}
}

func TestSpecialTokensAreLeftOut(t *testing.T) {
	prompt := []int{'p'}
	out := []int{'a', imStart, 'b'}
	_, url := start(t, &fake{favour: func(tokens []int) (int, bool) {
		if at := len(tokens) - 1; at < len(out) {
			return out[at], true
		}
		return imEnd, true
	}}, nil)
	for skip, want := range map[bool]string{true: "ab", false: "a<|im_start|>b"} {
		got := complete(t, url, map[string]any{"prompt": prompt, "temperature": 0, "skip_special_tokens": skip}).Choices[0].Text
		if got != want {
			t.Errorf("skip %v: %q, want %q", skip, got, want)
		}
	}
}
