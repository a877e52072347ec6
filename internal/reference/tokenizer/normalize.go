package tokenizer

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// normalForm is a Unicode normalization form as Hugging Face tokenizers
// computes it. That differs from x/text in two ways, both of which change ids:
// its tables are those of Unicode 9, so a mark that came later neither moves
// nor composes, and it puts no joiner (U+034F) into long runs of marks.
func normalForm(f norm.Form) func(string) string {
	return func(s string) string {
		if f.IsNormalString(s) {
			return s
		}
		var out strings.Builder
		for s != "" {
			// What Unicode 9 does not know stands for itself, and nothing reaches across it.
			end := strings.IndexFunc(s, func(r rune) bool { return unicode.Is(laterUnicode, r) })
			if end < 0 {
				end = len(s)
			}
			out.WriteString(normalizePart(f, s[:end]))
			s = s[end:]
			if s != "" {
				_, n := utf8.DecodeRuneInString(s)
				out.WriteString(s[:n])
				s = s[n:]
			}
		}
		return out.String()
	}
}

// joinerAfter is the number of marks after which x/text begins to put joiners
// between them; a character decomposes into four at most.
const joinerAfter = 30 / 4

// normalizePart normalizes text that Unicode 9 knows.
func normalizePart(f norm.Form, s string) string {
	run := 0
	for i := range s {
		p := f.PropertiesString(s[i:])
		if p.CCC() == 0 && p.LeadCCC() == 0 {
			run = 0
			continue
		}
		if run++; run > joinerAfter {
			return normalizeMarks(f, s)
		}
	}
	return f.String(s)
}

// normalizeMarks is the algorithm of Unicode §3.11, without joiners.
func normalizeMarks(f norm.Form, s string) string {
	full := norm.NFD
	if f == norm.NFKC || f == norm.NFKD {
		full = norm.NFKD
	}
	var runes []rune
	for i, r := range s {
		if r == utf8.RuneError && !strings.HasPrefix(s[i:], string(utf8.RuneError)) {
			return f.String(s) // not UTF-8: nothing is defined
		}
		runes = append(runes, []rune(full.String(string(r)))...)
	}
	class := func(r rune) uint8 { return norm.NFD.PropertiesString(string(r)).CCC() }
	for from := 0; from < len(runes); {
		to := from
		for to < len(runes) && class(runes[to]) != 0 {
			to++
		}
		slices.SortStableFunc(runes[from:to], func(a, b rune) int { return int(class(a)) - int(class(b)) })
		from = to + 1
	}
	if f == norm.NFD || f == norm.NFKD {
		return string(runes)
	}
	return string(compose(runes, class))
}

// compose joins each starter with the marks after it, and with a starter right
// behind it, where the pair has a character of its own.
func compose(runes []rune, class func(rune) uint8) []rune {
	out := runes[:0]
	starter := -1 // index in out
	var last uint8
	for _, r := range runes {
		c := class(r)
		if starter >= 0 && (len(out)-1 == starter || last < c && last != 0) {
			if one := []rune(norm.NFC.String(string([]rune{out[starter], r}))); len(one) == 1 {
				out[starter] = one[0]
				continue
			}
		}
		if c == 0 {
			starter = len(out)
		}
		last = c
		out = append(out, r)
	}
	return out
}

// laterUnicode holds what has a combining class, a decomposition or a
// composition in x/text's tables (Unicode 15) and none in Unicode 9.
var laterUnicode = &unicode.RangeTable{
	R16: []unicode.Range16{
		{0x07fd, 0x07fd, 1}, {0x0898, 0x089f, 1}, {0x08ca, 0x08d3, 1}, {0x09fe, 0x09fe, 1}, {0x0c3c, 0x0c3c, 1}, {0x0d3b, 0x0d3c, 1},
		{0x0eba, 0x0eba, 1}, {0x1715, 0x1715, 1}, {0x1abf, 0x1ace, 1}, {0x1df6, 0x1dfa, 1}, {0x32ff, 0x32ff, 1}, {0xa7f2, 0xa7f4, 1},
		{0xa82c, 0xa82c, 1}, {0xab69, 0xab69, 1},
	},
	R32: []unicode.Range32{
		{0x10781, 0x10785, 1}, {0x10787, 0x107b0, 1}, {0x107b2, 0x107ba, 1}, {0x10d24, 0x10d27, 1}, {0x10eab, 0x10eac, 1}, {0x10efd, 0x10eff, 1},
		{0x10f46, 0x10f50, 1}, {0x10f82, 0x10f85, 1}, {0x11070, 0x11070, 1}, {0x1133b, 0x1133b, 1}, {0x1145e, 0x1145e, 1}, {0x11839, 0x1183a, 1},
		{0x11935, 0x11935, 1}, {0x11938, 0x11938, 1}, {0x1193d, 0x1193e, 1}, {0x11943, 0x11943, 1}, {0x119e0, 0x119e0, 1}, {0x11a34, 0x11a34, 1},
		{0x11a47, 0x11a47, 1}, {0x11a99, 0x11a99, 1}, {0x11d42, 0x11d42, 1}, {0x11d44, 0x11d45, 1}, {0x11d97, 0x11d97, 1}, {0x11f41, 0x11f42, 1},
		{0x16ff0, 0x16ff1, 1}, {0x1e030, 0x1e06d, 1}, {0x1e08f, 0x1e08f, 1}, {0x1e130, 0x1e136, 1}, {0x1e2ae, 0x1e2ae, 1}, {0x1e2ec, 0x1e2ef, 1},
		{0x1e4ec, 0x1e4ef, 1}, {0x1f16c, 0x1f16c, 1}, {0x1fbf0, 0x1fbf9, 1},
	},
}
