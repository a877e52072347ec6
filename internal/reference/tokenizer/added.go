package tokenizer

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// AddedToken is a token that is cut out of the text before anything else looks at it.
type AddedToken struct {
	ID         int    `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"` // only between characters that are not word characters
	LStrip     bool   `json:"lstrip"`      // takes the white space before it
	RStrip     bool   `json:"rstrip"`      // and after it
	Normalized bool   `json:"normalized"`  // is looked for in the normalized text
	Special    bool   `json:"special"`     // is left out of texts for people
}

// addedVocabulary finds added tokens, leftmost first, longest at a place.
type addedVocabulary struct {
	tokens     map[int]AddedToken
	byContent  map[string]int
	raw        *trie // looked for in the text as it came
	normalized *trie // looked for after normalization
}

type trie struct {
	first [256]bool // quick rejection
	nodes []map[byte]int32
	ids   []int // by node, -1: no token ends here
}

func newTrie() *trie {
	return &trie{nodes: []map[byte]int32{{}}, ids: []int{-1}}
}

func (t *trie) add(s string, id int) {
	if s == "" {
		return
	}
	t.first[s[0]] = true
	at := int32(0)
	for i := range len(s) {
		next, ok := t.nodes[at][s[i]]
		if !ok {
			next = int32(len(t.nodes))
			t.nodes = append(t.nodes, map[byte]int32{})
			t.ids = append(t.ids, -1)
			t.nodes[at][s[i]] = next
		}
		at = next
	}
	t.ids[at] = id
}

// match returns the longest token at the start of s, or -1.
func (t *trie) match(s string) (id, length int) {
	id = -1
	at := int32(0)
	for i := range len(s) {
		next, ok := t.nodes[at][s[i]]
		if !ok {
			break
		}
		at = next
		if t.ids[at] >= 0 {
			id, length = t.ids[at], i+1
		}
	}
	return id, length
}

// part is either an added token (id ≥ 0) or plain text.
type part struct {
	id   int
	text string
}

func newAddedVocabulary(tokens []AddedToken, normalize func(string) string) *addedVocabulary {
	v := &addedVocabulary{
		tokens: map[int]AddedToken{}, byContent: map[string]int{},
		raw: newTrie(), normalized: newTrie(),
	}
	for _, t := range tokens {
		v.tokens[t.ID] = t
		v.byContent[t.Content] = t.ID
		switch {
		case !t.Normalized:
			v.raw.add(t.Content, t.ID)
		case normalize != nil:
			v.normalized.add(normalize(t.Content), t.ID)
		default:
			v.normalized.add(t.Content, t.ID)
		}
	}
	return v
}

// split cuts the tokens of trie t out of text.
func (v *addedVocabulary) split(text string, t *trie) []part {
	if text == "" {
		return nil
	}
	var parts []part
	from := 0 // where plain text starts
	for at := 0; at < len(text); {
		if !t.first[text[at]] {
			at++
			continue
		}
		id, length := t.match(text[at:])
		if id < 0 {
			at++
			continue
		}
		token, start, stop := v.tokens[id], at, at+length
		at = stop
		if token.SingleWord && (wordAtEnd(text[:start]) || wordAtStart(text[stop:])) {
			continue
		}
		if token.LStrip {
			start = len(strings.TrimRightFunc(text[:start], unicode.IsSpace))
		}
		if token.RStrip {
			stop = len(text) - len(strings.TrimLeftFunc(text[stop:], unicode.IsSpace))
		}
		// White space that the token before took already is not taken twice.
		start = max(start, from)
		if from < start {
			parts = append(parts, part{-1, text[from:start]})
		}
		parts = append(parts, part{id, text[start:max(start, stop)]})
		from = max(start, stop)
		at = max(at, from)
	}
	if from < len(text) {
		parts = append(parts, part{-1, text[from:]})
	}
	return parts
}

func wordAtEnd(s string) bool {
	r, n := utf8.DecodeLastRuneInString(s)
	return n > 0 && isWord(r)
}

func wordAtStart(s string) bool {
	r, n := utf8.DecodeRuneInString(s)
	return n > 0 && isWord(r)
}

// isWord is the regular expression class \w of UTS #18.
func isWord(r rune) bool {
	return unicode.IsLetter(r) || unicode.IsMark(r) || unicode.Is(unicode.Nd, r) || unicode.Is(unicode.Nl, r) ||
		unicode.Is(unicode.Pc, r) || unicode.Is(unicode.Other_Alphabetic, r) || unicode.Is(unicode.Join_Control, r)
}
