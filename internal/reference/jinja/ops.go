package jinja

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strings"
)

// binary is an arithmetic operator or the concatenation ~.
func binary(op string, a, b Value) (Value, error) {
	if op == "~" {
		return str(a) + str(b), nil
	}
	if s, ok := a.(string); ok && op == "%" {
		return percent(s, b)
	}
	for _, v := range []Value{a, b} {
		if u, ok := v.(Undefined); ok {
			return nil, u.refuse()
		}
	}
	x, y := number(a), number(b)
	switch {
	case x != nil && y != nil:
		return arithmetic(op, x, y)
	case op == "+":
		return joined(a, b)
	case op == "*" && y != nil:
		return repeated(a, b)
	case op == "*" && x != nil:
		return repeated(b, a)
	}
	return nil, fmt.Errorf("unsupported operand types for %s: '%s' and '%s'", op, typeName(a), typeName(b))
}

func joined(a, b Value) (Value, error) {
	switch x := a.(type) {
	case string:
		if y, ok := b.(string); ok {
			return x + y, nil
		}
		return nil, fmt.Errorf("can only concatenate str (not \"%s\") to str", typeName(b))
	case *List:
		if y, ok := b.(*List); ok {
			return &List{append(append([]Value(nil), x.Items...), y.Items...)}, nil
		}
	case Tuple:
		if y, ok := b.(Tuple); ok {
			return append(append(Tuple(nil), x...), y...), nil
		}
	}
	return nil, fmt.Errorf("unsupported operand types for +: '%s' and '%s'", typeName(a), typeName(b))
}

// mostRepeated bounds x * n.
const mostRepeated = 1 << 24

func repeated(a, times Value) (Value, error) {
	n, ok := times.(int64)
	if b, isBool := times.(bool); isBool && b {
		n, ok = 1, true
	} else if isBool {
		n, ok = 0, true
	}
	if !ok {
		return nil, mistyped("can't multiply by a value that is no integer", times)
	}
	n = max(n, 0)
	size := func(l int) error {
		if n > 0 && int64(l) > mostRepeated/n {
			return fmt.Errorf("%d times %d is too large", l, n)
		}
		return nil
	}
	switch x := a.(type) {
	case string:
		if err := size(len(x)); err != nil {
			return nil, err
		}
		return strings.Repeat(x, int(n)), nil
	case *List:
		items, err := copies(x.Items, n, size)
		return &List{items}, err
	case Tuple:
		items, err := copies(x, n, size)
		return Tuple(items), err
	}
	return nil, fmt.Errorf("unsupported operand types for *: '%s' and '%s'", typeName(a), typeName(times))
}

func copies(items []Value, n int64, size func(int) error) (out []Value, err error) {
	if err := size(len(items) * 16); err != nil {
		return nil, err
	}
	for range n {
		out = append(out, items...)
	}
	return out, nil
}

func arithmetic(op string, a, b any) (Value, error) {
	x, okX := a.(*big.Int)
	y, okY := b.(*big.Int)
	if okX && okY && op != "/" {
		return integers(op, x, y)
	}
	f, g := asFloat(a), asFloat(b)
	switch op {
	case "+":
		return f + g, nil
	case "-":
		return f - g, nil
	case "*":
		return f * g, nil
	case "**":
		return math.Pow(f, g), nil
	}
	if g == 0 {
		return nil, errors.New("division by zero")
	}
	switch op {
	case "/":
		return f / g, nil
	}
	m := math.Mod(f, g)
	div := (f - m) / g
	switch { // as CPython's float_divmod: zeros have signs too
	case m == 0:
		m = math.Copysign(0, g)
	case (m < 0) != (g < 0):
		m += g
		div--
	}
	switch {
	case op == "%":
		return m, nil
	case div == 0:
		return math.Copysign(0, f/g), nil
	}
	if whole := math.Floor(div); div-whole <= 0.5 { // as CPython's float_divmod snaps it
		return whole, nil
	}
	return math.Ceil(div), nil
}

func asFloat(v any) float64 {
	if i, ok := v.(*big.Int); ok {
		f, _ := new(big.Float).SetInt(i).Float64()
		return f
	}
	return v.(float64)
}

func integers(op string, x, y *big.Int) (Value, error) {
	z := new(big.Int)
	switch op {
	case "+":
		return whole(z.Add(x, y)), nil
	case "-":
		return whole(z.Sub(x, y)), nil
	case "*":
		if x.BitLen()+y.BitLen() > 1<<16 {
			return nil, errors.New("the product is too large")
		}
		return whole(z.Mul(x, y)), nil
	case "**":
		if y.Sign() < 0 {
			return math.Pow(asFloat(x), asFloat(y)), nil
		}
		if !y.IsInt64() || y.Int64() > 1<<16 || int64(x.BitLen())*y.Int64() > 1<<16 {
			return nil, errors.New("the power is too large")
		}
		return whole(z.Exp(x, y, nil)), nil
	}
	if y.Sign() == 0 {
		return nil, errors.New("division by zero")
	}
	m := new(big.Int)
	z.QuoRem(x, y, m) // rounds to zero; Python rounds down
	if m.Sign() != 0 && m.Sign() != y.Sign() {
		z.Sub(z, big.NewInt(1))
		m.Add(m, y)
	}
	if op == "//" {
		return whole(z), nil
	}
	return whole(m), nil
}

// percent is a string's % with %s, %d, %r and %%.
func percent(s string, b Value) (Value, error) {
	args, ok := b.(Tuple)
	allUsed := true // Python does not mind a mapping, or what looks like one, that is not used
	if !ok {
		args = Tuple{b}
		_, text := b.(string)
		allUsed = number(b) != nil || text || b == nil
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			out.WriteByte(s[i])
			continue
		}
		if i++; i >= len(s) {
			return nil, errors.New("incomplete format")
		}
		if s[i] == '%' {
			out.WriteByte('%')
			continue
		}
		if len(args) == 0 {
			return nil, errors.New("not enough arguments for format string")
		}
		v := args[0]
		args = args[1:]
		switch s[i] {
		case 's':
			out.WriteString(str(v))
		case 'r':
			out.WriteString(repr(v))
		case 'd':
			n, ok := number(v).(*big.Int)
			if !ok {
				return nil, mistyped("%d format: a number is required", v)
			}
			out.WriteString(n.String())
		default:
			return nil, fmt.Errorf("the format %%%c is not supported", s[i])
		}
	}
	if len(args) > 0 && allUsed {
		return nil, errors.New("not all arguments converted during string formatting")
	}
	return out.String(), nil
}

// compare is one comparison.
func compare(op string, a, b Value) (bool, error) {
	switch op {
	case "==":
		return equal(a, b), nil
	case "!=":
		return !equal(a, b), nil
	case "in":
		return contains(b, a)
	case "not in":
		ok, err := contains(b, a)
		return !ok, err
	}
	if x, y := number(a), number(b); x != nil && y != nil && (asFloat(x) != asFloat(x) || asFloat(y) != asFloat(y)) {
		return false, nil // not a number
	}
	c, err := ordered(a, b)
	if err != nil {
		return false, err
	}
	switch op {
	case "<":
		return c < 0, nil
	case "<=":
		return c <= 0, nil
	case ">":
		return c > 0, nil
	}
	return c >= 0, nil
}

// equal is Python's ==.
func equal(a, b Value) bool {
	if x, y := number(a), number(b); x != nil || y != nil {
		if x == nil || y == nil {
			return false
		}
		i, okI := x.(*big.Int)
		j, okJ := y.(*big.Int)
		if okI && okJ {
			return i.Cmp(j) == 0
		}
		return asFloat(x) == asFloat(y)
	}
	switch x := a.(type) {
	case nil:
		return b == nil
	case string:
		y, ok := b.(string)
		return ok && x == y
	case Undefined:
		_, ok := b.(Undefined)
		return ok
	case *List:
		y, ok := b.(*List)
		return ok && equalAll(x.Items, y.Items)
	case Tuple:
		y, ok := b.(Tuple)
		return ok && equalAll(x, y)
	case *Dict:
		y, ok := b.(*Dict)
		if !ok || x.Len() != y.Len() {
			return false
		}
		for i, k := range x.keys {
			if v, ok := y.Get(k); !ok || !equal(x.values[i], v) {
				return false
			}
		}
		return true
	case *Namespace:
		return a == b
	case *Func:
		return a == b
	case *Loop:
		return a == b
	}
	return false
}

func equalAll(a, b []Value) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

// ordered compares two numbers, strings or lists.
func ordered(a, b Value) (int, error) {
	if x, y := number(a), number(b); x != nil && y != nil {
		i, okI := x.(*big.Int)
		j, okJ := y.(*big.Int)
		if okI && okJ {
			return i.Cmp(j), nil
		}
		return cmp.Compare(asFloat(x), asFloat(y)), nil
	}
	switch x := a.(type) {
	case string:
		if y, ok := b.(string); ok {
			return strings.Compare(x, y), nil
		}
	case *List:
		if y, ok := b.(*List); ok {
			return orderedAll(x.Items, y.Items)
		}
	case Tuple:
		if y, ok := b.(Tuple); ok {
			return orderedAll(x, y)
		}
	case Undefined:
		return 0, x.refuse()
	}
	if u, ok := b.(Undefined); ok {
		return 0, u.refuse()
	}
	return 0, fmt.Errorf("'%s' and '%s' have no order", typeName(a), typeName(b))
}

func orderedAll(a, b []Value) (int, error) {
	for i := range min(len(a), len(b)) {
		if !equal(a[i], b[i]) {
			return ordered(a[i], b[i])
		}
	}
	return cmp.Compare(len(a), len(b)), nil
}

// contains is Python's in.
func contains(in, v Value) (bool, error) {
	switch x := in.(type) {
	case string:
		s, ok := v.(string)
		if !ok {
			return false, mistyped("'in <string>' requires a string as left operand, not", v)
		}
		return strings.Contains(x, s), nil
	case *Dict:
		if _, err := hashable(v); err != nil {
			return false, err
		}
		_, ok := x.Get(v)
		return ok, nil
	}
	items, err := iterate(in)
	if err != nil {
		return false, err
	}
	for _, i := range items {
		if equal(i, v) {
			return true, nil
		}
	}
	return false, nil
}
