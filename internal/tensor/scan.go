package tensor

import (
	"fmt"
	"math"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// scanner walks JSON text once, front to back, without building values. The
// text's UTF-8 must have been checked. Strings without escapes are substrings.
type scanner struct {
	s   string
	pos int
}

// syntaxError is a problem at a position of the text.
type syntaxError struct {
	pos     int
	problem string
}

func (e *syntaxError) Error() string { return e.problem }

func (sc *scanner) fail(format string, a ...any) error {
	return &syntaxError{pos: sc.pos, problem: fmt.Sprintf(format, a...)}
}

// peek skips white space and returns the next byte, 0 at the end.
func (sc *scanner) peek() byte {
	for sc.pos < len(sc.s) {
		switch c := sc.s[sc.pos]; c {
		case ' ', '\n', '\t', '\r':
			sc.pos++
		default:
			return c
		}
	}
	return 0
}

func (sc *scanner) expect(c byte) error {
	if got := sc.peek(); got != c || sc.pos == len(sc.s) {
		if sc.pos == len(sc.s) {
			return sc.fail("the JSON ends where %q should be", c)
		}
		return sc.fail("%q where %q should be", got, c)
	}
	sc.pos++
	return nil
}

// object calls member for each key, with the scanner at its value. Keys may not repeat.
func (sc *scanner) object(member func(key string) error) error {
	return sc.list('{', '}', func() error {
		sc.peek()
		at := sc.pos
		key, err := sc.text()
		if err != nil {
			return err
		}
		if err := sc.expect(':'); err != nil {
			return err
		}
		sc.peek()
		if err := member(key); err != nil {
			if e, ok := err.(*syntaxError); ok && e.pos < 0 {
				e.pos = at
			}
			return err
		}
		return nil
	})
}

// list reads what stands between two brackets, separated by commas.
func (sc *scanner) list(open, end byte, element func() error) error {
	if err := sc.expect(open); err != nil {
		return err
	}
	if sc.peek() == end {
		sc.pos++
		return nil
	}
	for {
		if err := element(); err != nil {
			return err
		}
		if sc.peek() == ',' {
			sc.pos++
			continue
		}
		return sc.expect(end)
	}
}

// text reads a string.
func (sc *scanner) text() (string, error) {
	if err := sc.expect('"'); err != nil {
		return "", err
	}
	start := sc.pos
	for ; sc.pos < len(sc.s); sc.pos++ {
		switch c := sc.s[sc.pos]; {
		case c == '"':
			sc.pos++
			return sc.s[start : sc.pos-1], nil
		case c == '\\':
			return sc.escaped(start)
		case c < ' ':
			return "", sc.fail("control character %#02x in a string", c)
		}
	}
	return "", sc.fail("a string does not end")
}

// escaped goes on with a string that has a backslash at the scanner's position.
func (sc *scanner) escaped(start int) (string, error) {
	var b strings.Builder
	b.WriteString(sc.s[start:sc.pos])
	for sc.pos < len(sc.s) {
		c := sc.s[sc.pos]
		switch {
		case c == '"':
			sc.pos++
			return b.String(), nil
		case c < ' ':
			return "", sc.fail("control character %#02x in a string", c)
		case c != '\\':
			b.WriteByte(c)
			sc.pos++
			continue
		}
		r, err := sc.escape()
		if err != nil {
			return "", err
		}
		b.WriteRune(r)
	}
	return "", sc.fail("a string does not end")
}

// escape reads one escape sequence, a surrogate pair included.
func (sc *scanner) escape() (rune, error) {
	if sc.pos+1 >= len(sc.s) {
		return 0, sc.fail("a string does not end")
	}
	c := sc.s[sc.pos+1]
	if i := strings.IndexByte(`"\/bfnrt`, c); i >= 0 {
		sc.pos += 2
		return rune("\"\\/\b\f\n\r\t"[i]), nil
	}
	r, err := sc.unicode()
	if err != nil || !utf16.IsSurrogate(r) {
		return r, err
	}
	at := sc.pos
	low, err := sc.unicode()
	if err != nil {
		return 0, err
	}
	if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
		sc.pos = at
		return 0, sc.fail("a surrogate without its pair")
	}
	return r, nil
}

func (sc *scanner) unicode() (rune, error) {
	if len(sc.s)-sc.pos < 6 || sc.s[sc.pos] != '\\' || sc.s[sc.pos+1] != 'u' {
		return 0, sc.fail("bad escape sequence in a string")
	}
	var r rune
	for _, c := range []byte(sc.s[sc.pos+2 : sc.pos+6]) {
		d := strings.IndexByte("0123456789abcdef", c|0x20)
		if d < 0 || c < '0' {
			return 0, sc.fail("bad escape sequence in a string")
		}
		r = r<<4 | rune(d)
	}
	sc.pos += 6
	return r, nil
}

// integer reads a number that is a whole one from 0 to the largest int64.
func (sc *scanner) integer() (int64, error) {
	sc.peek()
	start := sc.pos
	var n int64
	for ; sc.pos < len(sc.s) && sc.s[sc.pos] >= '0' && sc.s[sc.pos] <= '9'; sc.pos++ {
		d := int64(sc.s[sc.pos] - '0')
		if n > (math.MaxInt64-d)/10 {
			sc.pos = start
			return 0, sc.fail("a number that does not fit 63 bits")
		}
		n = n*10 + d
	}
	switch digits := sc.pos - start; {
	case digits == 0:
		return 0, sc.fail("something other than a whole number that is not negative")
	case digits > 1 && sc.s[start] == '0':
		sc.pos = start
		return 0, sc.fail("a number with a leading zero")
	case sc.pos < len(sc.s) && strings.IndexByte(".eE", sc.s[sc.pos]) >= 0:
		sc.pos = start
		return 0, sc.fail("a number that is not written as a whole one")
	}
	return n, nil
}

// end checks that nothing but white space is left.
func (sc *scanner) end() error {
	if sc.peek(); sc.pos < len(sc.s) {
		return sc.fail("more after the end of the JSON object")
	}
	return nil
}

// skip passes over any value, nested at most depth deep.
func (sc *scanner) skip(depth int) error {
	if depth == 0 {
		return sc.fail("nested too deep")
	}
	switch c := sc.peek(); c {
	case '"':
		_, err := sc.text()
		return err
	case '{':
		return sc.object(func(string) error { return sc.skip(depth - 1) })
	case '[':
		return sc.list('[', ']', func() error { return sc.skip(depth - 1) })
	}
	start := sc.pos
	for sc.pos < len(sc.s) && strings.IndexByte(",]} \n\t\r", sc.s[sc.pos]) < 0 {
		sc.pos++
	}
	switch word := sc.s[start:sc.pos]; {
	case word == "true" || word == "false" || word == "null" || isNumber(word):
		return nil
	}
	sc.pos = start
	return sc.fail("not a JSON value")
}

// isNumber reports whether s is a JSON number.
func isNumber(s string) bool {
	digits := func() bool {
		rest := strings.TrimLeft(s, "0123456789")
		some := len(rest) < len(s)
		s = rest
		return some
	}
	s = strings.TrimPrefix(s, "-")
	if zero := strings.HasPrefix(s, "0"); zero {
		s = s[1:]
	} else if !digits() {
		return false
	}
	if fraction, ok := strings.CutPrefix(s, "."); ok {
		if s = fraction; !digits() {
			return false
		}
	}
	if s != "" && (s[0] == 'e' || s[0] == 'E') {
		s = s[1:]
		if s != "" && (s[0] == '+' || s[0] == '-') {
			s = s[1:]
		}
		return digits() && s == ""
	}
	return s == ""
}
