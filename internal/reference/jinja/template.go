package jinja

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Template is a parsed template. It can be rendered by several goroutines.
type Template struct{ body []stmt }

// Compile parses a template.
func Compile(source string) (*Template, error) {
	body, err := parse(source)
	if err != nil {
		return nil, err
	}
	return &Template{body}, nil
}

// Render gives the text of a template with these variables. An error names the
// line.
func (t *Template) Render(vars map[string]Value) (string, error) {
	f := &frame{vars: map[string]Value{}, up: &frame{vars: vars, up: &frame{vars: globals()}}}
	r := &render{out: &strings.Builder{}}
	if _, err := r.body(t.body, f); err != nil {
		return "", err
	}
	return r.out.String(), nil
}

// mostRange is the sandbox's own bound of range().
const mostRange = 100_000

func globals() map[string]Value {
	return map[string]Value{
		"range":           NewFunc("range", rangeOf),
		"raise_exception": NewFunc("raise_exception", raise),
		"namespace":       &Func{"namespace", namespace},
		"dict":            &Func{"dict", dictOf},
	}
}

func raise(args []Value) (Value, error) {
	if len(args) != 1 {
		return nil, errors.New("raise_exception() takes one argument")
	}
	return nil, fmt.Errorf("the template refuses: %s", str(args[0]))
}

func rangeOf(args []Value) (Value, error) {
	var n [3]int64
	n[2] = 1
	if len(args) < 1 || len(args) > 3 {
		return nil, errors.New("range() takes one to three arguments")
	}
	for i, a := range args {
		v, err := wholeOr(a, 0)
		if err != nil {
			return nil, err
		}
		n[i] = v
	}
	if len(args) == 1 {
		n[0], n[1] = 0, n[0]
	}
	if n[2] == 0 {
		return nil, errors.New("range() arg 3 must not be zero")
	}
	out := &List{}
	for i := n[0]; n[2] > 0 && i < n[1] || n[2] < 0 && i > n[1]; i += n[2] {
		if len(out.Items) >= mostRange {
			return nil, fmt.Errorf("range too big: the sandbox blocks ranges larger than %d", mostRange)
		}
		out.Items = append(out.Items, i)
	}
	return out, nil
}

func namespace(_ *render, a *Args) (Value, error) {
	d, err := dictOf(nil, a)
	if err != nil {
		return nil, err
	}
	ns := &Namespace{map[string]Value{}}
	for i, k := range d.(*Dict).keys {
		ns.vars[str(k)] = d.(*Dict).values[i]
	}
	return ns, nil
}

func dictOf(_ *render, a *Args) (Value, error) {
	out := NewDict()
	if len(a.Pos) > 1 {
		return nil, errors.New("dict() takes one mapping, and named arguments")
	}
	if len(a.Pos) == 1 {
		d, ok := a.Pos[0].(*Dict)
		if !ok {
			return nil, mistyped("dict() takes a mapping, not", a.Pos[0])
		}
		var err error
		if out, err = copied(d); err != nil {
			return nil, err
		}
	}
	for _, n := range a.order {
		if err := out.Set(n, a.Named[n]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// strftime's codes in Go's layouts.
var codes = map[byte]string{'Y': "2006", 'y': "06", 'm': "01", 'd': "02", 'B': "January", 'b': "Jan", 'A': "Monday", 'a': "Mon", 'H': "15", 'I': "03",
	'M': "04", 'S': "05", 'p': "PM", 'j': "002", 'Z': "MST", 'z': "-0700", 'F': "2006-01-02", 'T': "15:04:05", 'f': "000000"}

// Strftime is transformers' strftime_now for a template's variables.
func Strftime(now func() time.Time) *Func {
	return NewFunc("strftime_now", func(args []Value) (Value, error) {
		if len(args) != 1 {
			return nil, errors.New("strftime_now() takes one argument")
		}
		format, err := textOr(args[0], "")
		if err != nil {
			return nil, err
		}
		t := now()
		var b strings.Builder
		for i := 0; i < len(format); i++ {
			if format[i] != '%' || i+1 == len(format) {
				b.WriteByte(format[i])
				continue
			}
			i++
			c, ok := codes[format[i]]
			switch {
			case format[i] == '%':
				b.WriteByte('%')
			case format[i] == 'f':
				fmt.Fprintf(&b, "%06d", t.Nanosecond()/1000)
			case ok:
				b.WriteString(t.Format(c))
			default:
				return nil, fmt.Errorf("the date format %%%c is not supported", format[i])
			}
		}
		return b.String(), nil
	})
}
