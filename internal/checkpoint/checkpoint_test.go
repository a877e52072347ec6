package checkpoint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tarbert/internal/tensor"
)

// fill writes a small but whole checkpoint's files; n makes contents differ.
func fill(t testing.TB, dir string, n int) {
	t.Helper()
	w := []float32{float32(n), 1, -2, 3}
	f32 := func(name string) tensor.Tensor { return tensor.FromFloat32(name, []int64{2, 2}, w, tensor.F32) }
	for name, tensors := range map[string][]tensor.Tensor{
		"model.safetensors":     {f32("model.norm.weight")},
		"optimizer.safetensors": {f32("exp_avg.model.norm.weight"), f32("exp_avg_sq.model.norm.weight")},
	} {
		if err := tensor.WriteFile(filepath.Join(dir, name), tensors, nil); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"config.json": `{"model_type":"qwen3"}`, "tokenizer.json": "{}", "empty.txt": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func state(step int) State {
	return State{
		Step: step, Tokens: int64(step) * 1000, Stage: "sft", Cursor: Cursor{Epoch: 1, Position: 42},
		RNG: map[string][]byte{"data": {0, 255, 7}}, Schedule: map[string]float64{"last_lr": 0.1},
		Writer: Identity{Trainer: "reference", Vendor: "cpu", DType: "float32"}, Extra: json.RawMessage(`{"a":[1,2]}`),
	}
}

// write commits a checkpoint.
func write(t testing.TB, root string, step int) string {
	t.Helper()
	w, err := Begin(root, step)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, w.Dir(), step)
	dir, err := w.Commit(state(step))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestCommitThenRead(t *testing.T) {
	root := filepath.Join(t.TempDir(), "new", "root")
	dir := write(t, root, 120)
	if dir != filepath.Join(root, "step-00000120") {
		t.Errorf("committed as %s", dir)
	}
	m, err := Verify(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range m.Files {
		names = append(names, f.Name)
	}
	if diff := cmp.Diff([]string{"config.json", "empty.txt", "model.safetensors", "optimizer.safetensors", "state.json", "tokenizer.json"}, names); diff != "" {
		t.Error(diff)
	}
	got, err := ReadState(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := state(120)
	want.Version = Version
	compactExtra := cmp.Transformer("compact", func(r json.RawMessage) string {
		var b bytes.Buffer
		if err := json.Compact(&b, r); err != nil {
			return string(r)
		}
		return b.String()
	})
	if diff := cmp.Diff(want, got, compactExtra); diff != "" {
		t.Error(diff)
	}
	if entries, err := os.ReadDir(root); err != nil || len(entries) != 1 {
		t.Errorf("the root holds %v, %v", entries, err)
	}
	if err := Finite(dir); err != nil {
		t.Error(err)
	}
}

func TestCommitRefuses(t *testing.T) {
	root := t.TempDir()
	if _, err := Begin(root, -1); err == nil {
		t.Error("a negative step was begun")
	}
	w, err := Begin(root, 3)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, w.Dir(), 1)
	if _, err := w.Commit(state(4)); err == nil {
		t.Error("state of another step was committed")
	}
	if err := os.Mkdir(filepath.Join(w.Dir(), "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(state(3)); err == nil || !strings.Contains(err.Error(), "sub") {
		t.Errorf("a directory inside was committed: %v", err)
	}
	if err := os.Remove(filepath.Join(w.Dir(), "sub")); err != nil {
		t.Fatal(err)
	}
	dir, err := w.Commit(state(3)) // the failed attempts leave nothing in the way
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(dir); err != nil {
		t.Error(err)
	}
	if _, err := w.Commit(state(3)); err == nil {
		t.Error("committed twice")
	}
	if err := w.Abort(); err != nil {
		t.Error(err)
	}
}

func TestCommitOfAStepThatExists(t *testing.T) {
	root := t.TempDir()
	first := write(t, root, 5)
	before, err := os.Stat(first)
	if err != nil {
		t.Fatal(err)
	}
	again := write(t, root, 5) // the same bytes
	after, err := os.Stat(again)
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, after) {
		t.Error("an identical checkpoint was replaced")
	}
	w, err := Begin(root, 5)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, w.Dir(), 99)
	if _, err := w.Commit(state(5)); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(first); err != nil {
		t.Error(err)
	}
	m, err := tensor.Open(filepath.Join(first, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if x, err := m.Float32("model.norm.weight"); err != nil || x[0] != 99 {
		t.Errorf("another checkpoint of the step was not replaced: %v %v", x, err)
	}
	if entries, err := os.ReadDir(root); err != nil || len(entries) != 1 {
		t.Errorf("the root holds %v, %v", entries, err)
	}
}

// clone copies a root without waiting for the disk.
func clone(t *testing.T, root string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "root")
	if err := os.CopyFS(to, os.DirFS(root)); err != nil {
		t.Fatal(err)
	}
	return to
}

// damages are what can happen to a directory; each gets every file in turn.
var damages = map[string]func(t *testing.T, path string){
	"truncated by a byte": func(t *testing.T, path string) {
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, st.Size()-1); err != nil {
			t.Fatal(err)
		}
	},
	"emptied": func(t *testing.T, path string) {
		if err := os.Truncate(path, 0); err != nil {
			t.Fatal(err)
		}
	},
	"grown": func(t *testing.T, path string) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(b, ' '), 0o644); err != nil {
			t.Fatal(err)
		}
	},
	"deleted": func(t *testing.T, path string) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	},
	"a directory": func(t *testing.T, path string) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
	},
	"a link": func(t *testing.T, path string) {
		if err := os.Rename(path, path+".real"); err != nil {
			t.Fatal(err)
		}
		away := filepath.Join(filepath.Dir(filepath.Dir(path)), "away")
		if err := os.Rename(path+".real", away); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(away, path); err != nil {
			t.Fatal(err)
		}
	},
}

func TestEveryDamageToEveryFileIsNamed(t *testing.T) {
	names := []string{"config.json", "model.safetensors", "optimizer.safetensors", "state.json", "tokenizer.json", "manifest.json"}
	whole := t.TempDir()
	write(t, whole, 1)
	write(t, whole, 2)
	for kind, damage := range damages {
		for _, name := range names {
			t.Run(kind+"/"+name, func(t *testing.T) {
				root := clone(t, whole)
				good, bad := filepath.Join(root, stepName(1)), filepath.Join(root, stepName(2))
				damage(t, filepath.Join(bad, name))
				if _, err := Verify(bad); err == nil || !strings.Contains(err.Error(), name) {
					t.Errorf("Verify: %v does not name %s", err, name)
				}
				got, skipped, err := Newest(root)
				if err != nil || got != good {
					t.Errorf("Newest = %s, %v; want %s", got, err, good)
				}
				if len(skipped) != 1 || skipped[0].Dir != bad || skipped[0].Step != 2 || !strings.Contains(skipped[0].Reason, name) {
					t.Errorf("skipped %+v", skipped)
				}
			})
		}
	}
}

// TestEveryBitCounts flips bits all over every file, each bit of the small ones.
func TestEveryBitCounts(t *testing.T) {
	dir := write(t, t.TempDir(), 7)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for range min(8*len(b), 80) {
			bit := rng.IntN(8 * len(b))
			b[bit/8] ^= 1 << (bit % 8)
			if err := os.WriteFile(path, b, 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := Verify(dir); err == nil {
				t.Fatalf("%s: bit %d flipped (byte now %q), and the checkpoint verifies", e.Name(), bit, b[bit/8])
			}
			b[bit/8] ^= 1 << (bit % 8)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Verify(dir); err != nil {
		t.Errorf("restored, but %v", err)
	}
}

func TestNewestSkips(t *testing.T) {
	tests := map[string]struct {
		plant func(t *testing.T, root string)
		want  string
	}{
		"an extra file": {func(t *testing.T, root string) {
			if err := os.WriteFile(filepath.Join(write(t, root, 2), "extra.bin"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}, "extra.bin: not in the manifest"},
		"a directory renamed to a later step": {func(t *testing.T, root string) {
			if err := os.Rename(write(t, root, 2), filepath.Join(root, stepName(900))); err != nil {
				t.Fatal(err)
			}
		}, "manifest is of step 2"},
		"a state of a later step than the name says": {func(t *testing.T, root string) {
			dir := write(t, root, 2)
			m, err := readManifest(dir)
			if err != nil {
				t.Fatal(err)
			}
			s, err := ReadState(dir)
			if err != nil {
				t.Fatal(err)
			}
			s.Step = 3
			rewrite(t, dir, "state.json", s)
			for i, f := range m.Files {
				if m.Files[i], err = describe(dir, f.Name); err != nil {
					t.Fatal(err)
				}
			}
			rewrite(t, dir, "manifest.json", m)
		}, "state.json is of step 3"},
		"one without a manifest": {func(t *testing.T, root string) {
			dir := filepath.Join(root, stepName(2))
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			fill(t, dir, 2)
		}, "not committed"},
		"a manifest that lists a path outside": {func(t *testing.T, root string) {
			rewrite(t, write(t, root, 2), "manifest.json", Manifest{Version: 1, Step: 2, Files: []FileInfo{{Name: "../../x"}}})
		}, "is not the name of a file"},
		"a manifest that lists a file twice": {func(t *testing.T, root string) {
			dir := write(t, root, 2)
			m, err := readManifest(dir)
			if err != nil {
				t.Fatal(err)
			}
			m.Files = append(m.Files[:1], m.Files...)
			rewrite(t, dir, "manifest.json", m)
		}, "twice"},
		"a manifest of a later version": {func(t *testing.T, root string) {
			rewrite(t, write(t, root, 2), "manifest.json", Manifest{Version: 2, Step: 2})
		}, "version 2"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			good := write(t, root, 1)
			tt.plant(t, root)
			got, skipped, err := Newest(root)
			if err != nil || got != good || len(skipped) != 1 || !strings.Contains(skipped[0].Reason, tt.want) {
				t.Errorf("Newest = %s, %+v, %v; want %s and a reason with %q", got, skipped, err, good, tt.want)
			}
		})
	}
}

func rewrite(t *testing.T, dir, name string, v any) {
	t.Helper()
	b, err := encodeJSON(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestListAndNames(t *testing.T) {
	root := t.TempDir()
	if l, err := List(filepath.Join(root, "none")); err != nil || l != nil {
		t.Errorf("a root that is not there: %v, %v", l, err)
	}
	if dir, skipped, err := Newest(root); dir != "" || skipped != nil || err != nil {
		t.Errorf("an empty root: %q %v %v", dir, skipped, err)
	}
	write(t, root, 100000000) // nine digits sort after eight
	write(t, root, 99)
	for _, name := range []string{"step-99", "step-00000099x", "step--0000001", "step-000000100", "other"} {
		if err := os.Mkdir(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l, err := List(root)
	want := []Entry{{99, filepath.Join(root, "step-00000099")}, {100000000, filepath.Join(root, "step-100000000")}}
	if diff := cmp.Diff(want, l); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
}

func TestPrune(t *testing.T) {
	root := t.TempDir()
	for step := range 5 {
		write(t, root, step)
	}
	removed, err := Prune(root, func(e Entry) bool { return e.Step == 1 })
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(steps(removed)); got != "[0 2 3]" {
		t.Errorf("removed %s", got)
	}
	l, err := List(root)
	if err != nil || fmt.Sprint(steps(l)) != "[1 4]" {
		t.Errorf("left %v, %v: want 1 and the newest", l, err)
	}
	if entries, err := os.ReadDir(root); err != nil || len(entries) != 2 {
		t.Errorf("the root holds %v, %v", entries, err)
	}
}

func steps(entries []Entry) (out []int) {
	for _, e := range entries {
		out = append(out, e.Step)
	}
	return out
}

func TestFiniteNamesTensorAndElement(t *testing.T) {
	dir := t.TempDir()
	good := tensor.FromFloat32("a", []int64{3}, []float32{1, 2, 3}, tensor.F32)
	big := make([]float32, 600_000) // more than a band
	for _, tt := range []struct {
		d  tensor.DType
		at int
		v  float32
	}{{tensor.F32, 2, float32(math.NaN())}, {tensor.F32, 599_999, float32(math.Inf(-1))}, {tensor.BF16, 524_288, float32(math.Inf(1))}, {tensor.F16, 1, float32(math.NaN())}} {
		big[tt.at] = tt.v
		bad := tensor.FromFloat32("bad", []int64{600_000}, big, tt.d)
		if err := tensor.WriteFile(filepath.Join(dir, "model.safetensors"), []tensor.Tensor{good, bad}, nil); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf(`"bad": element %d (`, tt.at)
		if err := Finite(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v is not %s…", err, want)
		}
		big[tt.at] = 0
	}
	if err := tensor.WriteFile(filepath.Join(dir, "model.safetensors"), []tensor.Tensor{good}, nil); err != nil {
		t.Fatal(err)
	}
	moment := tensor.FromFloat32("exp_avg.a", []int64{3}, []float32{0, float32(math.NaN()), 0}, tensor.F32)
	if err := tensor.WriteFile(filepath.Join(dir, "optimizer.safetensors"), []tensor.Tensor{moment}, nil); err != nil {
		t.Fatal(err)
	}
	if err := Finite(dir); err == nil || !strings.Contains(err.Error(), `"exp_avg.a": element 1 (`) {
		t.Errorf("a moment that is NaN: %v", err)
	}
}

func FuzzManifest(f *testing.F) {
	b, err := encodeJSON(Manifest{Version: 1, Step: 3, Files: []FileInfo{{"a", 1, "ff"}, {"b", 2, "00"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"version":1,"files":[{"name":"../a"}]}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, manifestName), b, 0o644); err != nil {
			t.Fatal(err)
		}
		m, err := readManifest(dir)
		if err != nil {
			return
		}
		for _, f := range m.Files {
			if filepath.Dir(filepath.Join(dir, f.Name)) != dir {
				t.Fatalf("%q leaves the directory", f.Name)
			}
		}
		again, err := encodeJSON(m)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%q was accepted, but would have been written %q", b, again)
		}
	})
}
