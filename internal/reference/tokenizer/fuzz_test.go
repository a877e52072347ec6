package tokenizer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzRoundTrip: what is encoded decodes to the same bytes, normalization aside.
func FuzzRoundTrip(f *testing.F) {
	for _, s := range []string{"", "Hello world", "<think>x</think>", "  \n\t'S 123", "é\u0301世\xff\x80", strings.Repeat("ab", 40)} {
		f.Add(s)
	}
	var toks []*Tokenizer
	for _, family := range []string{"qwen", "deepseek"} {
		tok, err := Load(filepath.Join("testdata", family))
		if err != nil {
			f.Fatal(err)
		}
		toks = append(toks, tok)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for i, tok := range toks {
			want := text
			if tok.normalize != nil {
				if want = tok.normalize(text); i == 0 && !utf8.ValidString(text) {
					continue // added tokens cut the text before it is normalized; broken bytes may then join differently
				}
			}
			ids := tok.Encode(text)
			got := string(tok.DecodeBytes(ids))
			if tok.normalize != nil { // the same cut: compare after normalizing both
				got, want = tok.normalize(got), tok.normalize(want)
			}
			if got != want {
				t.Fatalf("%q became %q", text, got)
			}
			for _, id := range ids {
				if id < 0 || id >= tok.Size() {
					t.Fatalf("id %d of %d", id, tok.Size())
				}
			}
		}
	})
}

// FuzzParse: no file makes the loader or what it loads panic.
func FuzzParse(f *testing.F) {
	f.Add(changed(f, map[string]json.RawMessage{"model.merges": json.RawMessage("[]"), "model.vocab": json.RawMessage(`{"a":0,"b":1}`), "added_tokens": json.RawMessage("[]")}))
	for _, model := range []string{
		`{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"],"unk_token":"a","fuse_unk":true}`,
		`{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":[["a","b"]],"ignore_merges":true}`,
	} {
		f.Add([]byte(fmt.Sprintf(`{"version":"1.0","added_tokens":[{"id":3,"content":"x","lstrip":true,"normalized":true}],"normalizer":{"type":"NFC"},
			"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"String":"a"},"behavior":"MergedWithNext","invert":true},
			{"type":"Digits","individual_digits":true},{"type":"ByteLevel"}]},"decoder":{"type":"ByteLevel"},"model":%s}`, model)))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if bytes.Contains(raw, []byte(`"Regex"`)) {
			return // a pattern may take as long as it likes; patterns come with the model
		}
		tok, err := parse(raw, nil)
		if err != nil {
			return
		}
		ids := tok.EncodeSpecial("ab x1é  ab<x>")
		tok.Decode(ids)
		for _, id := range ids {
			if id < 0 || id >= tok.Size() {
				t.Fatalf("id %d of %d", id, tok.Size())
			}
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	text := strings.Repeat("The quick brown fox's 42 jumps — 你好,世界! x += 1;\n\n", 200)
	for _, family := range []string{"qwen", "deepseek"} {
		tok, err := Load(filepath.Join("testdata", family))
		if err != nil {
			b.Fatal(err)
		}
		b.Run(family, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				tok.Encode(text)
			}
		})
		slow := *tok
		slow.split = nil
		for _, s := range tok.split {
			for pattern, scan := range scanners {
				if by, ok := s.(splitBy); ok && fmt.Sprint(by.find(text)) == fmt.Sprint(scan(text)) {
					find, err := regexFinder(pattern)
					if err != nil {
						b.Fatal(err)
					}
					slow.split = append(slow.split, splitBy{find, by.behavior, by.invert})
					break
				}
			}
		}
		b.Run(family+"/regexp2", func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				slow.Encode(text)
			}
		})
	}
}
