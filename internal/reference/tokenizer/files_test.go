package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWriteByteLevel(t *testing.T) {
	dir := t.TempDir()
	files := ByteLevelFiles{
		Added: []AddedToken{{Content: "<think>"}, {Content: "</think>"}, {Content: "<|eos|>", Special: true}, {Content: "<|pad|>", Special: true}},
		EOS:   "<|eos|>", PAD: "<|pad|>", ChatTemplate: "{{ messages[0].content }}{{ eos_token }}", ModelMax: 128,
	}
	if err := WriteByteLevel(dir, files); err != nil {
		t.Fatal(err)
	}
	tok, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	var every []byte
	for b := range 256 {
		every = append(every, byte(b))
	}
	ids := tok.Encode("<think>" + string(every) + "</think><|eos|>")
	want := []int{256}
	for b := range 256 {
		want = append(want, b)
	}
	if diff := cmp.Diff(append(want, 257, 258), ids); diff != "" {
		t.Error(diff)
	}
	if got := tok.DecodeBytes(ids[1:257]); !bytes.Equal(got, every) {
		t.Error("bytes do not come back")
	}
	if got := tok.DecodePlain([]int{256, 'a', 257, 258, 259}); got != "<think>a</think>" {
		t.Errorf("DecodePlain: %q", got)
	}
	if c := tok.Config(); tok.Size() != 260 || c.PAD != 259 || !slices.Equal(tok.EOS(), []int{258}) || c.Class != "PreTrainedTokenizerFast" {
		t.Errorf("size %d, config %+v", tok.Size(), c)
	}
	if text, err := tok.Chat(json.RawMessage(`[{"role":"user","content":"x"}]`), nil); err != nil || text != "x<|eos|>" {
		t.Errorf("Chat: %q, %v", text, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 {
		t.Errorf("%d files, %v: temporary ones are left", len(entries), err)
	}
	for name, bad := range map[string]ByteLevelFiles{
		"end of text missing": {Added: files.Added, EOS: "<|end|>"},
		"twice the same":      {Added: []AddedToken{{Content: "a"}, {Content: "a"}}, EOS: "a"},
		"padding missing":     {Added: files.Added, EOS: "<|eos|>", PAD: "p"},
	} {
		if err := WriteByteLevel(t.TempDir(), bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := WriteByteLevel(filepath.Join(dir, "nowhere"), files); err == nil {
		t.Error("no error for a directory that is not there")
	}
}

func TestChat(t *testing.T) {
	dir := t.TempDir()
	if err := WriteByteLevel(dir, ByteLevelFiles{Added: []AddedToken{{Content: "<e>", Special: true}}, EOS: "<e>"}); err != nil {
		t.Fatal(err)
	}
	load := func(template string) *Tokenizer {
		if err := os.WriteFile(filepath.Join(dir, "chat_template.jinja"), []byte(template), 0o600); err != nil {
			t.Fatal(err)
		}
		tok, err := Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	each := "{% for m in messages %}[{{ m.content }}]{% endfor %}"
	for _, c := range []struct{ name, template, messages, options, want, fault string }{
		{"order of keys", "{{ tools | tojson }}", `[]`, `{"tools":[{"z":1,"a":[2.5,true,null,"é<"]}]}`, `[{"z": 1, "a": [2.5, true, null, "é<"]}]`, ""},
		{"continue", each, `[{"content":"a"},{"content":"b "}]`, `{"continue_final_message":true}`, "[a][b ", ""},
		{"continue, trimmed", "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}", `[{"content":"b "}]`, `{"continue_final_message":true}`, "[b", ""},
		{"continue and prompt", each, `[{"content":"a"}]`, `{"continue_final_message":true,"add_generation_prompt":true}`, "", "exclude each other"},
		{"continue nothing", each, `[]`, `{"continue_final_message":true}`, "", "no message"},
		{"no list", each, `{}`, ``, "", "want a list"},
		{"no object", each, `[1]`, ``, "", "messages[0]"},
		{"two values", each, `[] []`, ``, "", "more than one"},
		{"bad template", "{% for %}", `[]`, ``, "", "chat template"},
		{"the template refuses", "{{ raise_exception('only two roles') }}", `[]`, ``, "", "only two roles"},
		{"deep", each, strings.Repeat("[", 300) + strings.Repeat("]", 300), ``, "", "nested"},
		{"tools are none, thinking is undefined", "{{ tools is none }}{{ enable_thinking is defined }}", `[]`, ``, "TrueFalse", ""},
	} {
		text, err := load(c.template).Chat(json.RawMessage(c.messages), json.RawMessage(c.options))
		if c.fault != "" {
			if err == nil || !strings.Contains(err.Error(), c.fault) {
				t.Errorf("%s: %v, want %q", c.name, err, c.fault)
			}
			continue
		}
		if err != nil || text != c.want {
			t.Errorf("%s: %q, %v; want %q", c.name, text, err, c.want)
		}
	}
	if err := os.Remove(filepath.Join(dir, "chat_template.jinja")); err != nil {
		t.Fatal(err)
	}
	tok, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tok.Chat(json.RawMessage(`[]`), nil); !errors.Is(err, ErrNoTemplate) {
		t.Errorf("without a template: %v", err)
	}
}

func TestConfigFiles(t *testing.T) {
	dir := t.TempDir()
	files := ByteLevelFiles{Added: []AddedToken{{Content: "<e>", Special: true}, {Content: "<f>", Special: true}}, EOS: "<e>"}
	if err := WriteByteLevel(dir, files); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"tokenizer_config.json": `{"eos_token":{"__type":"AddedToken","content":"<f>","special":true},"bos_token":null,"pad_token":"<e>",
			"chat_template":[{"name":"default","template":"D"},{"name":"tool_use","template":"T"}],
			"added_tokens_decoder":{"257":{"content":"<f>","special":true},"258":{"content":"<g>","special":true}}}`,
		"generation_config.json": `{"eos_token_id":[256,257]}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tok, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(tok.EOS(), []int{257, 256}) || tok.Config().PAD != 256 || tok.Config().BOS != -1 || tok.Token(258) != "<g>" {
		t.Errorf("ends %v, config %+v, token 258 %q", tok.EOS(), tok.Config(), tok.Token(258))
	}
	for options, want := range map[string]string{``: "D", `{"tools":[]}`: "D", `{"tools":[{}]}`: "T"} {
		if got, err := tok.Chat(json.RawMessage(`[]`), json.RawMessage(options)); err != nil || got != want {
			t.Errorf("options %s: %q, %v", options, got, err)
		}
	}
}
