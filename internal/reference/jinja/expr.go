package jinja

import (
	"fmt"
	"math/big"
)

type expr interface {
	eval(r *render, f *frame) (Value, error)
}

type constant struct{ v Value }

func (e constant) eval(*render, *frame) (Value, error) { return e.v, nil }

type nameExpr struct{ name string }

func (e *nameExpr) eval(_ *render, f *frame) (Value, error) { return f.get(e.name), nil }

type listExpr struct {
	items []expr
	tuple bool
}

func (e *listExpr) eval(r *render, f *frame) (Value, error) {
	items, err := evalAll(r, f, e.items)
	if e.tuple {
		return Tuple(items), err
	}
	return &List{items}, err
}

func evalAll(r *render, f *frame, es []expr) ([]Value, error) {
	out := make([]Value, len(es))
	for i, e := range es {
		var err error
		if out[i], err = e.eval(r, f); err != nil {
			return nil, err
		}
	}
	return out, nil
}

type dictExpr struct{ keys, values []expr }

func (e *dictExpr) eval(r *render, f *frame) (Value, error) {
	d := NewDict()
	for i, k := range e.keys {
		kv, err := k.eval(r, f)
		if err != nil {
			return nil, err
		}
		v, err := e.values[i].eval(r, f)
		if err != nil {
			return nil, err
		}
		if err := d.Set(kv, v); err != nil {
			return nil, err
		}
	}
	return d, nil
}

type conditionExpr struct{ test, then, other expr }

func (e *conditionExpr) eval(r *render, f *frame) (Value, error) {
	v, err := e.test.eval(r, f)
	switch {
	case err != nil:
		return nil, err
	case truth(v):
		return e.then.eval(r, f)
	case e.other == nil:
		return Undefined{"the inline if-expression evaluated to false and no else section was defined"}, nil
	}
	return e.other.eval(r, f)
}

type notExpr struct{ of expr }

func (e *notExpr) eval(r *render, f *frame) (Value, error) {
	v, err := e.of.eval(r, f)
	return !truth(v), err
}

type binaryExpr struct {
	op   string
	l, r expr
	line int
}

func (e *binaryExpr) eval(r *render, f *frame) (Value, error) {
	if err := r.step(); err != nil {
		return nil, err
	}
	a, err := e.l.eval(r, f)
	if err != nil {
		return nil, err
	}
	switch e.op {
	case "and":
		if !truth(a) {
			return a, nil
		}
		return e.r.eval(r, f)
	case "or":
		if truth(a) {
			return a, nil
		}
		return e.r.eval(r, f)
	}
	b, err := e.r.eval(r, f)
	if err != nil {
		return nil, err
	}
	v, err := binary(e.op, a, b)
	return v, atLineOf(e.line, err)
}

type signExpr struct {
	minus bool
	of    expr
	line  int
}

func (e *signExpr) eval(r *render, f *frame) (Value, error) {
	v, err := e.of.eval(r, f)
	if err != nil {
		return nil, err
	}
	switch x := number(v).(type) {
	case *big.Int:
		if e.minus {
			x = new(big.Int).Neg(x)
		}
		return whole(x), nil
	case float64:
		if e.minus {
			x = -x
		}
		return x, nil
	}
	return nil, atLineOf(e.line, mistyped("bad operand for a sign", v))
}

type compareExpr struct {
	first expr
	ops   []string
	rest  []expr
	line  int
}

func (e *compareExpr) eval(r *render, f *frame) (Value, error) {
	a, err := e.first.eval(r, f)
	if err != nil {
		return nil, err
	}
	for i, op := range e.ops {
		b, err := e.rest[i].eval(r, f)
		if err != nil {
			return nil, err
		}
		ok, err := compare(op, a, b)
		if !ok || err != nil {
			return false, atLineOf(e.line, err)
		}
		a = b
	}
	return true, nil
}

type attrExpr struct {
	of   expr
	name string
	line int
}

func (e *attrExpr) eval(r *render, f *frame) (Value, error) {
	v, err := e.of.eval(r, f)
	if err != nil {
		return nil, err
	}
	out, err := attribute(v, e.name)
	return out, atLineOf(e.line, err)
}

type itemExpr struct {
	of, key expr
	line    int
}

func (e *itemExpr) eval(r *render, f *frame) (Value, error) {
	v, err := e.of.eval(r, f)
	if err != nil {
		return nil, err
	}
	k, err := e.key.eval(r, f)
	if err != nil {
		return nil, err
	}
	out, err := item(v, k)
	return out, atLineOf(e.line, err)
}

type sliceExpr struct {
	of    expr
	parts [3]expr
	line  int
}

func (e *sliceExpr) eval(r *render, f *frame) (Value, error) {
	v, err := e.of.eval(r, f)
	if err != nil {
		return nil, err
	}
	var parts [3]Value
	for i, p := range e.parts {
		if p != nil {
			if parts[i], err = p.eval(r, f); err != nil {
				return nil, err
			}
		}
	}
	out, err := slice(v, parts)
	return out, atLineOf(e.line, err)
}

// argList is the arguments of a call as written.
type argList struct {
	pos   []expr
	names []string
	named []expr
}

func (a *argList) eval(r *render, f *frame) (*Args, error) {
	pos, err := evalAll(r, f, a.pos)
	if err != nil {
		return nil, err
	}
	out := &Args{Pos: pos, Named: map[string]Value{}, order: a.names}
	for i, n := range a.names {
		if _, ok := out.Named[n]; ok {
			return nil, fmt.Errorf("argument '%s' is given twice", n)
		}
		if out.Named[n], err = a.named[i].eval(r, f); err != nil {
			return nil, err
		}
	}
	return out, nil
}

type callExpr struct {
	of     expr
	args   argList
	caller *macro // of a call tag
	line   int
}

func (e *callExpr) eval(r *render, f *frame) (Value, error) {
	if err := r.step(); err != nil {
		return nil, err
	}
	v, err := e.of.eval(r, f)
	if err != nil {
		return nil, err
	}
	a, err := e.args.eval(r, f)
	if err != nil {
		return nil, err
	}
	if e.caller != nil {
		a.Named["caller"] = e.caller.bind(f)
	}
	out, err := call(r, v, a)
	return out, atLineOf(e.line, err)
}

func call(r *render, v Value, a *Args) (Value, error) {
	switch x := v.(type) {
	case *Func:
		return x.call(r, a)
	case *Loop:
		if x.again == nil {
			return nil, fmt.Errorf("the loop is not marked recursive")
		}
		p, err := a.bind("loop", 1, "iterable")
		if err != nil {
			return nil, err
		}
		return x.again(p[0])
	case Undefined:
		return nil, x.refuse()
	}
	return nil, mistyped("not callable", v)
}

type filterExpr struct {
	of   expr
	name string
	args argList
	line int
}

func (e *filterExpr) eval(r *render, f *frame) (Value, error) {
	if err := r.step(); err != nil {
		return nil, err
	}
	v, err := e.of.eval(r, f)
	if err != nil {
		return nil, err
	}
	a, err := e.args.eval(r, f)
	if err != nil {
		return nil, err
	}
	out, err := filter(r, e.name, v, a)
	return out, atLineOf(e.line, err)
}

type testExpr struct {
	of   expr
	name string
	args argList
	line int
}

func (e *testExpr) eval(r *render, f *frame) (Value, error) {
	v, err := e.of.eval(r, f)
	if err != nil {
		return nil, err
	}
	a, err := e.args.eval(r, f)
	if err != nil {
		return nil, err
	}
	ok, err := test(e.name, v, a.Pos)
	return ok, atLineOf(e.line, err)
}

// blockExpr is the text of a body.
type blockExpr struct{ body []stmt }

func (e *blockExpr) eval(r *render, f *frame) (Value, error) { return r.capture(e.body, f.inner()) }
