package spec

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// FileName is the release file of a folder.
const FileName = "release.yaml"

// maxFile is the longest release file that is read, in bytes: people write it.
const maxFile = 256 << 10

// Load reads a release file, or the release.yaml of a folder: decode, defaults,
// validate. Paths come back absolute. What is wrong with the file's content is
// an *Error, with places; any other error is about reading it.
func Load(path string) (*Release, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, FileName)
	}
	text, err := readText(path, "release file", FileName)
	if err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("release file %s: %w", path, err)
	}
	s, places, err := decode(path, text)
	if err != nil {
		return nil, err
	}
	s.File, s.Dir = abs, filepath.Dir(abs)
	s.derive()
	places.validate(s, s.resolvePaths())
	if err := places.err(path); err != nil {
		return nil, err
	}
	return s, nil
}

func readText(path, what, name string) (string, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("no %s at %s: give the path of a %s or of the folder that holds one: %w", what, path, name, err)
	}
	if err != nil {
		return "", fmt.Errorf("read %s: %w", what, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("read %s: %w", what, err)
	case len(b) > maxFile:
		return "", fmt.Errorf("%s is longer than %d KiB: is it a %s?", path, maxFile>>10, what)
	case !utf8.Valid(b):
		return "", fmt.Errorf("%s is not UTF-8 text: is it a %s?", path, what)
	}
	return strings.TrimPrefix(string(b), "\uFEFF"), nil
}

// decode gives the release as written, on top of the defaults, and where
// everything stood. file is for messages.
func decode(file, text string) (*Release, *decoder, error) {
	d := newDecoder(newReporter(text))
	s := New()
	body := d.parse(text)
	if body != nil {
		d.value("", body, reflect.ValueOf(s).Elem(), 0)
	}
	if err := d.err(file); err != nil {
		return nil, nil, err
	}
	return s, d, nil
}

// parse reads YAML into a tree; nil after a mistake.
func (d *decoder) parse(text string) (body ast.Node) {
	begin := mark{1, 1, 1}
	if at, deep := tooDeep(text); deep {
		d.add(at, "", "nested more than %d deep", maxDepth)
		return nil
	}
	// The parser is not ours and the text may be anything.
	defer func() {
		if p := recover(); p != nil {
			d.add(begin, "check quotes, brackets and indentation", "not readable as YAML (%v)", p)
			body = nil
		}
	}()
	f, err := parser.ParseBytes([]byte(text), 0, parser.AllowDuplicateMapKey())
	var syntax yaml.Error
	switch {
	case errors.As(err, &syntax):
		at := begin
		if t := syntax.GetToken(); t != nil && t.Position != nil {
			at = mark{t.Position.Line, t.Position.Column, utf8.RuneCountInString(strings.TrimSpace(t.Value))}
		}
		d.add(at, "check indentation, colons, quotes and brackets", "not valid YAML: %s", syntax.GetMessage())
		return nil
	case err != nil:
		d.add(begin, "check indentation, colons, quotes and brackets", "not valid YAML: %v", err)
		return nil
	}
	for _, doc := range f.Docs {
		switch {
		case doc.Body == nil:
		case body != nil:
			d.add(markOf(doc.Body), "keep one document in the file", "a second YAML document starts here")
			return nil
		default:
			body = doc.Body
		}
	}
	if body == nil {
		d.add(begin, "start with `name: …`; "+d.example+" is a whole one", "the %s is empty", d.what)
	}
	return body
}

// tooDeep finds nesting that no release file has, before a recursive parser meets it.
func tooDeep(text string) (mark, bool) {
	flow, dashes, line := 0, 0, 0
	for _, t := range lexer.Tokenize(text) {
		if t.Position.Line != line {
			dashes, line = 0, t.Position.Line
		}
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			flow++
		case token.SequenceEndType, token.MappingEndType:
			flow--
		case token.SequenceEntryType, token.MappingKeyType, token.MappingValueType:
			dashes++
		}
		if flow > maxDepth || dashes > maxNodes/8 || t.Position.Column > 20*maxDepth && t.Type == token.SequenceEntryType {
			return mark{t.Position.Line, t.Position.Column, 1}, true
		}
	}
	return mark{}, false
}
