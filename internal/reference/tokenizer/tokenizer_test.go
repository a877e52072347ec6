package tokenizer

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// hardText draws text with what patterns treat specially.
func hardText(t *rapid.T) string {
	pieces := rapid.SliceOfN(rapid.OneOf(
		rapid.SampledFrom([]string{
			"'s", "'S", "'ſ", "'ll", "'LL", "'rE", "'x", "'", " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2028", "\u0085", "\v",
			"12", "1234567", "٣", "½", "Ⅷ", "abc", "É", "e\u0301", "\u0301", "한국", "你好", "カタカナ", "。", "!!", "#$%", "_", "a_b", "+", "^", "`", "~",
			"क्षत्रिय", "\u200d", "\ufeff", "😀", "\x00", "\x80", "\xff", "\xe4\xb8", "\ufffd", "<think>", "<|im_end|>", "ß", "\U0010ffff",
		}),
		rapid.Map(rapid.Rune(), func(r rune) string { return string(r) }),
	), 0, 12).Draw(t, "pieces")
	return strings.Join(pieces, "")
}

// TestScannersEqualTheirPatterns holds the hand-written scanners to regexp2.
func TestScannersEqualTheirPatterns(t *testing.T) {
	for pattern, scan := range scanners {
		t.Run(pattern, func(t *testing.T) {
			find, err := regexFinder(pattern)
			if err != nil {
				t.Fatal(err)
			}
			rapid.Check(t, func(t *rapid.T) {
				text := hardText(t)
				if diff := cmp.Diff(find(text), scan(text), cmp.AllowUnexported(span{})); diff != "" {
					t.Fatalf("%q: %s", text, diff)
				}
			})
		})
	}
}

// TestScannersAreUsed would fail if a published file's spelling of a pattern
// differed from ours, and the slow way were taken unnoticed.
func TestScannersAreUsed(t *testing.T) {
	for _, family := range []string{"qwen", "deepseek"} {
		b, err := os.ReadFile(filepath.Join("testdata", family, "tokenizer.json"))
		if err != nil {
			t.Fatal(err)
		}
		var f struct {
			Pre struct {
				List []struct {
					Pattern struct{ Regex string }
				} `json:"pretokenizers"`
			} `json:"pre_tokenizer"`
		}
		if err := json.Unmarshal(b, &f); err != nil {
			t.Fatal(err)
		}
		for _, p := range f.Pre.List {
			if p.Pattern.Regex != "" && scanners[p.Pattern.Regex] == nil {
				t.Errorf("%s: no scanner for %q", family, p.Pattern.Regex)
			}
		}
	}
}

// TestHeapMergesLikeTheScan holds the two ways of merging together.
func TestHeapMergesLikeTheScan(t *testing.T) {
	tok, _ := readGolden(t, "qwen")
	rapid.Check(t, func(t *rapid.T) {
		word := hardText(t)
		slow := tok.model.symbols(nil, word)
		fast := slices.Clone(slow)
		for len(slow) > small { // the scan, whatever the length
			next := mergeOnce(tok.model, slices.Clone(slow))
			if len(next) == len(slow) {
				break
			}
			slow = next
		}
		if len(slow) <= small {
			slow = tok.model.merged(slow)
		}
		if len(fast) > 0 {
			fast = tok.model.mergedByHeap(fast)
		}
		if !slices.Equal(slow, fast) {
			t.Fatalf("%q: %v by heap, %v by scan", word, fast, slow)
		}
	})
}

// mergeOnce applies the best merge, the leftmost of equals.
func mergeOnce(m *bpe, ids []int) []int {
	best, at := merge{}, -1
	for i := 0; i+1 < len(ids); i++ {
		if g, ok := m.merges[pair{int32(ids[i]), int32(ids[i+1])}]; ok && (at < 0 || g.rank < best.rank) {
			best, at = g, i
		}
	}
	if at < 0 {
		return ids
	}
	ids[at] = int(best.id)
	return slices.Delete(ids, at+1, at+2)
}

func TestByteSpellingIsOneToOne(t *testing.T) {
	seen := map[rune]bool{}
	for b := range 256 {
		r := byteRune(byte(b))
		back, ok := runeByte(r)
		if seen[r] || !ok || back != byte(b) {
			t.Errorf("byte %d is %q, which is byte %d (%v)", b, r, back, ok)
		}
		seen[r] = true
	}
	if byteRune(' ') != 'Ġ' || byteRune('\n') != 'Ċ' {
		t.Error("space and line break are not Ġ and Ċ")
	}
}

// crossCase is what the tokenizers package makes of a text, or of ids without one.
type crossCase struct {
	Text    *string `json:"text"`
	IDs     []int   `json:"ids"`
	Decoded string  `json:"decoded"`
	Plain   string  `json:"plain"`
}

// TestAgreesWithTokenizersOnVariants: every feature that is supported, as the
// tokenizers package computes it. Each variant changes members of the Qwen file.
func TestAgreesWithTokenizersOnVariants(t *testing.T) {
	b, err := os.ReadFile("testdata/variants.json")
	if err != nil {
		t.Fatal(err)
	}
	var variants []struct {
		Name    string                     `json:"name"`
		Changes map[string]json.RawMessage `json:"changes"` // members of tokenizer.json, or of its model as "model.x"
		Cases   []crossCase                `json:"cases"`
	}
	if err := json.Unmarshal(b, &variants); err != nil {
		t.Fatal(err)
	}
	if len(variants) < 20 {
		t.Fatalf("%d variants", len(variants))
	}
	for _, v := range variants {
		t.Run(v.Name, func(t *testing.T) {
			tok, err := parse(changed(t, v.Changes), nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range v.Cases {
				if c.Text != nil {
					if diff := cmp.Diff(c.IDs, tok.Encode(*c.Text)); diff != "" {
						t.Errorf("Encode(%q): %s", *c.Text, diff)
					}
				}
				if got := tok.Decode(c.IDs); got != c.Decoded {
					t.Errorf("Decode(%v): %q, want %q", c.IDs, got, c.Decoded)
				}
				if got := tok.DecodePlain(c.IDs); got != c.Plain {
					t.Errorf("DecodePlain(%v): %q, want %q", c.IDs, got, c.Plain)
				}
			}
		})
	}
}

// changed is the Qwen tokenizer.json with members replaced.
func changed(t testing.TB, changes map[string]json.RawMessage) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/qwen/tokenizer.json")
	if err != nil {
		t.Fatal(err)
	}
	var file, model map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(b, &file), json.Unmarshal(file["model"], &model)); err != nil {
		t.Fatal(err)
	}
	for name, value := range changes {
		if inner, ok := strings.CutPrefix(name, "model."); ok {
			model[inner] = value
			continue
		}
		file[name] = value
	}
	if _, whole := changes["model"]; !whole {
		if file["model"], err = json.Marshal(model); err != nil {
			t.Fatal(err)
		}
	}
	if b, err = json.Marshal(file); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestUnsupportedFilesNameThePath(t *testing.T) {
	for _, c := range []struct{ member, value, want string }{
		{"normalizer", `{"type":"Lowercase"}`, `normalizer.type: normalizer "Lowercase" is not supported`},
		{"normalizer", `{"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Strip"}]}`, "normalizer.normalizers[1].type"},
		{"pre_tokenizer", `null`, "pre_tokenizer: no ByteLevel"},
		{"pre_tokenizer", `{"type":"Whitespace"}`, "pre_tokenizer.type"},
		{"pre_tokenizer", `{"type":"Sequence","pretokenizers":[{"type":"ByteLevel"},{"type":"Digits"}]}`, "pre_tokenizer.pretokenizers[1]: a pre-tokenizer after ByteLevel"},
		{"pre_tokenizer", `{"type":"Split","pattern":{"Regex":"("},"behavior":"Isolated","invert":false}`, "pre_tokenizer.pattern.Regex"},
		{"pre_tokenizer", `{"type":"Split","pattern":{"Regex":"a"},"behavior":"Odd","invert":false}`, "pre_tokenizer.behavior"},
		{"pre_tokenizer", `{"type":"Split","pattern":{},"behavior":"Isolated","invert":false}`, "pre_tokenizer.pattern: neither"},
		{"pre_tokenizer", `{"type":"ByteLevel","new":1}`, "pre_tokenizer.new: unknown field"},
		{"post_processor", `{"type":"BertProcessing"}`, "post_processor.type"},
		{"post_processor", `{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x","type_id":0}}],"pair":[],"special_tokens":{}}`, "post_processor.single[0]"},
		{"decoder", `{"type":"WordPiece"}`, "decoder.type"},
		{"decoder", `null`, "decoder: missing"},
		{"model", `{"type":"Unigram"}`, `model.type: model "Unigram" is not supported`},
		{"model.dropout", `0.1`, "model.dropout"},
		{"model.byte_fallback", `true`, "model.byte_fallback"},
		{"model.end_of_word_suffix", `"</w>"`, "model.end_of_word_suffix"},
		{"model.merges", `[["a"]]`, "model.merges[0]: 1 parts"},
		{"model.merges", `["a b c"]`, "model.merges[0]"},
		{"model.merges", `[["a","\u0000"]]`, "model.merges[0]"},
		{"model.vocab", `{"a":0,"b":0}`, "same id 0"},
		{"model.vocab", `{"a":900000000000}`, "out of range"},
		{"model.vocab", `{"a":-1}`, "out of range"},
		{"model.vocab", `{"a":"b"}`, "model.vocab"},
		{"model.unk_token", `"nope"`, "model.unk_token"},
		{"added_tokens", `[{"id":7777,"content":"x","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":false}]`, "added_tokens[0].id"},
		{"extra", `1`, "$.extra: unknown field"},
	} {
		changes := map[string]json.RawMessage{c.member: json.RawMessage(c.value)}
		if c.member == "model.vocab" {
			changes["model.merges"], changes["added_tokens"] = json.RawMessage("[]"), json.RawMessage("[]")
		}
		if _, err := parse(changed(t, changes), nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s = %s: %v, want %q", c.member, c.value, err, c.want)
		}
	}
	if _, err := Load(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no files: %v", err)
	}
}

func TestSpecialTokensAroundTheText(t *testing.T) {
	tok, err := parse(changed(t, map[string]json.RawMessage{"post_processor": json.RawMessage(`{"type":"Sequence","processors":[
		{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":false,"use_regex":true},
		{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<|im_start|>","type_id":0}},{"Sequence":{"id":"A","type_id":0}},
		{"SpecialToken":{"id":"<|im_end|>","type_id":0}}],"pair":[],"special_tokens":{
		"<|im_start|>":{"id":"<|im_start|>","ids":[1200],"tokens":["<|im_start|>"]},"<|im_end|>":{"id":"<|im_end|>","ids":[1201],"tokens":["<|im_end|>"]}}}]}`)}), nil)
	if err != nil {
		t.Fatal(err)
	}
	plain := tok.Encode("hi")
	if diff := cmp.Diff(append(append([]int{1200}, plain...), 1201), tok.EncodeSpecial("hi")); diff != "" {
		t.Error(diff)
	}
}

func TestLossyPutsOneMarkPerBrokenPart(t *testing.T) {
	for in, want := range map[string]string{ // from Rust's String::from_utf8_lossy documentation and the Unicode standard's table 3-8
		"a\xf0\x9f\x98b":             "a\ufffdb",
		"\xc0\xaf\xe0\x80\xbf":       "\ufffd\ufffd\ufffd\ufffd\ufffd",
		"\xed\xa0\x80\xf4\x91\x92":   "\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd",
		"\xe1\x80\xe2\xf0\x91\x92A":  "\ufffd\ufffd\ufffdA",
		"Hello \xf0\x90\x80World":    "Hello \ufffdWorld",
		"世\xe4":                      "世\ufffd",
		"\xf4\x8f\xbf\xbf\xf5\x80ok": "\U0010ffff\ufffd\ufffdok",
	} {
		if got := Lossy([]byte(in)); got != want {
			t.Errorf("%x: %q, want %q", in, got, want)
		}
	}
}
