package jinja

import (
	"errors"
	"fmt"
)

// attribute is v.name: a method or property first, then an entry of that name.
func attribute(v Value, name string) (Value, error) {
	switch x := v.(type) {
	case Undefined:
		return nil, x.refuse()
	case string:
		if m, ok := stringMethods[name]; ok {
			return &Func{name, func(_ *render, a *Args) (Value, error) { return m(x, a) }}, nil
		}
	case *Dict:
		if m := dictMethod(x, name); m != nil {
			return m, nil
		}
		if v, ok := x.Get(name); ok {
			return v, nil
		}
	case *List:
		if m := listMethod(x, name); m != nil {
			return m, nil
		}
	case *Namespace:
		if v, ok := x.vars[name]; ok {
			return v, nil
		}
	case *Loop:
		if v, ok := x.attribute(name); ok {
			return v, nil
		}
	}
	return Undefined{fmt.Sprintf("'%s object' has no attribute '%s'", typeName(v), name)}, nil
}

// item is v[key]: an entry first, then an attribute of that name.
func item(v, key Value) (Value, error) {
	switch x := v.(type) {
	case Undefined:
		return nil, x.refuse()
	case *Dict:
		if v, ok := x.Get(key); ok {
			return v, nil
		}
	case *List:
		if i, ok := index(key, len(x.Items)); ok {
			return x.Items[i], nil
		}
	case Tuple:
		if i, ok := index(key, len(x)); ok {
			return x[i], nil
		}
	case string:
		runes := []rune(x)
		if i, ok := index(key, len(runes)); ok {
			return string(runes[i]), nil
		}
	}
	if s, ok := key.(string); ok {
		return attribute(v, s)
	}
	return Undefined{fmt.Sprintf("'%s object' has no element %s", typeName(v), repr(key))}, nil
}

// index is a position from the start, for keys that count from the end too.
func index(key Value, n int) (int, bool) {
	i, err := wholeOr(key, 0)
	if err != nil {
		return 0, false
	}
	if i < 0 {
		i += int64(n)
	}
	return int(i), i >= 0 && i < int64(n)
}

// slice is v[from:to:step].
func slice(v Value, parts [3]Value) (Value, error) {
	switch x := v.(type) {
	case string:
		runes := []rune(x)
		at, err := positions(parts, len(runes))
		out := make([]rune, len(at))
		for i, p := range at {
			out[i] = runes[p]
		}
		return string(out), err
	case *List:
		items, err := picked(x.Items, parts)
		return &List{items}, err
	case Tuple:
		items, err := picked(x, parts)
		return Tuple(items), err
	case Undefined:
		return nil, x.refuse()
	}
	// Jinja compiles a slice to Python's own, which refuses, and not to its look-up, which would give undefined.
	return nil, fmt.Errorf("'%s object' cannot be sliced", typeName(v))
}

func picked(items []Value, parts [3]Value) ([]Value, error) {
	at, err := positions(parts, len(items))
	out := make([]Value, len(at))
	for i, p := range at {
		out[i] = items[p]
	}
	return out, err
}

// positions are the elements that a slice takes of n.
func positions(parts [3]Value, n int) (at []int, err error) {
	get := func(v Value, absent int) (int, error) {
		if v == nil {
			return absent, nil
		}
		i, err := wholeOr(v, 0)
		if i < 0 {
			i = max(i, -int64(n)-1)
		}
		return int(min(i, int64(n)+1)), err
	}
	step, err := get(parts[2], 1)
	if err != nil {
		return nil, err
	}
	if step == 0 {
		return nil, errors.New("slice step cannot be zero")
	}
	low, high := 0, n
	if step < 0 {
		low, high = -1, n-1
	}
	bound := func(v Value, absent int) (int, error) {
		i, err := get(v, absent)
		if v != nil && i < 0 {
			i += n
		}
		if v != nil {
			i = min(max(i, low), high)
		}
		return i, err
	}
	first, last := low, high
	if step < 0 {
		first, last = high, low
	}
	from, err := bound(parts[0], first)
	if err != nil {
		return nil, err
	}
	to, err := bound(parts[1], last)
	if err != nil {
		return nil, err
	}
	for i := from; step > 0 && i < to || step < 0 && i > to; i += step {
		at = append(at, i)
	}
	return at, nil
}

func (l *Loop) attribute(name string) (Value, bool) {
	n := len(l.items)
	beside := func(i int, why string) Value {
		if i < 0 || i >= n {
			return Undefined{why}
		}
		return l.items[i]
	}
	switch name {
	case "index":
		return int64(l.at + 1), true
	case "index0":
		return int64(l.at), true
	case "revindex":
		return int64(n - l.at), true
	case "revindex0":
		return int64(n - l.at - 1), true
	case "first":
		return l.at == 0, true
	case "last":
		return l.at == n-1, true
	case "length":
		return int64(n), true
	case "depth":
		return int64(l.depth + 1), true
	case "depth0":
		return int64(l.depth), true
	case "previtem":
		return beside(l.at-1, "there is no previous item"), true
	case "nextitem":
		return beside(l.at+1, "there is no next item"), true
	case "cycle":
		return NewFunc(name, func(args []Value) (Value, error) {
			if len(args) == 0 {
				return nil, errors.New("no items for cycling given")
			}
			return args[l.at%len(args)], nil
		}), true
	case "changed":
		return NewFunc(name, func(args []Value) (Value, error) {
			last := l.seen
			l.seen = Tuple(args)
			return last == nil || !equal(last, l.seen), nil
		}), true
	}
	return nil, false
}

// mutators are methods that the immutable sandbox refuses.
var mutators = map[string]bool{"append": true, "clear": true, "extend": true, "insert": true, "pop": true, "popitem": true,
	"remove": true, "reverse": true, "setdefault": true, "sort": true, "update": true}

func refused(kind, name string) *Func {
	return NewFunc(name, func([]Value) (Value, error) {
		return nil, fmt.Errorf("access to attribute '%s' of '%s' object is unsafe: a template must not change its values", name, kind)
	})
}

func listMethod(l *List, name string) *Func {
	switch {
	case mutators[name]:
		return refused("list", name)
	case name == "copy":
		return NewFunc(name, func([]Value) (Value, error) { return &List{append([]Value(nil), l.Items...)}, nil })
	case name == "count" || name == "index":
		return NewFunc(name, func(args []Value) (Value, error) {
			if len(args) != 1 {
				return nil, fmt.Errorf("%s() takes exactly one argument", name)
			}
			n := int64(0)
			for i, v := range l.Items {
				if !equal(v, args[0]) {
					continue
				}
				if name == "index" {
					return int64(i), nil
				}
				n++
			}
			if name == "index" {
				return nil, fmt.Errorf("%s is not in list", repr(args[0]))
			}
			return n, nil
		})
	}
	return nil
}

func dictMethod(d *Dict, name string) *Func {
	switch {
	case mutators[name]:
		return refused("dict", name)
	case name == "get":
		return &Func{name, func(_ *render, a *Args) (Value, error) {
			p, err := a.bind("get()", 1, "key", "default")
			if err != nil {
				return nil, err
			}
			if v, ok := d.Get(p[0]); ok {
				return v, nil
			}
			if p[1] == (unset{}) {
				return nil, nil
			}
			return p[1], nil
		}}
	case name == "items":
		return NewFunc(name, func([]Value) (Value, error) { return &List{pairs(d)}, nil })
	case name == "keys":
		return NewFunc(name, func([]Value) (Value, error) { return &List{d.Keys()}, nil })
	case name == "values":
		return NewFunc(name, func([]Value) (Value, error) { return &List{append([]Value(nil), d.values...)}, nil })
	case name == "copy":
		return NewFunc(name, func([]Value) (Value, error) { return copied(d) })
	}
	return nil
}

func pairs(d *Dict) []Value {
	out := make([]Value, d.Len())
	for i, k := range d.keys {
		out[i] = Tuple{k, d.values[i]}
	}
	return out
}

func copied(d *Dict) (*Dict, error) {
	out := NewDict()
	for i, k := range d.keys {
		if err := out.Set(k, d.values[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}
