package tokenizer

import (
	"encoding/json"
	"fmt"
	"strings"
)

// modelFile is tokenizer.json's model.
type modelFile struct {
	Type                    string            `json:"type"`
	Dropout                 *float64          `json:"dropout"`
	UnkToken                *string           `json:"unk_token"`
	ContinuingSubwordPrefix *string           `json:"continuing_subword_prefix"`
	EndOfWordSuffix         *string           `json:"end_of_word_suffix"`
	FuseUnk                 bool              `json:"fuse_unk"`
	ByteFallback            bool              `json:"byte_fallback"`
	IgnoreMerges            bool              `json:"ignore_merges"`
	Vocab                   map[string]int    `json:"vocab"`
	Merges                  []json.RawMessage `json:"merges"`
}

func parseModel(path string, raw json.RawMessage) (*bpe, error) {
	if absent(raw) {
		return nil, fmt.Errorf("%s: missing", path)
	}
	// The kind first: other models have other fields.
	k, err := kind(path, raw)
	if err != nil {
		return nil, err
	}
	if k != "BPE" && k != "" { // files from before 2020 do not say
		return nil, unsupported(path+".type", fmt.Sprintf("model %q", k))
	}
	var f modelFile
	if err := strict(path, raw, &f); err != nil {
		return nil, err
	}
	switch {
	case f.Dropout != nil && *f.Dropout != 0:
		return nil, unsupported(path+".dropout", "dropout (encoding would be random)")
	case f.ContinuingSubwordPrefix != nil && *f.ContinuingSubwordPrefix != "":
		return nil, unsupported(path+".continuing_subword_prefix", "a prefix")
	case f.EndOfWordSuffix != nil && *f.EndOfWordSuffix != "":
		return nil, unsupported(path+".end_of_word_suffix", "a suffix")
	case f.ByteFallback:
		return nil, unsupported(path+".byte_fallback", "byte fallback")
	case len(f.Vocab) == 0:
		return nil, fmt.Errorf("%s.vocab: empty", path)
	}
	return newBPE(path, f)
}

func newBPE(path string, f modelFile) (*bpe, error) {
	m := &bpe{
		vocab: f.Vocab, unk: -1, fuseUnk: f.FuseUnk, ignoreMerges: f.IgnoreMerges,
		merges: make(map[pair]merge, len(f.Merges)),
	}
	for b := range 256 {
		m.byByte[b] = -1
		if id, ok := f.Vocab[string(byteRune(byte(b)))]; ok {
			m.byByte[b] = id
		}
	}
	if f.UnkToken != nil && *f.UnkToken != "" {
		id, ok := f.Vocab[*f.UnkToken]
		if !ok {
			return nil, fmt.Errorf("%s.unk_token: %q is not in the vocabulary", path, *f.UnkToken)
		}
		m.unk = id
	}
	if m.ignoreMerges {
		m.words = make(map[string]int, len(f.Vocab))
		for token, id := range f.Vocab {
			if spelled := tokenBytes(token); byteSpelling(string(spelled)) == token {
				m.words[string(spelled)] = id
			}
		}
	}
	for rank, raw := range f.Merges {
		left, right, err := parseMerge(raw)
		if err != nil {
			return nil, fmt.Errorf("%s.merges[%d]: %w", path, rank, err)
		}
		l, okLeft := f.Vocab[left]
		r, okRight := f.Vocab[right]
		id, ok := f.Vocab[left+right]
		if !okLeft || !okRight || !ok {
			return nil, fmt.Errorf("%s.merges[%d]: %q + %q: a part or the result is not in the vocabulary", path, rank, left, right)
		}
		m.merges[pair{int32(l), int32(r)}] = merge{int32(rank), int32(id)}
	}
	return m, nil
}

// parseMerge reads ["a","b"] or, as older files have it, "a b".
func parseMerge(raw json.RawMessage) (left, right string, err error) {
	var list []string
	if err := json.Unmarshal(raw, &list); err == nil {
		if len(list) != 2 {
			return "", "", fmt.Errorf("%d parts, want 2", len(list))
		}
		return list[0], list[1], nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", "", fmt.Errorf("neither a pair nor a string: %w", err)
	}
	left, right, ok := strings.Cut(s, " ")
	if !ok || strings.Contains(right, " ") {
		return "", "", fmt.Errorf("%q is not two parts with a space between them", s)
	}
	return left, right, nil
}

// template is TemplateProcessing, as far as a single text is concerned.
type template struct {
	Type   string          `json:"type"`
	Single []templatePiece `json:"single"`
	Pair   json.RawMessage `json:"pair"`
	Tokens map[string]struct {
		ID     string   `json:"id"`
		IDs    []int    `json:"ids"`
		Tokens []string `json:"tokens"`
	} `json:"special_tokens"`
}

type templatePiece struct {
	Sequence *struct {
		ID     string `json:"id"`
		TypeID int    `json:"type_id"`
	} `json:"Sequence"`
	Special *struct {
		ID     string `json:"id"`
		TypeID int    `json:"type_id"`
	} `json:"SpecialToken"`
}

// postProcessor takes over the special tokens around a single text.
func (t *Tokenizer) postProcessor(path string, raw json.RawMessage, depth int) error {
	if absent(raw) {
		return nil
	}
	k, err := kind(path, raw)
	if err != nil {
		return err
	}
	switch k {
	case "ByteLevel": // only moves offsets
		return nil
	case "Sequence":
		list, err := sequence(path, "processors", raw, depth)
		if err != nil {
			return err
		}
		for i, r := range list {
			if err := t.postProcessor(fmt.Sprintf("%s.processors[%d]", path, i), r, depth+1); err != nil {
				return err
			}
		}
		return nil
	case "TemplateProcessing":
		var o template
		if err := strict(path, raw, &o); err != nil {
			return err
		}
		return t.template(path, o)
	}
	return unsupported(path+".type", fmt.Sprintf("post-processor %q", k))
}

func (t *Tokenizer) template(path string, o template) error {
	var before, after []int
	seen := false
	for i, p := range o.Single {
		switch {
		case p.Special != nil:
			token, ok := o.Tokens[p.Special.ID]
			if !ok {
				return fmt.Errorf("%s.single[%d]: %q is not in special_tokens", path, i, p.Special.ID)
			}
			for _, id := range token.IDs {
				if id < 0 || id >= len(t.tokens) {
					return fmt.Errorf("%s.special_tokens[%q]: id %d is not in the vocabulary", path, p.Special.ID, id)
				}
			}
			if seen {
				after = append(after, token.IDs...)
			} else {
				before = append(before, token.IDs...)
			}
		case p.Sequence != nil && !seen:
			seen = true
		default:
			return fmt.Errorf("%s.single[%d]: want one Sequence and SpecialTokens", path, i)
		}
	}
	if !seen {
		return fmt.Errorf("%s.single: no Sequence in it", path)
	}
	t.before = append(before, t.before...)
	t.after = append(t.after, after...)
	return nil
}
