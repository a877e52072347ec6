package tokenizer

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/dlclark/regexp2"
)

// splitter is a pre-tokenizer: it appends the pieces of one piece to dst.
type splitter interface {
	split(dst []string, piece string) []string
}

// gpt2Pattern is what ByteLevel splits by where use_regex is set.
const gpt2Pattern = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

// behavior is what becomes of the matches of a Split.
type behavior string

const (
	isolated   behavior = "Isolated"           // each its own piece
	removed    behavior = "Removed"            // dropped
	merged     behavior = "MergedWithPrevious" // joined to the piece before
	mergedNext behavior = "MergedWithNext"     // joined to the piece after
	contiguous behavior = "Contiguous"         // neighbouring matches are one piece
)

// span is a stretch of a piece, in bytes, and whether the pattern matched it.
type span struct {
	from, to int
	match    bool
}

// finder covers a piece with spans, in order, none of them overlapping.
type finder func(piece string) []span

type splitBy struct {
	find     finder
	behavior behavior
	invert   bool
}

func (s splitBy) split(dst []string, piece string) []string {
	if piece == "" {
		return dst
	}
	spans := s.find(piece)
	if s.invert {
		for i := range spans {
			spans[i].match = !spans[i].match
		}
	}
	for _, p := range join(spans, s.behavior) {
		if p.from < p.to {
			dst = append(dst, piece[p.from:p.to])
		}
	}
	return dst
}

// join applies a behaviour to spans.
func join(spans []span, b behavior) []span {
	switch b {
	case removed:
		kept := spans[:0]
		for _, s := range spans {
			if !s.match {
				kept = append(kept, s)
			}
		}
		return kept
	case contiguous:
		return joinIf(spans, func(before, s span) bool { return before.match == s.match })
	case merged:
		return joinIf(spans, func(before, s span) bool { return s.match && !before.match })
	case mergedNext:
		return joinNext(spans)
	}
	return spans
}

// joinIf extends the piece before wherever same says so of the span before and this one.
func joinIf(spans []span, same func(before, s span) bool) []span {
	var out []span
	for i, s := range spans {
		if i > 0 && same(spans[i-1], s) {
			out[len(out)-1].to = s.to
			continue
		}
		out = append(out, s)
	}
	return out
}

// joinNext gives each match to the span after it, of several matches in a row
// only the last; a match at the end stays on its own.
func joinNext(spans []span) []span {
	var out []span
	for i := 0; i < len(spans); i++ {
		s := spans[i]
		if s.match && i+1 < len(spans) && !spans[i+1].match {
			s.to = spans[i+1].to
			i++
		}
		out = append(out, s)
	}
	return out
}

// cover turns the matches of a piece of length n into spans.
func cover(spans []span, from, to, n int) []span {
	prev := 0
	if len(spans) > 0 {
		prev = spans[len(spans)-1].to
	}
	if prev < from {
		spans = append(spans, span{prev, from, false})
	}
	if from < n {
		spans = append(spans, span{from, to, true})
	}
	return spans
}

// regexFinder finds a pattern's matches with regexp2, which works on runes; a
// byte that is not UTF-8 is one rune (U+FFFD) and keeps its byte.
func regexFinder(pattern string) (finder, error) {
	re, err := regexp2.Compile(pattern, regexp2.None)
	if err != nil {
		return nil, err
	}
	return func(piece string) []span {
		runes := make([]rune, 0, len(piece))
		offsets := make([]int, 0, len(piece)+1)
		for i, r := range piece {
			runes = append(runes, r)
			offsets = append(offsets, i)
		}
		offsets = append(offsets, len(piece))
		var spans []span
		m, err := re.FindRunesMatch(runes)
		for err == nil && m != nil {
			spans = cover(spans, offsets[m.Index], offsets[m.Index+m.Length], len(piece))
			m, err = re.FindNextMatch(m)
		}
		// Without a match timeout regexp2 has no errors to give here.
		return cover(spans, len(piece), len(piece), len(piece))
	}, nil
}

// literalFinder finds a string.
func literalFinder(literal string) finder {
	return func(piece string) []span {
		var spans []span
		for at := 0; literal != ""; {
			i := strings.Index(piece[at:], literal)
			if i < 0 {
				break
			}
			spans = cover(spans, at+i, at+i+len(literal), len(piece))
			at += i + len(literal)
		}
		return cover(spans, len(piece), len(piece), len(piece))
	}
}

// digitFinder finds single numeric characters.
func digitFinder(piece string) []span {
	var spans []span
	for i, r := range piece {
		if unicode.IsNumber(r) {
			spans = cover(spans, i, i+utf8.RuneLen(r), len(piece))
		}
	}
	return cover(spans, len(piece), len(piece), len(piece))
}

// prefixSpace is ByteLevel's add_prefix_space.
type prefixSpace struct{}

func (prefixSpace) split(dst []string, piece string) []string {
	if !strings.HasPrefix(piece, " ") {
		piece = " " + piece
	}
	return append(dst, piece)
}

// newSplit is a Split by a regular expression, with the hand-written scanner
// where the pattern is one of those that have one.
func newSplit(pattern string, b behavior, invert bool) (splitter, error) {
	if scan, ok := scanners[pattern]; ok {
		return splitBy{scan, b, invert}, nil
	}
	find, err := regexFinder(pattern)
	if err != nil {
		return nil, fmt.Errorf("pattern %q: %w", pattern, err)
	}
	return splitBy{find, b, invert}, nil
}
