package convert

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tarbert/internal/reference"
	"tarbert/internal/tensor/gguf"
)

// tokenizerDir is testdata/gguf/tokenizer-deepseek with tokenizer.json and
// tokenizer_config.json changed.
func tokenizerDir(t *testing.T, change func(tok, config map[string]any)) string {
	t.Helper()
	dir := t.TempDir()
	files := map[string]map[string]any{"tokenizer.json": {}, "tokenizer_config.json": {}}
	for name, v := range files {
		b, err := os.ReadFile(filepath.Join("testdata/gguf/tokenizer-deepseek", name))
		if err == nil {
			err = json.Unmarshal(b, &v)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	change(files["tokenizer.json"], files["tokenizer_config.json"])
	for name, v := range files {
		b, err := json.Marshal(v)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// endTemplate is a post-processor that puts a token after the text.
func endTemplate(last string) map[string]any {
	single := []any{map[string]any{"Sequence": map[string]any{"id": "A", "type_id": 0}}, map[string]any{"SpecialToken": map[string]any{"id": last, "type_id": 0}}}
	return map[string]any{"type": "TemplateProcessing", "single": single, "pair": single,
		"special_tokens": map[string]any{last: map[string]any{"id": last, "ids": []int{315}, "tokens": []string{last}}}}
}

func TestGGUFTokenizer(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(tok, config map[string]any)
		want   gguf.Metadata // some of the keys; a nil value stands for none
	}{
		{"as it is", func(_, _ map[string]any) {}, gguf.Metadata{{Key: "tokenizer.ggml.pre", Value: "deepseek-v3"}, {Key: "tokenizer.ggml.eos_token_id", Value: uint32(315)},
			{Key: "tokenizer.ggml.bos_token_id", Value: uint32(3)}, {Key: "tokenizer.ggml.add_bos_token"}}},
		{"what tokenizer_config.json adds", func(_, config map[string]any) {
			config["add_bos_token"], config["add_eos_token"] = true, false
			config["bos_token"] = map[string]any{"content": "<｜begin▁of▁sentence｜>", "__type": "AddedToken"}
		}, gguf.Metadata{{Key: "tokenizer.ggml.add_bos_token", Value: true}, {Key: "tokenizer.ggml.add_eos_token", Value: false}, {Key: "tokenizer.ggml.bos_token_id", Value: uint32(314)}}},
		{"a post-processor goes before it", func(tok, config map[string]any) {
			config["add_bos_token"] = true
			tok["post_processor"] = map[string]any{"type": "ByteLevel"}
		}, gguf.Metadata{{Key: "tokenizer.ggml.add_bos_token", Value: false}, {Key: "tokenizer.ggml.add_eos_token", Value: false}}},
		{"a template", func(tok, _ map[string]any) { tok["post_processor"] = endTemplate("<｜end▁of▁sentence｜>") },
			gguf.Metadata{{Key: "tokenizer.ggml.add_eos_token", Value: true}, {Key: "tokenizer.ggml.add_bos_token"}}},
		{"no merges", func(tok, _ map[string]any) { tok["model"].(map[string]any)["merges"] = []string{} },
			gguf.Metadata{{Key: "tokenizer.ggml.pre", Value: "gpt-2"}, {Key: "tokenizer.ggml.merges", Value: []string{}}}},
		{"merges as strings", func(tok, _ map[string]any) {
			model := tok["model"].(map[string]any)
			first := model["merges"].([]any)[0].([]any)
			model["merges"] = []string{fmt.Sprint(first[0], " ", first[1])}
		}, gguf.Metadata{{Key: "tokenizer.ggml.merges", Value: []string{"Ġ Ġ"}}}},
		{"named templates", func(_, config map[string]any) {
			config["chat_template"] = []any{map[string]any{"name": "default", "template": "D"}, map[string]any{"name": "tool use!", "template": "T"}}
		}, gguf.Metadata{{Key: "tokenizer.chat_template", Value: "D"}, {Key: "tokenizer.chat_template.tool_use_", Value: "T"},
			{Key: "tokenizer.chat_templates", Value: []string{"tool_use_"}}}},
	} {
		var m gguf.Metadata
		if err := ggufTokenizer(&m, tokenizerDir(t, c.change), &reference.Config{VocabSize: 330, BOS: 3, Pad: -1}); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		for _, kv := range c.want {
			if got, ok := m.Get(kv.Key); ok != (kv.Value != nil) || cmp.Diff(kv.Value, got) != "" {
				t.Errorf("%s: %s is %v", c.name, kv.Key, got)
			}
		}
		tokens, _ := m.Get("tokenizer.ggml.tokens")
		kinds, _ := m.Get("tokenizer.ggml.token_type")
		for id, want := range map[int]string{0: "! 1", 314: "<｜begin▁of▁sentence｜> 3", 318: "<think> 4", 320: "[PAD320] 5", 329: "[PAD329] 5"} {
			if got := fmt.Sprint(tokens.([]string)[id], " ", kinds.([]int32)[id]); got != want {
				t.Errorf("%s: token %d is %q, want %q", c.name, id, got, want)
			}
		}
	}
}

func TestGGUFTokenizerRefuses(t *testing.T) {
	splits := func(tok map[string]any) []any { return tok["pre_tokenizer"].(map[string]any)["pretokenizers"].([]any) }
	for _, c := range []struct {
		name       string
		change     func(tok, config map[string]any)
		vocab, pad int
		says       string
	}{
		{"too many tokens", func(_, _ map[string]any) {}, 319, -1, "vocab_size"},
		{"another pattern", func(tok, _ map[string]any) {
			splits(tok)[0].(map[string]any)["pattern"] = map[string]any{"Regex": `\p{N}{1,2}`}
		}, 320, -1, "llama.cpp has none that splits by"},
		{"a split that removes", func(tok, _ map[string]any) { splits(tok)[0].(map[string]any)["behavior"] = "Removed" }, 320, -1, "pre_tokenizer"},
		{"a prefix space", func(tok, _ map[string]any) {
			all := splits(tok)
			all[len(all)-1].(map[string]any)["add_prefix_space"] = true
		}, 320, -1, "add_prefix_space"},
		{"another normalizer", func(tok, _ map[string]any) { tok["normalizer"] = map[string]any{"type": "NFKC"} }, 320, -1, "NFKC"},
		{"a template with another end", func(tok, _ map[string]any) { tok["post_processor"] = endTemplate("<think>") }, 320, -1, "post_processor"},
		{"an id outside", func(_, _ map[string]any) {}, 320, 5000, "outside the vocabulary"},
	} {
		var m gguf.Metadata
		err := ggufTokenizer(&m, tokenizerDir(t, c.change), &reference.Config{VocabSize: c.vocab, BOS: -1, Pad: c.pad})
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v; want %q", c.name, err, c.says)
		}
	}
	var m gguf.Metadata
	if err := ggufTokenizer(&m, t.TempDir(), &reference.Config{VocabSize: 320}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no tokenizer: %v", err)
	}
}

func TestGGUFPres(t *testing.T) {
	byteLevel := func(regex bool) string {
		return fmt.Sprintf(`{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":%v}`, regex)
	}
	for _, p := range ggufPres {
		pre := byteLevel(true)
		if p.name != "gpt-2" {
			var all []string
			for _, pattern := range p.patterns {
				b, err := json.Marshal(pattern)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, fmt.Sprintf(`{"type":"Split","pattern":{"Regex":%s},"behavior":"Isolated","invert":false}`, b))
			}
			pre = fmt.Sprintf(`{"type":"Sequence","pretokenizers":[%s,%s]}`, strings.Join(all, ","), byteLevel(false))
		}
		f := &tokenizerFiles{}
		f.json.PreTokenizer = json.RawMessage(pre)
		if got, err := ggufPre(f, false); err != nil || got != p.name {
			t.Errorf("%s: %q, %v", p.name, got, err)
		}
	}
}
