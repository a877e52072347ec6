package jinja

import (
	"errors"
	"fmt"
	"strings"
)

// Bounds of one rendering. A chat of a million characters needs a small part.
const (
	mostSteps = 3_000_000
	mostText  = 256 << 20
)

// jump is why a body ended early.
type jump int

const (
	none jump = iota
	broken
	continued
)

type stmt interface {
	exec(r *render, f *frame) (jump, error)
}

// frame is a scope of variables.
type frame struct {
	vars map[string]Value
	up   *frame
}

func (f *frame) inner() *frame { return &frame{vars: map[string]Value{}, up: f} }

func (f *frame) get(name string) Value {
	for ; f != nil; f = f.up {
		if v, ok := f.vars[name]; ok {
			return v
		}
	}
	return Undefined{fmt.Sprintf("'%s' is undefined", name)}
}

// render is the state of one rendering.
type render struct {
	out   *strings.Builder
	steps int
	depth int
}

func (r *render) step() error {
	if r.steps++; r.steps > mostSteps {
		return errors.New("the template does not come to an end: more than 3 million steps")
	}
	return nil
}

func (r *render) enter() error {
	if r.depth++; r.depth > deepest {
		return fmt.Errorf("calls nested more than %d deep", deepest)
	}
	return nil
}

func (r *render) write(s string) error {
	if r.out.Len()+len(s) > mostText {
		return errors.New("the text grows beyond 256 MiB")
	}
	r.out.WriteString(s)
	return nil
}

// capture runs a body and gives its text instead of writing it.
func (r *render) capture(body []stmt, f *frame) (string, error) {
	outer := r.out
	r.out = &strings.Builder{}
	_, err := r.body(body, f)
	s := r.out.String()
	r.out = outer
	return s, err
}

func (r *render) body(body []stmt, f *frame) (jump, error) {
	for _, s := range body {
		if err := r.step(); err != nil {
			return none, err
		}
		if j, err := s.exec(r, f); j != none || err != nil {
			return j, err
		}
	}
	return none, nil
}

// atLine says in which line of the template an error arose; the innermost
// statement has said so already.
type atLine struct {
	line int
	err  error
}

func (e *atLine) Error() string { return fmt.Sprintf("line %d: %v", e.line, e.err) }
func (e *atLine) Unwrap() error { return e.err }

func atLineOf(line int, err error) error {
	var known *atLine
	if err == nil || errors.As(err, &known) {
		return err
	}
	return &atLine{line, err}
}

// located is a statement that knows its line.
type located struct {
	stmt
	line int
}

func (n *located) exec(r *render, f *frame) (jump, error) {
	j, err := n.stmt.exec(r, f)
	return j, atLineOf(n.line, err)
}

type textNode struct{ text string }

func (n *textNode) exec(r *render, _ *frame) (jump, error) { return none, r.write(n.text) }

type printNode struct{ e expr }

func (n *printNode) exec(r *render, f *frame) (jump, error) {
	v, err := n.e.eval(r, f)
	if err != nil {
		return none, err
	}
	return none, r.write(str(v))
}

type jumpNode struct{ to jump }

func (n *jumpNode) exec(*render, *frame) (jump, error) { return n.to, nil }

type ifNode struct {
	tests  []expr
	bodies [][]stmt
	other  []stmt
}

func (n *ifNode) exec(r *render, f *frame) (jump, error) {
	for i, t := range n.tests {
		v, err := t.eval(r, f)
		if err != nil {
			return none, err
		}
		if truth(v) {
			return r.body(n.bodies[i], f)
		}
	}
	return r.body(n.other, f)
}

// target is a name, a field of a namespace, or several targets.
type target struct {
	name, field string
	parts       []target
}

func (t target) assign(f *frame, v Value) error {
	switch {
	case t.field != "":
		ns, ok := f.get(t.name).(*Namespace)
		if !ok {
			return fmt.Errorf("cannot assign to %s.%s: it is no namespace", t.name, t.field)
		}
		ns.vars[t.field] = v
	case t.parts == nil:
		f.vars[t.name] = v
	default:
		items, err := iterate(v)
		if err != nil {
			return err
		}
		if len(items) != len(t.parts) {
			return fmt.Errorf("cannot unpack %d values into %d names", len(items), len(t.parts))
		}
		for i, p := range t.parts {
			if err := p.assign(f, items[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

type setNode struct {
	target target
	value  expr
}

func (n *setNode) exec(r *render, f *frame) (jump, error) {
	v, err := n.value.eval(r, f)
	if err != nil {
		return none, err
	}
	return none, n.target.assign(f, v)
}

type withNode struct {
	targets []target
	values  []expr
	body    []stmt
}

func (n *withNode) exec(r *render, f *frame) (jump, error) {
	in := f.inner()
	for i, t := range n.targets {
		v, err := n.values[i].eval(r, f)
		if err != nil {
			return none, err
		}
		if err := t.assign(in, v); err != nil {
			return none, err
		}
	}
	return r.body(n.body, in)
}

type forNode struct {
	target      target
	items, test expr
	recursive   bool
	body, other []stmt
}

func (n *forNode) exec(r *render, f *frame) (jump, error) {
	v, err := n.items.eval(r, f)
	if err != nil {
		return none, err
	}
	return none, n.loop(r, f, v, 0)
}

// loop runs the body once for every item; a break or continue ends here.
func (n *forNode) loop(r *render, f *frame, over Value, depth int) error {
	items, err := iterate(over)
	if err != nil {
		return err
	}
	if n.test != nil {
		if items, err = n.chosen(r, f, items); err != nil {
			return err
		}
	}
	l := &Loop{items: items, depth: depth}
	if n.recursive {
		l.again = func(v Value) (Value, error) {
			if err := r.enter(); err != nil {
				return nil, err
			}
			defer func() { r.depth-- }()
			outer := r.out
			r.out = &strings.Builder{}
			err := n.loop(r, f, v, depth+1)
			s := r.out.String()
			r.out = outer
			return s, err
		}
	}
	for i, item := range items {
		if err := r.step(); err != nil {
			return err
		}
		l.at = i
		in := f.inner()
		in.vars["loop"] = l
		if err := n.target.assign(in, item); err != nil {
			return err
		}
		j, err := r.body(n.body, in)
		if err != nil {
			return err
		}
		if j == broken {
			break
		}
	}
	if len(items) == 0 {
		_, err = r.body(n.other, f.inner())
	}
	return err
}

func (n *forNode) chosen(r *render, f *frame, items []Value) (kept []Value, err error) {
	for _, item := range items {
		in := f.inner()
		if err := n.target.assign(in, item); err != nil {
			return nil, err
		}
		v, err := n.test.eval(r, in)
		if err != nil {
			return nil, err
		}
		if truth(v) {
			kept = append(kept, item)
		}
	}
	return kept, nil
}

// macro is a macro's definition, or what stands inside a call tag.
type macro struct {
	name              string
	params            []string
	defaults          []expr // nil where there is none
	body              []stmt
	varargs, keywords bool
}

// uses notes that the body reads the lists of surplus arguments.
func (m *macro) uses(name string) {
	m.varargs = m.varargs || name == "varargs"
	m.keywords = m.keywords || name == "kwargs"
}

type macroNode struct{ m *macro }

func (n *macroNode) exec(r *render, f *frame) (jump, error) {
	f.vars[n.m.name] = n.m.bind(f)
	return none, nil
}

// bind makes the macro a function that sees the scope it was defined in.
func (m *macro) bind(f *frame) *Func {
	return &Func{m.name, func(r *render, a *Args) (Value, error) {
		if err := r.enter(); err != nil {
			return nil, err
		}
		defer func() { r.depth-- }()
		in := f.inner()
		if err := m.fill(r, in, a); err != nil {
			return nil, err
		}
		return r.capture(m.body, in)
	}}
}

func (m *macro) fill(r *render, in *frame, a *Args) error {
	for i, p := range m.params {
		v, ok := a.take(i, p)
		if !ok {
			v = Undefined{fmt.Sprintf("parameter '%s' was not provided", p)}
			if m.defaults[i] != nil {
				var err error
				if v, err = m.defaults[i].eval(r, in); err != nil {
					return err
				}
			}
		}
		in.vars[p] = v
	}
	if c, ok := a.Named["caller"]; ok {
		in.vars["caller"] = c
		delete(a.Named, "caller")
	}
	var surplus Tuple
	if len(a.Pos) > len(m.params) {
		surplus = a.Pos[len(m.params):]
	}
	if len(surplus) > 0 && !m.varargs {
		return fmt.Errorf("macro '%s' takes not more than %d argument(s)", m.name, len(m.params))
	}
	in.vars["varargs"] = surplus
	rest := NewDict()
	for _, n := range a.order {
		if v, ok := a.Named[n]; ok {
			if !m.keywords {
				return fmt.Errorf("macro '%s' takes no keyword argument '%s'", m.name, n)
			}
			if err := rest.Set(n, v); err != nil {
				return err
			}
		}
	}
	in.vars["kwargs"] = rest
	return nil
}
