package jinja

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
)

// str is Python's str().
func str(v Value) string {
	switch x := v.(type) {
	case string:
		return x
	case Undefined:
		return ""
	}
	return repr(v)
}

// repr is Python's repr().
func repr(v Value) string {
	switch x := v.(type) {
	case nil:
		return "None"
	case bool:
		if x {
			return "True"
		}
		return "False"
	case int64:
		return strconv.FormatInt(x, 10)
	case *big.Int:
		return x.String()
	case float64:
		return floatRepr(x)
	case string:
		return quoted(x)
	case Undefined:
		return "Undefined"
	case *List:
		return "[" + reprs(x.Items) + "]"
	case Tuple:
		if len(x) == 1 {
			return "(" + repr(x[0]) + ",)"
		}
		return "(" + reprs(x) + ")"
	case *Dict:
		parts := make([]string, x.Len())
		for i, k := range x.keys {
			parts[i] = repr(k) + ": " + repr(x.values[i])
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case *Namespace:
		return "<Namespace>"
	case *Loop:
		return fmt.Sprintf("<LoopContext %d/%d>", x.at+1, len(x.items))
	case *Func:
		return "<function " + x.name + ">"
	}
	return fmt.Sprint(v)
}

func reprs(items []Value) string {
	parts := make([]string, len(items))
	for i, v := range items {
		parts[i] = repr(v)
	}
	return strings.Join(parts, ", ")
}

// floatRepr is Python's repr of a float.
func floatRepr(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 0):
		return strings.ToLower(strings.TrimPrefix(strconv.FormatFloat(f, 'g', -1, 64), "+"))
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// quoted is a string as Python's repr has it.
func quoted(s string) string {
	q := byte('\'')
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		q = '"'
	}
	b := []byte{q}
	for _, r := range s {
		switch {
		case r == rune(q) || r == '\\':
			b = append(b, '\\', byte(r))
		case r == '\n':
			b = append(b, `\n`...)
		case r == '\r':
			b = append(b, `\r`...)
		case r == '\t':
			b = append(b, `\t`...)
		case unicode.IsPrint(r):
			b = append(b, string(r)...)
		case r < 0x100:
			b = fmt.Appendf(b, `\x%02x`, r)
		case r < 0x10000:
			b = fmt.Appendf(b, `\u%04x`, r)
		default:
			b = fmt.Appendf(b, `\U%08x`, r)
		}
	}
	return string(append(b, q))
}

// jsonStyle is the arguments of json.dumps.
type jsonStyle struct {
	ascii, sortKeys bool
	indent          string // of one level; "" with oneLine
	oneLine         bool
	comma, colon    string
}

func (s jsonStyle) write(b *strings.Builder, v Value, depth int) error {
	if depth > deepest {
		return fmt.Errorf("nested more than %d deep", deepest)
	}
	switch x := v.(type) {
	case nil:
		b.WriteString("null")
	case bool:
		b.WriteString(strconv.FormatBool(x))
	case float64:
		b.WriteString(jsonFloat(x))
	case int64, *big.Int:
		b.WriteString(repr(x))
	case string:
		s.text(b, x)
	case *List:
		return s.list(b, x.Items, depth)
	case Tuple:
		return s.list(b, x, depth)
	case *Dict:
		return s.dict(b, x, depth)
	default:
		return fmt.Errorf("object of type %s is not JSON serializable", typeName(v))
	}
	return nil
}

func jsonFloat(f float64) string {
	switch {
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	}
	return floatRepr(f)
}

func (s jsonStyle) newline(b *strings.Builder, depth int) {
	if !s.oneLine {
		b.WriteByte('\n')
		b.WriteString(strings.Repeat(s.indent, depth))
	}
}

func (s jsonStyle) list(b *strings.Builder, items []Value, depth int) error {
	if len(items) == 0 {
		b.WriteString("[]")
		return nil
	}
	b.WriteByte('[')
	for i, v := range items {
		if i > 0 {
			b.WriteString(s.comma)
		}
		s.newline(b, depth+1)
		if err := s.write(b, v, depth+1); err != nil {
			return err
		}
	}
	s.newline(b, depth)
	b.WriteByte(']')
	return nil
}

func (s jsonStyle) dict(b *strings.Builder, d *Dict, depth int) error {
	if d.Len() == 0 {
		b.WriteString("{}")
		return nil
	}
	order := make([]int, d.Len())
	for i := range order {
		order[i] = i
	}
	if s.sortKeys {
		var failed error
		slices.SortStableFunc(order, func(i, j int) int {
			c, err := ordered(d.keys[i], d.keys[j])
			failed = errors.Join(failed, err)
			return c
		})
		if failed != nil {
			return failed
		}
	}
	b.WriteByte('{')
	for n, i := range order {
		if n > 0 {
			b.WriteString(s.comma)
		}
		s.newline(b, depth+1)
		switch k := d.keys[i].(type) {
		case string:
			s.text(b, k)
		default: // numbers, truth values and None are written as text
			b.WriteByte('"')
			if err := s.write(b, k, depth+1); err != nil {
				return err
			}
			b.WriteByte('"')
		}
		b.WriteString(s.colon)
		if err := s.write(b, d.values[i], depth+1); err != nil {
			return err
		}
	}
	s.newline(b, depth)
	b.WriteByte('}')
	return nil
}

var jsonEscapes = map[rune]string{'"': `\"`, '\\': `\\`, '\n': `\n`, '\r': `\r`, '\t': `\t`, '\f': `\f`, '\b': `\b`}

func (s jsonStyle) text(b *strings.Builder, v string) {
	b.WriteByte('"')
	for _, r := range v {
		if e, ok := jsonEscapes[r]; ok {
			b.WriteString(e)
			continue
		}
		switch {
		case r < 0x20, s.ascii && r > 0x7e && r < 0x10000:
			fmt.Fprintf(b, `\u%04x`, r)
		case s.ascii && r >= 0x10000:
			hi, lo := utf16.EncodeRune(r)
			fmt.Fprintf(b, `\u%04x\u%04x`, hi, lo)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
}

// deepestJSON bounds nesting in what FromJSON reads.
const deepestJSON = 200

// FromJSON converts one JSON value, keeping the order of keys. A number is an
// integer where Python's json makes one.
func FromJSON(raw json.RawMessage) (Value, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	v, err := nextJSON(dec, 0)
	if err != nil {
		return nil, err
	}
	if dec.More() {
		return nil, errors.New("more than one JSON value")
	}
	return v, nil
}

func nextJSON(dec *json.Decoder, depth int) (Value, error) {
	if depth > deepestJSON {
		return nil, fmt.Errorf("nested more than %d deep", deepestJSON)
	}
	t, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch x := t.(type) {
	case bool, string, nil:
		return x, nil
	case json.Number:
		return jsonNumber(x)
	}
	if t == json.Delim('[') {
		out := &List{}
		for dec.More() {
			v, err := nextJSON(dec, depth+1)
			if err != nil {
				return nil, err
			}
			out.Items = append(out.Items, v)
		}
		_, err := dec.Token()
		return out, err
	}
	out := NewDict()
	for dec.More() {
		k, err := dec.Token()
		if err != nil {
			return nil, err
		}
		v, err := nextJSON(dec, depth+1)
		if err != nil {
			return nil, err
		}
		if err := out.Set(k, v); err != nil {
			return nil, err
		}
	}
	_, err = dec.Token()
	return out, err
}

func jsonNumber(n json.Number) (Value, error) {
	if !strings.ContainsAny(n.String(), ".eE") {
		if len(n) > 4300 { // Python's own limit
			return nil, fmt.Errorf("a number of %d digits", len(n))
		}
		i, ok := new(big.Int).SetString(n.String(), 10)
		if !ok {
			return nil, fmt.Errorf("%q is no number", n)
		}
		return whole(i), nil
	}
	f, err := strconv.ParseFloat(n.String(), 64)
	if err != nil && !math.IsInf(f, 0) {
		return nil, fmt.Errorf("number %s: %w", n, err)
	}
	return f, nil
}
