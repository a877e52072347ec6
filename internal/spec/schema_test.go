package spec

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/google/jsonschema-go/jsonschema"
)

// leaves lists the fields of the Go types as rules name them.
func leaves(prefix string, t reflect.Type) []string {
	if t == reflect.TypeFor[Duration]() || t == reflect.TypeFor[time.Time]() {
		return []string{prefix}
	}
	switch t.Kind() {
	case reflect.Struct:
		var all []string
		for i := range t.NumField() {
			if name := fieldName(t.Field(i)); name != "-" {
				all = append(all, leaves(strings.TrimPrefix(prefix+"."+name, "."), t.Field(i).Type)...)
			}
		}
		return all
	case reflect.Slice, reflect.Array:
		return append([]string{prefix}, leaves(prefix+"[]", t.Elem())...)
	}
	return []string{prefix}
}

// The table has every field of the types once, and no other.
func TestRulesCoverTheTypes(t *testing.T) {
	want := leaves("", reflect.TypeFor[Release]())
	var got []string
	for _, r := range rules() {
		got = append(got, r.path)
		if r.example == "" {
			t.Errorf("%s has no example", r.path)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-types +rules):\n%s", diff)
	}
}

func resolved(t *testing.T) *jsonschema.Resolved {
	t.Helper()
	b, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	var s jsonschema.Schema
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	r, err := s.Resolve(&jsonschema.ResolveOptions{ValidateDefaults: true})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var regexpE = regexp.MustCompile(`(: [0-9]+)(e-?[0-9]+)`)

func instance(t *testing.T, text string) any {
	t.Helper()
	// The library reads 1e-3 as text; see number in decode.go.
	text = regexpE.ReplaceAllString(text, "$1.0$2")
	var v any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	v = nil
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// The examples and the shortest file satisfy both the schema and Load.
func TestExamplesSatisfyTheSchemaAndLoad(t *testing.T) {
	examples, err := filepath.Glob("../../examples/*/release.yaml")
	if err != nil || len(examples) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	schema := resolved(t)
	for _, path := range append(examples, "testdata/base/release.yaml") {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(instance(t, string(b))); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if _, err := Load(path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// examples/sums shows every knob.
func TestTheExampleShowsEveryField(t *testing.T) {
	b, err := os.ReadFile("../../examples/sums/release.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, d, err := decode("release.yaml", string(b))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules() {
		if _, _, inList := strings.Cut(r.path, "[]"); !inList && !d.has(r.path) {
			t.Errorf("%s is not in examples/sums/release.yaml", r.path)
		}
	}
}

// What Load refuses about single fields the schema refuses too.
func TestSchemaRefusesMistakes(t *testing.T) {
	schema, base := resolved(t), baseText(t)
	for _, c := range []struct{ name, old, new string }{
		{"unknown field", "    batch: 8", "    batch: 8\n    colour: 1"},
		{"missing field", "    batch: 8\n", ""},
		{"missing section", "plan:\n  deadline: 10m\n", ""},
		{"wrong type", "    batch: 8", "    batch: eight"},
		{"out of range", "    samples: 4", "    samples: 1"},
		{"not more than zero", "learning_rate: 1e-3", "learning_rate: 0"},
		{"unknown choice", "w8a8-ascend]", "w4]"},
		{"missing in a list", "    vendor: cpu\n", ""},
		{"bad duration", "10m", "ten minutes"},
		{"bad name", "name: base", "name: Base Case"},
	} {
		text := strings.Replace(base, c.old, c.new, 1)
		if text == base {
			t.Fatalf("%s: the edit changed nothing", c.name)
		}
		if err := schema.Validate(instance(t, text)); err == nil {
			t.Errorf("%s: the schema lets it through", c.name)
		}
	}
}
