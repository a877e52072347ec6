package tokenizer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/ardanlabs/jinja"
)

// python carries values through the template engine that the engine writes
// otherwise than Python does, which is what transformers renders with: U+2028
// and U+2029 (which Go escapes in JSON), floats such as 2.0 and 1234567.5 (2
// and 1.2345675e+06 in Go), and integers past 64 bits. Inside the engine such a
// character is another white space, which templates trim alike, and such a
// number is a huge float; restore puts back what Python writes.
type python struct {
	line, paragraph string   // stand-ins for U+2028 and U+2029; empty where none is free
	exponent        string   // of stand-in floats
	numbers         []string // stand-in and what is written, by turns
}

// spaces are white space that hardly any text has.
var spaces = []rune{0x1680, 0x205F, 0x2000, 0x2001, 0x2002, 0x2003, 0x2004, 0x2005, 0x2006, 0x2008, 0x2009, 0x200A}

// newPython chooses stand-ins that do not occur in the input, by themselves or escaped.
func newPython(messages, options json.RawMessage) *python {
	all := bytes.ToLower(slices.Concat(messages, options)) // \u205F is an escape, too
	p := &python{}
	var free []string
	for _, r := range spaces {
		if !bytes.ContainsRune(all, r) && !bytes.Contains(all, fmt.Appendf(nil, `\u%04x`, r)) {
			free = append(free, string(r))
		}
	}
	if len(free) >= 2 {
		p.line, p.paragraph = free[0], free[1]
	}
	for e := 299; e > 200 && p.exponent == ""; e-- {
		if s := fmt.Sprintf("e+%d", e); !bytes.Contains(all, []byte(s)) {
			p.exponent = s
		}
	}
	return p
}

func (p *python) text(s string) string {
	if p.line != "" && strings.ContainsAny(s, "\u2028\u2029") {
		return strings.NewReplacer("\u2028", p.line, "\u2029", p.paragraph).Replace(s)
	}
	return s
}

// num is an int where Python's json would make one, else a float.
func (p *python) num(n json.Number) (jinja.Value, error) {
	if i, err := n.Int64(); err == nil {
		return jinja.NewInt(i), nil
	}
	f, err := strconv.ParseFloat(n.String(), 64)
	if err != nil {
		return jinja.Value{}, fmt.Errorf("number %s: %w", n, err)
	}
	written := floatRepr(f)
	if !strings.ContainsAny(n.String(), ".eE") {
		written = n.String() // an integer past 64 bits
	}
	if p.exponent == "" || written == strconv.FormatFloat(f, 'g', -1, 64) {
		return jinja.NewFloat(f), nil
	}
	name := fmt.Sprintf("9.%013d7%s", len(p.numbers)/2, p.exponent) // 15 digits: written as it is read
	stand, err := strconv.ParseFloat(name, 64)
	if err != nil {
		return jinja.Value{}, fmt.Errorf("number %s: %w", n, err)
	}
	p.numbers = append(p.numbers, name, written)
	return jinja.NewFloat(stand), nil
}

// restore replaces the stand-ins in rendered text.
func (p *python) restore(text string) string {
	pairs := p.numbers
	if p.line != "" {
		pairs = append(slices.Clone(pairs), p.line, "\u2028", p.paragraph, "\u2029")
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// floatRepr is Python's repr of a finite float.
func floatRepr(f float64) string {
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}
