package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/text/unicode/norm"
)

// file is tokenizer.json.
type file struct {
	Version       string          `json:"version"`
	Truncation    json.RawMessage `json:"truncation"` // a caller's choice, not the model's: left alone
	Padding       json.RawMessage `json:"padding"`    // likewise
	AddedTokens   []AddedToken    `json:"added_tokens"`
	Normalizer    json.RawMessage `json:"normalizer"`
	PreTokenizer  json.RawMessage `json:"pre_tokenizer"`
	PostProcessor json.RawMessage `json:"post_processor"`
	Decoder       json.RawMessage `json:"decoder"`
	Model         json.RawMessage `json:"model"`
}

// parse builds a tokenizer from tokenizer.json and the tokens that
// tokenizer_config.json adds to it.
func parse(raw []byte, more []AddedToken) (*Tokenizer, error) {
	var f file
	if err := strict("$", raw, &f); err != nil {
		return nil, err
	}
	t := &Tokenizer{config: Config{BOS: -1, PAD: -1, EOS: []int{}}}
	var err error
	if t.normalize, err = normalizer("normalizer", f.Normalizer); err != nil {
		return nil, err
	}
	p := &preTokenizers{}
	if err := p.parse("pre_tokenizer", f.PreTokenizer, 0); err != nil {
		return nil, err
	}
	if !p.byteLevel {
		return nil, errors.New("pre_tokenizer: no ByteLevel in it; only byte-level BPE is supported")
	}
	t.split = p.splitters
	if err := decoder("decoder", f.Decoder, 0); err != nil {
		return nil, err
	}
	if t.model, err = parseModel("model", f.Model); err != nil {
		return nil, err
	}
	added := slices.Clone(f.AddedTokens)
	for _, a := range more {
		if !slices.ContainsFunc(added, func(b AddedToken) bool { return b.ID == a.ID || b.Content == a.Content }) {
			added = append(added, a)
		}
	}
	if err := t.index(added); err != nil {
		return nil, err
	}
	return t, t.postProcessor("post_processor", f.PostProcessor, 0)
}

// index fills the tables by id.
func (t *Tokenizer) index(added []AddedToken) error {
	last, count := -1, len(t.model.vocab)+len(added)
	for token, id := range t.model.vocab {
		if id < 0 || id > 4*count+1<<16 {
			return fmt.Errorf("model.vocab[%q]: id %d out of range for %d tokens", token, id, count)
		}
		last = max(last, id)
	}
	if err := t.checkAdded(added); err != nil {
		return err
	}
	for _, a := range added {
		last = max(last, a.ID)
	}
	t.tokens = make([]string, last+1)
	t.known = make([]bool, last+1)
	t.bytes = make([][]byte, last+1)
	t.special = make([]bool, last+1)
	for token, id := range t.model.vocab {
		if t.known[id] {
			return fmt.Errorf("model.vocab: %q and %q have the same id %d", t.tokens[id], token, id)
		}
		t.tokens[id], t.known[id], t.bytes[id] = token, true, tokenBytes(token)
	}
	for _, a := range added {
		t.tokens[a.ID], t.known[a.ID], t.bytes[a.ID] = a.Content, true, tokenBytes(a.Content)
		t.special[a.ID] = a.Special
	}
	t.added = newAddedVocabulary(added, t.normalize)
	t.longest = 1
	for _, b := range t.bytes {
		t.longest = max(t.longest, len(b))
	}
	return nil
}

// checkAdded holds the ids that the file gives to added tokens against those
// that the tokenizers package gives out: the token's own in the vocabulary, or
// the next free one. It follows its own count whatever the file says, so a file
// that disagrees would be read differently there.
func (t *Tokenizer) checkAdded(added []AddedToken) error {
	next := len(t.model.vocab)
	for i, a := range added {
		if a.Content == "" {
			return fmt.Errorf("added_tokens[%d].content: empty", i)
		}
		want, ok := t.model.vocab[a.Content]
		if !ok {
			want = next
		}
		if a.ID != want {
			return fmt.Errorf("added_tokens[%d].id: %q has id %d, but comes to be %d by its place", i, a.Content, a.ID, want)
		}
		next = max(next, want+1)
	}
	return nil
}

// kind reads an object's "type".
func kind(path string, raw json.RawMessage) (string, error) {
	var k struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(raw, &k); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return k.Type, nil
}

func absent(raw json.RawMessage) bool {
	return len(raw) == 0 || string(bytes.TrimSpace(raw)) == "null"
}

func unsupported(path, what string) error {
	return fmt.Errorf("%s: %s is not supported; only byte-level BPE tokenizers are", path, what)
}

// deepest bounds Sequences inside Sequences.
const deepest = 16

// sequence reads the members of a Sequence under any of the names that the kinds of it have.
func sequence(path, field string, raw json.RawMessage, depth int) ([]json.RawMessage, error) {
	if depth > deepest {
		return nil, fmt.Errorf("%s: nested more than %d deep", path, deepest)
	}
	var o map[string]json.RawMessage
	if err := json.Unmarshal(raw, &o); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for name := range o {
		if name != "type" && name != field {
			return nil, fmt.Errorf("%s.%s: unknown field", path, name)
		}
	}
	var list []json.RawMessage
	if err := json.Unmarshal(o[field], &list); err != nil {
		return nil, fmt.Errorf("%s.%s: %w", path, field, err)
	}
	return list, nil
}

var forms = map[string]norm.Form{"NFC": norm.NFC, "NFD": norm.NFD, "NFKC": norm.NFKC, "NFKD": norm.NFKD}

// normalizer returns nil for none.
func normalizer(path string, raw json.RawMessage) (func(string) string, error) {
	return normalizerAt(path, raw, 0)
}

func normalizerAt(path string, raw json.RawMessage, depth int) (func(string) string, error) {
	if absent(raw) {
		return nil, nil
	}
	k, err := kind(path, raw)
	if err != nil {
		return nil, err
	}
	if form, ok := forms[k]; ok {
		return normalForm(form), nil
	}
	if k != "Sequence" {
		return nil, unsupported(path+".type", fmt.Sprintf("normalizer %q", k))
	}
	list, err := sequence(path, "normalizers", raw, depth)
	if err != nil {
		return nil, err
	}
	var all []func(string) string
	for i, r := range list {
		n, err := normalizerAt(fmt.Sprintf("%s.normalizers[%d]", path, i), r, depth+1)
		if err != nil {
			return nil, err
		}
		if n != nil {
			all = append(all, n)
		}
	}
	if len(all) == 0 {
		return nil, nil
	}
	return func(s string) string {
		for _, n := range all {
			s = n(s)
		}
		return s
	}, nil
}

type preTokenizers struct {
	splitters []splitter
	byteLevel bool // met, and so last
}

func (p *preTokenizers) parse(path string, raw json.RawMessage, depth int) error {
	if absent(raw) {
		return nil
	}
	k, err := kind(path, raw)
	if err != nil {
		return err
	}
	if k != "Sequence" && p.byteLevel {
		return fmt.Errorf("%s: a pre-tokenizer after ByteLevel is not supported", path)
	}
	switch k {
	case "Sequence":
		list, err := sequence(path, "pretokenizers", raw, depth)
		if err != nil {
			return err
		}
		for i, r := range list {
			if err := p.parse(fmt.Sprintf("%s.pretokenizers[%d]", path, i), r, depth+1); err != nil {
				return err
			}
		}
		return nil
	case "Split":
		return p.parseSplit(path, raw)
	case "Digits":
		var o struct {
			Type       string `json:"type"`
			Individual bool   `json:"individual_digits"`
		}
		if err := strict(path, raw, &o); err != nil {
			return err
		}
		b := contiguous
		if o.Individual {
			b = isolated
		}
		p.splitters = append(p.splitters, splitBy{find: digitFinder, behavior: b})
		return nil
	case "ByteLevel":
		return p.parseByteLevel(path, raw)
	}
	return unsupported(path+".type", fmt.Sprintf("pre-tokenizer %q", k))
}

func (p *preTokenizers) parseSplit(path string, raw json.RawMessage) error {
	var o struct {
		Type    string `json:"type"`
		Pattern struct {
			Regex  *string `json:"Regex"`
			String *string `json:"String"`
		} `json:"pattern"`
		Behavior behavior `json:"behavior"`
		Invert   bool     `json:"invert"`
	}
	if err := strict(path, raw, &o); err != nil {
		return err
	}
	if !slices.Contains([]behavior{isolated, removed, merged, mergedNext, contiguous}, o.Behavior) {
		return unsupported(path+".behavior", fmt.Sprintf("behaviour %q", o.Behavior))
	}
	switch {
	case o.Pattern.Regex != nil:
		s, err := newSplit(*o.Pattern.Regex, o.Behavior, o.Invert)
		if err != nil {
			return fmt.Errorf("%s.pattern.Regex: %w", path, err)
		}
		p.splitters = append(p.splitters, s)
	case o.Pattern.String != nil:
		p.splitters = append(p.splitters, splitBy{literalFinder(*o.Pattern.String), o.Behavior, o.Invert})
	default:
		return fmt.Errorf("%s.pattern: neither Regex nor String", path)
	}
	return nil
}

func (p *preTokenizers) parseByteLevel(path string, raw json.RawMessage) error {
	o := struct {
		Type           string `json:"type"`
		AddPrefixSpace bool   `json:"add_prefix_space"`
		TrimOffsets    bool   `json:"trim_offsets"` // offsets are not reported
		UseRegex       bool   `json:"use_regex"`
	}{UseRegex: true, AddPrefixSpace: true}
	if err := strict(path, raw, &o); err != nil {
		return err
	}
	p.byteLevel = true
	if o.AddPrefixSpace {
		p.splitters = append(p.splitters, prefixSpace{})
	}
	if o.UseRegex {
		s, err := newSplit(gpt2Pattern, isolated, false)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		p.splitters = append(p.splitters, s)
	}
	return nil
}

// decoder only checks: ByteLevel's is built in.
func decoder(path string, raw json.RawMessage, depth int) error {
	if absent(raw) {
		return errors.New("decoder: missing; byte-level BPE needs ByteLevel")
	}
	k, err := kind(path, raw)
	if err != nil {
		return err
	}
	switch k {
	case "ByteLevel", "Fuse":
		return nil
	case "Sequence":
		list, err := sequence(path, "decoders", raw, depth)
		if err != nil {
			return err
		}
		for i, r := range list {
			if err := decoder(fmt.Sprintf("%s.decoders[%d]", path, i), r, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	return unsupported(path+".type", fmt.Sprintf("decoder %q", k))
}

// strict decodes one JSON value, refusing fields that v does not have.
func strict(path string, raw []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		var wrong *json.UnmarshalTypeError
		switch {
		case errors.As(err, &wrong) && wrong.Field != "":
			return fmt.Errorf("%s.%s: want %s, found %s", path, wrong.Field, wrong.Type, wrong.Value)
		case strings.HasPrefix(err.Error(), "json: unknown field "):
			return fmt.Errorf("%s.%s: unknown field", path, strings.Trim(strings.TrimPrefix(err.Error(), "json: unknown field "), `"`))
		}
		return fmt.Errorf("%s: %w", path, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: more than one JSON value", path)
	}
	return nil
}
