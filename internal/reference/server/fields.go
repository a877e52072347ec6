package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// fields reads a request's members with the leniency and the complaints of
// pydantic, which vLLM reads requests with. Unknown members are ignored and
// null is the default everywhere. Complaints are gathered, in the order of asking.
type fields struct {
	raw    map[string]json.RawMessage
	faults []fault
}

// fault is one complaint: {'type': …, 'loc': …, 'msg': …, 'input': …}.
type fault struct {
	kind, loc, msg, input, ctx string
}

// maxFaults bounds the text that a wrong list makes.
const maxFaults = 50

func (f fault) String() string {
	s := fmt.Sprintf("{'type': '%s', 'loc': '%s', 'msg': %s, 'input': %s", f.kind, f.loc, pyRepr(f.msg), pyRepr(f.input))
	if f.ctx != "" {
		s += ", 'ctx': " + f.ctx
	}
	return s + "}"
}

// formError is the answer to a request with faults.
func formError(faults []fault) *apiError {
	lines := make([]string, 0, len(faults)+1)
	plural := "s"
	if len(faults) == 1 {
		plural = ""
	}
	lines = append(lines, fmt.Sprintf("%d validation error%s:", len(faults), plural))
	for _, f := range faults[:min(len(faults), maxFaults)] {
		lines = append(lines, "  "+f.String())
	}
	return &apiError{
		Message: strings.Join(lines, "\n"), Type: badForm, Param: &faults[0].loc, Code: http.StatusBadRequest,
	}
}

// readFields splits a body into its members.
func readFields(body []byte) (*fields, *apiError) {
	if !json.Valid(body) {
		at, message := jsonErrorAt(string(body))
		if message == "" { // Python reads what Go does not: NaN, lone surrogates
			message = "Expecting value"
		}
		return nil, formError([]fault{{
			kind: "json_invalid", loc: fmt.Sprintf("body.%d", at), msg: "JSON decode error",
			input: "<dict of 0 items>", ctx: "{'error': " + pyRepr(message) + "}",
		}})
	}
	m, err := duplicateFree(body)
	if err != nil || m == nil {
		return nil, formError([]fault{{
			kind: "model_attributes_type", loc: "body",
			msg: "Input should be a valid dictionary or object to extract fields from", input: describe(body),
		}})
	}
	return &fields{raw: m}, nil
}

// err is the answer to the faults so far, nil without any.
func (f *fields) err() *apiError {
	if len(f.faults) == 0 {
		return nil
	}
	return formError(f.faults)
}

func (f *fields) add(kind, loc, msg, input string) {
	f.faults = append(f.faults, fault{kind: kind, loc: loc, msg: msg, input: input})
}

// get returns a member unless it is missing or null.
func (f *fields) get(name string) (json.RawMessage, bool) {
	raw, ok := f.raw[name]
	return raw, ok && string(raw) != "null"
}

// missing complains that a member is required.
func (f *fields) missing(name string) {
	f.add("missing", "body."+name, "Field required", fmt.Sprintf("<dict of %d items>", len(f.raw)))
}

// describe prints a value as vLLM's messages do, without the contents of containers.
func describe(raw json.RawMessage) string {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 {
		return ""
	}
	switch raw[0] {
	case '[':
		var l []json.RawMessage
		if json.Unmarshal(raw, &l) == nil {
			return fmt.Sprintf("<list of %d items>", len(l))
		}
	case '{':
		var m map[string]json.RawMessage
		if json.Unmarshal(raw, &m) == nil {
			return fmt.Sprintf("<dict of %d items>", len(m))
		}
	case '"':
		var s string
		if json.Unmarshal(raw, &s) == nil {
			return s
		}
	case 't':
		return "True"
	case 'f':
		return "False"
	case 'n':
		return "None"
	default:
		if bytes.ContainsAny(raw, ".eE") {
			if x, err := strconv.ParseFloat(string(raw), 64); err == nil {
				return pyFloat(x)
			}
		}
	}
	return string(raw)
}

// wrong is a complaint about one value: kind and message.
type wrong struct{ kind, msg string }

// toInt reads an integer the way pydantic does: numbers without a fraction,
// strings of digits, booleans.
func toInt(raw json.RawMessage) (int64, *wrong) {
	text := string(raw)
	switch text[0] {
	case '"':
		var s string
		_ = json.Unmarshal(raw, &s) // raw is valid JSON
		n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
		if err != nil {
			return 0, &wrong{"int_parsing", "Input should be a valid integer, unable to parse string as an integer"}
		}
		return n, nil
	case 't':
		return 1, nil
	case 'f':
		return 0, nil
	case '[', '{', 'n':
		return 0, &wrong{"int_type", "Input should be a valid integer"}
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n, nil
	}
	x, err := strconv.ParseFloat(text, 64)
	switch {
	case err != nil || math.Abs(x) >= 1<<63:
		return 0, &wrong{"int_parsing_size", "Unable to parse input string as an integer, exceeded maximum size"}
	case x != math.Trunc(x):
		return 0, &wrong{"int_from_float", "Input should be a valid integer, got a number with a fractional part"}
	}
	return int64(x), nil
}

func toFloat(raw json.RawMessage) (float64, *wrong) {
	text := string(raw)
	switch text[0] {
	case '"':
		var s string
		_ = json.Unmarshal(raw, &s)
		x, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
		if err != nil {
			return 0, &wrong{"float_parsing", "Input should be a valid number, unable to parse string as a number"}
		}
		return x, nil
	case 't':
		return 1, nil
	case 'f':
		return 0, nil
	case '[', '{', 'n':
		return 0, &wrong{"float_type", "Input should be a valid number"}
	}
	x, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, &wrong{"finite_number", "Input should be a finite number"}
	}
	return x, nil
}

func toBool(raw json.RawMessage) (bool, *wrong) {
	text := strings.ToLower(strings.Trim(string(raw), `"`))
	switch {
	case slices.Contains([]string{"true", "1", "1.0", "t", "yes", "y", "on"}, text):
		return true, nil
	case slices.Contains([]string{"false", "0", "0.0", "f", "no", "n", "off"}, text):
		return false, nil
	case raw[0] == '[' || raw[0] == '{':
		return false, &wrong{"bool_type", "Input should be a valid boolean"}
	}
	return false, &wrong{"bool_parsing", "Input should be a valid boolean, unable to interpret input"}
}

func toString(raw json.RawMessage) (string, *wrong) {
	var s string
	if raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return "", &wrong{"string_type", "Input should be a valid string"}
	}
	return s, nil
}

// member reads one member with a conversion; missing, null and wrong give the default.
func member[T any](f *fields, name string, otherwise T, convert func(json.RawMessage) (T, *wrong)) T {
	raw, ok := f.get(name)
	if !ok {
		return otherwise
	}
	v, w := convert(raw)
	if w != nil {
		f.add(w.kind, "body."+name, w.msg, describe(raw))
		return otherwise
	}
	return v
}

func (f *fields) int(name string, otherwise int) int {
	return int(member(f, name, int64(otherwise), toInt))
}

func (f *fields) float(name string, otherwise float64) float64 {
	return member(f, name, otherwise, toFloat)
}

func (f *fields) bool(name string, otherwise bool) bool { return member(f, name, otherwise, toBool) }

func (f *fields) string(name, otherwise string) string {
	return member(f, name, otherwise, toString)
}

// list reads the items of a list member; nil without one.
func list[T any](f *fields, name string, convert func(json.RawMessage) (T, *wrong)) []T {
	raw, ok := f.get(name)
	if !ok {
		return nil
	}
	out, faults := items(raw, "body."+name, convert)
	f.faults = append(f.faults, faults...)
	if len(faults) > 0 {
		return nil
	}
	return out
}

// items reads a JSON list.
func items[T any](raw json.RawMessage, loc string, convert func(json.RawMessage) (T, *wrong)) ([]T, []fault) {
	var members []json.RawMessage
	if raw[0] != '[' || json.Unmarshal(raw, &members) != nil {
		return nil, []fault{{kind: "list_type", loc: loc, msg: "Input should be a valid list", input: describe(raw)}}
	}
	out := make([]T, 0, len(members))
	var faults []fault
	for i, m := range members {
		v, w := convert(m)
		if w != nil {
			f := fault{kind: w.kind, loc: fmt.Sprintf("%s.%d", loc, i), msg: w.msg, input: describe(m)}
			if w.kind == "greater_than_equal" {
				f.ctx = "{'ge': 0}"
			}
			faults = append(faults, f)
			if len(faults) > maxFaults {
				break
			}
			continue
		}
		out = append(out, v)
	}
	return out, faults
}

// oneOrMore reads a string or a list of strings.
func (f *fields) oneOrMore(name string) []string {
	raw, ok := f.get(name)
	if !ok {
		return nil
	}
	if s, w := toString(raw); w == nil {
		return []string{s}
	}
	out, faults := items(raw, "body."+name, toString)
	if len(faults) > 0 {
		f.add("string_type", "body."+name, "Input should be a valid string", describe(raw))
		f.faults = append(f.faults, faults...)
	}
	return out
}

// object reads an object member as it stands.
func (f *fields) object(name string) map[string]json.RawMessage {
	raw, ok := f.get(name)
	if !ok {
		return nil
	}
	var m map[string]json.RawMessage
	if raw[0] != '{' || json.Unmarshal(raw, &m) != nil {
		f.add("dict_type", "body."+name, "Input should be a valid dictionary", describe(raw))
	}
	return m
}
