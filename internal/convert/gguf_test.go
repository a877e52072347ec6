package convert_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tarbert/internal/convert"
	"tarbert/internal/tensor"
	"tarbert/internal/tensor/gguf"
)

const goldenModels = "../reference/testdata/golden"

// ggufModel is a golden model with a tokenizer and, where edit is given, another
// configuration.
func ggufModel(t *testing.T, name string, edit func(config map[string]any)) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	family := "qwen"
	if strings.HasPrefix(name, "deepseek") {
		family = "deepseek"
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{filepath.Join(goldenModels, name), "testdata/gguf/tokenizer-" + family} {
		entries, err := os.ReadDir(from)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), "golden") || e.Name() == "fp8block.safetensors" {
				continue
			}
			ggufWrite(t, filepath.Join(dir, e.Name()), read(t, filepath.Join(from, e.Name())))
		}
	}
	if edit != nil {
		config := readJSON(t, filepath.Join(dir, "config.json"))
		edit(config)
		b, err := json.Marshal(config)
		if err != nil {
			t.Fatal(err)
		}
		ggufWrite(t, filepath.Join(dir, "config.json"), b)
	}
	return dir
}

func ggufWrite(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// allExperts is what llama.cpp's qwen3moe can run: see interop/gguf.py, which
// changes the same models in the same way.
func allExperts(config map[string]any) {
	config["mlp_only_layers"], config["decoder_sparse_step"], config["norm_topk_prob"] = []int{}, 1, true
}

// copyExperts gives dense layers the experts of the first layer that has some.
func copyExperts(t *testing.T, dir string, layers int) {
	t.Helper()
	d, err := tensor.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []tensor.Tensor
	first := -1
	has := func(l int) bool { _, ok := d.Info(fmt.Sprintf("model.layers.%d.mlp.gate.weight", l)); return ok }
	for l := range layers {
		if first < 0 && has(l) {
			first = l
		}
	}
	for _, i := range d.Infos() {
		b, err := d.Bytes(i.Name)
		if err != nil {
			t.Fatal(err)
		}
		keep := true
		for l := range layers {
			keep = keep && (has(l) || !strings.HasPrefix(i.Name, fmt.Sprintf("model.layers.%d.mlp.", l)))
			if rest, ok := strings.CutPrefix(i.Name, fmt.Sprintf("model.layers.%d.mlp.", first)); ok && !has(l) {
				out = append(out, tensor.Tensor{Name: fmt.Sprintf("model.layers.%d.mlp.%s", l, rest), DType: i.DType, Shape: i.Shape, Data: b})
			}
		}
		if keep {
			out = append(out, tensor.Tensor{Name: i.Name, DType: i.DType, Shape: i.Shape, Data: b})
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := tensor.WriteFile(filepath.Join(dir, "model.safetensors"), out, nil); err != nil {
		t.Fatal(err)
	}
}

// recordedFile is what llama.cpp's converter wrote, by interop/gguf.py --record.
type recordedFile struct {
	Keys    map[string][2]any `json:"keys"`
	Tensors [][4]any          `json:"tensors"`
}

// TestGGUFEqualsTheConverters: tensors in type, shape, order and bytes, and
// metadata in kind and value, are those of convert_hf_to_gguf.py.
func TestGGUFEqualsTheConverters(t *testing.T) {
	t.Parallel()
	var recorded map[string]map[string]recordedFile
	if err := json.Unmarshal(read(t, "testdata/gguf/converter.json"), &recorded); err != nil {
		t.Fatal(err)
	}
	if len(recorded) != 7 {
		t.Fatalf("%d models are recorded", len(recorded))
	}
	for name, kinds := range recorded {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var src string
			if strings.HasPrefix(name, "qwen3-moe") {
				src = ggufModel(t, name, allExperts)
				copyExperts(t, src, 3)
			} else {
				src = ggufModel(t, name, nil)
			}
			if len(kinds) != 3 {
				t.Fatalf("%d formats are recorded", len(kinds))
			}
			for kind, want := range kinds {
				dst, _ := mustConvert(t, src, "gguf-"+kind, convert.Options{})
				compareRecorded(t, kind, want, filepath.Join(dst, "model.gguf"))
				rep, err := convert.Check(context.Background(), src, dst)
				if err != nil || !rep.Passed() || !rep.Recorded || rep.Format != "gguf-"+kind {
					t.Errorf("%s: check: %+v, %v", kind, rep, err)
				}
			}
		})
	}
}

// addedKeys are those that the converter leaves out: it reads scoring_func, which
// transformers 5 does not write, and llama.cpp's loader asks for q_lora_rank.
var addedKeys = map[string]any{"deepseek2.attention.q_lora_rank": uint32(0), "deepseek2.expert_gating_func": uint32(2)}

func compareRecorded(t *testing.T, kind string, want recordedFile, path string) {
	t.Helper()
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var tensors [][4]any
	for _, i := range f.Infos() {
		b, err := f.Bytes(i.Name)
		if err != nil {
			t.Fatal(err)
		}
		shape := []any{}
		for _, d := range i.Shape {
			shape = append(shape, float64(d))
		}
		sum := sha256.Sum256(b)
		tensors = append(tensors, [4]any{i.Name, i.Type.String(), shape, hex.EncodeToString(sum[:])})
	}
	if diff := cmp.Diff(want.Tensors, tensors); diff != "" {
		t.Errorf("%s: tensors: %s", kind, diff)
	}
	keys := map[string][2]any{}
	for _, kv := range f.Metadata() {
		if _, both := want.Keys[kv.Key]; !both && kv.Value == addedKeys[kv.Key] {
			continue
		}
		keys[kv.Key] = recordedValue(t, kv.Value)
	}
	if diff := cmp.Diff(want.Keys, keys); diff != "" {
		t.Errorf("%s: keys: %s", kind, diff)
	}
}

// recordedValue spells a value as interop/gguf.py does.
func recordedValue(t *testing.T, v any) [2]any {
	t.Helper()
	digest := func(n int, v any) string {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(v); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
		return fmt.Sprintf("%d sha256:%s", n, hex.EncodeToString(sum[:]))
	}
	switch v := v.(type) {
	case uint32:
		return [2]any{"UINT32", float64(v)}
	case float32:
		return [2]any{"FLOAT32", float64(v)}
	case bool:
		return [2]any{"BOOL", v}
	case string:
		if n := len([]rune(v)); n > 40 {
			return [2]any{"STRING", digest(n, v)}
		}
		return [2]any{"STRING", v}
	case []string:
		if len(v) > 40 {
			return [2]any{"ARRAY/STRING", digest(len(v), v)}
		}
	case []int32:
		if len(v) > 40 {
			return [2]any{"ARRAY/INT32", digest(len(v), v)}
		}
	}
	t.Fatalf("a %T is not recorded here", v)
	return [2]any{}
}

func TestGGUFReport(t *testing.T) {
	t.Parallel()
	src := ggufModel(t, "deepseek-v3-fp8", nil)
	ggufWrite(t, filepath.Join(src, "LICENSE"), []byte("free"))
	dst, rep := mustConvert(t, src, convert.GGUFQ8, convert.Options{})
	names := []string{}
	entries, err := os.ReadDir(dst)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if diff := cmp.Diff([]string{"LICENSE", "conversion.json", "model.gguf"}, names); diff != "" {
		t.Error(diff)
	}
	f, err := gguf.Open(filepath.Join(dst, "model.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var bytes, sum int64
	for _, i := range f.Infos() {
		bytes += i.Size
	}
	for _, r := range rep.Tensors {
		sum += r.BytesOut
		if (r.Action == convert.Dropped) != strings.HasPrefix(r.Name, "model.layers.2.") {
			t.Errorf("%s was %s: only the layer for multi-token prediction is left out", r.Name, r.Action)
		}
	}
	if rep.Totals.Outputs != len(f.Infos()) || rep.Totals.BytesOut != bytes || sum != bytes {
		t.Errorf("totals %+v and %d bytes in the tensors' reports; the file has %d tensors of %d bytes", rep.Totals, sum, len(f.Infos()), bytes)
	}
	for _, name := range []string{"config.json", "tokenizer.json", "chat_template.jinja"} {
		i := slices.IndexFunc(rep.Files, func(f convert.FileReport) bool { return f.Name == name })
		if i < 0 || rep.Files[i].Action != "left" || rep.Files[i].Reason != "in model.gguf" {
			t.Errorf("%s: %+v", name, rep.Files)
		}
	}
	again, err := convert.Convert(context.Background(), src, dst, convert.GGUFQ8, convert.Options{})
	if err != nil || again.Digest != rep.Digest {
		t.Errorf("the same conversion is not taken for what it is: %v", err)
	}
	if _, err := convert.Convert(context.Background(), src, dst, convert.GGUFBF16, convert.Options{}); err == nil {
		t.Error("another format was found in the destination")
	}
	plan, err := convert.Plan(context.Background(), src, convert.GGUFQ8, convert.Options{})
	if err != nil || len(plan.Tensors) != len(f.Infos()) || len(plan.Files) != 1 {
		t.Fatalf("%+v, %v", plan, err)
	}
	for _, p := range plan.Tensors {
		if i, ok := f.Info(p.Name); !ok || i.Offset != p.Offset || i.Size != p.Size || i.Type.String() != p.DType {
			t.Errorf("planned %+v, written %+v", p, i)
		}
	}
}

func TestGGUFKeep(t *testing.T) {
	t.Parallel()
	src := ggufModel(t, "deepseek-v3", nil)
	dst, _ := mustConvert(t, src, convert.GGUFQ8, convert.Options{Keep: []string{"*.kv_b_proj", "model.layers.1.mlp.experts.3.up_proj"}})
	f, err := gguf.Open(filepath.Join(dst, "model.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for name, want := range map[string]gguf.Type{
		"blk.0.attn_k_b.weight": gguf.BF16, "blk.2.attn_v_b.weight": gguf.BF16, "blk.1.ffn_up_exps.weight": gguf.BF16,
		"blk.1.ffn_gate_exps.weight": gguf.Q8_0, "blk.2.ffn_up_exps.weight": gguf.Q8_0, "blk.1.ffn_gate_inp.weight": gguf.F32,
		"blk.1.exp_probs_b.bias": gguf.F32, "blk.1.ffn_down_exps.weight": gguf.F16, "output_norm.weight": gguf.F32, "output.weight": gguf.Q8_0,
	} {
		if i, _ := f.Info(name); i.Type != want {
			t.Errorf("%s is %v, want %v", name, i.Type, want)
		}
	}
	if rep, err := convert.Check(context.Background(), src, dst); err != nil || !rep.Passed() {
		t.Errorf("check: %v, %v", rep, err)
	}
}

// TestGGUFRefuses: what llama.cpp would not run, or would run as another model.
func TestGGUFRefuses(t *testing.T) {
	t.Parallel()
	yarn := func(key string, value any) func(map[string]any) {
		return func(c map[string]any) {
			c["rope_scaling"] = map[string]any{"type": "yarn", "factor": 8, "original_max_position_embeddings": 64, key: value}
		}
	}
	layers := func(n int) func(map[string]any) {
		return func(c map[string]any) { c["num_hidden_layers"], c["layer_types"] = n, nil }
	}
	for _, c := range []struct {
		name, model string
		edit        func(map[string]any)
		rule, says  string
	}{
		{"biases", "qwen3-published-bf16-sharded", nil, "servable", "attention_bias"},
		{"dense layers", "qwen3-moe", nil, "servable", "layer 1 is dense"},
		{"experts not normalised", "qwen3-moe", func(c map[string]any) { allExperts(c); c["norm_topk_prob"] = false }, "servable", "norm_topk_prob"},
		{"rope not interleaved", "deepseek-v3", func(c map[string]any) { c["rope_interleave"] = false }, "servable", "rope_interleave"},
		{"no shared experts", "deepseek-v3", func(c map[string]any) { c["n_shared_experts"] = 0 }, "servable", "n_shared_experts"},
		{"lite by its layers", "deepseek-v3-groups-yarn", func(c map[string]any) { c["num_hidden_layers"] = 27 }, "servable", "q_lora_rank"},
		{"attention factor", "qwen3-yarn", yarn("attention_factor", 1.5), "servable", "attention_factor"},
		{"yarn not truncated", "qwen3-yarn", yarn("truncate", false), "servable", "truncate"},
		{"two mscales", "deepseek-v3-groups-yarn", func(c map[string]any) { c["rope_scaling"].(map[string]any)["mscale"] = 0.7 }, "servable", "mscale"},
		{"another width", "qwen3", func(c map[string]any) { c["intermediate_size"] = 100 }, "complete", "asks for"},
		{"a layer more", "qwen3", layers(4), "complete", "missing"},
		{"a layer fewer", "qwen3", layers(2), "complete", "would be lost"},
		{"experts that are not there", "qwen3-moe", allExperts, "complete", "missing"},
	} {
		src := ggufModel(t, c.model, c.edit)
		dst := filepath.Join(t.TempDir(), "out")
		_, err := convert.Convert(context.Background(), src, dst, convert.GGUFBF16, convert.Options{})
		var v *convert.Violation
		if !errors.As(err, &v) || v.Rule != c.rule || !strings.Contains(v.Error(), c.says) {
			t.Errorf("%s: %v; want rule %s and %q", c.name, err, c.rule, c.says)
		}
		if _, err := os.Stat(dst); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the destination appeared", c.name)
		}
	}
}
