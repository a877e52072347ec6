package tensor

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const sharded = "testdata/golden/qwen3-published-bf16-sharded"

func TestOpenDirReadsRealShards(t *testing.T) {
	for dir, want := range map[string]struct{ files, tensors int }{
		sharded: {7, 48}, "testdata/golden/deepseek-v3-fp8": {1, 0}, "testdata/msmodelslim": {1, 78},
	} {
		d, err := OpenDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if want.tensors == 0 {
			want.tensors = len(d.files[0].infos)
		}
		if len(d.Files()) != want.files || len(d.Infos()) != want.tensors {
			t.Errorf("%s: %d files, %d tensors, want %+v", dir, len(d.Files()), len(d.Infos()), want)
		}
		for _, info := range d.Infos() {
			got, ok := d.Info(info.Name)
			if diff := cmp.Diff(info, got); !ok || diff != "" {
				t.Errorf("%s: Info(%q): %s", dir, info.Name, diff)
			}
		}
	}
}

func copyDir(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

// editIndex rewrites the weight map of a sharded directory.
func editIndex(t *testing.T, dir string, edit func(map[string]string)) {
	t.Helper()
	path := filepath.Join(dir, IndexName)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var index struct {
		Metadata  map[string]any    `json:"metadata"`
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(b, &index); err != nil {
		t.Fatal(err)
	}
	edit(index.WeightMap)
	if b, err = json.Marshal(index); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestOpenDirRefuses(t *testing.T) {
	const first = "model-00001-of-00007.safetensors"
	replace := func(t *testing.T, dir, old, new string) {
		path := filepath.Join(dir, IndexName)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(b, []byte(old)) {
			t.Fatalf("the index does not contain %q", old)
		}
		if err := os.WriteFile(path, bytes.Replace(b, []byte(old), []byte(new), 1), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tests := map[string]struct {
		damage func(t *testing.T, dir string)
		want   []string
	}{
		"shard missing": {func(t *testing.T, dir string) { remove(t, dir, first) }, []string{IndexName, first, "missing"}},
		"index missing": {func(t *testing.T, dir string) { remove(t, dir, IndexName) }, []string{first, "without", IndexName}},
		"index forgets a tensor": {func(t *testing.T, dir string) {
			editIndex(t, dir, func(m map[string]string) { delete(m, "model.embed_tokens.weight") })
		}, []string{first, "model.embed_tokens.weight", "does not list it", "stale"}},
		"index has one too many": {func(t *testing.T, dir string) {
			editIndex(t, dir, func(m map[string]string) { m["ghost"] = first })
		}, []string{IndexName, "ghost", first, "stale"}},
		"index in the wrong shard": {func(t *testing.T, dir string) {
			editIndex(t, dir, func(m map[string]string) {
				m["model.embed_tokens.weight"] = "model-00002-of-00007.safetensors"
			})
		}, []string{first, "model.embed_tokens.weight", "model-00002", "stale"}},
		"index drops a shard": {func(t *testing.T, dir string) {
			editIndex(t, dir, func(m map[string]string) { maps.DeleteFunc(m, func(_, f string) bool { return f == first }) })
		}, []string{IndexName, first, "left over"}},
		"shard in the parent directory": {func(t *testing.T, dir string) {
			editIndex(t, dir, func(m map[string]string) { m["lm_head.weight"] = "../" + first })
		}, []string{IndexName, "lm_head.weight", "leave the directory"}},
		"absolute shard": {func(t *testing.T, dir string) {
			editIndex(t, dir, func(m map[string]string) { m["lm_head.weight"] = "/etc/passwd" })
		}, []string{IndexName, "/etc/passwd", "leave the directory"}},
		"tensor twice": {func(t *testing.T, dir string) {
			b, err := os.ReadFile(filepath.Join(dir, first))
			if err != nil {
				t.Fatal(err)
			}
			name := "model-00008-of-00007.safetensors"
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
				t.Fatal(err)
			}
			editIndex(t, dir, func(m map[string]string) { m["x"] = name })
		}, []string{"model-00008-of-00007.safetensors", "is in " + first + " as well"}},
		"name twice in the index": {func(t *testing.T, dir string) {
			replace(t, dir, `"weight_map": {`, `"weight_map": {"lm_head.weight": "model-00007-of-00007.safetensors",`)
		}, []string{IndexName, "lm_head.weight", "occurs twice"}},
		"map twice": {func(t *testing.T, dir string) {
			replace(t, dir, `"metadata"`, `"weight_map": {}, "metadata"`)
		}, []string{IndexName, "occurs twice"}},
		"no map":      {func(t *testing.T, dir string) { replace(t, dir, `"weight_map"`, `"weightmap"`) }, []string{IndexName, "no \"weight_map\""}},
		"broken JSON": {func(t *testing.T, dir string) { replace(t, dir, `"metadata": {`, `"metadata": {,`) }, []string{IndexName, "byte"}},
		"two sets": {func(t *testing.T, dir string) {
			if err := WriteFile(filepath.Join(dir, "quant_model_weights.safetensors"), nil, nil); err != nil {
				t.Fatal(err)
			}
		}, []string{"two sets of weights"}},
		"single file beside shards": {func(t *testing.T, dir string) {
			if err := WriteFile(filepath.Join(dir, "model.safetensors"), nil, nil); err != nil {
				t.Fatal(err)
			}
		}, []string{"model.safetensors", "left over"}},
		"truncated shard": {func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, first), 50000); err != nil {
				t.Fatal(err)
			}
		}, []string{first, "truncated"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := copyDir(t, sharded)
			tt.damage(t, dir)
			d, err := OpenDir(dir)
			if err == nil {
				d.Close()
				t.Fatal("opened")
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not say %q", err, w)
				}
			}
		})
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func TestOpenDirWithoutSafetensors(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenDir(dir); err == nil || !strings.Contains(err.Error(), "no weights") {
		t.Errorf("an empty directory gave %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "pytorch_model.bin"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenDir(dir); err == nil || !strings.Contains(err.Error(), "pickle") {
		t.Errorf("a pickle gave %v", err)
	}
	if _, err := OpenDir(filepath.Join(dir, "none")); err == nil {
		t.Error("a missing directory was opened")
	}
}

func TestIgnoresOtherSafetensors(t *testing.T) {
	dir := copyDir(t, sharded)
	if err := WriteFile(filepath.Join(dir, "optimizer.safetensors"), nil, nil); err != nil {
		t.Fatal(err)
	}
	d, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if slices.Contains(d.Files(), "optimizer.safetensors") {
		t.Error("the optimizer's state was taken for weights")
	}
}

func TestEncodeIndexEqualsTransformers(t *testing.T) {
	d, err := OpenDir(sharded)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	got, err := EncodeIndex(d.Infos())
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join(sharded, IndexName))
	if err != nil {
		t.Fatal(err)
	}
	// transformers 5 adds a count of parameters, which nothing reads.
	want = bytes.Replace(want, []byte("    \"total_parameters\": 180800,\n"), nil, 1)
	if !bytes.Equal(got, want) {
		t.Errorf("%s", cmp.Diff(string(want), string(got)))
	}
	if _, err := EncodeIndex([]Info{{Name: "a"}, {Name: "a"}}); err == nil {
		t.Error("a tensor in two shards was indexed")
	}
}

func FuzzIndex(f *testing.F) {
	b, err := os.ReadFile(filepath.Join(sharded, IndexName))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"weight_map":{"a":"b"},"metadata":{"x":[1,2.5e3,true,null,{"y":"z"}]}}`))
	f.Add([]byte(`{"weight_map":{"a":"../b"}}`))
	f.Add([]byte(`{"metadata":[[[[[[[[[[`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(dir, "index.json")
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		x, err := readIndex(path)
		if err != nil {
			return
		}
		for name, file := range x.files {
			if filepath.Base(file) != file || !filepath.IsLocal(file) {
				t.Fatalf("%q is in %q, outside the directory", name, file)
			}
		}
		if !json.Valid(b) {
			t.Fatal("accepted what is not JSON")
		}
	})
}
