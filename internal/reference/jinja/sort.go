package jinja

import (
	"errors"
	"slices"
	"strings"
)

// folded is a sorting key without case, where that is asked for.
func folded(v Value, caseSensitive Value) Value {
	if s, ok := v.(string); ok && (caseSensitive == unset{} || !truth(caseSensitive)) {
		return lower(s)
	}
	return v
}

func sorted(_ *render, v Value, a *Args) (Value, error) {
	p, err := a.bind("it", 0, "reverse", "case_sensitive", "attribute")
	if err != nil {
		return nil, err
	}
	items, err := iterate(v)
	if err != nil {
		return nil, err
	}
	paths := []Value{p[2]}
	if s, ok := p[2].(string); ok {
		paths = nil
		for part := range strings.SplitSeq(s, ",") {
			paths = append(paths, part)
		}
	}
	out, err := sortBy(items, p[0], func(x Value) (Value, error) {
		var keys Tuple // several, or one: equal elements then need no order, as in Python's lists
		for _, path := range paths {
			k, err := getter(path)(x)
			if err != nil {
				return nil, err
			}
			keys = append(keys, folded(k, p[1]))
		}
		return keys, nil
	})
	return &List{out}, err
}

// sortBy is Python's sorted: stable, also backwards.
func sortBy(items []Value, reverse Value, key func(Value) (Value, error)) ([]Value, error) {
	type keyed struct{ key, v Value }
	all := make([]keyed, len(items))
	for i, x := range items {
		k, err := key(x)
		if err != nil {
			return nil, err
		}
		all[i] = keyed{k, x}
	}
	sign := 1
	if reverse != (unset{}) && truth(reverse) {
		sign = -1
	}
	var failed error
	slices.SortStableFunc(all, func(a, b keyed) int {
		c, err := ordered(a.key, b.key)
		if err != nil && failed == nil {
			failed = err
		}
		return sign * c
	})
	out := make([]Value, len(all))
	for i, k := range all {
		out[i] = k.v
	}
	return out, failed
}

func dictsort(_ *render, v Value, a *Args) (Value, error) {
	p, err := a.bind("it", 0, "case_sensitive", "by", "reverse")
	if err != nil {
		return nil, err
	}
	d, ok := v.(*Dict)
	if !ok {
		return nil, mistyped("want a mapping", v)
	}
	by, err := textOr(p[1], "key")
	if err != nil || by != "key" && by != "value" {
		return nil, errors.New(`can only sort by "key" or "value"`)
	}
	out, err := sortBy(pairs(d), p[2], func(x Value) (Value, error) {
		k := x.(Tuple)[0]
		if by == "value" {
			k = x.(Tuple)[1]
		}
		return folded(k, p[0]), nil
	})
	return &List{out}, err
}

func extreme(sign int) filterFunc {
	return func(_ *render, v Value, a *Args) (Value, error) {
		p, err := a.bind("it", 0, "case_sensitive", "attribute")
		if err != nil {
			return nil, err
		}
		items, err := iterate(v)
		if err != nil {
			return nil, err
		}
		var best, bestKey Value = Undefined{"no aggregated item, sequence was empty"}, nil
		for i, x := range items {
			k, err := getter(p[1])(x)
			if err != nil {
				return nil, err
			}
			k = folded(k, p[0])
			if i > 0 {
				c, err := ordered(k, bestKey)
				if err != nil {
					return nil, err
				}
				if c*sign <= 0 {
					continue
				}
			}
			best, bestKey = x, k
		}
		return best, nil
	}
}

func unique(_ *render, v Value, a *Args) (Value, error) {
	p, err := a.bind("it", 0, "case_sensitive", "attribute")
	if err != nil {
		return nil, err
	}
	items, err := iterate(v)
	if err != nil {
		return nil, err
	}
	seen, out := NewDict(), &List{}
	for _, x := range items {
		k, err := getter(p[1])(x)
		if err != nil {
			return nil, err
		}
		k = folded(k, p[0])
		if _, ok := seen.Get(k); ok {
			continue
		}
		if err := seen.Set(k, true); err != nil {
			return nil, err
		}
		out.Items = append(out.Items, x)
	}
	return out, nil
}

func summed(_ *render, v Value, a *Args) (Value, error) {
	p, err := a.bind("it", 0, "attribute", "start")
	if err != nil {
		return nil, err
	}
	items, err := each(v, getter(p[0]))
	if err != nil {
		return nil, err
	}
	total := p[1]
	if total == (unset{}) {
		total = int64(0)
	}
	if _, ok := total.(string); ok {
		return nil, errors.New("cannot sum strings")
	}
	for _, x := range items {
		if total, err = binary("+", total, x); err != nil {
			return nil, err
		}
	}
	return total, nil
}

func batch(_ *render, v Value, a *Args) (Value, error) {
	p, err := a.bind("it", 1, "linecount", "fill_with")
	if err != nil {
		return nil, err
	}
	n, err := wholeOr(p[0], 0)
	if err != nil || n < 1 || n > 1<<20 {
		return nil, errors.New("bad line count")
	}
	items, err := iterate(v)
	if err != nil {
		return nil, err
	}
	out := &List{}
	for part := range slices.Chunk(items, int(n)) {
		line := slices.Clone(part)
		for p[1] != (unset{}) && p[1] != nil && len(line) < int(n) {
			line = append(line, p[1])
		}
		out.Items = append(out.Items, &List{line})
	}
	return out, nil
}
