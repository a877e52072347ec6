package reference

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// fields reads one JSON object field by field and remembers what was read, so
// that what nobody asked for can be refused by name. The first error sticks.
type fields struct {
	prefix string // "rope_scaling." in a nested object
	raw    map[string]json.RawMessage
	read   map[string]bool
	err    error
}

// parseFields decodes an object and refuses duplicate keys, which encoding/json
// would silently resolve to the last.
func parseFields(data []byte, prefix string) (*fields, error) {
	f := &fields{prefix: prefix, raw: map[string]json.RawMessage{}, read: map[string]bool{}}
	dec := json.NewDecoder(bytes.NewReader(data))
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	if tok != json.Delim('{') {
		return nil, errors.New("want a JSON object")
	}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, err
		}
		key, _ := tok.(string)
		if _, ok := f.raw[key]; ok {
			return nil, fmt.Errorf("config field %q is given twice", prefix+key)
		}
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			return nil, fmt.Errorf("config field %q: %w", prefix+key, err)
		}
		f.raw[key] = v
	}
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("text after the JSON object")
	}
	return f, nil
}

func (f *fields) fail(format string, args ...any) {
	if f.err == nil {
		f.err = fmt.Errorf(format, args...)
	}
}

// has says whether a field is present and not null.
func (f *fields) has(name string) bool {
	v, ok := f.raw[name]
	return ok && !bytes.Equal(bytes.TrimSpace(v), []byte("null"))
}

// get decodes a field into out; false if it is absent or null.
func (f *fields) get(name string, out any) bool {
	f.read[name] = true
	if !f.has(name) {
		return false
	}
	if err := json.Unmarshal(f.raw[name], out); err != nil {
		f.fail("config field %q: %w", f.prefix+name, err)
		return false
	}
	return true
}

func (f *fields) ignore(names ...string) {
	for _, n := range names {
		f.read[n] = true
	}
}

// need reads a number that has no default.
func (f *fields) need(name string) int {
	var n int
	if !f.get(name, &n) {
		f.fail("config field %q is missing", f.prefix+name)
	}
	return n
}

func (f *fields) needFloat(name string) float64 {
	var v float64
	if !f.get(name, &v) {
		f.fail("config field %q is missing", f.prefix+name)
	}
	return v
}

func (f *fields) needBool(name string) bool {
	var v bool
	if !f.get(name, &v) {
		f.fail("config field %q is missing", f.prefix+name)
	}
	return v
}

func (f *fields) number(name string, absent int) int {
	f.get(name, &absent)
	return absent
}

func (f *fields) float(name string, absent float64) float64 {
	f.get(name, &absent)
	return absent
}

func (f *fields) boolean(name string, absent bool) bool {
	f.get(name, &absent)
	return absent
}

func (f *fields) text(name string) string {
	var s string
	f.get(name, &s)
	return s
}

// must refuses a field that is present with another value than the only one
// this package computes.
func (f *fields) must(name string, want any) {
	var got any
	if !f.get(name, &got) {
		return
	}
	if n, ok := want.(int); ok {
		want = float64(n)
	}
	if got != want {
		f.fail("config field %q is %v: only %v is supported", f.prefix+name, got, want)
	}
}

// oneOf reads a number that two spellings name; given by both, they must agree.
func (f *fields) oneOf(a, b string) int {
	switch {
	case f.has(a) && f.has(b):
		x, y := f.need(a), f.need(b)
		if x != y {
			f.fail("config fields %q (%d) and %q (%d) contradict each other", a, x, b, y)
		}
		return x
	case f.has(b):
		f.read[a] = true
		return f.need(b)
	}
	f.read[b] = true
	return f.need(a)
}

// done reports the first error, or the fields that nobody read.
func (f *fields) done() error {
	if f.err != nil {
		return f.err
	}
	var unknown []string
	for _, k := range slices.Sorted(maps.Keys(f.raw)) {
		if !f.read[k] {
			unknown = append(unknown, fmt.Sprintf("%q", f.prefix+k))
		}
	}
	if len(unknown) > 0 {
		return fmt.Errorf("unknown config field %s: it may change what the model computes, so it is not ignored", strings.Join(unknown, ", "))
	}
	return nil
}
