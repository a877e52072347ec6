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

// python carries values through the template engine that the engine's tojson
// writes otherwise than Python's json.dumps does, which is what transformers
// renders with: U+2028 and U+2029 (which Go escapes), floats such as 2.0 and
// 1234567.5 (2 and 1.2345675e+06 in Go), and integers past 64 bits. Inside the
// engine such a character is a noncharacter, and such a number is a string of
// marks and digits; restore puts back what Python writes.
type python struct {
	line, paragraph, number string // stand-ins; empty where the input needs none
}

// noncharacters are code points that Unicode reserves for internal use.
const firstNoncharacter, lastNoncharacter = 0xFDD0, 0xFDEF

// newPython chooses stand-ins that do not occur in the input, by themselves or escaped.
func newPython(messages, options json.RawMessage) python {
	all := bytes.ToLower(slices.Concat(messages, options)) // \uFDD0 is an escape, too
	var free []string
	for r := rune(firstNoncharacter); r <= lastNoncharacter && len(free) < 3; r++ {
		if s := string(r); !bytes.Contains(all, []byte(s)) && !bytes.Contains(all, fmt.Appendf(nil, `\u%x`, r)) {
			free = append(free, s)
		}
	}
	if len(free) < 3 {
		return python{}
	}
	return python{line: free[0], paragraph: free[1], number: free[2]}
}

func (p python) text(s string) string {
	if p.line != "" && strings.ContainsAny(s, "\u2028\u2029") {
		return strings.NewReplacer("\u2028", p.line, "\u2029", p.paragraph).Replace(s)
	}
	return s
}

// escaped opens a number's stand-in. tojson escapes it, which tells a number
// that went through tojson, and so has quotes to lose, from one printed as it is.
const escaped = "\x01"

// num is an int where Python's json would make one, else a float.
func (p python) num(n json.Number) (jinja.Value, error) {
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
	if p.number == "" || written == strconv.FormatFloat(f, 'g', -1, 64) {
		return jinja.NewFloat(f), nil
	}
	return jinja.NewString(p.number + escaped + written + p.number), nil
}

// restore replaces the stand-ins in rendered text.
func (p python) restore(text string) string {
	if p.line == "" {
		return text
	}
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(text, p.number)
		out.WriteString(strings.TrimSuffix(before, quoteIf(found && strings.HasPrefix(rest, `\u0001`))))
		if !found {
			break
		}
		quote := ""
		if inner, ok := strings.CutPrefix(rest, `\u0001`); ok {
			rest, quote = inner, `"`
		}
		written, after, _ := strings.Cut(strings.TrimPrefix(rest, escaped), p.number)
		out.WriteString(written)
		text = strings.TrimPrefix(after, quote)
	}
	return strings.NewReplacer(p.line, "\u2028", p.paragraph, "\u2029").Replace(out.String())
}

func quoteIf(yes bool) string {
	if yes {
		return `"`
	}
	return ""
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
