package convert

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"tarbert/internal/reference"
	"tarbert/internal/reference/tokenizer"
	"tarbert/internal/tensor/gguf"
)

// llama.cpp's token types.
const (
	ggufNormal      int32 = 1
	ggufControl     int32 = 3
	ggufUserDefined int32 = 4
	ggufUnused      int32 = 5
)

// tokenizerFiles is what of a tokenizer's files the metadata needs beyond what
// package tokenizer tells.
type tokenizerFiles struct {
	json struct {
		Added         []addedToken    `json:"added_tokens"`
		Normalizer    json.RawMessage `json:"normalizer"`
		PreTokenizer  json.RawMessage `json:"pre_tokenizer"`
		PostProcessor json.RawMessage `json:"post_processor"`
		Model         struct {
			Merges []json.RawMessage `json:"merges"`
		} `json:"model"`
	}
	config map[string]json.RawMessage // tokenizer_config.json
}

type addedToken struct {
	ID         int    `json:"id"`
	Content    string `json:"content"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

// ggufTokenizer adds the tokenizer of a model directory to the metadata as
// llama.cpp's converter has it: a byte-level BPE under the name "gpt2".
func ggufTokenizer(m *gguf.Metadata, dir string, c *reference.Config) error {
	t, err := tokenizer.Load(dir)
	if err != nil {
		return fmt.Errorf("the tokenizer goes into the file: %w", err)
	}
	if t.Size() > c.VocabSize {
		return violation("tokenizer", "tokenizer.json", "%d tokens, but config.json's vocab_size is %d: it is another model's", t.Size(), c.VocabSize)
	}
	f, err := readTokenizerFiles(dir)
	if err != nil {
		return err
	}
	merges, err := ggufMerges(f.json.Model.Merges)
	if err != nil {
		return err
	}
	pre, err := ggufPre(f, len(merges) == 0)
	if err != nil {
		return err
	}
	tokens, kinds := ggufTokens(t, f, c.VocabSize)
	m.Set("tokenizer.ggml.model", "gpt2")
	m.Set("tokenizer.ggml.pre", pre)
	m.Set("tokenizer.ggml.tokens", tokens)
	m.Set("tokenizer.ggml.token_type", kinds)
	// Empty where there are none: llama.cpp asks for the key.
	m.Set("tokenizer.ggml.merges", merges)
	if err := ggufSpecial(m, t, f, c); err != nil {
		return err
	}
	if err := ggufAdds(m, f); err != nil {
		return err
	}
	return ggufTemplates(m, t, dir, f)
}

// readTokenizerFiles reads again what package tokenizer has accepted.
func readTokenizerFiles(dir string) (*tokenizerFiles, error) {
	f := &tokenizerFiles{}
	b, err := os.ReadFile(filepath.Join(dir, "tokenizer.json"))
	if err == nil {
		err = json.Unmarshal(b, &f.json)
	}
	if err != nil {
		return nil, fmt.Errorf("tokenizer.json: %w", err)
	}
	b, err = os.ReadFile(filepath.Join(dir, "tokenizer_config.json"))
	if errors.Is(err, os.ErrNotExist) {
		return f, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &f.config)
	}
	if err != nil {
		return nil, fmt.Errorf("tokenizer_config.json: %w", err)
	}
	var more map[int]addedToken
	if raw := f.config["added_tokens_decoder"]; present(raw) {
		if err := json.Unmarshal(raw, &more); err != nil {
			return nil, fmt.Errorf("tokenizer_config.json: added_tokens_decoder: %w", err)
		}
	}
	for id, a := range more {
		known := slices.ContainsFunc(f.json.Added, func(b addedToken) bool { return b.ID == id || b.Content == a.Content })
		if a.ID = id; !known {
			f.json.Added = append(f.json.Added, a)
		}
	}
	return f, nil
}

// ggufMerges spells every merge as two parts with a space between them; a space
// inside a part is written as byte-level vocabularies write it.
func ggufMerges(raw []json.RawMessage) ([]string, error) {
	merges := make([]string, len(raw))
	for i, r := range raw {
		if json.Unmarshal(r, &merges[i]) == nil {
			continue
		}
		var parts []string
		if err := json.Unmarshal(r, &parts); err != nil || len(parts) != 2 {
			return nil, fmt.Errorf("tokenizer.json: model.merges[%d]: neither a string nor a pair", i)
		}
		for j := range parts {
			parts[j] = strings.ReplaceAll(parts[j], " ", "Ġ")
		}
		merges[i] = parts[0] + " " + parts[1]
	}
	return merges, nil
}

// ggufTokens lists every token up to the embedding's last row, and its type.
func ggufTokens(t *tokenizer.Tokenizer, f *tokenizerFiles, size int) ([]string, []int32) {
	added := map[int]addedToken{}
	for _, a := range f.json.Added {
		added[a.ID] = a
	}
	tokens, kinds := make([]string, size), make([]int32, size)
	for id := range tokens {
		token := t.Token(id)
		a, isAdded := added[id]
		switch {
		case token == "":
			tokens[id], kinds[id] = fmt.Sprintf("[PAD%d]", id), ggufUnused
			continue
		case !isAdded:
			tokens[id], kinds[id] = token, ggufNormal
			continue
		case !a.Normalized: // llama.cpp looks for it in the text as it is
			token = t.Decode(t.Encode(token))
		}
		if kinds[id] = ggufControl; !a.Special && !looksSpecial(token) {
			token, kinds[id] = strings.ReplaceAll(token, "▁", " "), ggufUserDefined
		}
		tokens[id] = token
	}
	return tokens, kinds
}

// looksSpecial is llama.cpp's guess about added tokens that are not marked special.
func looksSpecial(token string) bool {
	switch {
	case token == "<pad>", token == "<mask>", token == "<2mass>", token == "[@BOS@]":
		return true
	case strings.HasPrefix(token, "<|") && strings.HasSuffix(token, "|>"),
		strings.HasPrefix(token, "<｜") && strings.HasSuffix(token, "｜>"),
		strings.HasPrefix(token, "<unused") && strings.HasSuffix(token, ">"):
		return true
	}
	return false
}

// ggufSpecial sets the special tokens' ids: tokenizer_config.json's, then those
// that only config.json has.
func ggufSpecial(m *gguf.Metadata, t *tokenizer.Tokenizer, f *tokenizerFiles, c *reference.Config) error {
	eos := -1
	if len(c.EOS) > 0 {
		eos = c.EOS[0]
	}
	roles := []struct {
		name, key string
		id        int // by config.json
	}{
		{"bos_token", "bos", c.BOS}, {"eos_token", "eos", eos}, {"unk_token", "unknown", -1}, {"sep_token", "seperator", -1},
		{"pad_token", "padding", c.Pad}, {"mask_token", "mask", -1},
	}
	set := func(key string, id int) error {
		if id >= c.VocabSize {
			return violation("tokenizer", "config.json", "%s token %d is outside the vocabulary of %d", key, id, c.VocabSize)
		}
		m.Set("tokenizer.ggml."+key+"_token_id", uint32(id))
		return nil
	}
	for i, r := range roles {
		content, ok := t.Config().Special[r.name]
		if !ok {
			continue
		}
		id, ok := t.ID(content)
		if !ok {
			continue
		}
		roles[i].id = -1
		if err := set(r.key, id); err != nil {
			return err
		}
	}
	for _, r := range roles {
		if r.id >= 0 {
			if err := set(r.key, r.id); err != nil {
				return err
			}
		}
	}
	return nil
}

// ggufAdds says whether special tokens go around a text, by the post-processor,
// or else by tokenizer_config.json.
func ggufAdds(m *gguf.Metadata, f *tokenizerFiles) error {
	type processor struct {
		Type   string `json:"type"`
		Single []struct {
			Special *struct {
				ID string `json:"id"`
			} `json:"SpecialToken"`
		} `json:"single"`
	}
	var post struct {
		processor
		List []processor `json:"processors"`
	}
	if present(f.json.PostProcessor) {
		if err := json.Unmarshal(f.json.PostProcessor, &post); err != nil {
			return fmt.Errorf("tokenizer.json: post_processor: %w", err)
		}
	}
	if post.List == nil {
		post.List = []processor{post.processor}
	}
	adds := map[string]bool{}
	for _, p := range post.List {
		switch n := len(p.Single); {
		case p.Type == "ByteLevel":
			for _, role := range []string{"bos", "eos"} {
				if _, said := adds[role]; !said {
					adds[role] = false
				}
			}
		case p.Type == "TemplateProcessing" && n > 1:
			for i, role := range []string{"bos", "eos"} {
				if special := p.Single[i*(n-1)].Special; special != nil {
					if special.ID != f.token(role) {
						return violation("tokenizer", "tokenizer.json", "post_processor puts %q where llama.cpp puts the %s token, which is %q", special.ID, role, f.token(role))
					}
					adds[role] = true
				}
			}
		}
	}
	for _, role := range []string{"bos", "eos", "sep"} {
		var said bool
		_, known := adds[role]
		if raw := f.config["add_"+role+"_token"]; !known && json.Unmarshal(raw, &said) == nil && present(raw) {
			adds[role] = said
		}
		if v, ok := adds[role]; ok {
			m.Set("tokenizer.ggml.add_"+role+"_token", v)
		}
	}
	return nil
}

// token is the content of tokenizer_config.json's bos_token, eos_token, …
func (f *tokenizerFiles) token(role string) string {
	raw := f.config[role+"_token"]
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	var o struct {
		Content string `json:"content"`
	}
	if json.Unmarshal(raw, &o) != nil {
		return ""
	}
	return o.Content
}

// ggufTemplates sets the chat template, and the named ones beside it.
func ggufTemplates(m *gguf.Metadata, t *tokenizer.Tokenizer, dir string, f *tokenizerFiles) error {
	var list []struct {
		Name     string `json:"name"`
		Template string `json:"template"`
	}
	_, err := os.Stat(filepath.Join(dir, "chat_template.jinja"))
	if raw := bytes.TrimSpace(f.config["chat_template"]); err != nil && len(raw) > 0 && raw[0] == '[' {
		if err := json.Unmarshal(raw, &list); err != nil {
			return fmt.Errorf("tokenizer_config.json: chat_template: %w", err)
		}
	}
	names := []string{}
	for _, named := range list {
		name := strings.Map(func(r rune) rune {
			if r < 128 && (r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z') {
				return r
			}
			return '_'
		}, named.Name)
		if name == "" || name == "default" {
			continue
		}
		m.Set("tokenizer.chat_template."+name, named.Template)
		names = append(names, name)
	}
	if len(names) > 0 {
		slices.Sort(names)
		m.Set("tokenizer.chat_templates", names)
	}
	if template := t.Config().ChatTemplate; template != "" {
		m.Set("tokenizer.chat_template", template)
	}
	return nil
}
