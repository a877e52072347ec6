package spec

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

type span struct {
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

func (s *span) SetNumber(x float64) { *s = span{x, x} }

type document struct {
	Name   string          `json:"name"`
	Day    time.Time       `json:"day,omitzero"`
	Width  span            `json:"width"`
	Rates  map[string]span `json:"rates"`
	Extra  *span           `json:"extra"`
	Hidden int             `json:"-"`
}

func readDocument(t *testing.T, text string) (document, *Document, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.yaml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	var v document
	doc, err := ReadDocument(path, "thing", "examples/thing.yaml", &v)
	if err != nil {
		t.Fatal(err)
	}
	return v, doc, doc.Err()
}

func TestDocument(t *testing.T) {
	v, doc, err := readDocument(t, "name: x\nday: 2027-03-31\nwidth: 2\nrates: {a: 1, b: {low: 1, high: 3}}\nextra:\n  low: 5\n")
	if err != nil {
		t.Fatal(err)
	}
	if !v.Day.Equal(time.Date(2027, 3, 31, 0, 0, 0, 0, time.UTC)) || v.Width != (span{2, 2}) || v.Rates["a"] != (span{1, 1}) || v.Rates["b"] != (span{1, 3}) || v.Extra == nil || v.Extra.Low != 5 {
		t.Errorf("read %+v", v)
	}
	if !doc.Has("rates.b.high") || doc.Has("rates.c") {
		t.Error("fields of a map are not remembered")
	}
	doc.Wrong("rates.b.high", "less", "too high")
	if err := doc.Err(); err == nil || !strings.Contains(err.Error(), "a.yaml:4:33: too high") {
		t.Errorf("a mistake found later: %v", err)
	}
}

func TestDocumentMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"":                                 "the thing is empty",
		"naem: x":                          "did you mean `name`?",
		"day: 2027-02-30":                  "not a date that exists",
		"day: 7":                           "must be a date",
		"width: wide":                      "must hold fields",
		"rates: {a: 1, a: 2}":              "on line 1 already",
		"rates: [1]":                       "must hold fields",
		"width: {low: 1, hihg: 2}":         "did you mean `high`?",
		"name: [":                          "a.yaml:1",
		"extra: {low: 1}\nextra: {low: 2}": "on line 1 already",
	} {
		if _, _, err := readDocument(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func FuzzDocument(f *testing.F) {
	f.Add("name: x\nday: 2027-03-31\nwidth: 2\nrates: {a: 1, b: {low: 1, high: 3}}\n")
	f.Add("rates: &a {x: *a}")
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(t.TempDir(), "a.yaml")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		var v document
		if doc, err := ReadDocument(path, "thing", "x", &v); err == nil {
			_ = doc.Err()
		}
		TopFields(path)
	})
}
