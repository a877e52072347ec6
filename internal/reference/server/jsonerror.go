package server

import (
	"encoding/json"
	"regexp"
	"strings"
)

// jsonErrorAt says where Python's json would stop reading body, in characters,
// and why in its words: the engine that this server stands in for is written in
// Python, and clients' tests hold its texts.
func jsonErrorAt(body string) (at int, message string) {
	p := &pyScanner{s: []rune(body)}
	p.space()
	if p.value(0) {
		p.space()
		if p.i < len(p.s) {
			p.fail(p.i, "Extra data")
		}
	}
	return p.at, p.message
}

type pyScanner struct {
	s       []rune
	i       int
	at      int
	message string
}

func (p *pyScanner) fail(at int, message string) bool {
	p.at, p.message = at, message
	return false
}

func (p *pyScanner) space() {
	for p.i < len(p.s) && strings.ContainsRune(" \t\n\r", p.s[p.i]) {
		p.i++
	}
}

func (p *pyScanner) is(r rune) bool { return p.i < len(p.s) && p.s[p.i] == r }

func (p *pyScanner) value(depth int) bool {
	if p.i >= len(p.s) || depth > 1000 {
		return p.fail(p.i, "Expecting value")
	}
	switch p.s[p.i] {
	case '"':
		return p.string()
	case '{':
		p.i++
		return p.members('}', depth, p.member)
	case '[':
		p.i++
		return p.members(']', depth, func(depth int) bool { return p.value(depth) })
	}
	rest := string(p.s[p.i:min(len(p.s), p.i+400)])
	for _, word := range []string{"null", "true", "false", "NaN", "Infinity", "-Infinity"} {
		if strings.HasPrefix(rest, word) {
			p.i += len(word)
			return true
		}
	}
	if n := len(number.FindString(rest)); n > 0 {
		p.i += n
		return true
	}
	return p.fail(p.i, "Expecting value")
}

var number = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?`)

// members reads what stands between brackets.
func (p *pyScanner) members(end rune, depth int, one func(int) bool) bool {
	p.space()
	if p.is(end) {
		p.i++
		return true
	}
	for {
		if !one(depth + 1) {
			return false
		}
		p.space()
		if p.is(end) {
			p.i++
			return true
		}
		if !p.is(',') {
			return p.fail(p.i, "Expecting ',' delimiter")
		}
		p.i++
		p.space()
	}
}

func (p *pyScanner) member(depth int) bool {
	if !p.is('"') {
		return p.fail(p.i, "Expecting property name enclosed in double quotes")
	}
	if !p.string() {
		return false
	}
	p.space()
	if !p.is(':') {
		return p.fail(p.i, "Expecting ':' delimiter")
	}
	p.i++
	p.space()
	return p.value(depth)
}

func (p *pyScanner) string() bool {
	start := p.i
	for p.i++; p.i < len(p.s); p.i++ {
		switch r := p.s[p.i]; {
		case r == '"':
			p.i++
			return true
		case r < ' ':
			return p.fail(p.i, "Invalid control character at")
		case r == '\\':
			p.i++
			if p.i >= len(p.s) {
				return p.fail(start, "Unterminated string starting at")
			}
			if p.s[p.i] == 'u' {
				if p.i+4 >= len(p.s) || !isHex(p.s[p.i+1:p.i+5]) {
					return p.fail(p.i, `Invalid \uXXXX escape`)
				}
			} else if !strings.ContainsRune(`"\/bfnrt`, p.s[p.i]) {
				return p.fail(p.i-1, `Invalid \escape`)
			}
		}
	}
	return p.fail(start, "Unterminated string starting at")
}

func isHex(s []rune) bool {
	for _, r := range s {
		if !strings.ContainsRune("0123456789abcdefABCDEF", r) {
			return false
		}
	}
	return true
}

// duplicateFree reads an object's members. Of equal keys the last one counts, as in Python.
func duplicateFree(body []byte) (map[string]json.RawMessage, error) {
	var m map[string]json.RawMessage
	err := json.Unmarshal(body, &m)
	return m, err
}
