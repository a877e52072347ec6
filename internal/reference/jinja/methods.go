package jinja

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/language"
)

// isSpace is Python's str.isspace, which is also what a regular expression's
// \s takes.
func isSpace(r rune) bool {
	return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f
}

type method func(s string, a *Args) (Value, error)

// stringMethods are the methods of str. A map of functions only: it is never
// changed.
var stringMethods = map[string]method{
	"strip":        trimming(strings.TrimFunc),
	"lstrip":       trimming(strings.TrimLeftFunc),
	"rstrip":       trimming(strings.TrimRightFunc),
	"split":        splitting(false),
	"rsplit":       splitting(true),
	"splitlines":   splitlines,
	"startswith":   affix("startswith()", strings.HasPrefix),
	"endswith":     affix("endswith()", strings.HasSuffix),
	"replace":      replaceMethod,
	"upper":        plain("upper()", upper),
	"lower":        plain("lower()", lower),
	"title":        plain("title()", title),
	"capitalize":   plain("capitalize()", capitalize),
	"count":        finding("count()"),
	"find":         finding("find()"),
	"rfind":        finding("rfind()"),
	"index":        finding("index()"),
	"rindex":       finding("rindex()"),
	"join":         joinMethod,
	"format":       formatMethod,
	"removeprefix": affixCut("removeprefix()", strings.TrimPrefix),
	"removesuffix": affixCut("removesuffix()", strings.TrimSuffix),
	"partition":    partition("partition()", strings.Index),
	"rpartition":   partition("rpartition()", strings.LastIndex),
	"zfill":        zfill,
	"isdigit":      every("isdigit()", isDigit),
	"isnumeric":    every("isnumeric()", unicode.IsNumber),
	"isdecimal":    every("isdecimal()", unicode.IsDigit),
	"isalpha":      every("isalpha()", unicode.IsLetter),
	"isalnum":      every("isalnum()", func(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) }),
	"isspace":      every("isspace()", isSpace),
	"islower":      cased("islower()", isLower, notLower),
	"isupper":      cased("isupper()", isUpper, notUpper),
}

func upper(s string) string { return cases.Upper(language.Und).String(s) }
func lower(s string) string { return cases.Lower(language.Und).String(s) }

// titled is a letter as Python's title and capitalize begin a word with it: ß is Ss.
func titled(r rune) string { return cases.Title(language.Und, cases.NoLower).String(string(r)) }

// isUpper and isLower are Unicode's derived properties, which Python goes by: Ⅷ
// is upper-case and ª lower-case, though neither is a letter of that category.
func isUpper(r rune) bool { return unicode.IsUpper(r) || unicode.Is(unicode.Other_Uppercase, r) }

func isLower(r rune) bool { return unicode.IsLower(r) || unicode.Is(unicode.Other_Lowercase, r) }

func notUpper(r rune) bool { return isLower(r) || unicode.IsTitle(r) }

func notLower(r rune) bool { return isUpper(r) || unicode.IsTitle(r) }

func isCased(r rune) bool { return isUpper(r) || isLower(r) || unicode.IsTitle(r) }

func title(s string) string {
	var b strings.Builder
	for s != "" {
		end := strings.IndexFunc(s, func(r rune) bool { return !isCased(r) })
		if end < 0 {
			end = len(s)
		}
		b.WriteString(capitalize(s[:end])) // a word; a final sigma is one at its end
		first, size := utf8.DecodeRuneInString(s[end:])
		if size > 0 {
			b.WriteString(titled(first))
		}
		s = s[end+size:]
	}
	return b.String()
}

func capitalize(s string) string {
	for _, first := range s {
		return titled(first) + strings.TrimPrefix(lower(s), lower(string(first)))
	}
	return s
}

func isDigit(r rune) bool {
	return unicode.IsDigit(r) || unicode.Is(unicode.No, r) && (r >= 0x2070 && r <= 0x2089 || r == 0xb2 || r == 0xb3 || r == 0xb9 || r >= 0x2460 && r <= 0x2468)
}

func plain(what string, f func(string) string) method {
	return func(s string, a *Args) (Value, error) {
		_, err := a.bind(what, 0)
		return f(s), err
	}
}

func trimming(trim func(string, func(rune) bool) string) method {
	return func(s string, a *Args) (Value, error) {
		p, err := a.bind("strip()", 0, "chars")
		if err != nil {
			return nil, err
		}
		if p[0] == (unset{}) || p[0] == nil {
			return trim(s, isSpace), nil
		}
		chars, err := textOr(p[0], "")
		return trim(s, func(r rune) bool { return strings.ContainsRune(chars, r) }), err
	}
}

func splitting(fromRight bool) method {
	return func(s string, a *Args) (Value, error) {
		p, err := a.bind("split()", 0, "sep", "maxsplit")
		if err != nil {
			return nil, err
		}
		most, err := wholeOr(p[1], -1)
		if err != nil {
			return nil, err
		}
		if p[0] == (unset{}) || p[0] == nil {
			return words(s, int(most), fromRight), nil
		}
		sep, err := textOr(p[0], "")
		if err == nil && sep == "" {
			err = errors.New("empty separator")
		}
		if err != nil {
			return nil, err
		}
		if !fromRight {
			n := -1
			if most >= 0 && most < 1<<30 {
				n = int(most) + 1
			}
			return texts(strings.SplitN(s, sep, n)), nil
		}
		var parts []string
		for most != 0 {
			i := strings.LastIndex(s, sep)
			if i < 0 {
				break
			}
			parts = append([]string{s[i+len(sep):]}, parts...)
			s = s[:i]
			most--
		}
		return texts(append([]string{s}, parts...)), nil
	}
}

// words splits at white space, at most so many times.
func words(s string, most int, fromRight bool) Value {
	if most < 0 {
		return texts(strings.FieldsFunc(s, isSpace))
	}
	var out []string
	for ; ; most-- {
		if fromRight {
			s = strings.TrimRightFunc(s, isSpace)
		} else {
			s = strings.TrimLeftFunc(s, isSpace)
		}
		if s == "" {
			break
		}
		word := s
		if most > 0 && fromRight {
			word = s[len(strings.TrimRightFunc(s, func(r rune) bool { return !isSpace(r) })):]
		} else if most > 0 {
			word = s[:len(s)-len(strings.TrimLeftFunc(s, func(r rune) bool { return !isSpace(r) }))]
		}
		out = append(out, word)
		if fromRight {
			s = strings.TrimSuffix(s, word)
		} else {
			s = strings.TrimPrefix(s, word)
		}
	}
	if fromRight {
		slices.Reverse(out)
	}
	return texts(out)
}

func texts(parts []string) *List {
	l := &List{make([]Value, len(parts))}
	for i, p := range parts {
		l.Items[i] = p
	}
	return l
}

// lines cuts where Python's splitlines does.
func lines(s string, keep bool) (out []string) {
	from := 0
	for i, r := range s {
		size := len(string(r))
		switch {
		case i < from: // the second half of \r\n
			continue
		case r == '\r' && strings.HasPrefix(s[i:], "\r\n"):
			size = 2
		case r == '\n' || r == '\r' || r == '\v' || r == '\f' || r >= 0x1c && r <= 0x1e || r == 0x85 || r == 0x2028 || r == 0x2029:
		default:
			continue
		}
		if keep {
			out = append(out, s[from:i+size])
		} else {
			out = append(out, s[from:i])
		}
		from = i + size
	}
	if from < len(s) {
		out = append(out, s[from:])
	}
	return out
}

func splitlines(s string, a *Args) (Value, error) {
	p, err := a.bind("splitlines()", 0, "keepends")
	if err != nil {
		return nil, err
	}
	return texts(lines(s, p[0] != unset{} && truth(p[0]))), nil
}

// affix is startswith and endswith, with one text or a tuple of them.
func affix(what string, has func(s, x string) bool) method {
	return func(s string, a *Args) (Value, error) {
		p, err := a.bind(what, 1, "prefix")
		if err != nil {
			return nil, err
		}
		all := Tuple{p[0]}
		if t, ok := p[0].(Tuple); ok {
			all = t
		}
		for _, v := range all {
			x, ok := v.(string)
			if !ok {
				return nil, mistyped(what+" wants a string or a tuple of strings", v)
			}
			if has(s, x) {
				return true, nil
			}
		}
		return false, nil
	}
}

func affixCut(what string, cut func(s, x string) string) method {
	return func(s string, a *Args) (Value, error) {
		p, err := a.bind(what, 1, "affix")
		if err != nil {
			return nil, err
		}
		x, err := textOr(p[0], "")
		return cut(s, x), err
	}
}

func replaceMethod(s string, a *Args) (Value, error) {
	p, err := a.bind("replace()", 2, "old", "new", "count")
	if err != nil {
		return nil, err
	}
	return replaced(s, p)
}

func replaced(s string, p []Value) (Value, error) {
	from, err := textOr(p[0], "")
	to, err2 := textOr(p[1], "")
	n, err3 := wholeOr(p[2], -1)
	if err := errors.Join(err, err2, err3); err != nil {
		return nil, err
	}
	if n < 0 {
		n = -1
	}
	if from != "" && strings.Count(s, from)*len(to) > mostText {
		return nil, errors.New("the replaced text is too large")
	}
	return strings.Replace(s, from, to, int(min(n, 1<<30))), nil
}

// finding is count, find and their like: positions count characters.
func finding(what string) method {
	return func(s string, a *Args) (Value, error) {
		p, err := a.bind(what, 1, "sub")
		if err != nil {
			return nil, err
		}
		x, ok := p[0].(string)
		if !ok {
			return nil, mistyped(what+" wants a string", p[0])
		}
		if what == "count()" {
			return int64(strings.Count(s, x)), nil
		}
		at := strings.Index(s, x)
		if strings.HasPrefix(what, "r") {
			at = strings.LastIndex(s, x)
		}
		if at < 0 && strings.Contains(what, "index") {
			return nil, errors.New("substring not found")
		}
		if at > 0 {
			at = len([]rune(s[:at]))
		}
		return int64(at), nil
	}
}

func joinMethod(s string, a *Args) (Value, error) {
	p, err := a.bind("join()", 1, "iterable")
	if err != nil {
		return nil, err
	}
	items, err := iterate(p[0])
	if err != nil {
		return nil, err
	}
	parts := make([]string, len(items))
	for i, v := range items {
		x, ok := v.(string)
		if !ok {
			return nil, mistyped(fmt.Sprintf("join() wants strings, item %d is none", i), v)
		}
		parts[i] = x
	}
	return strings.Join(parts, s), nil
}

// formatMethod is str.format with {}, {0} and {name}, without format specs.
func formatMethod(s string, a *Args) (Value, error) {
	var b strings.Builder
	next := 0
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != '{' && s[i] != '}':
			b.WriteByte(s[i])
			continue
		case i+1 < len(s) && s[i+1] == s[i]:
			b.WriteByte(s[i])
			i++
			continue
		}
		n := strings.IndexByte(s[i:], '}')
		if s[i] == '}' || n < 0 {
			return nil, errors.New("a single brace in a format string")
		}
		field := s[i+1 : i+n]
		i += n
		var v Value
		var ok bool
		if field == "" {
			ok = next < len(a.Pos)
			if ok {
				v = a.Pos[next]
			}
			next++
		} else if strings.Trim(field, "0123456789") == "" && len(field) < 6 {
			k := 0
			for _, c := range field {
				k = 10*k + int(c-'0')
			}
			if ok = k < len(a.Pos); ok {
				v = a.Pos[k]
			}
		} else if v, ok = a.Named[field]; !ok && strings.ContainsAny(field, ":!.[") {
			return nil, fmt.Errorf("the format field {%s} is not supported", field)
		}
		if !ok {
			return nil, fmt.Errorf("there is no argument for the format field {%s}", field)
		}
		b.WriteString(str(v))
	}
	return b.String(), nil
}

func partition(what string, find func(s, x string) int) method {
	return func(s string, a *Args) (Value, error) {
		p, err := a.bind(what, 1, "sep")
		if err != nil {
			return nil, err
		}
		sep, err := textOr(p[0], "")
		if err == nil && sep == "" {
			err = errors.New("empty separator")
		}
		if err != nil {
			return nil, err
		}
		at := find(s, sep)
		switch {
		case at >= 0:
			return Tuple{s[:at], sep, s[at+len(sep):]}, nil
		case strings.HasPrefix(what, "r"):
			return Tuple{"", "", s}, nil
		}
		return Tuple{s, "", ""}, nil
	}
}

func zfill(s string, a *Args) (Value, error) {
	p, err := a.bind("zfill()", 1, "width")
	if err != nil {
		return nil, err
	}
	w, err := wholeOr(p[0], 0)
	if err != nil || w > 1<<20 {
		return nil, errors.Join(err, errors.New("zfill() wants a small width"))
	}
	sign := ""
	if strings.HasPrefix(s, "-") || strings.HasPrefix(s, "+") {
		sign, s = s[:1], s[1:]
	}
	return sign + strings.Repeat("0", max(0, int(w)-len([]rune(s))-len(sign))) + s, nil
}

func every(what string, is func(rune) bool) method {
	return func(s string, a *Args) (Value, error) {
		_, err := a.bind(what, 0)
		return s != "" && strings.IndexFunc(s, func(r rune) bool { return !is(r) }) < 0, err
	}
}

func cased(what string, is, not func(rune) bool) method {
	return func(s string, a *Args) (Value, error) {
		_, err := a.bind(what, 0)
		return inCase(s, is, not), err
	}
}

func inCase(s string, is, not func(rune) bool) bool {
	return strings.IndexFunc(s, is) >= 0 && strings.IndexFunc(s, not) < 0
}
