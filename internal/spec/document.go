package spec

import (
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// FromNumber is a group of fields that may be written as a bare number.
type FromNumber interface{ SetNumber(x float64) }

// Document is a YAML file other than the release file, decoded as strictly. It
// remembers where every field stands, so that whoever checks the values can
// name the line.
type Document struct {
	d    *decoder
	path string
	Dir  string // absolute
}

// ReadDocument decodes a file into a struct. what names its kind in messages
// ("inventory"), example a whole one. Mistakes so far are in Err.
func ReadDocument(path, what, example string, into any) (*Document, error) {
	text, err := readText(path, what, filepath.Base(example))
	if err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	d := newDecoder(newReporter(text))
	d.what, d.example, d.table = what, example, nil
	if body := d.parse(text); body != nil {
		d.value("", body, reflect.ValueOf(into).Elem(), 0)
	}
	return &Document{d: d, path: path, Dir: filepath.Dir(abs)}, nil
}

// Has says whether the file has the field.
func (doc *Document) Has(field string) bool { return doc.d.has(field) }

// Wrong adds a mistake about a field: at its value, or at the nearest section above it.
func (doc *Document) Wrong(field, hint, format string, args ...any) {
	doc.d.add(doc.d.at(field), hint, format, args...)
}

// Err is everything that is wrong so far, an *Error; nil if nothing is.
func (doc *Document) Err() error { return doc.d.err(doc.path) }

// Path is a file's path from the document's folder.
func (doc *Document) Path(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(doc.Dir, filepath.FromSlash(p))
}

// TopFields lists a YAML file's top-level names, to tell what kind it is; none
// if it cannot be read as YAML: whoever decodes it says why.
func TopFields(path string) (names []string) {
	text, err := readText(path, "file", "")
	if err != nil {
		return nil
	}
	if _, deep := tooDeep(text); deep {
		return nil
	}
	defer func() { _ = recover() }() // the parser is not ours and the text may be anything
	f, err := parser.ParseBytes([]byte(text), 0, parser.AllowDuplicateMapKey())
	if err != nil || len(f.Docs) == 0 {
		return nil
	}
	if m, ok := f.Docs[0].Body.(*ast.MappingNode); ok {
		for _, v := range m.Values {
			names = append(names, strings.TrimSpace(v.Key.String()))
		}
	}
	slices.Sort(names)
	return names
}
