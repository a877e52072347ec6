package tokenizer

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// The patterns that the families publish.
const (
	qwenPattern = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`

	deepseekNumbers = `\p{N}{1,3}`
	deepseekHan     = `[一-龥぀-ゟ゠-ヿ]+`
	deepseekPattern = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|" +
		" ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
)

// scanners are hand-written finders for those patterns. A regular expression
// engine with backtracking takes several times longer (BenchmarkEncode); a
// property test holds these equal to it.
var scanners = map[string]finder{
	qwenPattern:     scanWith(qwenMatch),
	deepseekNumbers: scanWith(deepseekNumberMatch),
	deepseekHan:     scanWith(deepseekHanMatch),
	deepseekPattern: scanWith(deepseekMatch),
}

// matcher returns the length of the match at the start of s, 0 for none. s is not empty.
type matcher func(s string) int

// scanWith finds matches one after another.
func scanWith(match matcher) finder {
	return func(piece string) []span {
		var spans []span
		for at := 0; at < len(piece); {
			n := match(piece[at:])
			if n == 0 {
				_, size := utf8.DecodeRuneInString(piece[at:])
				at += size
				continue
			}
			spans = cover(spans, at, at+n, len(piece))
			at += n
		}
		return cover(spans, len(piece), len(piece), len(piece))
	}
}

// run is the length of the longest start of s whose runes are all in class.
func run(s string, class func(rune) bool) int {
	for i, r := range s {
		if !class(r) {
			return i
		}
	}
	return len(s)
}

func lineBreak(r rune) bool { return r == '\r' || r == '\n' }

// qwenMatch is qwenPattern, an alternative after another.
func qwenMatch(s string) int {
	if n := contraction(s); n > 0 {
		return n
	}
	r, size := utf8.DecodeRuneInString(s)
	switch {
	case unicode.IsLetter(r):
		return run(s, unicode.IsLetter)
	case unicode.IsNumber(r):
		return size
	}
	if !lineBreak(r) { // any other character may stand before a word
		if n := run(s[size:], unicode.IsLetter); n > 0 {
			return size + n
		}
	}
	if n := marks(s, r, func(r rune) bool { return !unicode.IsSpace(r) && !unicode.IsLetter(r) && !unicode.IsNumber(r) }); n > 0 {
		return n
	}
	return whitespace(s)
}

// contraction is (?i:'s|'t|'re|'ve|'m|'ll|'d).
func contraction(s string) int {
	if s[0] != '\'' || len(s) < 2 {
		return 0
	}
	switch s[1] | 0x20 {
	case 's', 't', 'm', 'd':
		return 2
	}
	if len(s) > 2 {
		switch strings.ToLower(s[1:3]) {
		case "re", "ve", "ll":
			return 3
		}
	}
	return 0
}

// marks is " ?class+[\r\n]*", where r is the first rune of s.
func marks(s string, r rune, class func(rune) bool) int {
	start := 0
	if r == ' ' {
		start = 1
	}
	n := run(s[start:], class)
	if n == 0 {
		return 0
	}
	return start + n + run(s[start+n:], lineBreak)
}

// whitespace is `\s*[\r\n]+|\s+(?!\S)|\s+`: to the last line break; else all but
// the last space before a word; else the one that is there.
func whitespace(s string) int {
	n := run(s, unicode.IsSpace)
	if n == 0 {
		return 0
	}
	if at := strings.LastIndexAny(s[:n], "\r\n"); at >= 0 {
		return at + 1
	}
	if n < len(s) {
		if _, last := utf8.DecodeLastRuneInString(s[:n]); last < n {
			return n - last
		}
	}
	return n
}

func deepseekNumberMatch(s string) int {
	n := 0
	for range 3 {
		r, size := utf8.DecodeRuneInString(s[n:])
		if !unicode.IsNumber(r) {
			break
		}
		n += size
	}
	return n
}

func deepseekHanMatch(s string) int {
	return run(s, func(r rune) bool { return r >= 0x4E00 && r <= 0x9FA5 || r >= 0x3040 && r <= 0x30FF })
}

func markOrSymbol(r rune) bool { return unicode.IsPunct(r) || unicode.IsSymbol(r) }

func letterOrMark(r rune) bool { return unicode.IsLetter(r) || unicode.IsMark(r) }

func asciiLetter(r rune) bool { return r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' }

// deepseekMatch is deepseekPattern, an alternative after another.
func deepseekMatch(s string) int {
	r, size := utf8.DecodeRuneInString(s)
	if r < utf8.RuneSelf && markOrSymbol(r) {
		if n := run(s[1:], asciiLetter); n > 0 {
			return 1 + n
		}
	}
	if !lineBreak(r) && !unicode.IsLetter(r) && !markOrSymbol(r) {
		if n := run(s[size:], letterOrMark); n > 0 {
			return size + n
		}
	}
	if n := run(s, letterOrMark); n > 0 {
		return n
	}
	if n := marks(s, r, markOrSymbol); n > 0 {
		return n
	}
	return whitespace(s)
}
