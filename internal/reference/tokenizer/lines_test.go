package tokenizer

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTokenizeLines(t *testing.T) {
	tok, g := readGolden(t, "qwen")
	in := `{"id":"a","text":"Hello world"}

{"id":7,"messages":` + string(compact(t, g.Chats[0].Messages)) + `,"options":` + string(compact(t, g.Chats[0].Options)) + "}\n"
	var out bytes.Buffer
	if err := tok.TokenizeLines(t.Context(), "in.jsonl", strings.NewReader(in), &out); err != nil {
		t.Fatal(err)
	}
	ids, err := json.Marshal(g.Chats[0].IDs)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"id":"a","tokens":[39,68,75,363,318,268,467],"text":"Hello world"}
{"id":7,"tokens":` + string(ids) + `,"text":"<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"}
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
	for _, c := range []struct{ line, want string }{
		{`{"id":"a"}`, `in.jsonl:2: neither "text" nor "messages"`},
		{`{"text":"a"}`, `in.jsonl:2: no "id"`},
		{`{"id":"a","text":"b","messages":[]}`, "in.jsonl:2: both"},
		{`{"id":"a","text":"b","options":{}}`, `in.jsonl:2: "options"`},
		{`{"id":"a","text":1}`, "in.jsonl:2: line.text: want string"},
		{`{"id":"a","txt":"b"}`, "in.jsonl:2: line.txt: unknown field"},
		{`{"id":"a","text":"b"} x`, "in.jsonl:2: line: more than one"},
		{`{"id":"a","messages":[3]}`, "in.jsonl:2: messages[0]"},
		{`{`, "in.jsonl:2: line: unexpected EOF"},
	} {
		out.Reset()
		err := tok.TokenizeLines(t.Context(), "in.jsonl", strings.NewReader("{\"id\":1,\"text\":\"x\"}\n"+c.line), &out)
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.line, err, c.want)
		}
		if out.String() == "" {
			t.Errorf("%s: the good line before it was lost", c.line)
		}
	}
}

func compact(t *testing.T, raw json.RawMessage) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
