package convert

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// ggufPres are the pre-tokenizers that llama.cpp has compiled in, by the
// patterns that split the text, in order.
var ggufPres = [...]struct {
	name     string
	patterns []string
}{
	{"gpt-2", []string{gpt2Pattern}},
	{"qwen2", []string{
		`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
	}},
	{"deepseek-v3", []string{
		`\p{N}{1,3}`,
		`[一-龥぀-ゟ゠-ヿ]+`,
		"[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
	}},
}

// gpt2Pattern is what a ByteLevel pre-tokenizer splits by on its own.
const gpt2Pattern = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

// ggufPre names the pre-tokenizer. llama.cpp's converter knows one by what it
// makes of a test sentence with a published vocabulary; the patterns themselves
// say it for any vocabulary. Without merges the split changes nothing.
func ggufPre(f *tokenizerFiles, mergeless bool) (string, error) {
	if err := ggufNormalizer(f.json.Normalizer); err != nil {
		return "", err
	}
	patterns, err := splitPatterns(f.json.PreTokenizer)
	if err != nil {
		return "", err
	}
	if mergeless {
		return "gpt-2", nil
	}
	var names []string
	for _, p := range ggufPres {
		if slices.Equal(p.patterns, patterns) {
			return p.name, nil
		}
		names = append(names, p.name)
	}
	return "", violation("tokenizer", "tokenizer.json", "pre_tokenizer: llama.cpp has none that splits by %q; known here are those of %s",
		patterns, strings.Join(names, ", "))
}

// ggufNormalizer refuses what llama.cpp would not do. NFC it does not do either:
// its converter lets that pass, since almost all text is in that form already.
func ggufNormalizer(raw json.RawMessage) error {
	if !present(raw) {
		return nil
	}
	var n struct {
		Type string            `json:"type"`
		List []json.RawMessage `json:"normalizers"`
	}
	if err := json.Unmarshal(raw, &n); err != nil {
		return fmt.Errorf("tokenizer.json: normalizer: %w", err)
	}
	switch n.Type {
	case "NFC":
	case "Sequence":
		for _, inner := range n.List {
			if err := ggufNormalizer(inner); err != nil {
				return err
			}
		}
	default:
		return violation("tokenizer", "tokenizer.json", "normalizer %q: llama.cpp's byte-level BPE has none", n.Type)
	}
	return nil
}

// splitPatterns lists what the pre-tokenizers split by, ByteLevel's own pattern
// included. Package tokenizer has refused every kind but these.
func splitPatterns(raw json.RawMessage) ([]string, error) {
	var p struct {
		Type    string            `json:"type"`
		List    []json.RawMessage `json:"pretokenizers"`
		Pattern struct {
			Regex  string
			String string
		} `json:"pattern"`
		Behavior string `json:"behavior"`
		Invert   bool   `json:"invert"`
		Prefix   *bool  `json:"add_prefix_space"`
		Regex    *bool  `json:"use_regex"`
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return nil, fmt.Errorf("tokenizer.json: pre_tokenizer: %w", err)
	}
	switch p.Type {
	case "Sequence":
		var all []string
		for _, inner := range p.List {
			patterns, err := splitPatterns(inner)
			if err != nil {
				return nil, err
			}
			all = append(all, patterns...)
		}
		return all, nil
	case "Split":
		if p.Behavior != "Isolated" || p.Invert || p.Pattern.String != "" {
			return nil, violation("tokenizer", "tokenizer.json", "pre_tokenizer: a Split that is not Isolated, or inverted, or by a literal: llama.cpp has none")
		}
		return []string{p.Pattern.Regex}, nil
	case "ByteLevel":
		if p.Prefix == nil || *p.Prefix {
			return nil, violation("tokenizer", "tokenizer.json", "pre_tokenizer: add_prefix_space: llama.cpp's byte-level BPE adds none")
		}
		if p.Regex == nil || *p.Regex {
			return []string{gpt2Pattern}, nil
		}
		return nil, nil
	}
	return nil, violation("tokenizer", "tokenizer.json", "pre_tokenizer %q is not known here", p.Type)
}
