package tensor

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// realFiles are written by the reference library, by several programs.
func realFiles(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/*/*.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("testdata/*/*/*.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	files = append(files, more...)
	if len(files) != 12 {
		t.Fatalf("testdata has %d safetensors files, want 12: %v", len(files), files)
	}
	return files
}

func readAll(t testing.TB, path string) ([]Tensor, map[string]string) {
	t.Helper()
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []Tensor
	for _, info := range f.Infos() {
		data, err := f.Bytes(info.Name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, Tensor{info.Name, info.DType, info.Shape, data})
	}
	return all, f.Metadata()
}

func TestRewritingGivesTheReferenceLibrarysBytes(t *testing.T) {
	for _, path := range realFiles(t) {
		t.Run(filepath.Base(filepath.Dir(path))+"/"+filepath.Base(path), func(t *testing.T) {
			all, metadata := readAll(t, path)
			// The order given must not matter.
			rand.New(rand.NewPCG(1, 2)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			out := filepath.Join(t.TempDir(), "out.safetensors")
			if err := WriteFile(out, all, metadata); err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("rewritten file differs: %d bytes, want %d; header %.200q", len(got), len(want), got[8:])
			}
		})
	}
}

func TestDefaultMetadataIsPyTorchs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.safetensors")
	if err := WriteFile(path, []Tensor{FromFloat32("a", []int64{2}, []float32{1, 2}, F32)}, nil); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := `{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}   `
	want := binary.LittleEndian.AppendUint64(nil, uint64(len(text)))
	want = append(append(want, text...), 0, 0, 0x80, 0x3f, 0, 0, 0, 0x40)
	if !bytes.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

// TestAnyTensorsSurvive writes random files and reads them back.
func TestAnyTensorsSurvive(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.StringN(0, 12, -1).Filter(func(s string) bool { return s != "__metadata__" }), 0, 6, rapid.ID).Draw(t, "names")
		metadata := rapid.MapOfN(rapid.StringN(0, 5, -1), rapid.StringN(0, 5, -1), 0, 3).Draw(t, "metadata")
		want := map[string]Tensor{}
		var all []Tensor
		for _, name := range names {
			d := DType(rapid.IntRange(int(BOOL), int(U64)).Draw(t, "dtype"))
			shape := rapid.SliceOfN(rapid.Int64Range(0, 5), 0, 3).Draw(t, "shape")
			n, err := byteSize(d, shape)
			if err != nil {
				shape = append(shape, 8) // 4- and 6-bit types fill bytes by eight
				n, err = byteSize(d, shape)
			}
			if err != nil {
				t.Fatal(err)
			}
			data := rapid.SliceOfN(rapid.Byte(), int(n), int(n)).Draw(t, "data")
			want[name] = Tensor{name, d, shape, data}
			all = append(all, want[name])
		}
		path := filepath.Join(dir, "any.safetensors")
		if err := WriteFile(path, all, metadata); err != nil {
			t.Fatal(err)
		}
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if diff := cmp.Diff(metadata, f.Metadata()); diff != "" {
			t.Fatalf("metadata: %s", diff)
		}
		if len(f.Infos()) != len(want) {
			t.Fatalf("%d tensors, want %d", len(f.Infos()), len(want))
		}
		for name, w := range want {
			info, ok := f.Info(name)
			b, err := f.Bytes(name)
			if !ok || err != nil || info.DType != w.DType || !bytes.Equal(b, w.Data) || cmp.Diff(info.Shape, w.Shape, cmp.Transformer("empty", func(s []int64) []int64 { return append([]int64{}, s...) })) != "" {
				t.Fatalf("tensor %q: %+v %v %v, want %+v", name, info, b, err, w)
			}
		}
	})
}

func TestFloat32Widens(t *testing.T) {
	x := []float32{0, 1, -2.5, 0x1p-14, float32(math.Inf(1)), 65504}
	path := filepath.Join(t.TempDir(), "x.safetensors")
	shape := []int64{2, 3}
	err := WriteFile(path, []Tensor{
		FromFloat32("f32", shape, x, F32), FromFloat32("bf16", shape, x, BF16), FromFloat32("f16", shape, x, F16),
		{Name: "i8", DType: I8, Shape: []int64{1}, Data: []byte{1}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for name, want := range map[string][]float32{"f32": x, "f16": x, "bf16": {0, 1, -2.5, 0x1p-14, float32(math.Inf(1)), 65536}} {
		got, err := f.Float32(name)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if _, err := f.Float32("i8"); err == nil {
		t.Error("an I8 tensor was read as float32")
	}
	if _, err := f.Float32("none"); err == nil {
		t.Error("a tensor that is not there was read")
	}
	if err := f.ReadAt("f32", make([]byte, 9), 16); err == nil {
		t.Error("bytes past the end of a tensor were read")
	}
}

func TestWriterCountsBytes(t *testing.T) {
	dir := t.TempDir()
	l, err := Plan([]Info{{Name: "a", DType: F32, Shape: []int64{4}}, {Name: "b", DType: U8, Shape: []int64{3}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "x.safetensors")
	w, err := Create(path, l)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.WriteAt("a", make([]byte, 16), 0); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []error{w.WriteAt("c", nil, 0), w.WriteAt("b", make([]byte, 4), 0), w.WriteAt("b", make([]byte, 1), -1)} {
		if bad == nil {
			t.Error("a write outside the plan was accepted")
		}
	}
	if err := w.WriteAt("b", make([]byte, 2), 1); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(); err == nil {
		t.Error("a file with a byte never written was committed")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 0 {
		t.Errorf("after a refused commit the directory has %v, %v", entries, err)
	}
	if err := WriteFile(filepath.Join(dir, "none", "x.safetensors"), nil, nil); err == nil {
		t.Error("a file was written into a directory that does not exist")
	}
}

func TestPlanRefuses(t *testing.T) {
	for name, infos := range map[string][]Info{
		"same name twice": {{Name: "a", DType: F32}, {Name: "a", DType: U8}},
		"reserved name":   {{Name: "__metadata__", DType: F32}},
		"not UTF-8":       {{Name: "\xff", DType: F32}},
		"no dtype":        {{Name: "a"}},
		"negative":        {{Name: "a", DType: F32, Shape: []int64{-1}}},
		"half a byte":     {{Name: "a", DType: F4, Shape: []int64{3}}},
		"overflow":        {{Name: "a", DType: F32, Shape: []int64{1 << 40, 1 << 40}}},
		"sum overflows":   {{Name: "a", DType: U8, Shape: []int64{1 << 62}}, {Name: "b", DType: U8, Shape: []int64{1 << 62}}},
	} {
		if _, err := Plan(infos, nil); err == nil {
			t.Errorf("%s: planned", name)
		}
	}
}
