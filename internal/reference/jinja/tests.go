package jinja

import (
	"errors"
	"fmt"
	"math/big"
)

// comparisons are the tests that are operators.
var comparisons = map[string]string{"==": "==", "eq": "==", "equalto": "==", "!=": "!=", "ne": "!=", "<": "<", "lt": "<", "lessthan": "<",
	"<=": "<=", "le": "<=", ">": ">", "gt": ">", "greaterthan": ">", ">=": ">=", "ge": ">=", "in": "in"}

// test is "v is name(args)".
func test(name string, v Value, args []Value) (bool, error) {
	if op, ok := comparisons[name]; ok {
		if len(args) != 1 {
			return false, fmt.Errorf("test '%s' takes one argument", name)
		}
		return compare(op, v, args[0])
	}
	switch name {
	case "divisibleby", "odd", "even":
		return parity(name, v, args)
	case "sameas":
		if len(args) != 1 {
			return false, errors.New("test 'sameas' takes one argument")
		}
		return same(v, args[0]), nil
	}
	if len(args) > 0 {
		return false, fmt.Errorf("test '%s' takes no arguments", name)
	}
	is, ok := kinds(v)[name]
	if !ok {
		return false, fmt.Errorf("there is no test named '%s'", name)
	}
	return is, nil
}

// kinds are the tests of what a value is.
func kinds(v Value) map[string]bool {
	_, undefined := v.(Undefined)
	truth, boolean := v.(bool)
	_, text := v.(string)
	_, isFloat := v.(float64)
	_, isDict := v.(*Dict)
	_, isLoop := v.(*Loop)
	_, isFunc := v.(*Func)
	_, iterErr := iterate(v)
	_, integer := number(v).(*big.Int)
	return map[string]bool{
		"defined": !undefined, "undefined": undefined, "none": v == nil, "boolean": boolean, "true": boolean && truth, "false": boolean && !truth,
		"integer": integer && !boolean, "float": isFloat, "number": integer || isFloat, "string": text, "mapping": isDict,
		"iterable": iterErr == nil || isLoop, "sequence": iterErr == nil, "callable": isFunc || isLoop && v.(*Loop).again != nil,
		"lower": inCase(str(v), isLower, notLower), "upper": inCase(str(v), isUpper, notUpper), "escaped": false,
	}
}

// same is Python's "is" for what can be told apart: values of one type that
// are equal, and lists and dictionaries only with themselves.
func same(a, b Value) bool {
	switch a.(type) {
	case nil, bool, int64, string:
		return a == b
	case *List, *Dict, *Func, *Loop, *Namespace:
		return a == b
	}
	return false
}

func parity(name string, v Value, args []Value) (bool, error) {
	by := Value(int64(2))
	if name == "divisibleby" {
		if len(args) != 1 {
			return false, errors.New("test 'divisibleby' takes one argument")
		}
		by = args[0]
	}
	m, err := binary("%", v, by)
	if err != nil {
		return false, err
	}
	if name == "odd" {
		return equal(m, int64(1)), nil
	}
	return equal(m, int64(0)), nil
}
