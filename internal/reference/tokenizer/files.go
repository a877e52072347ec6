package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Limits on files that come with a model: far above any published one, far
// below what would exhaust the machine.
const (
	maxTokenizerFile = 256 << 20
	maxConfigFile    = 16 << 20
)

// Load reads the tokenizer of a model directory: tokenizer.json, and if they
// are there tokenizer_config.json, generation_config.json and
// chat_template.jinja. Errors name the file and the JSON path.
func Load(dir string) (*Tokenizer, error) {
	path := filepath.Join(dir, "tokenizer.json")
	raw, err := readFile(path, maxTokenizerFile)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s has no tokenizer.json: the model directory needs its tokenizer's files: %w", dir, err)
		}
		return nil, err
	}
	var config configFile
	if err := readJSON(filepath.Join(dir, "tokenizer_config.json"), &config); err != nil {
		return nil, err
	}
	t, err := parse(raw, config.added())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := t.configure(config); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, "tokenizer_config.json"), err)
	}
	var generation struct {
		EOS idList `json:"eos_token_id"`
	}
	if err := readJSON(filepath.Join(dir, "generation_config.json"), &generation); err != nil {
		return nil, err
	}
	for _, id := range generation.EOS {
		if !slices.Contains(t.config.EOS, id) {
			t.config.EOS = append(t.config.EOS, id)
		}
	}
	template, err := readFile(filepath.Join(dir, "chat_template.jinja"), maxConfigFile)
	switch {
	case err == nil:
		t.chat = &chatTemplates{named: map[string]string{defaultTemplate: string(template)}}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if t.chat != nil {
		t.config.ChatTemplate = t.chat.named[defaultTemplate]
	}
	return t, nil
}

// configure takes over what tokenizer_config.json says.
func (t *Tokenizer) configure(c configFile) error {
	t.config = Config{Class: c.Class, BOS: -1, PAD: -1, EOS: []int{}, Special: map[string]string{}}
	for _, s := range []struct {
		name  string
		token tokenName
	}{
		{"bos_token", c.BOS}, {"eos_token", c.EOS}, {"unk_token", c.UNK}, {"sep_token", c.SEP},
		{"pad_token", c.PAD}, {"cls_token", c.CLS}, {"mask_token", c.MASK},
	} {
		if s.token == "" {
			continue
		}
		t.config.Special[s.name] = string(s.token)
		id, ok := t.ID(string(s.token))
		switch {
		case ok && s.name == "eos_token":
			t.config.EOS = []int{id}
		case ok && s.name == "bos_token":
			t.config.BOS = id
		case ok && s.name == "pad_token":
			t.config.PAD = id
		case !ok && s.name == "eos_token":
			return fmt.Errorf("eos_token %q is not in the vocabulary", s.token)
		}
	}
	var err error
	t.chat, err = c.templates()
	return err
}

// configFile is tokenizer_config.json, as far as it matters here; it holds
// many more fields, which differ from release to release.
type configFile struct {
	Class        string               `json:"tokenizer_class"`
	BOS          tokenName            `json:"bos_token"`
	EOS          tokenName            `json:"eos_token"`
	UNK          tokenName            `json:"unk_token"`
	SEP          tokenName            `json:"sep_token"`
	PAD          tokenName            `json:"pad_token"`
	CLS          tokenName            `json:"cls_token"`
	MASK         tokenName            `json:"mask_token"`
	ChatTemplate json.RawMessage      `json:"chat_template"`
	Added        map[int]addedDecoder `json:"added_tokens_decoder"`
}

type addedDecoder struct {
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

// added are the tokens of added_tokens_decoder, by id.
func (c configFile) added() []AddedToken {
	var tokens []AddedToken
	for id, a := range c.Added {
		tokens = append(tokens, AddedToken{id, a.Content, a.SingleWord, a.LStrip, a.RStrip, a.Normalized, a.Special})
	}
	slices.SortFunc(tokens, func(a, b AddedToken) int { return a.ID - b.ID })
	return tokens
}

// templates are the chat templates of tokenizer_config.json: one, or a list of named ones.
func (c configFile) templates() (*chatTemplates, error) {
	if len(c.ChatTemplate) == 0 || string(c.ChatTemplate) == "null" {
		return nil, nil
	}
	var one string
	if err := json.Unmarshal(c.ChatTemplate, &one); err == nil {
		return &chatTemplates{named: map[string]string{defaultTemplate: one}}, nil
	}
	var list []struct {
		Name     string `json:"name"`
		Template string `json:"template"`
	}
	if err := json.Unmarshal(c.ChatTemplate, &list); err != nil {
		return nil, fmt.Errorf("chat_template: neither a string nor a list of {name, template}: %w", err)
	}
	named := map[string]string{}
	for _, t := range list {
		named[t.Name] = t.Template
	}
	return &chatTemplates{named: named}, nil
}

// tokenName is a token written as a string or as an object with its content.
type tokenName string

func (n *tokenName) UnmarshalJSON(b []byte) error {
	var s *string
	if err := json.Unmarshal(b, &s); err == nil {
		if s != nil {
			*n = tokenName(*s)
		}
		return nil
	}
	var o struct {
		Content string `json:"content"`
	}
	if err := json.Unmarshal(b, &o); err != nil {
		return fmt.Errorf("neither a string nor an object with content: %s", b)
	}
	*n = tokenName(o.Content)
	return nil
}

// idList is one id or several.
type idList []int

func (l *idList) UnmarshalJSON(b []byte) error {
	var one *int
	if err := json.Unmarshal(b, &one); err == nil {
		if one != nil {
			*l = idList{*one}
		}
		return nil
	}
	return json.Unmarshal(b, (*[]int)(l))
}

// readJSON decodes a file that may be missing.
func readJSON(path string, v any) error {
	b, err := readFile(path, maxConfigFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s has more than %d bytes, the most a tokenizer's file may have", path, limit)
	}
	return b, nil
}
