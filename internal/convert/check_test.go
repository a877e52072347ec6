package convert_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarbert/internal/convert"
	"tarbert/internal/convert/converttest"
	"tarbert/internal/tensor"
)

const oneFile = "model-00001-of-00001.safetensors"

// editJSON changes the members of a JSON file.
func editJSON(t *testing.T, path string, change func(m map[string]any)) {
	t.Helper()
	m := readJSON(t, path)
	change(m)
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	put(t, path, string(b))
}

// reindex makes the index what the shard's header says.
func reindex(t *testing.T, dir string) {
	t.Helper()
	f, err := tensor.Open(filepath.Join(dir, oneFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := tensor.EncodeIndex(f.Infos())
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, tensor.IndexName), string(b))
}

func TestCheckNamesTheBrokenRule(t *testing.T) {
	const q = "model.layers.1.self_attn.q_proj.weight"
	const norm = "model.layers.1.input_layernorm.weight"
	const bias = "model.layers.1.mlp.gate.e_score_correction_bias"
	description := func(change func(m map[string]any)) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			editJSON(t, filepath.Join(dir, "quant_model_description.json"), change)
		}
	}
	config := func(change func(m map[string]any)) func(*testing.T, string) {
		return func(t *testing.T, dir string) { editJSON(t, filepath.Join(dir, "config.json"), change) }
	}
	weights := func(change func(all map[string]tensor.Tensor)) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			reweigh(t, dir, oneFile, change)
			reindex(t, dir)
		}
	}
	plant := func(kind string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := converttest.Damage(dir, kind); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := map[string]struct {
		damage   func(t *testing.T, dir string)
		rule, of string
	}{
		"stale index": {func(t *testing.T, dir string) {
			put(t, filepath.Join(dir, tensor.IndexName), strings.Replace(string(read(t, filepath.Join(dir, tensor.IndexName))), q+`"`, q+`x"`, 1))
		}, "readable", ""},
		"truncated shard":       {func(t *testing.T, dir string) { os.Truncate(filepath.Join(dir, oneFile), 100_000) }, "readable", ""},
		"no weights":            {func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, oneFile)) }, "readable", ""},
		"broken description":    {func(t *testing.T, dir string) { put(t, filepath.Join(dir, "quant_model_description.json"), "[") }, "readable", ""},
		"broken record":         {func(t *testing.T, dir string) { put(t, filepath.Join(dir, "conversion.json"), "[") }, "readable", ""},
		"no configuration":      {func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "config.json")) }, "config", "config.json"},
		"float16 configuration": {config(func(m map[string]any) { m["dtype"] = "float16" }), "config", "config.json"},
		"quantization_config":   {config(func(m map[string]any) { m["quantization_config"] = map[string]any{} }), "config", "config.json"},
		"another rope base":     {plant(converttest.RopeBase), "config", "config.json"},
		"another member":        {config(func(m map[string]any) { m["sliding_window"] = 4 }), "config", "config.json"},
		"a member less":         {config(func(m map[string]any) { delete(m, "rms_norm_eps") }), "config", "config.json"},
		"another tokenizer":     {func(t *testing.T, dir string) { put(t, filepath.Join(dir, "tokenizer.json"), "{ }") }, "files", "tokenizer.json"},
		"no chat template":      {func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "chat_template.jinja")) }, "files", "chat_template.jinja"},
		"a tensor less":         {weights(func(all map[string]tensor.Tensor) { delete(all, norm) }), "complete", norm},
		"a tensor more": {weights(func(all map[string]tensor.Tensor) {
			all["x"] = tensor.FromFloat32("x", nil, []float32{1}, tensor.F32)
		}), "complete", "x"},
		"another shape": {weights(func(all map[string]tensor.Tensor) {
			x := all[norm]
			x.Shape = []int64{1, x.Shape[0]}
			all[norm] = x
		}), "complete", norm},
		"a bias in bfloat16": {weights(func(all map[string]tensor.Tensor) {
			x := all[bias]
			f := make([]float32, len(x.Data)/4)
			if err := tensor.Widen(f, x.Data, tensor.F32); err != nil {
				t.Fatal(err)
			}
			all[bias] = tensor.FromFloat32(bias, x.Shape, f, tensor.BF16)
		}), "complete", bias},
		"not described": {description(func(m map[string]any) { delete(m, norm) }), "description", norm},
		"described, but not there": {description(func(m map[string]any) {
			m["ghost"] = "FLOAT"
		}), "description", "ghost"},
		"described as another":   {description(func(m map[string]any) { m[q] = "FLOAT" }), "description", q},
		"another type overall":   {description(func(m map[string]any) { m["model_quant_type"] = "W8A8" }), "description", "quant_model_description.json"},
		"an offset":              {weights(func(all map[string]tensor.Tensor) { setFloat(all[q+"_offset"], 2, 1) }), "scales", q + "_offset"},
		"a scale of zero":        {weights(func(all map[string]tensor.Tensor) { setFloat(all[q+"_scale"], 2, 0) }), "scales", q + "_scale"},
		"a negative scale":       {weights(func(all map[string]tensor.Tensor) { setFloat(all[q+"_scale"], 2, -1) }), "scales", q + "_scale"},
		"an exponent as a scale": {weights(func(all map[string]tensor.Tensor) { setFloat(all[q+"_scale"], 2, 120) }), "scales", q + "_scale"},
		"a flat column": {weights(func(all map[string]tensor.Tensor) {
			x := all[q+"_scale"]
			x.Shape = []int64{x.Shape[0]}
			all[q+"_scale"] = x
		}), "scales", q + "_scale"},
		"one code off by one": {weights(func(all map[string]tensor.Tensor) { all[q].Data[77] += 2 }), "bound", q},
		"one bit of a norm":   {weights(func(all map[string]tensor.Tensor) { all[norm].Data[6] ^= 2 }), "bound", norm},
		"half the codes": {weights(func(all map[string]tensor.Tensor) {
			for i := range 64 { // a row of a scale twice as large, its codes to match
				all[q].Data[i] = byte(int8(all[q].Data[i]) / 2)
			}
			s := make([]float32, 1)
			if err := tensor.Widen(s, all[q+"_scale"].Data[:4], tensor.F32); err != nil {
				t.Fatal(err)
			}
			setFloat(all[q+"_scale"], 0, 2*s[0])
		}), "bound", q},
		"expert scale doubled": {plant(converttest.ExpertScaleDoubled), "bound", "model.layers.1.mlp.experts.0.down_proj.weight"},
		"experts swapped":      {plant(converttest.ExpertsSwapped), "bound", "model.layers.1.mlp.experts.0.down_proj.weight"},
		"norm zeroed":          {plant(converttest.NormZeroed), "bound", "model.layers.0.post_attention_layernorm.weight"},
		"a file more":          {func(t *testing.T, dir string) { put(t, filepath.Join(dir, "more.txt"), "") }, "record", "conversion.json"},
		"another file changed": {func(t *testing.T, dir string) { put(t, filepath.Join(dir, "LICENSE"), "none") }, "record", "conversion.json"},
		"another source": {func(t *testing.T, dir string) {
			editJSON(t, filepath.Join(dir, "conversion.json"), func(m map[string]any) { m["source_digest"] = strings.Repeat("0", 64) })
		}, "record", "conversion.json"},
	}
	src := clone(t, deepseek)
	for name, text := range map[string]string{"tokenizer.json": "{}", "chat_template.jinja": "x", "LICENSE": "free"} {
		put(t, filepath.Join(src, name), text)
	}
	good, _ := mustConvert(t, src, convert.W8A8Ascend, convert.Options{})
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dst := clone(t, good)
			tt.damage(t, dst)
			rep, err := convert.Check(context.Background(), src, dst)
			if err != nil {
				t.Fatal(err)
			}
			v := rep.Violation
			if v == nil || v.Rule != tt.rule || tt.of != "" && v.Tensor != tt.of {
				t.Fatalf("violation %+v, want rule %q of %q", v, tt.rule, tt.of)
			}
			if !strings.Contains(rep.String(), v.Detail) {
				t.Errorf("%q does not say why", rep)
			}
		})
	}
	if rep, err := convert.Check(context.Background(), src, good); err != nil || !rep.Passed() {
		t.Errorf("undamaged: %v, %v", rep, err)
	}
}

// TestCheckSeesMixedGroups: a conversion of somebody else's may have left one of
// two fused layers float.
func TestCheckSeesMixedGroups(t *testing.T) {
	const up = "model.layers.0.mlp.up_proj.weight"
	dst, _ := mustConvert(t, deepseek, convert.W8A8Ascend, convert.Options{})
	src, err := tensor.Open(filepath.Join(deepseek, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	x, err := src.Float32(up)
	if err != nil {
		t.Fatal(err)
	}
	info, _ := src.Info(up)
	reweigh(t, dst, oneFile, func(all map[string]tensor.Tensor) {
		delete(all, up+"_scale")
		delete(all, up+"_offset")
		all[up] = tensor.FromFloat32(up, info.Shape, x, tensor.BF16)
	})
	reindex(t, dst)
	editJSON(t, filepath.Join(dst, "quant_model_description.json"), func(m map[string]any) {
		delete(m, up+"_scale")
		delete(m, up+"_offset")
		m[up] = "FLOAT"
	})
	rep, err := convert.Check(context.Background(), deepseek, dst)
	if err != nil || rep.Violation == nil || rep.Violation.Rule != "fused" || rep.Violation.Tensor != up {
		t.Errorf("%v, %v", rep, err)
	}
}

func TestDamagedBF16IsSeen(t *testing.T) {
	good, _ := mustConvert(t, deepseek, convert.BF16, convert.Options{})
	for _, kind := range append(converttest.Kinds(), "experts-swapped:2/3,5", "expert-scale-doubled:2/*", "norm-zeroed:2") {
		dst := clone(t, good)
		if err := converttest.Damage(dst, kind); err != nil {
			t.Fatal(err)
		}
		rep, err := convert.Check(context.Background(), deepseek, dst)
		if err != nil || rep.Passed() {
			t.Errorf("%s: %v, %v", kind, rep, err)
		}
		// What loads is still consistent: the digests, the index, the headers.
		if _, err := convert.Convert(context.Background(), deepseek, dst, convert.BF16, convert.Options{}); err != nil {
			t.Errorf("%s: the directory contradicts itself: %v", kind, err)
		}
	}
}

func TestDamageHitsWhatItSays(t *testing.T) {
	good, _ := mustConvert(t, deepseek, convert.W8A8Ascend, convert.Options{})
	for kind, want := range map[string][]string{
		"expert-scale-doubled":     {"model.layers.1.mlp.experts.0.down_proj.weight_scale"},
		"expert-scale-doubled:2/3": {"model.layers.2.mlp.experts.3.down_proj.weight_scale"},
		"norm-zeroed:1":            {"model.layers.1.post_attention_layernorm.weight"},
		"rope-base":                nil,
	} {
		dst := clone(t, good)
		if err := converttest.Damage(dst, kind); err != nil {
			t.Fatal(err)
		}
		a, err := tensor.OpenDir(good)
		if err != nil {
			t.Fatal(err)
		}
		b, err := tensor.OpenDir(dst)
		if err != nil {
			t.Fatal(err)
		}
		var changed []string
		for _, i := range a.Infos() {
			x, errX := a.Bytes(i.Name)
			y, errY := b.Bytes(i.Name)
			if errX != nil || errY != nil {
				t.Fatal(errX, errY)
			}
			if !bytes.Equal(x, y) {
				changed = append(changed, i.Name)
			}
		}
		a.Close()
		b.Close()
		if strings.Join(changed, " ") != strings.Join(want, " ") {
			t.Errorf("%s changed %v, want %v", kind, changed, want)
		}
	}
	dense, _ := mustConvert(t, source, convert.W8A8Ascend, convert.Options{})
	for _, kind := range []string{"expert-scale-doubled", "experts-swapped", "norm-zeroed:9", "nothing", "experts-swapped:1/2"} {
		if err := converttest.Damage(dense, kind); err == nil {
			t.Errorf("%s was planted in a dense model", kind)
		}
	}
}

func TestCheckOfABadSourceIsAnError(t *testing.T) {
	dst, _ := mustConvert(t, deepseek, convert.BF16, convert.Options{})
	for _, src := range []string{t.TempDir(), filepath.Join(dst, "none")} {
		if rep, err := convert.Check(context.Background(), src, dst); err == nil {
			t.Errorf("%s: %v", src, rep)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if rep, err := convert.Check(ctx, deepseek, dst); err == nil {
		t.Errorf("cancelled: %v", rep)
	}
}
