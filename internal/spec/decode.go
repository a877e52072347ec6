package spec

import (
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// Limits on a hostile file: aliases let a short text mean a huge tree.
const (
	maxNodes = 20_000
	maxDepth = 32
)

// decoder fills the Go types from a YAML tree, strictly: every key must be a
// field, every value of the field's kind. It goes on after a mistake, and
// remembers where everything stood for the validation that follows.
type decoder struct {
	*reporter
	what    string // "release file"
	example string // a whole one
	table   []rule
	keys    map[string]mark // where the field's name stands; "" is the file
	values  map[string]mark // where its value stands
	anchors map[string]ast.Node
	nodes   int
	stopped bool // the budget is spent: one mistake says so
}

func newDecoder(r *reporter) *decoder {
	return &decoder{
		reporter: r, what: "release file", example: "examples/sums/release.yaml", table: rules(),
		keys: map[string]mark{"": {1, 1, 1}}, values: map[string]mark{},
		anchors: map[string]ast.Node{},
	}
}

func markOf(n ast.Node) mark {
	t := n.GetToken()
	switch v := n.(type) {
	case *ast.MappingNode:
		if len(v.Values) > 0 && !v.IsFlowStyle {
			return markOf(v.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return markOf(v.Key)
	}
	if t == nil || t.Position == nil {
		return mark{1, 1, 1}
	}
	width := utf8.RuneCountInString(strings.TrimSpace(t.Value))
	if _, quoted := n.(*ast.StringNode); quoted && strings.ContainsAny(t.Origin, `"'`) {
		width += 2
	}
	return mark{t.Position.Line, t.Position.Column, width}
}

// value decodes n into v, which is the field at path.
func (d *decoder) value(path string, n ast.Node, v reflect.Value, depth int) {
	n, ok := d.resolve(path, n, &depth)
	if !ok {
		return
	}
	at := markOf(n)
	d.values[path] = at
	if _, null := n.(*ast.NullNode); null {
		if key, known := d.keys[path]; known {
			at = key
		}
		d.add(at, d.suggest(path), "%s has no value", d.say(path))
		return
	}
	switch v.Type() {
	case reflect.TypeFor[Duration]():
		d.duration(path, n, v)
		return
	case reflect.TypeFor[time.Time]():
		d.date(path, n, v)
		return
	}
	if x, isNumber := number(n); isNumber {
		if f, ok := v.Addr().Interface().(FromNumber); ok {
			f.SetNumber(x)
			return
		}
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(path, n, v.Elem(), depth)
	case reflect.Map:
		d.mapping(path, n, v, depth)
	case reflect.Struct:
		d.structure(path, n, v, depth)
	case reflect.Slice, reflect.Array:
		d.list(path, n, v, depth)
	default:
		d.scalar(path, n, v)
	}
}

// resolve follows anchors and aliases within the budget, and refuses tags.
func (d *decoder) resolve(path string, n ast.Node, depth *int) (ast.Node, bool) {
	for {
		if d.stopped || n == nil {
			return nil, false
		}
		d.nodes++
		*depth++
		if d.nodes > maxNodes || *depth > maxDepth {
			d.stopped = true
			d.add(markOf(n), "write the values out instead of repeating aliases", "%s: the file expands to too large or too deep a tree", d.say(path))
			return nil, false
		}
		switch x := n.(type) {
		case *ast.AnchorNode:
			d.anchors[x.Name.String()] = x.Value
			n = x.Value
		case *ast.AliasNode:
			target, ok := d.anchors[x.Value.String()]
			if !ok {
				d.add(markOf(x), "define it further up as &"+x.Value.String(), "%s: there is no anchor %q", d.say(path), x.Value.String())
				return nil, false
			}
			n = target
		case *ast.TagNode:
			d.add(markOf(x), "remove "+x.Start.Value, "%s: YAML tags are not used here", d.say(path))
			return nil, false
		default:
			return n, true
		}
	}
}

// fieldName is a field's name in the file, "-" for none.
func fieldName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	if !f.IsExported() || name == "" {
		return "-"
	}
	return name
}

func (d *decoder) pairs(path string, n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch m := n.(type) {
	case *ast.MappingNode:
		return m.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{m}, true
	}
	d.add(markOf(n), d.suggest(path), "%s must hold fields, not %s", d.say(path), kindOf(n))
	return nil, false
}

// mapping decodes a map whose keys are the user's names.
func (d *decoder) mapping(path string, n ast.Node, v reflect.Value, depth int) {
	pairs, ok := d.pairs(path, n)
	if !ok {
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for _, p := range pairs {
		key, at := p.Key.String(), markOf(p.Key)
		full := path + "." + key
		if first, dup := d.keys[full]; dup || p.Key.IsMergeKey() {
			d.add(at, "keep one of them", "%s is on line %d already", full, first.line)
			continue
		}
		d.keys[full] = at
		element := reflect.New(v.Type().Elem()).Elem()
		d.value(full, p.Value, element, depth)
		v.SetMapIndex(reflect.ValueOf(key), element)
	}
}

func (d *decoder) structure(path string, n ast.Node, v reflect.Value, depth int) {
	pairs, ok := d.pairs(path, n)
	if !ok {
		return
	}
	fields := map[string]reflect.Value{}
	var names []string
	for i := range v.NumField() {
		if name := fieldName(v.Type().Field(i)); name != "-" {
			fields[name] = v.Field(i)
			names = append(names, name)
		}
	}
	for _, p := range pairs {
		key, at := p.Key.String(), markOf(p.Key)
		if s, ok := p.Key.(*ast.StringNode); ok {
			key = s.Value
		}
		full := key
		if path != "" {
			full = path + "." + key
		}
		field, known := fields[key]
		first, dup := d.keys[full]
		switch {
		case p.Key.IsMergeKey():
			d.add(at, "give the whole section an alias, or write the fields out", "%s: merge keys are not used here", d.say(path))
		case !known:
			d.add(at, d.suggestField(path, key, names), "unknown field %q in %s", short(key), d.say(path))
		case dup && key != "":
			d.add(at, "keep one of them", "%s is on line %d already", full, first.line)
		default:
			d.keys[full] = at
			d.value(full, p.Value, field, depth)
		}
	}
}

func (d *decoder) list(path string, n ast.Node, v reflect.Value, depth int) {
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		d.add(markOf(n), d.suggest(path), "%s must be a list, not %s", d.say(path), kindOf(n))
		return
	}
	if v.Kind() == reflect.Array {
		if len(s.Values) != v.Len() {
			d.add(markOf(n), d.suggest(path), "%s must hold %d values, not %d", d.say(path), v.Len(), len(s.Values))
			return
		}
	} else {
		v.Set(reflect.MakeSlice(v.Type(), len(s.Values), len(s.Values)))
	}
	for i, e := range s.Values {
		element := fmt.Sprintf("%s[%d]", path, i)
		if e == nil {
			d.add(markOf(n), d.suggest(element), "%s has no value", d.say(element))
			continue
		}
		d.keys[element] = markOf(e)
		if p, isPool := v.Index(i).Addr().Interface().(*Pool); isPool {
			p.Executor = "local" // the default of a field in a list
		}
		d.value(element, e, v.Index(i), depth)
	}
}

func (d *decoder) scalar(path string, n ast.Node, v reflect.Value) {
	wrong := func(want string) {
		d.add(markOf(n), d.suggest(path), "%s must be %s, not %s", d.say(path), want, kindOf(n))
	}
	switch v.Kind() {
	case reflect.String:
		switch s := n.(type) {
		case *ast.StringNode:
			v.SetString(s.Value)
		case *ast.LiteralNode:
			v.SetString(s.Value.Value)
		default:
			wrong("text")
		}
	case reflect.Int, reflect.Int64, reflect.Uint64:
		i, ok := n.(*ast.IntegerNode)
		switch x := integer(i, ok).(type) {
		case int64:
			if v.Kind() == reflect.Uint64 && x >= 0 {
				v.SetUint(uint64(x))
			} else if v.Kind() != reflect.Uint64 {
				v.SetInt(x)
			} else {
				wrong("a whole number, 0 or more")
			}
		case uint64:
			if v.Kind() == reflect.Uint64 {
				v.SetUint(x)
			} else if x <= math.MaxInt64 {
				v.SetInt(int64(x))
			} else {
				wrong("a smaller whole number")
			}
		default:
			wrong("a whole number")
		}
	case reflect.Bool:
		if b, ok := n.(*ast.BoolNode); ok {
			v.SetBool(b.Value)
		} else {
			wrong("true or false")
		}
	case reflect.Float64:
		if f, ok := number(n); ok {
			v.SetFloat(f)
		} else {
			wrong("a number")
		}
	default:
		panic(fmt.Sprintf("spec: field %s has kind %v, which the decoder does not know", path, v.Kind()))
	}
}

// number reads a finite number. The parser holds to YAML 1.1, where 1e-4 is
// text for want of a point; YAML 1.2 and people take it for a number.
func number(n ast.Node) (float64, bool) {
	var text string
	switch x := n.(type) {
	case *ast.IntegerNode:
		switch i := x.Value.(type) {
		case int64:
			return float64(i), true
		case uint64:
			return float64(i), true
		}
		return 0, false
	case *ast.FloatNode:
		return x.Value, !math.IsNaN(x.Value) && !math.IsInf(x.Value, 0)
	case *ast.StringNode:
		if x.Token.Type == token.StringType { // not quoted
			text = x.Value
		}
	}
	if !scientific.MatchString(text) {
		return 0, false
	}
	f, err := strconv.ParseFloat(text, 64)
	return f, err == nil
}

var scientific = regexp.MustCompile(`^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$`)

func integer(n *ast.IntegerNode, ok bool) any {
	if !ok {
		return nil
	}
	return n.Value
}

// date reads a day, or a moment in RFC 3339.
func (d *decoder) date(path string, n ast.Node, v reflect.Value) {
	s, ok := n.(*ast.StringNode)
	if !ok {
		d.add(markOf(n), "write it as 2027-03-31", "%s must be a date, not %s", d.say(path), kindOf(n))
		return
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, s.Value); err == nil {
			v.Set(reflect.ValueOf(t.UTC()))
			return
		}
	}
	d.add(markOf(n), "write it as 2027-03-31, or with an hour as 2027-03-31T09:00:00Z", "%s: %q is not a date that exists", d.say(path), short(s.Value))
}

func (d *decoder) duration(path string, n ast.Node, v reflect.Value) {
	s, ok := n.(*ast.StringNode)
	if !ok {
		d.add(markOf(n), d.suggest(path), "%s must be a duration with its unit, not %s", d.say(path), kindOf(n))
		return
	}
	t, err := time.ParseDuration(s.Value)
	if err != nil {
		d.add(markOf(n), d.suggest(path)+"; units are h, m, s and ms", "%s: %q is not a duration", d.say(path), short(s.Value))
		return
	}
	v.SetInt(int64(t))
}

// say names a path in a sentence.
func (d *decoder) say(path string) string {
	if path == "" {
		return "the " + d.what
	}
	return path
}

func kindOf(n ast.Node) string {
	switch x := n.(type) {
	case *ast.StringNode:
		return fmt.Sprintf("the text %q", short(x.Value))
	case *ast.LiteralNode:
		return "a block of text"
	case *ast.InfinityNode:
		return "infinity"
	case *ast.NanNode:
		return "not-a-number"
	case *ast.IntegerNode, *ast.FloatNode:
		return "the number " + short(n.GetToken().Value)
	case *ast.BoolNode:
		return "the truth value " + short(n.GetToken().Value)
	case *ast.SequenceNode:
		return "a list"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a group of fields"
	}
	return "this"
}

func short(s string) string {
	if r := []rune(s); len(r) > 40 {
		return string(r[:40]) + "…"
	}
	return s
}

// suggest says what to write for a field.
func (d *decoder) suggest(path string) string {
	if len(d.table) == 0 {
		return ""
	}
	if r, ok := ruleFor(d.table, path); ok {
		if strings.HasSuffix(path, "]") {
			return fmt.Sprintf("an element of the list is, for example, %s", r.example)
		}
		return fmt.Sprintf("write, for example, `%s: %s`", leaf(path), r.example)
	}
	var inside []string
	for _, r := range d.table {
		rest, below := r.path, true
		if path != "" {
			rest, below = strings.CutPrefix(r.path, elementNumber.ReplaceAllString(path, "[]")+".")
		}
		name, _, _ := strings.Cut(strings.ReplaceAll(rest, "[]", ""), ".")
		if below && !slices.Contains(inside, name) {
			inside = append(inside, name)
		}
	}
	return "its fields go on the lines below, indented: " + strings.Join(inside, ", ")
}

// suggestField finds what an unknown field was meant to be: a neighbour's name,
// or the same name elsewhere.
func (d *decoder) suggestField(path, key string, names []string) string {
	if n, ok := nearest(key, names); ok {
		return fmt.Sprintf("did you mean `%s`?", n)
	}
	for _, r := range d.table {
		for p := r.path; p != ""; p = parent(p) {
			if leaf(p) == key && parent(p) != "" {
				return fmt.Sprintf("did you mean `%s`, which belongs in `%s`?", key, parent(p))
			}
		}
	}
	return "known fields here are " + strings.Join(names, ", ")
}
