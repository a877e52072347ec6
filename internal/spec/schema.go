package spec

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
)

// Schema is the JSON Schema (draft 2020-12) of the release file, from the Go
// types, the table of rules and the defaults. Editors check a file against it
// while it is written.
func Schema() ([]byte, error) {
	root, err := jsonschema.For[Release](&jsonschema.ForOptions{TypeSchemas: map[reflect.Type]*jsonschema.Schema{
		reflect.TypeFor[Duration]():  {Type: "string", Pattern: `^([0-9]+(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+$`},
		reflect.TypeFor[time.Time](): {Type: "string", Pattern: `^[0-9]{4}-[0-9]{2}-[0-9]{2}(T.*)?$`},
	}})
	if err != nil {
		return nil, fmt.Errorf("schema of the release file: %w", err)
	}
	root.Schema = "https://json-schema.org/draft/2020-12/schema"
	root.Title = "Tarbert release"
	loosen(root)
	for _, r := range rules() {
		node := at(root, r.path)
		if node == nil {
			return nil, fmt.Errorf("schema of the release file: no field %s in the types", r.path)
		}
		if err := annotate(node, r); err != nil {
			return nil, fmt.Errorf("schema of %s: %w", r.path, err)
		}
		if r.required {
			require(root, r.path)
		}
	}
	b, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("schema of the release file: %w", err)
	}
	return append(b, '\n'), nil
}

// loosen removes what the inference assumes of Go types and the file does not
// hold to: every field required, lists that may be null.
func loosen(s *jsonschema.Schema) {
	s.Required = nil
	if len(s.Types) > 0 { // ["null", "array"]
		s.Type, s.Types = s.Types[len(s.Types)-1], nil
	}
	for _, p := range s.Properties {
		loosen(p)
	}
	if s.Items != nil {
		loosen(s.Items)
	}
}

// at walks to a rule's path; nil if the types have no such field.
func at(s *jsonschema.Schema, path string) *jsonschema.Schema {
	for _, step := range strings.Split(path, ".") {
		name, inList := strings.CutSuffix(step, "[]")
		if s = s.Properties[name]; s == nil {
			return nil
		}
		if inList {
			if s = s.Items; s == nil {
				return nil
			}
		}
	}
	return s
}

// require marks the path, and the sections that lead to it, as required.
func require(root *jsonschema.Schema, path string) {
	for p := path; p != "" && !strings.HasSuffix(p, "[]"); p = parent(p) {
		above := root
		if parent(p) != "" {
			above = at(root, parent(p))
		}
		name := p[strings.LastIndexByte(p, '.')+1:]
		if !slices.Contains(above.Required, name) {
			above.Required = append(above.Required, name)
		}
	}
}

func annotate(s *jsonschema.Schema, r rule) error {
	s.Description = r.about
	if r.pattern != nil {
		s.Pattern = r.pattern.String()
	}
	for _, c := range r.choices {
		s.Enum = append(s.Enum, c)
	}
	if r.max > 0 && s.Type == "array" {
		lo, hi := int(r.min), int(r.max)
		s.MinItems, s.MaxItems = &lo, &hi
	} else if r.max > 0 {
		if r.open {
			s.ExclusiveMinimum = &r.min
		} else {
			s.Minimum = &r.min
		}
		s.Maximum = &r.max
	}
	value, ok := fixedDefault(r.path)
	if !ok {
		return nil
	}
	b, err := json.Marshal(value)
	if err != nil {
		return err
	}
	s.Default = b
	return nil
}

// fixedDefault is what New sets at path, if it sets anything.
func fixedDefault(path string) (any, bool) {
	if strings.Contains(path, "[]") {
		return nil, false
	}
	v := reflect.ValueOf(*New())
	for _, name := range strings.Split(path, ".") {
		for i := range v.NumField() {
			if fieldName(v.Type().Field(i)) == name {
				v = v.Field(i)
				break
			}
		}
	}
	return v.Interface(), !v.IsZero()
}
