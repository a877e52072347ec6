package tokenizer

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// Tokenizer is immutable after Load and safe for concurrent use.
type Tokenizer struct {
	normalize func(string) string // nil: none
	split     []splitter          // pre-tokenizers in order
	model     *bpe
	added     *addedVocabulary
	before    []int    // special tokens that EncodeSpecial puts before the text
	after     []int    // and after it
	tokens    []string // by id; "" where no token has the id
	known     []bool   // by id: the vocabulary has it
	bytes     [][]byte // by id: what Decode writes
	special   []bool   // by id
	longest   int
	config    Config
	chat      *chatTemplates
}

// Config is what the files beside tokenizer.json say.
type Config struct {
	Class        string            // tokenizer_class
	EOS          []int             // ids: tokenizer_config.json's eos_token first, then generation_config.json's
	BOS, PAD     int               // -1 where there is none
	Special      map[string]string // "eos_token", "bos_token", … as chat templates see them
	ChatTemplate string            // source of the default template, "" without one
}

// Config returns what the files beside tokenizer.json say. The caller must not change it.
func (t *Tokenizer) Config() Config { return t.config }

// EOS returns the ids that end a text: tokenizer_config.json's eos_token
// first, then those that generation_config.json adds.
func (t *Tokenizer) EOS() []int { return slices.Clone(t.config.EOS) }

// Size is one more than the largest token id.
func (t *Tokenizer) Size() int { return len(t.tokens) }

// Longest is the number of bytes of the longest token, at least 1.
func (t *Tokenizer) Longest() int { return t.longest }

// Token returns the vocabulary's own spelling of a token ("Ġworld"), "" for an
// id that the vocabulary lacks.
func (t *Tokenizer) Token(id int) string {
	if id < 0 || id >= len(t.tokens) {
		return ""
	}
	return t.tokens[id]
}

// ID returns the id of a token in the vocabulary's own spelling.
func (t *Tokenizer) ID(token string) (int, bool) {
	if id, ok := t.added.byContent[token]; ok {
		return id, true
	}
	id, ok := t.model.vocab[token]
	return id, ok
}

// Special reports whether id is a special token, which texts for people leave out.
func (t *Tokenizer) Special(id int) bool {
	return id >= 0 && id < len(t.special) && t.special[id]
}

// Encode returns the ids of text. Added tokens in the text become their ids;
// nothing is added at either end.
func (t *Tokenizer) Encode(text string) []int {
	ids := []int{}
	for _, part := range t.added.split(text, t.added.raw) {
		if part.id >= 0 {
			ids = append(ids, part.id)
			continue
		}
		plain := part.text
		if t.normalize != nil {
			plain = t.normalize(plain)
		}
		for _, p := range t.added.split(plain, t.added.normalized) {
			if p.id >= 0 {
				ids = append(ids, p.id)
				continue
			}
			ids = t.encodePlain(ids, p.text)
		}
	}
	return ids
}

// EncodeSpecial is Encode with the special tokens that tokenizer.json's
// post-processor puts around a single text (DeepSeek's begin of sentence).
func (t *Tokenizer) EncodeSpecial(text string) []int {
	if len(t.before) == 0 && len(t.after) == 0 {
		return t.Encode(text)
	}
	ids := append(slices.Clone(t.before), t.Encode(text)...)
	return append(ids, t.after...)
}

// encodePlain appends the ids of text that holds no added tokens.
func (t *Tokenizer) encodePlain(ids []int, text string) []int {
	if text == "" {
		return ids
	}
	pieces := []string{text}
	for _, s := range t.split {
		next := pieces[:0:0]
		for _, p := range pieces {
			next = s.split(next, p)
		}
		pieces = next
	}
	for _, p := range pieces {
		ids = t.model.encode(ids, p)
	}
	return ids
}

// DecodeBytes returns the bytes that ids stand for, special tokens included.
// Ids that the vocabulary lacks contribute nothing.
func (t *Tokenizer) DecodeBytes(ids []int) []byte {
	out := []byte{}
	for _, id := range ids {
		out = append(out, t.TokenBytes(id)...)
	}
	return out
}

// TokenBytes returns the bytes of one token. The caller must not change them.
func (t *Tokenizer) TokenBytes(id int) []byte {
	if id < 0 || id >= len(t.bytes) {
		return nil
	}
	return t.bytes[id]
}

// Decode returns the text of ids, special tokens included, with U+FFFD for
// every maximal run of bytes that is not UTF-8.
func (t *Tokenizer) Decode(ids []int) string { return Lossy(t.DecodeBytes(ids)) }

// DecodePlain is Decode without special tokens.
func (t *Tokenizer) DecodePlain(ids []int) string {
	return t.Decode(slices.DeleteFunc(slices.Clone(ids), t.Special))
}

// Lossy is the text of b with one U+FFFD for every maximal subpart of an
// ill-formed sequence, as Rust's from_utf8_lossy and WHATWG's decoder have it.
// Go's own conversions put one per byte or one per run.
func Lossy(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	var s strings.Builder
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r != utf8.RuneError || n > 1 {
			s.Write(b[:n])
			b = b[n:]
			continue
		}
		s.WriteRune(utf8.RuneError)
		b = b[subpart(b):]
	}
	return s.String()
}

// subpart is the length of the maximal subpart at b's start, where b starts
// with an ill-formed sequence: 1, or how much of a well-formed one is there.
func subpart(b []byte) int {
	lo, hi, want := byte(0x80), byte(0xBF), 0
	switch c := b[0]; {
	case c >= 0xC2 && c <= 0xDF:
		want = 1
	case c == 0xE0:
		lo, want = 0xA0, 2
	case c == 0xED:
		hi, want = 0x9F, 2
	case c >= 0xE1 && c <= 0xEF:
		want = 2
	case c == 0xF0:
		lo, want = 0x90, 3
	case c == 0xF4:
		hi, want = 0x8F, 3
	case c >= 0xF1 && c <= 0xF3:
		want = 3
	}
	n := 1
	for n <= want && n < len(b) && b[n] >= lo && b[n] <= hi {
		lo, hi = 0x80, 0xBF
		n++
	}
	return n
}
