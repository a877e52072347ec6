package tokenizer

import (
	"encoding/json"
	"testing"
)

// renderer is a tokenizer that only renders a template.
func renderer(template string) *Tokenizer {
	return &Tokenizer{chat: &chatTemplates{named: map[string]string{defaultTemplate: template}}}
}

// TestValuesAreWrittenAsPythonWritesThem: the wanted texts are what transformers
// 5.17 renders of the same template, messages and options.
func TestValuesAreWrittenAsPythonWritesThem(t *testing.T) {
	const template = `{% for m in messages %}{{ m | tojson }}|"{{ m.x }}"|{{ [m.x, m.x] | tojson }};{% endfor %}`
	for _, c := range []struct{ name, x, want string }{
		{"a float that is whole", `2.0`, `{"x": 2.0}|"2.0"|[2.0, 2.0];`},
		{"a float past six digits", `1234567.5`, `{"x": 1234567.5}|"1234567.5"|[1234567.5, 1234567.5];`},
		{"a small float", `-3e-7`, `{"x": -3e-07}|"-3e-07"|[-3e-07, -3e-07];`},
		{"fixed down to 1e-4", `1E-4`, `{"x": 0.0001}|"0.0001"|[0.0001, 0.0001];`},
		{"fixed below 1e16", `1e15`, `{"x": 1000000000000000.0}|"1000000000000000.0"|[1000000000000000.0, 1000000000000000.0];`},
		{"exponent from 1e16", `1e16`, `{"x": 1e+16}|"1e+16"|[1e+16, 1e+16];`},
		{"an integer past 64 bits", `100000000000000000000`, `{"x": 100000000000000000000}|"100000000000000000000"|[100000000000000000000, 100000000000000000000];`},
		{"an integer", `3`, `{"x": 3}|"3"|[3, 3];`},
		{"minus zero", `-0.0`, `{"x": -0.0}|"-0.0"|[-0.0, -0.0];`},
		{"line separators", "\"a\u2028b\u2029\"", "{\"x\": \"a\u2028b\u2029\"}|\"a\u2028b\u2029\"|[\"a\u2028b\u2029\", \"a\u2028b\u2029\"];"},
		{"a string of digits", `"2.0"`, `{"x": "2.0"}|"2.0"|["2.0", "2.0"];`},
		{"a noncharacter of the text's own", "\"\ufdd0 \u2028\"", "{\"x\": \"\ufdd0 \u2028\"}|\"\ufdd0 \u2028\"|[\"\ufdd0 \u2028\", \"\ufdd0 \u2028\"];"},
		{"an escaped noncharacter", `"\uFDD0 \u2028"`, "{\"x\": \"\ufdd0 \u2028\"}|\"\ufdd0 \u2028\"|[\"\ufdd0 \u2028\", \"\ufdd0 \u2028\"];"},
	} {
		got, err := renderer(template).Chat(json.RawMessage(`[{"x": `+c.x+`}]`), nil)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	got, err := renderer("{{ messages[0].x is string }} {{ messages[0].x is number }} {{ messages[0].x is float }}").Chat(json.RawMessage(`[{"x": 2.0}]`), nil)
	if want := "False True True"; err != nil || got != want {
		t.Errorf("a float is taken for: %q, %v, want %q", got, err, want)
	}
	got, err = renderer("{{ messages[0].x | trim }}.").Chat(json.RawMessage("[{\"x\": \"\u2028a\u2029b\u2028\"}]"), nil)
	if want := "a\u2029b."; err != nil || got != want {
		t.Errorf("trimmed: %q, %v, want %q", got, err, want)
	}
	got, err = renderer("{{ tools | tojson }}").Chat(json.RawMessage(`[]`), json.RawMessage(`{"tools": [{"x\u2028": 0.50, "y": [1.0]}]}`))
	if want := "[{\"x\u2028\": 0.5, \"y\": [1.0]}]"; err != nil || got != want {
		t.Errorf("options: %q, %v, want %q", got, err, want)
	}
}
