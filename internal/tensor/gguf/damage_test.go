package gguf_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarbert/internal/tensor/gguf"
)

// small is a file of one key and two tensors, each part of it at a known place.
type small struct {
	version         uint32
	tensors, keys   uint64
	metadata        []byte // the one key
	a, b            []byte // descriptions
	data, extra     int    // bytes
	before, trailer []byte
}

func u32(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }
func u64(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }
func text(s string) []byte {
	return append(u64(uint64(len(s))), s...)
}

func describe(name string, typ uint32, offset uint64, dims ...uint64) []byte {
	b := append(text(name), u32(uint32(len(dims)))...)
	for _, d := range dims {
		b = append(b, u64(d)...)
	}
	return append(append(b, u32(typ)...), u64(offset)...)
}

func key(name string, kind uint32, value ...[]byte) []byte {
	return append(append(text(name), u32(kind)...), bytes.Join(value, nil)...)
}

func newSmall() small {
	return small{version: 3, tensors: 2, keys: 1, metadata: key("k", 4, u32(1)),
		a: describe("a", 0, 0, 3), b: describe("b", 0, 32, 2, 2), data: 64}
}

func (s small) bytes() []byte {
	b := append([]byte("GGUF"), u32(s.version)...)
	b = append(append(b, u64(s.tensors)...), u64(s.keys)...)
	b = bytes.Join([][]byte{b, s.before, s.metadata, s.a, s.b, s.trailer}, nil)
	if s.data > 0 {
		b = append(b, make([]byte, (32-len(b)%32)%32+s.data)...)
	}
	return append(b, make([]byte, s.extra)...)
}

func TestOpenRefuses(t *testing.T) {
	deep := u32(9) // arrays of arrays
	nested := bytes.Join([][]byte{deep, u64(1), deep, u64(1), deep, u64(1), deep, u64(1), u32(0), u64(0)}, nil)
	for _, c := range []struct {
		name   string
		change func(*small)
		raw    func([]byte) []byte
		says   string
	}{
		{name: "another magic", raw: func(b []byte) []byte { b[0] = 'X'; return b }, says: "not a GGUF file"},
		{name: "version 1", change: func(s *small) { s.version = 1 }, says: "version 1"},
		{name: "version 4", change: func(s *small) { s.version = 4 }, says: "version 4"},
		{name: "big-endian", change: func(s *small) { s.version = 0x03000000 }, says: "big-endian"},
		{name: "empty", raw: func([]byte) []byte { return nil }, says: "truncated"},
		{name: "only a header", raw: func(b []byte) []byte { return b[:24] }, says: "cannot be"},
		{name: "more tensors than could be", change: func(s *small) { s.tensors = 1 << 40 }, says: "tensors cannot be"},
		{name: "more keys than could be", change: func(s *small) { s.keys = 1 << 60 }, says: "keys cannot be"},
		{name: "counts that overflow", change: func(s *small) { s.tensors = 1<<64 - 1 }, says: "tensors cannot be"},
		{name: "a key that is too long", change: func(s *small) { s.metadata = key(strings.Repeat("k", 1<<16), 4, u32(1)) }, says: "more than 65535"},
		{name: "a key longer than the file", change: func(s *small) { s.metadata = append(u64(40000), "k"...) }, says: "truncated"},
		{name: "an empty key", change: func(s *small) { s.metadata = key("", 4, u32(1)) }, says: "empty"},
		{name: "a key that is not UTF-8", change: func(s *small) { s.metadata = key("\xff", 4, u32(1)) }, says: "UTF-8"},
		{name: "a key with a zero in it", change: func(s *small) { s.metadata = key("a\x00b", 4, u32(1)) }, says: "zero byte"},
		{name: "a key twice", change: func(s *small) { s.keys, s.before = 2, key("k", 0, []byte{1}) }, says: `key "k" at byte 38: the key occurs twice`},
		{name: "a kind that is none", change: func(s *small) { s.metadata = key("k", 13, u32(1)) }, says: "unknown value type 13"},
		{name: "a bool of 2", change: func(s *small) { s.metadata = key("k", 7, []byte{2}) }, says: "a bool is 0 or 1"},
		{name: "a string longer than allowed", change: func(s *small) { s.metadata = key("k", 8, u64(1<<40)) }, says: "more than 268435456"},
		{name: "a string longer than the file", change: func(s *small) { s.metadata = key("k", 8, u64(1<<20)) }, says: "truncated"},
		{name: "an array longer than the file", change: func(s *small) { s.metadata = key("k", 9, u32(10), u64(1<<61)) }, says: "an array of"},
		{name: "an array of strings longer than the file", change: func(s *small) { s.metadata = key("k", 9, u32(8), u64(1000)) }, says: "an array of"},
		{name: "arrays too deep", change: func(s *small) { s.metadata = key("k", 9, nested) }, says: "nest deeper"},
		{name: "an array of nothing known", change: func(s *small) { s.metadata = key("k", 9, u32(99), u64(0)) }, says: "unknown value type 99"},
		{name: "an alignment of zero", change: func(s *small) { s.metadata = key("general.alignment", 4, u32(0)) }, says: "power of two"},
		{name: "an alignment of another kind", change: func(s *small) { s.metadata = key("general.alignment", 10, u64(32)) }, says: "uint64"},
		{name: "a tensor's name too long", change: func(s *small) { s.a = describe(strings.Repeat("n", 64), 0, 0, 3) }, says: "more than 63"},
		{name: "a nameless tensor", change: func(s *small) { s.a = describe("", 0, 0, 3) }, says: "empty"},
		{name: "a tensor twice", change: func(s *small) { s.b = describe("a", 0, 32, 2, 2) }, says: `tensor "a" at byte 74: the name occurs twice`},
		{name: "five dimensions", change: func(s *small) { s.a = describe("a", 0, 0, 3, 1, 1, 1, 1) }, says: "5 dimensions"},
		{name: "an empty dimension", change: func(s *small) { s.a = describe("a", 0, 0, 0) }, says: "dimension 0"},
		{name: "a dimension that overflows", change: func(s *small) { s.a = describe("a", 0, 0, 1<<63) }, says: "overflows"},
		{name: "a shape that overflows", change: func(s *small) { s.a = describe("a", 0, 0, 1<<40, 1<<40) }, says: "overflows"},
		{name: "a type that ggml removed", change: func(s *small) { s.a = describe("a", 4, 0, 3) }, says: "type 4 is not known"},
		{name: "a type past the last", change: func(s *small) { s.a = describe("a", 1<<31, 0, 3) }, says: "is not known"},
		{name: "a row that does not fill blocks", change: func(s *small) { s.a = describe("a", 8, 0, 33) }, says: "whole blocks"},
		{name: "an offset off the alignment", change: func(s *small) { s.b = describe("b", 0, 16, 2, 2) }, says: "no multiple"},
		{name: "an overlap", change: func(s *small) { s.b = describe("b", 0, 0, 2, 2) }, says: "overlap"},
		{name: "a hole", change: func(s *small) { s.b = describe("b", 0, 64, 2, 2) }, says: "hole"},
		{name: "an offset that overflows", change: func(s *small) { s.b = describe("b", 0, 1<<64-32, 2, 2) }, says: "hole"},
		{name: "data cut short", change: func(s *small) { s.data = 47 }, says: "do not fit"},
		{name: "no data", change: func(s *small) { s.data = 0 }, says: "do not fit"},
		{name: "bytes after the data", change: func(s *small) { s.extra = 1 }, says: "belong to no tensor"},
		{name: "descriptions cut short", change: func(s *small) { s.data, s.b = 0, s.b[:20] }, says: "truncated"},
	} {
		s := newSmall()
		if c.change != nil {
			c.change(&s)
		}
		b := s.bytes()
		if c.raw != nil {
			b = c.raw(b)
		}
		path := filepath.Join(t.TempDir(), "x.gguf")
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		f, err := gguf.Open(path)
		if err == nil {
			f.Close()
			t.Errorf("%s: no error", c.name)
			continue
		}
		var wrong *gguf.FormatError
		if !errors.As(err, &wrong) || wrong.File != path || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v; want %q", c.name, err, c.says)
		}
	}
}

func TestOpenAccepts(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*small)
	}{
		{"as it is", func(*small) {}},
		{"version 2", func(s *small) { s.version = 2 }},
		{"the last padding missing", func(s *small) { s.data = 48 }},
		{"a scalar", func(s *small) { s.a = describe("a", 0, 0) }},
		{"no tensors", func(s *small) { s.tensors, s.a, s.b, s.data = 0, nil, nil, 0 }},
		{"an empty array", func(s *small) { s.metadata = key("k", 9, u32(8), u64(0)) }},
	} {
		s := newSmall()
		c.change(&s)
		path := filepath.Join(t.TempDir(), "x.gguf")
		if err := os.WriteFile(path, s.bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		f, err := gguf.Open(path)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		for _, i := range f.Infos() {
			if _, err := f.Bytes(i.Name); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		f.Close()
	}
}
