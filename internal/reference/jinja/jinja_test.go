package jinja

import (
	"encoding/json"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

type recordedCase struct {
	Template string          `json:"template"`
	Vars     json.RawMessage `json:"vars"`
	Want     *string         `json:"want"`
}

func recordedCases(t testing.TB) []recordedCase {
	t.Helper()
	data, err := os.ReadFile("testdata/cases.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []recordedCase
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	return cases
}

// rendered is a template with a JSON object of variables beside those that
// transformers always gives.
func rendered(template string, variables json.RawMessage) (string, error) {
	vars := map[string]Value{"messages": &List{}, "tools": nil, "documents": nil, "add_generation_prompt": false}
	v, err := FromJSON(variables)
	if err != nil {
		return "", err
	}
	if d, ok := v.(*Dict); ok {
		for i, k := range d.keys {
			vars[str(k)] = d.values[i]
		}
	}
	tmpl, err := Compile(template)
	if err != nil {
		return "", err
	}
	return tmpl.Render(vars)
}

// TestRendersAsTransformersDoes: what is wanted was rendered by transformers
// 5.17 (interop/templates.py --record); a case without it was refused there.
func TestRendersAsTransformersDoes(t *testing.T) {
	for _, c := range recordedCases(t) {
		got, err := rendered(c.Template, c.Vars)
		switch {
		case c.Want == nil && err == nil:
			t.Errorf("%s\ngives %q, transformers refuses", c.Template, got)
		case c.Want != nil && err != nil:
			t.Errorf("%s\nis refused: %v", c.Template, err)
		case c.Want != nil && got != *c.Want:
			t.Errorf("%s\ngives  %q\nwanted %q", c.Template, got, *c.Want)
		}
	}
}

func TestErrorsSayWhereAndWhat(t *testing.T) {
	for template, want := range map[string]string{
		"a\nb {{ 1 | nofilter }}":                         "line 2: there is no filter named 'nofilter'",
		"\n\n{% include 'x' %}":                           `line 3: there is no tag "include"`,
		"{% for i in x %}":                                "endfor is missing",
		"{{ missing.field }}":                             "line 1: 'missing' is undefined",
		"\n{% if true %}{{ 'a' + 1 }}{% endif %}":         `line 2: can only concatenate str (not "int") to str`,
		"{{ raise_exception('roles') }}":                  "roles",
		"{{ x(*y) }}":                                     "arguments with *",
		"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}": "nested more than",
		"{% for i in range(100000) %}{% for j in range(100) %}{{ j }}{% endfor %}{% endfor %}": "does not come to an end",
		"{{ 'a' * 10000000000 }}": "too large",
		"{{ 2 ** 1000000 }}":      "too large",
		"{{ " + strings.Repeat("(", 5000) + strings.Repeat(")", 5000) + " }}": "nested more than",
	} {
		_, err := rendered(template, json.RawMessage("{}"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: error %v, want %q", template, err, want)
		}
	}
}

func TestStrftime(t *testing.T) {
	tmpl, err := Compile("{{ strftime_now('%d %b %Y, %H:%M %j %%') }}")
	if err != nil {
		t.Fatal(err)
	}
	now := func() time.Time { return time.Date(2026, 2, 3, 4, 5, 6, 7, time.UTC) }
	if got, err := tmpl.Render(map[string]Value{"strftime_now": Strftime(now)}); err != nil || got != "03 Feb 2026, 04:05 034 %" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestFloatReprReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := rapid.Float64().Draw(t, "f")
		if math.IsInf(f, 0) || math.IsNaN(f) {
			return
		}
		s := floatRepr(f)
		if back, err := strconv.ParseFloat(s, 64); err != nil || back != f {
			t.Fatalf("%v is written %s", f, s)
		}
		if !strings.ContainsAny(s, ".e") {
			t.Fatalf("%v is written like an integer: %s", f, s)
		}
	})
}

func FuzzTemplate(f *testing.F) {
	for _, c := range recordedCases(f) {
		f.Add(c.Template)
	}
	f.Fuzz(func(t *testing.T, template string) {
		tmpl, err := Compile(template)
		if err != nil {
			return
		}
		vars := map[string]Value{"l": &List{[]Value{int64(1), "a", nil}}, "d": NewDict(), "s": "a b", "x": 2.5}
		first, err := tmpl.Render(vars)
		again, err2 := tmpl.Render(vars)
		if (err == nil) != (err2 == nil) || first != again {
			t.Fatalf("twice the same template gives %q (%v) and %q (%v)", first, err, again, err2)
		}
	})
}
