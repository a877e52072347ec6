package tensor

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"unicode/utf8"
)

// IndexName is the file beside model-*.safetensors shards that says which shard
// holds which tensor.
const IndexName = "model.safetensors.index.json"

// index is a parsed one: name to file.
type index struct {
	names []string // in the file's order
	files map[string]string
}

// readIndex reads and checks an index file: unique names, plain file names.
func readIndex(path string) (*index, error) {
	text, err := readCapped(path)
	if err != nil {
		return nil, err
	}
	at := func(pos int, name, reason string) error {
		return &FormatError{File: path, Tensor: name, Offset: int64(pos), Reason: reason}
	}
	if !utf8.ValidString(text) {
		return nil, at(0, "", "the index is not UTF-8")
	}
	sc := &scanner{s: text}
	x := &index{files: map[string]string{}}
	var current string
	found := false
	err = sc.object(func(key string) error {
		if key != "weight_map" {
			return sc.skip(64)
		}
		if found {
			return sc.fail(`"weight_map" occurs twice`)
		}
		found = true
		return sc.object(func(name string) error {
			current = name
			if _, ok := x.files[name]; ok {
				return &syntaxError{pos: -1, problem: "the name occurs twice"}
			}
			file, err := sc.text()
			if err == nil && (!filepath.IsLocal(file) || filepath.Base(file) != file) {
				err = sc.fail("shard %q is not a plain file name: it would leave the directory", file)
			}
			x.files[name] = file
			x.names = append(x.names, name)
			return err
		})
	})
	if err == nil {
		current = ""
		err = sc.end()
	}
	if e, ok := errors.AsType[*syntaxError](err); ok {
		return nil, at(max(e.pos, 0), current, e.problem)
	}
	if err == nil && !found {
		err = at(0, "", `the index has no "weight_map"`)
	}
	return x, err
}

func readCapped(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("open index: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxHeader+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("read index: %w", err)
	case len(b) > MaxHeader:
		return "", &FormatError{File: path, Offset: MaxHeader, Reason: "the index is larger than 100 MB"}
	}
	return string(b), nil
}

// shards lists the files that the index names, sorted.
func (x *index) shards() []string {
	return slices.Compact(slices.Sorted(maps.Values(x.files)))
}

// EncodeIndex is the text of an index over tensors, whose File fields name the
// shards. total_size counts the tensors' bytes, not the files'.
func EncodeIndex(infos []Info) ([]byte, error) {
	var b bytes.Buffer
	err := WriteIndex(&b, slices.Clone(infos))
	return b.Bytes(), err
}

// WriteIndex writes what EncodeIndex returns, piece by piece. It sorts infos.
func WriteIndex(w io.Writer, infos []Info) error {
	slices.SortFunc(infos, func(a, b Info) int { return cmp.Compare(a.Name, b.Name) })
	for i, info := range infos {
		if i > 0 && infos[i-1].Name == info.Name {
			return fmt.Errorf("tensor %q would be in two shards", info.Name)
		}
	}
	if err := WriteIndexInOrder(w, infos); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// WriteIndexInOrder writes an index whose lines are in the order of infos, without
// a line end after the last, for those who compare files to the byte.
func WriteIndexInOrder(w io.Writer, infos []Info) error {
	var total int64
	for _, info := range infos {
		total += info.Size
	}
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "{\n  \"metadata\": {\n    \"total_size\": %d\n  },\n  \"weight_map\": {", total)
	for i, info := range infos {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString("\n    ")
		for j, s := range []string{info.Name, info.File} {
			text, err := json.Marshal(s)
			if err != nil {
				return err
			}
			if j == 1 {
				b.WriteString(": ")
			}
			b.Write(text)
		}
	}
	if len(infos) > 0 {
		b.WriteString("\n  ")
	}
	b.WriteString("}\n}")
	return b.Flush() // with the first error of any write
}

// stale is what an index that disagrees with the shards is, and the way out.
const stale = "the index is stale: fetch index and shards of one revision again"

// checkUnion proves that the index says what the shards' headers say.
func (x *index) checkUnion(path string, files []*File) error {
	held := map[string]string{}
	for _, f := range files {
		base := filepath.Base(f.path)
		for _, info := range f.infos {
			if other, ok := held[info.Name]; ok {
				return &FormatError{File: f.path, Tensor: info.Name, Offset: info.Offset,
					Reason: fmt.Sprintf("the tensor is in %s as well", other)}
			}
			held[info.Name] = base
			switch file, ok := x.files[info.Name]; {
			case !ok:
				return &FormatError{File: f.path, Tensor: info.Name, Offset: info.Offset,
					Reason: fmt.Sprintf("%s does not list it: %s", filepath.Base(path), stale)}
			case file != base:
				return &FormatError{File: f.path, Tensor: info.Name, Offset: info.Offset,
					Reason: fmt.Sprintf("%s says it is in %s: %s", filepath.Base(path), file, stale)}
			}
		}
	}
	for _, name := range x.names {
		if _, ok := held[name]; !ok {
			return &FormatError{File: path, Tensor: name,
				Reason: fmt.Sprintf("shard %s does not hold it: %s", x.files[name], stale)}
		}
	}
	return nil
}

func byFile(a, b Info) int {
	return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Offset, b.Offset))
}
