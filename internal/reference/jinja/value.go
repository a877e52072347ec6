package jinja

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
)

// Value is a Python value: nil (None), bool, int64, *big.Int (past 64 bits),
// float64, string, Undefined, *List, Tuple, *Dict, *Namespace, *Loop or *Func.
type Value any

// Undefined is a variable or field that is not there: empty text, false, and an
// error in any operation. It says why.
type Undefined struct{ why string }

func (u Undefined) refuse() error { return errors.New(u.why) }

// List is a list.
type List struct{ Items []Value }

// Tuple is a list that prints in round brackets.
type Tuple []Value

// Namespace is what namespace() makes: its fields can be set in inner scopes.
type Namespace struct{ vars map[string]Value }

// Loop is the variable loop of a for.
type Loop struct {
	items []Value
	at    int
	depth int
	again func(Value) (Value, error) // of a recursive loop
	seen  Value                      // what changed() was asked last
}

// Func is a function or bound method.
type Func struct {
	name string
	call func(r *render, a *Args) (Value, error)
}

// NewFunc makes a function of a template's variables; it gets the arguments
// without names.
func NewFunc(name string, f func(args []Value) (Value, error)) *Func {
	return &Func{name, func(_ *render, a *Args) (Value, error) {
		for n := range a.Named {
			return nil, fmt.Errorf("%s() takes no argument '%s'", name, n)
		}
		return f(a.Pos)
	}}
}

// Dict is a dictionary that keeps the order of its keys.
type Dict struct {
	keys, values []Value
	at           map[Value]int // by hashable key
}

// NewDict is an empty dictionary.
func NewDict() *Dict { return &Dict{at: map[Value]int{}} }

// hashable is a key as Python tells keys apart: 1, 1.0 and True are the same.
func hashable(k Value) (Value, error) {
	switch x := k.(type) {
	case bool, float64, *big.Int:
		n := number(x)
		if f, ok := n.(float64); ok {
			if math.IsNaN(f) {
				return f, nil
			}
			i, accuracy := big.NewFloat(f).Int(nil)
			if accuracy != big.Exact {
				return f, nil
			}
			n = i
		}
		v := whole(n.(*big.Int))
		if b, ok := v.(*big.Int); ok {
			return "big " + b.String(), nil
		}
		return v, nil
	case nil, int64:
		return x, nil
	case string:
		return "str " + x, nil
	case Undefined:
		return Undefined{}, nil
	case Tuple:
		for _, v := range x {
			if _, err := hashable(v); err != nil {
				return nil, err
			}
		}
		return "tuple " + repr(x), nil
	}
	return nil, mistyped("unhashable type", k)
}

// Set adds or replaces an entry.
func (d *Dict) Set(k, v Value) error {
	h, err := hashable(k)
	if err != nil {
		return err
	}
	if i, ok := d.at[h]; ok {
		d.values[i] = v
		return nil
	}
	d.at[h] = len(d.keys)
	d.keys, d.values = append(d.keys, k), append(d.values, v)
	return nil
}

// Get finds an entry.
func (d *Dict) Get(k Value) (Value, bool) {
	h, err := hashable(k)
	if err != nil {
		return nil, false
	}
	i, ok := d.at[h]
	if !ok {
		return nil, false
	}
	return d.values[i], true
}

// Len is the number of entries.
func (d *Dict) Len() int { return len(d.keys) }

// Keys are the keys in order.
func (d *Dict) Keys() []Value { return slices.Clone(d.keys) }

// number is an integer as *big.Int, a float as float64, anything else nil.
func number(v Value) any {
	switch x := v.(type) {
	case bool:
		if x {
			return big.NewInt(1)
		}
		return new(big.Int)
	case int64:
		return big.NewInt(x)
	case *big.Int:
		return x
	case float64:
		return x
	}
	return nil
}

// whole is an integer as a value.
func whole(i *big.Int) Value {
	if i.IsInt64() {
		return i.Int64()
	}
	return i
}

// truth is Python's bool().
func truth(v Value) bool {
	switch x := v.(type) {
	case nil, Undefined:
		return false
	case bool:
		return x
	case int64:
		return x != 0
	case *big.Int:
		return x.Sign() != 0
	case float64:
		return x != 0
	case string:
		return x != ""
	case *List:
		return len(x.Items) > 0
	case Tuple:
		return len(x) > 0
	case *Dict:
		return x.Len() > 0
	}
	return true
}

// iterate gives what a for loop over the value meets.
func iterate(v Value) ([]Value, error) {
	switch x := v.(type) {
	case Undefined:
		return nil, nil
	case *List:
		return x.Items, nil
	case Tuple:
		return x, nil
	case *Dict:
		return x.Keys(), nil
	case string:
		out := make([]Value, 0, len(x))
		for _, r := range x {
			out = append(out, string(r))
		}
		return out, nil
	}
	return nil, mistyped("not iterable", v)
}

// typeName is Python's name of a value's type.
func typeName(v Value) string {
	switch v.(type) {
	case nil:
		return "NoneType"
	case bool:
		return "bool"
	case int64, *big.Int:
		return "int"
	case float64:
		return "float"
	case string:
		return "str"
	case Undefined:
		return "Undefined"
	case *List:
		return "list"
	case Tuple:
		return "tuple"
	case *Dict:
		return "dict"
	case *Namespace:
		return "Namespace"
	case *Loop:
		return "LoopContext"
	}
	return "function"
}

// mistyped says what does not go with a value's type, or why it is undefined.
func mistyped(what string, v Value) error {
	if u, ok := v.(Undefined); ok {
		return u.refuse()
	}
	return fmt.Errorf("%s: '%s'", what, typeName(v))
}

// Args are the arguments of a call.
type Args struct {
	Pos   []Value
	Named map[string]Value
	order []string // of Named, as written
}

// take is the i-th argument, or the one of that name.
func (a *Args) take(i int, name string) (Value, bool) {
	if i < len(a.Pos) {
		return a.Pos[i], true
	}
	v, ok := a.Named[name]
	delete(a.Named, name)
	return v, ok
}

// unset marks a parameter that was not given.
type unset struct{}

// bind puts arguments in the order of the parameters; the first so many must be
// given.
func (a *Args) bind(what string, need int, params ...string) ([]Value, error) {
	if len(a.Pos) > len(params) {
		return nil, fmt.Errorf("%s takes at most %d argument(s), %d were given", what, len(params), len(a.Pos))
	}
	out := make([]Value, len(params))
	for i, p := range params {
		v, ok := a.take(i, p)
		if !ok {
			if i < need {
				return nil, fmt.Errorf("%s needs the argument '%s'", what, p)
			}
			v = unset{}
		}
		out[i] = v
	}
	for n := range a.Named {
		return nil, fmt.Errorf("%s takes no argument '%s'", what, n)
	}
	return out, nil
}

// wholeOr is an argument that must be an integer that fits, or the default.
func wholeOr(v Value, absent int64) (int64, error) {
	switch x := v.(type) {
	case unset:
		return absent, nil
	case int64:
		return x, nil
	case bool:
		if x {
			return 1, nil
		}
		return 0, nil
	}
	return 0, mistyped("want an integer", v)
}

func textOr(v Value, absent string) (string, error) {
	switch x := v.(type) {
	case unset:
		return absent, nil
	case string:
		return x, nil
	}
	return "", mistyped("want a string", v)
}
