package convert_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarbert/internal/convert"
	"tarbert/internal/tensor"
)

// reindexAll makes a single file's index what its header says, where there is one.
func reindexAll(t *testing.T, dir string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(dir, tensor.IndexName)); err == nil {
		reindex(t, dir)
	}
}

// TestCheckOfQuantisedFormats plants the damage of public reports in each format,
// and reads which rule is named, of which tensor, and why.
func TestCheckOfQuantisedFormats(t *testing.T) {
	const gate = "model.layers.0.mlp.gate_proj.weight" // [272 160], in 128×128 blocks [3 2]
	const norm = "model.layers.0.input_layernorm.weight"
	const w1 = "layers.0.ffn.experts.1.w1."
	weights := func(change func(all map[string]tensor.Tensor)) func(*testing.T, string) {
		return func(t *testing.T, dir string) { reweigh(t, dir, "model.safetensors", change); reindexAll(t, dir) }
	}
	config := func(change func(m map[string]any)) func(*testing.T, string) {
		return func(t *testing.T, dir string) { editJSON(t, filepath.Join(dir, "config.json"), change) }
	}
	quant := func(change func(q map[string]any)) func(*testing.T, string) {
		return config(func(m map[string]any) { change(m["quantization_config"].(map[string]any)) })
	}
	// The source, in BF16, of the FP8 model; so that FP8 can be written from it.
	fp8 := v3(t)
	float, _ := mustConvert(t, fp8, convert.BF16, convert.Options{})
	good := map[string]struct{ src, dst string }{}
	add := func(name, src, to string, o convert.Options) {
		dst, _ := mustConvert(t, src, to, o)
		good[name] = struct{ src, dst string }{src, dst}
	}
	add("fp8 to bf16", fp8, convert.BF16, convert.Options{})
	add("bf16 to fp8", float, convert.FP8Block, convert.Options{})
	add("bf16 to e8m0", float, convert.FP8Block, convert.Options{Scales: convert.ScalesE8M0})
	add("fp8 to int8", fp8, convert.W8A8Compressed, convert.Options{})
	add("fp4 to fp8", v4, convert.FP8, convert.Options{})
	tests := map[string]struct {
		of           string
		damage       func(t *testing.T, dir string)
		rule, tensor string
		want         string
	}{
		"missing scale":          {"bf16 to fp8", weights(func(all map[string]tensor.Tensor) { delete(all, gate+"_scale_inv") }), "scales", gate + "_scale_inv", "missing beside the F8_E4M3 weight"},
		"missing int8 scale":     {"fp8 to int8", weights(func(all map[string]tensor.Tensor) { delete(all, gate+"_scale") }), "scales", gate + "_scale", "missing beside the I8 weight"},
		"missing expert's scale": {"fp4 to fp8", weights(func(all map[string]tensor.Tensor) { delete(all, w1+"scale") }), "scales", w1 + "scale", "missing"},
		"swapped grid": {"bf16 to fp8", weights(func(all map[string]tensor.Tensor) {
			x := all[gate+"_scale_inv"]
			x.Shape = []int64{2, 3}
			all[gate+"_scale_inv"] = x
		}), "scales", gate + "_scale_inv", "the grid of scales is [2 3] where [3 2] must be: it is transposed"},
		"swapped scales": {"bf16 to fp8", weights(func(all map[string]tensor.Tensor) {
			b := all[gate+"_scale_inv"].Data
			copy(b, append(append([]byte{}, b[4:8]...), b[:4]...))
		}), "bound", gate, "with scale"},
		"swapped scales of FP4": {"fp4 to fp8", weights(func(all map[string]tensor.Tensor) { s := all[w1+"scale"].Data; s[0]++ }), "bound", w1 + "weight", "became"},
		"E8M0 byte as a float":  {"bf16 to fp8", weights(func(all map[string]tensor.Tensor) { setFloat(all[gate+"_scale_inv"], 3, 119) }), "scales", gate + "_scale_inv", "block row 1, column 1: scale 119 is an E8M0 exponent byte stored as a float: 0.00390625 was meant"},
		"E8M0 byte of 0xFF":     {"bf16 to e8m0", weights(func(all map[string]tensor.Tensor) { all[gate+"_scale_inv"].Data[2] = 0xff }), "scales", gate + "_scale_inv", "block row 1, column 0: the E8M0 byte is 0xFF"},
		"E8M0 read as a float": {"bf16 to e8m0", weights(func(all map[string]tensor.Tensor) {
			x := all[gate+"_scale_inv"]
			f := make([]float32, len(x.Data))
			for i, b := range x.Data {
				f[i] = float32(b)
			}
			all[gate+"_scale_inv"] = tensor.FromFloat32(x.Name, x.Shape, f, tensor.F32)
		}), "scales", gate + "_scale_inv", "E8M0 exponent byte stored as a float"},
		"E8M0 read as a float and multiplied": {"fp8 to bf16", weights(func(all map[string]tensor.Tensor) {
			x := all[gate]
			f := make([]float32, len(x.Data)/2)
			if err := tensor.Widen(f, x.Data, tensor.BF16); err != nil {
				t.Fatal(err)
			}
			for i := range f {
				f[i] *= 120 * 128
			}
			all[gate] = tensor.FromFloat32(gate, x.Shape, f, tensor.BF16)
		}), "bound", gate, "row 0, column 0"},
		"one bit of BF16": {"fp8 to bf16", weights(func(all map[string]tensor.Tensor) { all[gate].Data[1000] ^= 1 }), "bound", gate, "rounding explains 0 of the difference"},
		"FP8 left raw": {"fp8 to bf16", weights(func(all map[string]tensor.Tensor) {
			x := all[gate]
			x.DType, x.Data = tensor.F8_E4M3, x.Data[:len(x.Data)/2]
			all[gate] = x
		}), "complete", gate, "does not say quant_method fp8"},
		"int8 left raw": {"fp8 to bf16", weights(func(all map[string]tensor.Tensor) {
			x := all[gate]
			x.DType, x.Data = tensor.I8, x.Data[:len(x.Data)/2]
			all[gate] = x
		}), "complete", gate, "without a quantization_config for int8"},
		"a scale kept": {"fp8 to bf16", weights(func(all map[string]tensor.Tensor) {
			all[gate+"_scale_inv"] = tensor.FromFloat32(gate+"_scale_inv", []int64{1}, []float32{1}, tensor.F32)
		}), "complete", gate + "_scale_inv", "comes from no tensor"},
		"config kept":      {"fp8 to bf16", config(func(m map[string]any) { m["quantization_config"] = map[string]any{"quant_method": "gptq"} }), "config", "config.json", "no weight is quantised"},
		"a tensor dropped": {"fp8 to bf16", weights(func(all map[string]tensor.Tensor) { delete(all, norm) }), "complete", norm, "whatever is in that memory"},
		"truncated":        {"bf16 to fp8", func(t *testing.T, dir string) { os.Truncate(filepath.Join(dir, "model.safetensors"), 500_000) }, "readable", "", "truncated"},
		"a duplicate name": {"bf16 to fp8", func(t *testing.T, dir string) {
			path := filepath.Join(dir, "model.safetensors")
			put(t, path, strings.Replace(string(read(t, path)), `"model.layers.0.mlp.up_proj.weight"`, `"model.layers.1.mlp.gate.weight"`+strings.Repeat(" ", 3), 1))
		}, "readable", "", "the name occurs twice"},
		"no block size":          {"bf16 to fp8", quant(func(q map[string]any) { delete(q, "weight_block_size") }), "config", "config.json", "weight_block_size"},
		"experts said to be FP4": {"fp4 to fp8", config(func(m map[string]any) { m["expert_dtype"] = "fp4" }), "config", "config.json", `engines take anything but "fp8" for FP4`},
		"experts not said":       {"fp4 to fp8", config(func(m map[string]any) { delete(m, "expert_dtype") }), "config", "config.json", `expert_dtype is ""`},
		"scales four times too large": {"bf16 to fp8", weights(func(all map[string]tensor.Tensor) {
			for r := range 128 { // of block 0, 0; its codes to match
				for c := range 128 {
					b := &all[gate].Data[r*160+c]
					*b = tensor.ToF8E4M3(tensor.FromF8E4M3(*b) / 4)
				}
			}
			s := make([]float32, 1)
			if err := tensor.Widen(s, all[gate+"_scale_inv"].Data[:4], tensor.F32); err != nil {
				t.Fatal(err)
			}
			setFloat(all[gate+"_scale_inv"], 0, 4*s[0])
		}), "bound", gate, "scale"},
		"ignored layers forgotten": {"fp8 to int8", quant(func(q map[string]any) { q["ignore"] = []string{"lm_head"} }), "config", "config.json", "model.layers.0.self_attn.kv_b_proj"},
		"another strategy": {"fp8 to int8", quant(func(q map[string]any) {
			q["config_groups"].(map[string]any)["group_0"].(map[string]any)["weights"].(map[string]any)["strategy"] = "tensor"
		}), "config", "config.json", "describes weights"},
		"static activations": {"fp8 to int8", quant(func(q map[string]any) {
			q["config_groups"].(map[string]any)["group_0"].(map[string]any)["input_activations"].(map[string]any)["dynamic"] = false
		}), "config", "config.json", "describes weights"},
		"a pattern nobody can read": {"fp8 to int8", quant(func(q map[string]any) { q["ignore"] = []string{"re:("} }), "config", "config.json", "re:("},
		"tokens of another type":    {"fp4 to fp8", weights(func(all map[string]tensor.Tensor) { all["layers.0.ffn.gate.tid2eid"].Data[8] ^= 1 }), "bound", "layers.0.ffn.gate.tid2eid", "integers differ"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			src, dst := good[tt.of].src, clone(t, good[tt.of].dst)
			tt.damage(t, dst)
			rep, err := convert.Check(context.Background(), src, dst)
			if err != nil {
				t.Fatal(err)
			}
			v := rep.Violation
			if v == nil || v.Rule != tt.rule || tt.tensor != "" && v.Tensor != tt.tensor || !strings.Contains(v.Detail, tt.want) {
				t.Fatalf("violation %+v, want rule %q of %q that says %q", v, tt.rule, tt.tensor, tt.want)
			}
		})
	}
	for name, g := range good {
		if rep, err := convert.Check(context.Background(), g.src, g.dst); err != nil || !rep.Passed() {
			t.Errorf("%s, undamaged: %v, %v", name, rep, err)
		}
	}
}

// TestCheckAgainstTheBase: a fine-tune that is smaller than half a step of bfloat16
// is gone after the cast, and only the base model shows it.
func TestCheckAgainstTheBase(t *testing.T) {
	base, _ := mustConvert(t, deepseek, convert.BF16, convert.Options{})
	tuned := func(by float32) string {
		src := clone(t, deepseek)
		b, err := tensor.OpenDir(base)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		reweigh(t, src, "model.safetensors", func(all map[string]tensor.Tensor) {
			for name, x := range all {
				f, err := b.Float32(name)
				if err != nil {
					t.Fatal(err)
				}
				for i := range f {
					f[i] *= 1 + by*float32(i%3-1)
				}
				all[name] = tensor.FromFloat32(name, x.Shape, f, tensor.F32)
			}
		})
		return src
	}
	for name, tt := range map[string]struct {
		by          float32
		to          string
		pass        bool
		least, most float64
	}{
		"a large change":       {0.05, convert.BF16, true, 0.97, 1.03},
		"a large change, int8": {0.05, convert.W8A8Ascend, true, 0.9, 1.1},
		"below half a step":    {0.0005, convert.BF16, false, -0.01, 0.01},
		"the same":             {0, convert.BF16, true, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			src := tuned(tt.by)
			dst, _ := mustConvert(t, src, tt.to, convert.Options{})
			if rep, err := convert.Check(context.Background(), src, dst); err != nil || !rep.Passed() {
				t.Fatalf("without the base: %v, %v", rep, err)
			}
			rep, err := convert.CheckWith(context.Background(), src, dst, convert.CheckOptions{Base: base})
			if err != nil {
				t.Fatal(err)
			}
			if rep.Passed() != tt.pass || rep.Base == nil || rep.Base.Kept < tt.least || rep.Base.Kept > tt.most {
				t.Errorf("%v: %+v", rep, rep.Base)
			}
			if !tt.pass && (rep.Violation.Rule != "base" || !strings.Contains(rep.Violation.Detail, "rounding to the new type took the rest")) {
				t.Errorf("violation %+v", rep.Violation)
			}
		})
	}
	if _, err := convert.CheckWith(context.Background(), deepseek, base, convert.CheckOptions{Base: qwenMoE}); err == nil || !strings.Contains(err.Error(), "not what the source was trained from") {
		t.Errorf("another model as the base: %v", err)
	}
}
