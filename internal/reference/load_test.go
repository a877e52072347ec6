package reference

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tarbert/internal/tensor"
)

// modelFiles is a model directory to be changed: its tensors, config.json and
// description.
type modelFiles struct {
	config  []byte
	types   map[string]any // quant_model_description.json; nil for none
	tensors []tensor.Tensor
}

func readFiles(t testing.TB, dir string) *modelFiles {
	t.Helper()
	config, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	f := &modelFiles{config: config}
	d, err := tensor.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, info := range d.Infos() {
		data, err := d.Bytes(info.Name)
		if err != nil {
			t.Fatal(err)
		}
		f.tensors = append(f.tensors, tensor.Tensor{Name: info.Name, DType: info.DType, Shape: info.Shape, Data: data})
	}
	if data, err := os.ReadFile(filepath.Join(dir, descriptionFile)); err == nil {
		if err := json.Unmarshal(data, &f.types); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func (f *modelFiles) tensor(name string) *tensor.Tensor {
	i := slices.IndexFunc(f.tensors, func(x tensor.Tensor) bool { return x.Name == name })
	return &f.tensors[i]
}

func (f *modelFiles) remove(name string) {
	f.tensors = slices.DeleteFunc(f.tensors, func(x tensor.Tensor) bool { return x.Name == name })
}

func (f *modelFiles) write(t testing.TB) string {
	t.Helper()
	dir, name := t.TempDir(), "model.safetensors"
	if f.types != nil {
		name = "quant_model_weights.safetensors"
		data, err := json.Marshal(f.types)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, descriptionFile), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), f.config, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := tensor.WriteFile(filepath.Join(dir, name), f.tensors, nil); err != nil {
		t.Fatal(err)
	}
	return dir
}

func ascendDir(name string) string { return filepath.Join("testdata", "ascendv1", name) }

// TestLoadErrorsNameTheTensor plants one fault at a time in a model's files.
func TestLoadErrorsNameTheTensor(t *testing.T) {
	const (
		norm  = "model.layers.1.input_layernorm.weight"
		qproj = "model.layers.0.self_attn.q_proj.weight"
	)
	golden := func(name string) string { return goldenDir(name) }
	for _, c := range []struct {
		name string
		dir  string
		o    Options
		do   func(*modelFiles)
		want []string
	}{
		{"missing tensor", golden("qwen3"), Options{}, func(f *modelFiles) { f.remove(norm) }, []string{norm, "lack"}},
		{"extra tensor", golden("qwen3"), Options{}, func(f *modelFiles) {
			f.tensors = append(f.tensors, tensor.FromFloat32("model.layers.9.odd.weight", []int64{1}, []float32{1}, tensor.F32))
		}, []string{"model.layers.9.odd.weight", "does not imply"}},
		{"extra expert", golden("deepseek-v3"), Options{}, func(f *modelFiles) {
			f.tensors = append(f.tensors, tensor.FromFloat32("model.layers.1.mlp.experts.8.up_proj.weight", []int64{1}, []float32{1}, tensor.F32))
		}, []string{"experts.8.up_proj"}},
		{"wrong shape", golden("qwen3"), Options{}, func(f *modelFiles) { f.tensor(qproj).Shape = []int64{64, 128} }, []string{qproj, "[64 128]", "[128 64]"}},
		{"integers for weights", golden("qwen3"), Options{}, func(f *modelFiles) {
			*f.tensor(norm) = tensor.Tensor{Name: norm, DType: tensor.I32, Shape: []int64{64}, Data: make([]byte, 256)}
		}, []string{norm}},
		{"other head beside tied embeddings", golden("qwen3"), Options{}, func(f *modelFiles) {
			x := *f.tensor("model.embed_tokens.weight")
			x.Name, x.Data = "lm_head.weight", slices.Clone(x.Data)
			x.Data[1] ^= 1
			f.tensors = append(f.tensors, x)
		}, []string{"lm_head.weight", "tie_word_embeddings"}},
		{"FP8 without its scale", golden("deepseek-v3-fp8"), Options{}, func(f *modelFiles) { f.remove("model.layers.0.mlp.up_proj.weight_scale_inv") }, []string{"model.layers.0.mlp.up_proj.weight_scale_inv", "lack"}},
		{"FP8 not declared", golden("deepseek-v3-fp8"), Options{}, func(f *modelFiles) {
			f.config = edited(t, "deepseek-v3-fp8", nil, "quantization_config")
		}, []string{"F8_E4M3", "quantization_config"}},
		{"unknown quantisation", golden("qwen3"), Options{}, func(f *modelFiles) {
			f.config = edited(t, "qwen3", map[string]any{"quantization_config": map[string]any{"quant_method": "gptq"}})
		}, []string{"gptq"}},
		{"unknown precision", golden("qwen3"), Options{Precision: "fp4"}, func(*modelFiles) {}, []string{"fp4", "w8a8"}},
		{"w8a8 without int8 weights", golden("qwen3"), Options{Precision: W8A8}, func(*modelFiles) {}, []string{"W8A8_DYNAMIC", "convert"}},
		{"int8 without scale", ascendDir("w8a8"), Options{}, func(f *modelFiles) { f.remove(qproj + "_scale") }, []string{qproj + "_scale", "lack"}},
		{"int8 without offset", ascendDir("w8a8"), Options{}, func(f *modelFiles) { f.remove(qproj + "_offset") }, []string{qproj + "_offset", "lack"}},
		{"offset not zero", ascendDir("w8a8"), Options{}, func(f *modelFiles) { f.tensor(qproj + "_offset").Data[3] = 63 }, []string{qproj + "_offset", "symmetric"}},
		{"negative scale", ascendDir("w8a8"), Options{}, func(f *modelFiles) { f.tensor(qproj + "_scale").Data[3] |= 128 }, []string{qproj + "_scale", "index 0"}},
		{"not in the description", ascendDir("w8a8"), Options{}, func(f *modelFiles) { delete(f.types, norm) }, []string{norm, descriptionFile}},
		{"scale not in the description", ascendDir("w8a8"), Options{}, func(f *modelFiles) { delete(f.types, qproj+"_scale") }, []string{qproj + "_scale", descriptionFile}},
		{"unknown type", ascendDir("w8a8"), Options{}, func(f *modelFiles) { f.types[qproj] = "W4A8_DYNAMIC" }, []string{qproj, "W4A8_DYNAMIC"}},
		{"a norm called int8", ascendDir("w8a8"), Options{}, func(f *modelFiles) { f.types[norm] = kindDynamic }, []string{norm, "W8A8_DYNAMIC"}},
		{"int8 called float", ascendDir("w8a8"), Options{}, func(f *modelFiles) { f.types[qproj] = kindFloat }, []string{qproj}},
		{"compressed without scale", compressedDir(), Options{}, func(f *modelFiles) { f.remove(qproj + "_scale") }, []string{qproj + "_scale", "lack"}},
		{"compressed with zero points", compressedDir(), Options{}, func(f *modelFiles) {
			f.tensors = append(f.tensors, tensor.Tensor{Name: qproj[:len(qproj)-6] + "weight_zero_point", DType: tensor.I8, Shape: []int64{256, 1}, Data: make([]byte, 256)})
		}, []string{"q_proj.weight_zero_point", "does not imply"}},
		{"compressed scale in half precision", compressedDir(), Options{}, func(f *modelFiles) { f.tensor(qproj + "_scale").DType = tensor.F16 }, []string{qproj + "_scale", "F16"}},
		{"a negative compressed scale", compressedDir(), Options{}, func(f *modelFiles) { f.tensor(qproj + "_scale").Data[1] |= 128 }, []string{qproj + "_scale", "index 0"}},
		{"a float linear that is not ignored", compressedDir(), Options{}, func(f *modelFiles) {
			f.config = editedCompressed(t, []any{}, "ignore")
		}, []string{"lm_head.weight", "BF16", "quantization_config"}},
		{"an int8 linear that is ignored", compressedDir(), Options{}, func(f *modelFiles) {
			f.config = editedCompressed(t, []any{"lm_head", "re:.*layers.0.*q_proj"}, "ignore")
		}, []string{qproj, "I8"}},
		{"a scale to spare", compressedDir(), Options{}, func(f *modelFiles) {
			f.config = editedCompressed(t, []any{"lm_head", "re:.*layers.0.*q_proj"}, "ignore")
			f.tensor(qproj).DType = tensor.BF16
			f.tensor(qproj).Data = make([]byte, 2*len(f.tensor(qproj).Data))
		}, []string{qproj + "_scale", "does not imply"}},
		{"fp8-block without FP8", golden("qwen3"), Options{Precision: FP8Block}, func(*modelFiles) {}, []string{"fp8-block", "quantization_config"}},
		{"words for weights", golden("qwen3"), Options{}, func(f *modelFiles) { f.tensor(qproj).DType = tensor.I32 }, []string{qproj, "I32"}},
		{"float called int8", ascendDir("w8a8"), Options{}, func(f *modelFiles) { f.types["lm_head.weight"] = kindDynamic }, []string{"lm_head.weight", "I8"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := readFiles(t, c.dir)
			c.do(f)
			_, err := Load(f.write(t), c.o)
			if err == nil {
				t.Fatal("loaded")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not say %q", err, w)
				}
			}
		})
	}
}

// TestRepeatedHeadIsAllowed: published files of tied models often repeat the
// embeddings as lm_head.weight.
func TestRepeatedHeadIsAllowed(t *testing.T) {
	f := readFiles(t, goldenDir("qwen3"))
	x := *f.tensor("model.embed_tokens.weight")
	x.Name = "lm_head.weight"
	f.tensors = append(f.tensors, x)
	dir := f.write(t)
	if _, err := Load(dir, Options{}); err != nil {
		t.Error(err)
	}
	if _, err := LoadTrainable(dir, 1); err != nil {
		t.Error(err)
	}
}

func TestInt8IsNotTrained(t *testing.T) {
	for _, dir := range []string{ascendDir("w8a8"), compressedDir()} {
		if _, err := LoadTrainable(dir, 1); err == nil || !strings.Contains(err.Error(), "int8") {
			t.Errorf("%s: error %v, want one about int8", dir, err)
		}
	}
	if _, err := LoadTrainable(t.TempDir(), 1); err == nil {
		t.Error("an empty directory was loaded")
	}
}

func FuzzDescription(f *testing.F) {
	data, err := os.ReadFile(filepath.Join(ascendDir("w8a8"), descriptionFile))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"a":"FLOAT","metadata":{},"group_size":0}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, descriptionFile), data, 0o600); err != nil {
			t.Fatal(err)
		}
		types, err := readDescription(dir)
		if (types == nil) != (err != nil) {
			t.Fatalf("types %v with error %v", types, err)
		}
	})
}
