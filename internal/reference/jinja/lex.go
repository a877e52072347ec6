package jinja

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

type kind int

const (
	data       kind = iota // text between tags
	varBegin               // {{
	varEnd                 // }}
	blockBegin             // {%
	blockEnd               // %}
	name
	text // a string literal, unescaped
	integer
	float
	operator
	end
)

type token struct {
	kind kind
	text string
	line int
}

// String is the token as an error shows it.
func (t token) String() string {
	switch t.kind {
	case end:
		return "the end of the template"
	case data:
		return "text"
	case text:
		return "a string"
	}
	return strconv.Quote(t.text)
}

// lexer cuts a template into tokens. Its white-space rules are those of
// Jinja2's lexer with trim_blocks and lstrip_blocks.
type lexer struct {
	src       string
	pos       int
	lineStart bool // what was cut last ended a line
	tokens    []token
	counted   int // up to where newlines are counted
	newlines  int
}

func lex(src string) ([]token, error) {
	src = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(src)
	l := &lexer{src: strings.TrimSuffix(src, "\n"), lineStart: true}
	for l.pos < len(l.src) {
		if err := l.root(); err != nil {
			return nil, err
		}
	}
	l.add(end, "")
	return l.tokens, nil
}

func (l *lexer) line() int {
	l.newlines += strings.Count(l.src[l.counted:l.pos], "\n")
	l.counted = l.pos
	return 1 + l.newlines
}

func (l *lexer) fail(format string, args ...any) error {
	return fmt.Errorf("line %d: %s", l.line(), fmt.Sprintf(format, args...))
}

func (l *lexer) add(k kind, s string) { l.tokens = append(l.tokens, token{k, s, l.line()}) }

// root cuts the text up to the next tag, and the tag.
func (l *lexer) root() error {
	rest := l.src[l.pos:]
	at := nextTag(rest)
	if at < 0 {
		l.add(data, rest)
		l.pos = len(l.src)
		return nil
	}
	open := rest[at : at+2]
	sign := ""
	if at+2 < len(rest) && (rest[at+2] == '-' || rest[at+2] == '+') {
		sign = rest[at+2 : at+3]
	}
	if s := strip(rest[:at], sign, open != "{{", l.lineStart); s != "" {
		l.add(data, s)
	}
	l.pos += at + 2 + len(sign)
	switch open {
	case "{#":
		return l.comment()
	case "{{":
		l.add(varBegin, "{{")
		return l.expression("}}", varEnd)
	}
	if n := rawTag(l.src[l.pos:]); n > 0 {
		l.pos += n
		return l.raw()
	}
	l.add(blockBegin, "{%")
	return l.expression("%}", blockEnd)
}

// nextTag is where the next {{, {% or {# stands, or −1.
func nextTag(s string) int {
	for i := 0; i+1 < len(s); i++ {
		if s[i] == '{' && (s[i+1] == '{' || s[i+1] == '%' || s[i+1] == '#') {
			return i
		}
	}
	return -1
}

// strip removes what a tag with that sign removes of the text before it.
func strip(s, sign string, isBlock, lineStart bool) string {
	if sign == "-" {
		return strings.TrimRightFunc(s, isSpace)
	}
	from := strings.LastIndexByte(s, '\n') + 1
	if sign == "" && isBlock && (from > 0 || lineStart) && strings.TrimFunc(s[from:], isSpace) == "" {
		return s[:from]
	}
	return s
}

// close steps over a tag's end at the current position: with a minus also over
// the white space behind, else over one line's end where trim says so.
func (l *lexer) close(tag string, trim bool) bool {
	rest := l.src[l.pos:]
	switch {
	case strings.HasPrefix(rest, "-"+tag):
		after := strings.TrimLeftFunc(rest[1+len(tag):], isSpace)
		l.lineStart = len(after) < len(rest)-1-len(tag) && l.src[len(l.src)-len(after)-1] == '\n'
		l.pos = len(l.src) - len(after)
	case trim && strings.HasPrefix(rest, "+"+tag):
		l.pos += 1 + len(tag)
		l.lineStart = false
	case strings.HasPrefix(rest, tag):
		l.pos += len(tag)
		l.lineStart = trim && strings.HasPrefix(l.src[l.pos:], "\n")
		if l.lineStart {
			l.pos++
		}
	default:
		return false
	}
	return true
}

func (l *lexer) comment() error {
	at := strings.Index(l.src[l.pos:], "#}")
	if at < 0 {
		return l.fail("a comment is not closed by #}")
	}
	if at > 0 && (l.src[l.pos+at-1] == '-' || l.src[l.pos+at-1] == '+') {
		at--
	}
	l.pos += at
	l.close("#}", true)
	return nil
}

// rawTag is the length of " raw %}" at the start of s, or 0.
func rawTag(s string) int { return tagNamed(s, "raw") }

func tagNamed(s, name string) int {
	after := strings.TrimLeftFunc(s, isSpace)
	after, ok := strings.CutPrefix(after, name)
	if !ok {
		return 0
	}
	after = strings.TrimLeftFunc(after, isSpace)
	if tail, ok := strings.CutPrefix(after, "-%}"); ok {
		return len(s) - len(strings.TrimLeftFunc(tail, isSpace))
	}
	if tail, ok := strings.CutPrefix(after, "%}"); ok {
		return len(s) - len(tail)
	}
	return 0
}

// raw takes everything up to the endraw tag as text.
func (l *lexer) raw() error {
	for from := l.pos; ; {
		at := strings.Index(l.src[from:], "{%")
		if at < 0 {
			return l.fail("a raw block is not closed")
		}
		at += from
		sign := ""
		if at+2 < len(l.src) && (l.src[at+2] == '-' || l.src[at+2] == '+') {
			sign = l.src[at+2 : at+3]
		}
		n := tagNamed(l.src[at+2+len(sign):], "endraw")
		if n == 0 {
			from = at + 2
			continue
		}
		if s := strip(l.src[l.pos:at], sign, true, l.lineStart); s != "" {
			l.add(data, s)
		}
		l.pos = at + 2 + len(sign) + n
		if l.lineStart = strings.HasPrefix(l.src[l.pos:], "\n"); l.lineStart {
			l.pos++
		}
		return nil
	}
}

// operators, longest first.
var operators = []string{"//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".", ":", "|", ",", ";"}

var closing = map[string]string{"(": ")", "[": "]", "{": "}"}

// expression cuts what stands between a tag's brackets, and its end.
func (l *lexer) expression(tag string, ended kind) error {
	var open []string
	for {
		for l.pos < len(l.src) {
			r, n := utf8.DecodeRuneInString(l.src[l.pos:])
			if !isSpace(r) {
				break
			}
			l.pos += n
		}
		if l.pos >= len(l.src) {
			return l.fail("a tag is not closed by %s", tag)
		}
		if len(open) == 0 && l.close(tag, ended == blockEnd) {
			l.add(ended, tag)
			return nil
		}
		op, err := l.item()
		if err != nil {
			return err
		}
		if c, ok := closing[op]; ok {
			open = append(open, c)
		} else if op == ")" || op == "]" || op == "}" {
			if len(open) == 0 || open[len(open)-1] != op {
				return l.fail("unexpected %q", op)
			}
			open = open[:len(open)-1]
		}
	}
}

// item cuts one token of an expression; op is its text if it is an operator.
func (l *lexer) item() (op string, err error) {
	rest := l.src[l.pos:]
	r, _ := utf8.DecodeRuneInString(rest)
	switch {
	case r == '\'' || r == '"':
		return "", l.literal(rest)
	case r >= '0' && r <= '9':
		return "", l.number(rest)
	case r == '_' || unicode.IsLetter(r):
		n := strings.IndexFunc(rest, func(r rune) bool {
			return r != '_' && !unicode.In(r, unicode.L, unicode.N, unicode.M)
		})
		if n < 0 {
			n = len(rest)
		}
		l.add(name, rest[:n])
		l.pos += n
		return "", nil
	}
	for _, o := range operators {
		if strings.HasPrefix(rest, o) {
			l.add(operator, o)
			l.pos += len(o)
			return o, nil
		}
	}
	return "", l.fail("unexpected character %q", r)
}

// number cuts an integer or a float; behind a dot (an index: x.0.1) always an
// integer.
func (l *lexer) number(s string) error {
	n := digits(s)
	k := integer
	if prefix := strings.ToLower(s[:min(2, len(s))]); prefix == "0x" || prefix == "0o" || prefix == "0b" {
		for n = 2; n < len(s) && (s[n] == '_' || unicode.Is(unicode.ASCII_Hex_Digit, rune(s[n]))); n++ {
		}
	} else if l.pos == 0 || l.src[l.pos-1] != '.' {
		m := n
		if m+1 < len(s) && s[m] == '.' && s[m+1] >= '0' && s[m+1] <= '9' {
			m += 1 + digits(s[m+1:])
			k, n = float, m
		}
		if m < len(s) && (s[m] == 'e' || s[m] == 'E') {
			m++
			if m < len(s) && (s[m] == '+' || s[m] == '-') {
				m++
			}
			if d := digits(s[m:]); d > 0 {
				k, n = float, m+d
			}
		}
	}
	l.add(k, strings.ReplaceAll(s[:n], "_", ""))
	l.pos += n
	return nil
}

func digits(s string) int {
	n := 0
	for n < len(s) && (s[n] >= '0' && s[n] <= '9' || s[n] == '_' && n > 0 && n+1 < len(s) && s[n+1] >= '0' && s[n+1] <= '9') {
		n++
	}
	return n
}

// literal cuts a string and undoes its escapes.
func (l *lexer) literal(s string) error {
	var b strings.Builder
	for i := 1; i < len(s); {
		switch {
		case s[i] == s[0]:
			l.add(text, b.String())
			l.pos += i + 1
			return nil
		case s[i] != '\\' || i+1 >= len(s):
			b.WriteByte(s[i])
			i++
		default:
			n, err := unescape(&b, s[i:])
			if err != nil {
				return l.fail("%v", err)
			}
			i += n
		}
	}
	return l.fail("a string is not closed by %c", s[0])
}

var escapes = map[byte]string{'n': "\n", 't': "\t", 'r': "\r", '\\': "\\", '\'': "'", '"': "\"", 'a': "\a", 'b': "\b", 'f': "\f", 'v': "\v", '\n': ""}

// unescape writes what the escape at the start of s means, and gives its length.
func unescape(b *strings.Builder, s string) (int, error) {
	if e, ok := escapes[s[1]]; ok {
		b.WriteString(e)
		return 2, nil
	}
	if s[1] >= '0' && s[1] <= '7' {
		n := 2
		for n < 4 && n < len(s) && s[n] >= '0' && s[n] <= '7' {
			n++
		}
		v, err := strconv.ParseUint(s[1:n], 8, 32)
		b.WriteRune(rune(v))
		return n, err
	}
	width, ok := map[byte]int{'x': 2, 'u': 4, 'U': 8}[s[1]]
	if !ok {
		b.WriteByte('\\') // Python keeps the backslash of what is no escape
		return 1, nil
	}
	if len(s) < 2+width {
		return 0, fmt.Errorf("the escape %q is cut off", s)
	}
	v, err := strconv.ParseUint(s[2:2+width], 16, 32)
	if err != nil || v > unicode.MaxRune {
		return 0, fmt.Errorf("%q is no escape", s[:2+width])
	}
	b.WriteRune(rune(v))
	return 2 + width, nil
}
