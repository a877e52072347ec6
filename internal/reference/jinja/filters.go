package jinja

import (
	"errors"
	"fmt"
	"html"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

type filterFunc func(r *render, v Value, a *Args) (Value, error)

// filter applies the filter of that name.
func filter(r *render, name string, v Value, a *Args) (Value, error) {
	f, ok := textFilters[name]
	if !ok {
		f, ok = listFilters()[name]
	}
	if !ok {
		return nil, fmt.Errorf("there is no filter named '%s'", name)
	}
	out, err := f(r, v, a)
	if err != nil {
		return nil, fmt.Errorf("filter '%s': %w", name, err)
	}
	return out, nil
}

// textFilters work on one value. A map of functions only: it is never changed.
var textFilters = map[string]filterFunc{
	"abs": absolute, "capitalize": onText(capitalize), "d": defaulted, "default": defaulted, "e": onText(escaped), "escape": onText(escaped),
	"float": toFloat, "format": formatFilter, "indent": indented, "int": toInt, "lower": onText(lower), "upper": onText(upper),
	"replace": replaceFilter, "round": rounded, "safe": onText(func(s string) string { return s }),
	"string": onText(func(s string) string { return s }), "title": onText(titleFilter), "tojson": toJSON, "trim": trimmed,
	"wordcount": func(_ *render, v Value, _ *Args) (Value, error) {
		return int64(len(strings.FieldsFunc(str(v), func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsNumber(r) }))), nil
	},
}

func onText(f func(string) string) filterFunc {
	return func(_ *render, v Value, a *Args) (Value, error) {
		_, err := a.bind("it", 0)
		return f(str(v)), err
	}
}

func escaped(s string) string { return html.EscapeString(s) }

// titleFilter raises what follows white space, a hyphen or an open bracket.
func titleFilter(s string) string {
	var b strings.Builder
	start := true
	for _, r := range s {
		if start {
			b.WriteString(upper(string(r)))
		} else {
			b.WriteString(lower(string(r)))
		}
		start = isSpace(r) || strings.ContainsRune("-({[<", r)
	}
	return b.String()
}

func absolute(_ *render, v Value, _ *Args) (Value, error) {
	switch x := number(v).(type) {
	case *big.Int:
		return whole(new(big.Int).Abs(x)), nil
	case float64:
		return math.Abs(x), nil
	}
	return nil, mistyped("no number", v)
}

func defaulted(_ *render, v Value, a *Args) (Value, error) {
	p, err := a.bind("it", 0, "default_value", "boolean")
	if err != nil {
		return nil, err
	}
	if _, undefined := v.(Undefined); !undefined && (p[1] == unset{} || !truth(p[1]) || truth(v)) {
		return v, nil
	}
	if p[0] == (unset{}) {
		return "", nil
	}
	return p[0], nil
}

func toFloat(_ *render, v Value, a *Args) (Value, error) {
	p, err := a.bind("it", 0, "default")
	if err != nil {
		return nil, err
	}
	if u, ok := v.(Undefined); ok {
		return nil, u.refuse()
	}
	if n := number(v); n != nil {
		return asFloat(n), nil
	}
	if s, ok := v.(string); ok {
		if f, ok := parseFloat(s); ok {
			return f, nil
		}
	}
	if p[0] == (unset{}) {
		return 0.0, nil
	}
	return p[0], nil
}

// parseFloat is Python's float of a text: no hexadecimal, and what is too large is infinite.
func parseFloat(s string) (f float64, ok bool) {
	s = strings.TrimFunc(s, isSpace)
	f, err := strconv.ParseFloat(s, 64)
	return f, (err == nil || errors.Is(err, strconv.ErrRange)) && !strings.ContainsAny(s, "xX")
}

func toInt(_ *render, v Value, a *Args) (Value, error) {
	p, err := a.bind("it", 0, "default", "base")
	if err != nil {
		return nil, err
	}
	base, err := wholeOr(p[1], 10)
	if err != nil || base < 2 || base > 36 {
		return nil, errors.New("bad base")
	}
	if u, ok := v.(Undefined); ok {
		return nil, u.refuse()
	}
	if s, ok := v.(string); ok {
		s = strings.TrimFunc(s, isSpace)
		if i, ok := new(big.Int).SetString(strings.ReplaceAll(s, "_", ""), int(base)); ok {
			return whole(i), nil
		}
		if f, ok := parseFloat(s); ok {
			v = f
		}
	}
	switch x := number(v).(type) {
	case *big.Int:
		return whole(x), nil
	case float64:
		if !math.IsNaN(x) && !math.IsInf(x, 0) {
			i, _ := big.NewFloat(x).Int(nil)
			return whole(i), nil
		}
	}
	if p[0] == (unset{}) {
		return int64(0), nil
	}
	return p[0], nil
}

func formatFilter(_ *render, v Value, a *Args) (Value, error) {
	return percent(str(v), Tuple(a.Pos))
}

func replaceFilter(_ *render, v Value, a *Args) (Value, error) {
	p, err := a.bind("it", 2, "old", "new", "count")
	if err != nil {
		return nil, err
	}
	p[0], p[1] = str(p[0]), str(p[1])
	if p[2] == nil {
		p[2] = unset{}
	}
	return replaced(str(v), p)
}

// rounded is Python's round, which takes the even neighbour of two.
func rounded(_ *render, v Value, a *Args) (Value, error) {
	p, err := a.bind("it", 0, "precision", "method")
	if err != nil {
		return nil, err
	}
	digits, err := wholeOr(p[0], 0)
	how, err2 := textOr(p[1], "common")
	if err := errors.Join(err, err2); err != nil {
		return nil, err
	}
	n := number(v)
	if n == nil || digits < -300 || digits > 300 {
		return nil, mistyped("cannot round", v)
	}
	f := asFloat(n)
	switch how {
	case "common":
		if i, ok := n.(*big.Int); ok && digits >= 0 {
			return whole(i), nil
		}
		if digits >= 0 {
			return strconv.ParseFloat(strconv.FormatFloat(f, 'f', int(digits), 64), 64)
		}
		scale := math.Pow(10, float64(-digits))
		f = math.RoundToEven(f/scale) * scale
		if _, ok := n.(*big.Int); ok {
			i, _ := big.NewFloat(f).Int(nil)
			return whole(i), nil
		}
		return f, nil
	case "ceil", "floor":
		scale := math.Pow(10, float64(digits))
		if how == "ceil" {
			return math.Ceil(f*scale) / scale, nil
		}
		return math.Floor(f*scale) / scale, nil
	}
	return nil, errors.New("method must be common, ceil or floor")
}

func trimmed(_ *render, v Value, a *Args) (Value, error) {
	return stringMethods["strip"](str(v), a)
}

func indented(_ *render, v Value, a *Args) (Value, error) {
	p, err := a.bind("it", 0, "width", "first", "blank")
	if err != nil {
		return nil, err
	}
	by, ok := p[0].(string)
	if !ok {
		n, err := wholeOr(p[0], 4)
		if err != nil || n > 1<<10 {
			return nil, errors.New("bad width")
		}
		by = strings.Repeat(" ", max(0, int(n)))
	}
	s, ok := v.(string)
	if !ok {
		return nil, mistyped("want a string", v)
	}
	is := func(v Value) bool { return v != unset{} && truth(v) }
	all := lines(s+"\n", false)
	for i := 1; i < len(all); i++ {
		if all[i] != "" || is(p[2]) {
			all[i] = by + all[i]
		}
	}
	if is(p[1]) {
		all[0] = by + all[0]
	}
	return strings.Join(all, "\n"), nil
}

// toJSON is transformers' filter: json.dumps without escapes of HTML.
func toJSON(_ *render, v Value, a *Args) (Value, error) {
	p, err := a.bind("it", 0, "ensure_ascii", "indent", "separators", "sort_keys")
	if err != nil {
		return nil, err
	}
	is := func(v Value) bool { return v != unset{} && truth(v) }
	style := jsonStyle{ascii: is(p[0]), sortKeys: is(p[3]), oneLine: true, comma: ", ", colon: ": "}
	if p[1] != (unset{}) && p[1] != nil {
		style.oneLine, style.comma = false, ","
		if s, ok := p[1].(string); ok {
			style.indent = s
		} else {
			n, err := wholeOr(p[1], 0)
			if err != nil || n > 1<<10 {
				return nil, errors.New("bad indent")
			}
			style.indent = strings.Repeat(" ", max(0, int(n)))
		}
	}
	if p[2] != (unset{}) && p[2] != nil {
		s, err := iterate(p[2])
		if err != nil || len(s) != 2 {
			return nil, errors.New("separators are two strings")
		}
		style.comma, style.colon = str(s[0]), str(s[1])
	}
	var b strings.Builder
	err = style.write(&b, v, 0)
	return b.String(), err
}

// listFilters work on what can be iterated. A function, since some of them
// apply filters by name.
func listFilters() map[string]filterFunc {
	return map[string]filterFunc{
		"attr": attrFilter, "batch": batch, "count": length, "dictsort": dictsort, "first": ends(true), "items": itemsFilter, "join": joinFilter,
		"last": ends(false), "length": length, "list": toList, "map": mapped, "max": extreme(1), "min": extreme(-1), "reject": selecting(false, false),
		"rejectattr": selecting(false, true), "reverse": reversed, "select": selecting(true, false), "selectattr": selecting(true, true),
		"sort": sorted, "sum": summed, "unique": unique,
	}
}

func length(_ *render, v Value, _ *Args) (Value, error) {
	switch x := v.(type) {
	case string:
		return int64(len([]rune(x))), nil
	case *Loop:
		return int64(len(x.items)), nil
	}
	items, err := iterate(v)
	return int64(len(items)), err
}

func toList(_ *render, v Value, _ *Args) (Value, error) {
	items, err := iterate(v)
	return &List{slices.Clone(items)}, err
}

func itemsFilter(_ *render, v Value, _ *Args) (Value, error) {
	switch x := v.(type) {
	case Undefined:
		return &List{}, nil
	case *Dict:
		return &List{pairs(x)}, nil
	}
	return nil, mistyped("can only get item pairs from a mapping, not", v)
}

func attrFilter(_ *render, v Value, a *Args) (Value, error) {
	p, err := a.bind("it", 1, "name")
	if err != nil {
		return nil, err
	}
	if _, ok := v.(*Dict); ok { // attributes only, no entries
		return Undefined{fmt.Sprintf("'dict object' has no attribute '%s'", str(p[0]))}, nil
	}
	return attribute(v, str(p[0]))
}

func ends(first bool) filterFunc {
	return func(_ *render, v Value, _ *Args) (Value, error) {
		items, err := iterate(v)
		switch {
		case err != nil:
			return nil, err
		case len(items) == 0:
			return Undefined{"the sequence was empty"}, nil
		case first:
			return items[0], nil
		}
		return items[len(items)-1], nil
	}
}

func reversed(_ *render, v Value, _ *Args) (Value, error) {
	items, err := iterate(v)
	items = slices.Clone(items)
	slices.Reverse(items)
	if _, ok := v.(string); ok {
		var b strings.Builder
		for _, i := range items {
			b.WriteString(i.(string))
		}
		return b.String(), err
	}
	return &List{items}, err
}

// getter is what attribute="a.b" means; a missing one is undefined.
func getter(path Value) func(Value) (Value, error) {
	if _, ok := path.(unset); ok || path == nil {
		return func(v Value) (Value, error) { return v, nil }
	}
	return func(v Value) (Value, error) {
		for part := range strings.SplitSeq(str(path), ".") {
			key := Value(part)
			if i, err := strconv.ParseInt(part, 10, 64); err == nil {
				key = i
			}
			var err error
			if v, err = item(v, key); err != nil {
				return nil, err
			}
		}
		return v, nil
	}
}

func each(v Value, f func(Value) (Value, error)) ([]Value, error) {
	items, err := iterate(v)
	if err != nil {
		return nil, err
	}
	out := make([]Value, len(items))
	for i, x := range items {
		if out[i], err = f(x); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func joinFilter(_ *render, v Value, a *Args) (Value, error) {
	p, err := a.bind("it", 0, "d", "attribute")
	if err != nil {
		return nil, err
	}
	items, err := each(v, getter(p[1]))
	parts := make([]string, len(items))
	for i, x := range items {
		parts[i] = str(x)
	}
	sep := ""
	if p[0] != (unset{}) {
		sep = str(p[0])
	}
	return strings.Join(parts, sep), err
}

func mapped(r *render, v Value, a *Args) (Value, error) {
	if !truth(v) { // Jinja2 does not look further
		return &List{}, nil
	}
	if path, ok := a.Named["attribute"]; ok {
		absent, hasDefault := a.Named["default"]
		items, err := each(v, func(x Value) (Value, error) {
			got, err := getter(path)(x)
			if _, undefined := got.(Undefined); undefined && hasDefault {
				got = absent
			}
			return got, err
		})
		return &List{items}, err
	}
	if len(a.Pos) == 0 {
		return nil, errors.New("want the name of a filter, or an attribute")
	}
	items, err := each(v, func(x Value) (Value, error) { return filter(r, str(a.Pos[0]), x, a.rest(1)) })
	return &List{items}, err
}

// rest is a copy of the arguments from the n-th on.
func (a *Args) rest(n int) *Args {
	out := &Args{Pos: slices.Clone(a.Pos[n:]), Named: map[string]Value{}, order: a.order}
	for k, v := range a.Named {
		out.Named[k] = v
	}
	return out
}

// selecting is select, reject and their forms that look at an attribute.
func selecting(want, attr bool) filterFunc {
	return func(_ *render, v Value, a *Args) (Value, error) {
		get, n := getter(nil), 0
		if attr {
			if len(a.Pos) == 0 {
				return nil, errors.New("want an attribute")
			}
			get, n = getter(a.Pos[0]), 1
		}
		is := func(x Value) (bool, error) { return truth(x), nil }
		if len(a.Pos) > n {
			is = func(x Value) (bool, error) { return test(str(a.Pos[n]), x, a.Pos[n+1:]) }
		}
		out := &List{}
		if !truth(v) { // Jinja2 does not look further
			return out, nil
		}
		items, err := iterate(v)
		if err != nil {
			return nil, err
		}
		for _, x := range items {
			got, err := get(x)
			if err != nil {
				return nil, err
			}
			ok, err := is(got)
			if err != nil {
				return nil, err
			}
			if ok == want {
				out.Items = append(out.Items, x)
			}
		}
		return out, nil
	}
}
