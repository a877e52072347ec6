package gguf_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tarbert/internal/tensor/gguf"
)

// kinds is what testdata/kinds.gguf holds, by gguf-py's own account.
var kinds = gguf.Metadata{
	{Key: "general.architecture", Value: "made-up"},
	{Key: "scalar.u8", Value: uint8(200)},
	{Key: "scalar.i8", Value: int8(-7)},
	{Key: "scalar.u16", Value: uint16(60000)},
	{Key: "scalar.i16", Value: int16(-30000)},
	{Key: "scalar.u32", Value: uint32(4000000000)},
	{Key: "scalar.i32", Value: int32(-2000000000)},
	{Key: "scalar.f32", Value: float32(0.1)},
	{Key: "scalar.true", Value: true},
	{Key: "scalar.false", Value: false},
	{Key: "scalar.string", Value: "naïve ☃ 数"},
	{Key: "scalar.u64", Value: uint64(1<<63 + 1)},
	{Key: "scalar.i64", Value: int64(-1 << 62)},
	{Key: "scalar.f64", Value: 0.1},
	{Key: "array.u8", Value: []uint8{1, 2, 255}},
	{Key: "array.i8", Value: []int8{-1, 2}},
	{Key: "array.u16", Value: []uint16{1, 65535}},
	{Key: "array.i16", Value: []int16{-1}},
	{Key: "array.u32", Value: []uint32{1, 1<<32 - 1}},
	{Key: "array.i32", Value: []int32{-1, 5}},
	{Key: "array.f32", Value: []float32{0.5, -1.25}},
	{Key: "array.bool", Value: []bool{true, false, true}},
	{Key: "array.string", Value: []string{"", "a", "Ġb"}},
	{Key: "array.u64", Value: []uint64{1<<64 - 1}},
	{Key: "array.i64", Value: []int64{-1 << 63}},
	{Key: "array.f64", Value: []float64{1e300}},
	{Key: "array.nested", Value: []any{[]int32{1, 2}, []int32{3}}},
}

func open(t *testing.T, path string) *gguf.File {
	t.Helper()
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestReadsWhatGGUFPyWrites(t *testing.T) {
	f := open(t, "testdata/kinds.gguf")
	if diff := cmp.Diff(kinds, f.Metadata()); diff != "" {
		t.Error(diff)
	}
	type description struct {
		Name  string
		Type  gguf.Type
		Shape []int64
		Size  int64
	}
	var got []description
	for _, i := range f.Infos() {
		got = append(got, description{i.Name, i.Type, i.Shape, i.Size})
		if i.Offset%32 != 0 {
			t.Errorf("%s begins at %d", i.Name, i.Offset)
		}
	}
	want := []description{
		{"plain.f32", gguf.F32, []int64{3, 5}, 60},
		{"half.f16", gguf.F16, []int64{7}, 14},
		{"brain.bf16", gguf.BF16, []int64{2, 3, 64}, 768},
		{"blocks.q8_0", gguf.Q8_0, []int64{2, 3, 64}, 408},
		{"ints.i32", gguf.I32, []int64{2, 1, 2, 1}, 16},
		{"source.f32", gguf.F32, []int64{2, 3, 64}, 1536},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestWritesWhatGGUFPyWrites: the same metadata and tensors give the same file.
func TestWritesWhatGGUFPyWrites(t *testing.T) {
	f := open(t, "testdata/kinds.gguf")
	source, err := f.Float32("source.f32")
	if err != nil {
		t.Fatal(err)
	}
	l, err := gguf.Plan(kinds, f.Infos())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "again.gguf")
	w, err := gguf.Create(path, l)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range l.Infos {
		data, err := f.Bytes(i.Name)
		if err != nil {
			t.Fatal(err)
		}
		if i.Type == gguf.BF16 || i.Type == gguf.Q8_0 { // our own encoding of the source
			if err := gguf.Encode(data, source, i.Type); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.WriteAt(i.Name, data, 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is there before Commit: %v", err)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/kinds.gguf")
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, got) {
		t.Errorf("%d bytes differ from gguf-py's %d", len(got), len(want))
	}
}

func TestMetadataSetKeepsAKeysPlace(t *testing.T) {
	m := gguf.Metadata{{Key: "a", Value: uint32(1)}, {Key: "b", Value: "x"}}
	m.Set("a", uint32(2))
	m.Set("c", true)
	want := gguf.Metadata{{Key: "a", Value: uint32(2)}, {Key: "b", Value: "x"}, {Key: "c", Value: true}}
	if diff := cmp.Diff(want, m); diff != "" {
		t.Error(diff)
	}
	if _, ok := m.Get("d"); ok {
		t.Error("a key that is not there was found")
	}
}

func TestPlanRefuses(t *testing.T) {
	f32 := func(name string, shape ...int64) gguf.Info {
		return gguf.Info{Name: name, Type: gguf.F32, Shape: shape}
	}
	for _, c := range []struct {
		name     string
		metadata gguf.Metadata
		tensors  []gguf.Info
	}{
		{"two tensors of one name", nil, []gguf.Info{f32("a", 1), f32("a", 1)}},
		{"a name of 64 bytes", nil, []gguf.Info{f32(string(bytes.Repeat([]byte("n"), 64)), 1)}},
		{"a nameless tensor", nil, []gguf.Info{f32("", 1)}},
		{"five dimensions", nil, []gguf.Info{f32("a", 1, 1, 1, 1, 1)}},
		{"an empty dimension", nil, []gguf.Info{f32("a", 3, 0)}},
		{"a negative dimension", nil, []gguf.Info{f32("a", -3)}},
		{"overflow", nil, []gguf.Info{f32("a", 1<<40, 1<<40)}},
		{"rows that do not fill blocks", nil, []gguf.Info{{Name: "a", Type: gguf.Q8_0, Shape: []int64{32, 33}}}},
		{"a type that is none", nil, []gguf.Info{{Name: "a", Type: 4, Shape: []int64{1}}}},
		{"two keys of one name", gguf.Metadata{{Key: "a", Value: true}, {Key: "a", Value: true}}, nil},
		{"an empty key", gguf.Metadata{{Key: "", Value: true}}, nil},
		{"a key that is not UTF-8", gguf.Metadata{{Key: "\xff", Value: true}}, nil},
		{"a value of no kind", gguf.Metadata{{Key: "a", Value: 1}}, nil},
		{"nil", gguf.Metadata{{Key: "a", Value: nil}}, nil},
		{"an array of arrays with a scalar in it", gguf.Metadata{{Key: "a", Value: []any{uint8(1)}}}, nil},
		{"arrays too deep", gguf.Metadata{{Key: "a", Value: []any{[]any{[]any{[]any{[]uint8{1}}}}}}}, nil},
		{"an alignment that is no power of two", gguf.Metadata{{Key: "general.alignment", Value: uint32(24)}}, nil},
		{"an alignment of another type", gguf.Metadata{{Key: "general.alignment", Value: uint64(32)}}, nil},
	} {
		if _, err := gguf.Plan(c.metadata, c.tensors); err == nil {
			t.Errorf("%s: no error", c.name)
		}
	}
}

func TestAlignment(t *testing.T) {
	l, err := gguf.Plan(gguf.Metadata{{Key: "general.alignment", Value: uint32(4096)}},
		[]gguf.Info{{Name: "a", Type: gguf.F32, Shape: []int64{3}}, {Name: "b", Type: gguf.F32, Shape: []int64{1}}})
	if err != nil {
		t.Fatal(err)
	}
	if l.Infos[0].Offset != 4096 || l.Infos[1].Offset != 8192 || l.Size != 12288 {
		t.Errorf("%+v, %d bytes", l.Infos, l.Size)
	}
}

func TestWriterCountsEveryByte(t *testing.T) {
	l, err := gguf.Plan(nil, []gguf.Info{{Name: "a", Type: gguf.F32, Shape: []int64{4}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		writes []int64 // offsets of 8 bytes each
		ok     bool
	}{{"all", []int64{8, 0}, true}, {"half", []int64{0}, false}, {"one twice", []int64{0, 0, 8}, false}} {
		dir := t.TempDir()
		w, err := gguf.Create(filepath.Join(dir, "x.gguf"), l)
		if err != nil {
			t.Fatal(err)
		}
		for _, off := range c.writes {
			if err := w.WriteAt("a", make([]byte, 8), off); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.WriteAt("a", make([]byte, 8), 12); err == nil {
			t.Error("a write past the tensor's end was accepted")
		}
		if err := w.WriteAt("b", nil, 0); err == nil {
			t.Error("a write to a tensor that was not planned was accepted")
		}
		if err := w.Commit(); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		left, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if want := map[bool]int{true: 1, false: 0}[c.ok]; len(left) != want {
			t.Errorf("%s: %d files left, want %d", c.name, len(left), want)
		}
	}
}

func TestReadAtStaysInside(t *testing.T) {
	f := open(t, "testdata/kinds.gguf")
	for _, c := range []struct {
		name string
		n    int
		off  int64
	}{{"plain.f32", 61, 0}, {"plain.f32", 1, 60}, {"plain.f32", 1, -1}, {"nobody", 0, 0}} {
		if err := f.ReadAt(c.name, make([]byte, c.n), c.off); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
	if _, err := f.Float32("ints.i32"); err == nil {
		t.Error("integers were read as float32")
	}
	if _, err := gguf.Open("testdata"); err == nil {
		t.Error("a directory was opened")
	}
}
