package convert_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tarbert/internal/convert"
	"tarbert/internal/tensor"
)

const (
	v4      = "testdata/deepseek-v4"
	factory = "testdata/llm-compressor-0.14"
)

// v3 is a tiny DeepSeek-V3 in FP8, with float32 scales, partial blocks and a layer
// for multi-token prediction.
func v3(t *testing.T) string {
	t.Helper()
	dir := clone(t, "testdata/deepseek-v3-fp8")
	put(t, filepath.Join(dir, "model.safetensors"), string(read(t, "../tensor/testdata/golden/deepseek-v3-fp8/model.safetensors")))
	return dir
}

func digest(t *testing.T, path string) string {
	t.Helper()
	sum := sha256.Sum256(read(t, path))
	return hex.EncodeToString(sum[:])
}

// TestEqualsPyTorch: our file is the one that PyTorch writes, to the byte.
func TestEqualsPyTorch(t *testing.T) {
	want := readJSON(t, "testdata/torch/expected.json")
	for name, tt := range map[string]struct {
		src, to string
		o       convert.Options
	}{
		"deepseek-v3-fp8 to bf16":    {v3(t), convert.BF16, convert.Options{}},
		"deepseek-v4 to bf16":        {v4, convert.BF16, convert.Options{}},
		"deepseek-v4 to fp8":         {v4, convert.FP8, convert.Options{}},
		"qwen3 to fp8-block float32": {source, convert.FP8Block, convert.Options{}},
		"qwen3 to fp8-block ue8m0":   {source, convert.FP8Block, convert.Options{Scales: convert.ScalesE8M0}},
	} {
		t.Run(name, func(t *testing.T) {
			dst, _ := mustConvert(t, tt.src, tt.to, tt.o)
			if got := digest(t, filepath.Join(dst, "model.safetensors")); got != want[name] {
				t.Errorf("sha256 %s, want %s", got, want[name])
			}
			if check, err := convert.Check(context.Background(), tt.src, dst); err != nil || !check.Passed() || check.Format != tt.to {
				t.Errorf("check: %v, %v", check, err)
			}
		})
	}
}

// TestEqualsLLMCompressor: the same for llm-compressor's int8, configuration included.
func TestEqualsLLMCompressor(t *testing.T) {
	dst, rep := mustConvert(t, source, convert.W8A8Compressed, convert.Options{})
	if digest(t, filepath.Join(dst, "model.safetensors")) != digest(t, filepath.Join(factory, "model.safetensors")) {
		t.Error("the weights' file differs")
	}
	const key = "quantization_config"
	if diff := cmp.Diff(readJSON(t, filepath.Join(factory, "config.json"))[key], readJSON(t, filepath.Join(dst, "config.json"))[key]); diff != "" {
		t.Error(diff)
	}
	if gain := rep.Totals.ExactSQNR - rep.Totals.CompatibleSQNR; gain < 0.3 || gain > 1 {
		t.Errorf("exact rounding %v dB, compatible %v dB", rep.Totals.ExactSQNR, rep.Totals.CompatibleSQNR)
	}
}

// TestChecksLLMCompressorsOwnConversion, whose configuration has other spellings
// than our source's but for what the weights depend on.
func TestChecksLLMCompressorsOwnConversion(t *testing.T) {
	dst := clone(t, factory)
	ours, _ := mustConvert(t, source, convert.W8A8Compressed, convert.Options{})
	for _, name := range []string{"config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"} {
		put(t, filepath.Join(dst, name), string(read(t, filepath.Join(ours, name))))
	}
	rep, err := convert.Check(context.Background(), source, dst)
	if err != nil || !rep.Passed() || rep.Format != convert.W8A8Compressed || rep.Recorded || rep.Quantised != 21 {
		t.Fatalf("%+v, %v", rep, err)
	}
	var codes int64
	for _, n := range rep.Codes {
		codes += n
	}
	if len(rep.Codes) != 256 || codes != 589824 || rep.Codes[0] == 0 || rep.Codes[255] == 0 {
		t.Errorf("%d codes, %d times -128, %d times 127", codes, rep.Codes[0], rep.Codes[255])
	}
}

// TestOnePassEqualsTwo: FP8 to int8 at once is FP8 to BF16 to int8, to the bit,
// in either dialect and rounding.
func TestOnePassEqualsTwo(t *testing.T) {
	src := v3(t)
	between, _ := mustConvert(t, src, convert.BF16, convert.Options{})
	for _, format := range []string{convert.W8A8Ascend, convert.W8A8Compressed} {
		for _, rounding := range []convert.Rounding{convert.Compatible, convert.Exact} {
			one, rep := mustConvert(t, src, format, convert.Options{Rounding: rounding})
			two, _ := mustConvert(t, between, format, convert.Options{Rounding: rounding})
			a, b := listing(t, one), listing(t, two)
			delete(a, "conversion.json")
			delete(b, "conversion.json")
			if diff := cmp.Diff(a, b); diff != "" {
				t.Errorf("%s, %s: the files differ: %.300s", format, rounding, diff)
			}
			if check, err := convert.Check(context.Background(), src, one); err != nil || !check.Passed() {
				t.Errorf("%s, %s: %v, %v", format, rounding, check, err)
			}
			if rep.Totals.Quantised == 0 || rep.Totals.Dequantised == 0 {
				t.Errorf("%s: %+v", format, rep.Totals)
			}
		}
	}
}

// TestMTPLayersStayFloat, and are listed: as FLOAT for vllm-ascend, as ignored for
// compressed-tensors.
func TestMTPLayersStayFloat(t *testing.T) {
	dst, rep := mustConvert(t, v3(t), convert.W8A8Ascend, convert.Options{})
	types := readJSON(t, filepath.Join(dst, "quant_model_description.json"))
	seen := 0
	for _, r := range rep.Tensors {
		if strings.HasPrefix(r.Name, "model.layers.2.") {
			if seen++; r.Action == convert.Quantised || types[r.Name] != "FLOAT" {
				t.Errorf("%s: %s, described as %v", r.Name, r.Action, types[r.Name])
			}
		}
	}
	if seen < 20 {
		t.Errorf("%d tensors of the layer", seen)
	}
	dst, _ = mustConvert(t, v3(t), convert.W8A8Compressed, convert.Options{})
	ignore := readJSON(t, filepath.Join(dst, "config.json"))["quantization_config"].(map[string]any)["ignore"]
	want := []any{"lm_head", "model.layers.0.self_attn.kv_b_proj", "model.layers.1.mlp.gate", "model.layers.1.self_attn.kv_b_proj", `re:model\.layers\.2\..*`}
	if diff := cmp.Diff(want, ignore); diff != "" {
		t.Error(diff)
	}
}

// TestShardsOfFP8: a weight and its scale may lie in different files.
func TestShardsOfFP8(t *testing.T) {
	want, _ := mustConvert(t, v3(t), convert.BF16, convert.Options{})
	src := v3(t)
	scatter(t, src)
	got, _ := mustConvert(t, src, convert.BF16, convert.Options{})
	if digest(t, filepath.Join(want, "model.safetensors")) != digest(t, filepath.Join(got, "model.safetensors")) {
		t.Error("scales in another file than their weights change the result")
	}
}

// scatter splits a model over two files: scales in one, everything else in the other.
func scatter(t *testing.T, dir string) {
	t.Helper()
	var index []tensor.Info
	text := string(read(t, filepath.Join(dir, "model.safetensors")))
	for i, name := range []string{"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"} {
		put(t, filepath.Join(dir, name), text)
		reweigh(t, dir, name, func(all map[string]tensor.Tensor) {
			for n, x := range all {
				if strings.HasSuffix(n, "_scale_inv") != (i == 0) {
					delete(all, n)
					continue
				}
				index = append(index, tensor.Info{Name: n, Size: int64(len(x.Data)), File: name})
			}
		})
	}
	b, err := tensor.EncodeIndex(index)
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, tensor.IndexName), string(b))
	if err := os.Remove(filepath.Join(dir, "model.safetensors")); err != nil {
		t.Fatal(err)
	}
}

// TestFP8BlockRoundTrip: FP8 made here, read here, gives the BF16 that the codes
// stand for; and the configuration says what a reader needs.
func TestFP8BlockRoundTrip(t *testing.T) {
	for _, scales := range []convert.Scales{convert.ScalesF32, convert.ScalesE8M0} {
		fp8, rep := mustConvert(t, deepseek, convert.FP8Block, convert.Options{Scales: scales, Keep: []string{"*.o_proj"}})
		q := readJSON(t, filepath.Join(fp8, "config.json"))["quantization_config"].(map[string]any)
		ignored := q["modules_to_not_convert"].([]any)
		if (q["scale_fmt"] == "ue8m0") != (scales == convert.ScalesE8M0) || !slices.Contains(ignored, any("model.layers.1.self_attn.o_proj")) ||
			slices.Contains(ignored, any("model.layers.1.self_attn.kv_b_proj")) {
			t.Errorf("%s: %v", scales, q)
		}
		back, _ := mustConvert(t, fp8, convert.BF16, convert.Options{})
		if check, err := convert.Check(context.Background(), fp8, back); err != nil || !check.Passed() {
			t.Errorf("%s: %v, %v", scales, check, err)
		}
		if readJSON(t, filepath.Join(back, "config.json"))["quantization_config"] != nil {
			t.Errorf("%s: bfloat16 with a quantization_config", scales)
		}
		if w := rep.Totals.WorstSQNR; w < 28 || w > 34 {
			t.Errorf("%s: worst SQNR %v dB", scales, w)
		}
	}
}

// TestFP4KeepsEveryNumber: what FP8 holds after the expansion is what FP4 held.
func TestFP4KeepsEveryNumber(t *testing.T) {
	fp8, rep := mustConvert(t, v4, convert.FP8, convert.Options{})
	direct, _ := mustConvert(t, v4, convert.BF16, convert.Options{})
	round, _ := mustConvert(t, fp8, convert.BF16, convert.Options{})
	compareDirs(t, direct, round)
	if rep.Totals.Tiles != 12 || rep.Totals.Expanded != 6 {
		t.Errorf("totals %+v: want 6 matrices of 2 tiles each", rep.Totals)
	}
	config := readJSON(t, filepath.Join(fp8, "config.json"))
	if config["expert_dtype"] != "fp8" {
		t.Errorf("expert_dtype %v: an engine would read the experts as FP4", config["expert_dtype"])
	}
	// Float32 scales hold the same powers of two.
	wide, _ := mustConvert(t, v4, convert.FP8, convert.Options{Scales: convert.ScalesF32})
	round, _ = mustConvert(t, wide, convert.BF16, convert.Options{})
	compareDirs(t, direct, round)
}

// rescale sets E8M0 scales of one expert.
func rescale(change func(scale []byte, codes []byte)) func(all map[string]tensor.Tensor) {
	const w = "layers.0.ffn.experts.1.w1."
	return func(all map[string]tensor.Tensor) { change(all[w+"scale"].Data, all[w+"weight"].Data) }
}

func TestFP4TilesThatDoNotFit(t *testing.T) {
	src := clone(t, v4)
	// Scales 2^15 apart in tile 0, 1, rows of codes that are not zero.
	reweigh(t, src, "model.safetensors", rescale(func(s, _ []byte) { s[4], s[8*3+5] = 120, 105 }))
	_, err := convert.Convert(context.Background(), src, filepath.Join(t.TempDir(), "x"), convert.FP8, convert.Options{})
	v, ok := errors.AsType[*convert.Violation](err)
	if !ok || v.Rule != "lossless" || v.Tensor != "layers.0.ffn.experts.1.w1.weight" || !strings.Contains(v.Detail, "tile 0, 1: row 3, column ") {
		t.Fatalf("error %v", err)
	}
	if _, rep := mustConvert(t, src, convert.BF16, convert.Options{}); rep.Totals.Dequantised != 8 {
		t.Errorf("bfloat16 holds them all: %+v", rep.Totals)
	}
	// The same spread is harmless where the small group has no codes: 8 bytes a
	// group of 16 columns; row 3 has 128 bytes, group 5 begins at byte 80.
	reweigh(t, src, "model.safetensors", rescale(func(_, c []byte) { clear(c[3*128+80 : 3*128+96]) }))
	dst, rep := mustConvert(t, src, convert.FP8, convert.Options{})
	if check, err := convert.Check(context.Background(), src, dst); err != nil || !check.Passed() {
		t.Errorf("%v, %v", check, err)
	}
	i := slices.IndexFunc(rep.Tensors, func(r convert.TensorReport) bool { return r.Name == "layers.0.ffn.experts.1.w1.weight" })
	if r := rep.Tensors[i]; r.Tiles != 2 || r.Spread[15] != 1 {
		t.Errorf("tiles %d, spreads %v: want one past 14", r.Tiles, r.Spread)
	}
}

func TestSourcesThatAreRefused(t *testing.T) {
	const q = "model.layers.1.mlp.experts.1.down_proj.weight" // [160 136], grid [2 2]
	const gate = "model.layers.0.mlp.gate_proj.weight"        // [272 160], grid [3 2]
	const w1 = "layers.0.ffn.experts.1.w1."
	weights := func(change func(all map[string]tensor.Tensor)) func(*testing.T, string) {
		return func(t *testing.T, dir string) { reweigh(t, dir, "model.safetensors", change) }
	}
	config := func(change func(m map[string]any)) func(*testing.T, string) {
		return func(t *testing.T, dir string) { editJSON(t, filepath.Join(dir, "config.json"), change) }
	}
	quant := func(change func(q map[string]any)) func(*testing.T, string) {
		return config(func(m map[string]any) { change(m["quantization_config"].(map[string]any)) })
	}
	reshape := func(name string, shape ...int64) func(all map[string]tensor.Tensor) {
		return func(all map[string]tensor.Tensor) { x := all[name]; x.Shape = shape; all[name] = x }
	}
	tests := map[string]struct {
		native       bool // deepseek-v4
		damage       func(t *testing.T, dir string)
		rule, tensor string
		want         string
	}{
		"no scale":  {false, weights(func(all map[string]tensor.Tensor) { delete(all, q+"_scale_inv") }), "scale", q, "without a scale"},
		"no weight": {false, weights(func(all map[string]tensor.Tensor) { delete(all, q) }), "complete", q + "_scale_inv", "without its weight"},
		"a scale left behind": {false, weights(func(all map[string]tensor.Tensor) {
			all[q] = tensor.FromFloat32(q, []int64{1}, []float32{1}, tensor.BF16)
		}), "source", q + "_scale_inv", "was it cast already"},
		"a swapped grid":   {false, weights(reshape(gate+"_scale_inv", 2, 3)), "scale", gate + "_scale_inv", "transposed"},
		"a grid too small": {false, weights(reshape(gate+"_scale_inv", 6, 1)), "scale", gate + "_scale_inv", "need [3 2]"},
		"an E8M0 byte as a float": {false, weights(func(all map[string]tensor.Tensor) { setFloat(all[q+"_scale_inv"], 1, 120) }),
			"scale", q + "_scale_inv", "block row 0, column 1: scale 120 is an E8M0 exponent byte stored as a float: 0.0078125 was meant"},
		"a NaN scale":      {false, weights(func(all map[string]tensor.Tensor) { setFloat(all[q+"_scale_inv"], 3, float32(math.NaN())) }), "scale", q + "_scale_inv", "block row 1, column 1"},
		"a negative scale": {false, weights(func(all map[string]tensor.Tensor) { setFloat(all[q+"_scale_inv"], 0, -1) }), "scale", q + "_scale_inv", "-1"},
		"a huge scale":     {false, weights(func(all map[string]tensor.Tensor) { setFloat(all[q+"_scale_inv"], 0, 1e30) }), "scale", q + "_scale_inv", "2^40"},
		"a zero scale":     {false, weights(func(all map[string]tensor.Tensor) { setFloat(all[q+"_scale_inv"], 2, 0) }), "scale", q + "_scale_inv", "the block has codes"},
		"a NaN code":       {false, weights(func(all map[string]tensor.Tensor) { all[q].Data[3*136+5] = 0xff }), "finite", q, "row 3, column 5: the code 0xff is NaN"},
		"scales in float16": {false, weights(func(all map[string]tensor.Tensor) {
			x := all[q+"_scale_inv"]
			x.DType, x.Data = tensor.F16, x.Data[:8]
			all[q+"_scale_inv"] = x
		}), "scale", q + "_scale_inv", "F16"},
		"not a power of two":  {false, quant(func(q map[string]any) { q["scale_fmt"] = "ue8m0" }), "scale", "", `"scale_fmt": "ue8m0"`},
		"another block size":  {false, quant(func(q map[string]any) { q["weight_block_size"] = []int{64, 64} }), "scale", "", "blocks of 64×64"},
		"no block size":       {false, quant(func(q map[string]any) { delete(q, "weight_block_size") }), "source", "", "weight_block_size"},
		"a block size of one": {false, quant(func(q map[string]any) { q["weight_block_size"] = []int{128} }), "source", "", "two positive numbers"},
		"another code":        {false, quant(func(q map[string]any) { q["fmt"] = "e5m2" }), "source", "", "e5m2"},
		"another method":      {false, quant(func(q map[string]any) { q["quant_method"] = "awq" }), "source", "config.json", `"awq"`},
		"no configuration":    {false, config(func(m map[string]any) { delete(m, "quantization_config") }), "source", "", "block size is not known"},
		"E5M2":                {false, weights(func(all map[string]tensor.Tensor) { x := all[q]; x.DType = tensor.F8_E5M2; all[q] = x }), "dtype", q, "F8_E5M2"},
		"int8":                {false, weights(func(all map[string]tensor.Tensor) { x := all[q]; x.DType = tensor.I8; all[q] = x }), "scale", q + "_scale_inv", "int8 sources are not read"},
		"three dimensions":    {false, weights(reshape(q, 2, 80, 136)), "shape", q, "matrix"},
		"two scales": {true, weights(func(all map[string]tensor.Tensor) {
			x := all[w1+"scale"]
			x.Name += "2"
			all[w1+"weight_scale_inv"] = tensor.Tensor{Name: w1 + "weight_scale_inv", DType: x.DType, Shape: x.Shape, Data: x.Data}
		}), "scale", w1 + "weight", "two scales"},
		"0xFF in FP4":             {true, weights(func(all map[string]tensor.Tensor) { all[w1+"scale"].Data[10] = 0xff }), "scale", w1 + "scale", "row 1, group 2: the E8M0 byte is 0xFF"},
		"0xFF in FP8":             {true, weights(func(all map[string]tensor.Tensor) { all["layers.0.attn.wo_b.scale"].Data[1] = 0xff }), "scale", "layers.0.attn.wo_b.scale", "0xFF"},
		"FP4 that is not said":    {true, config(func(m map[string]any) { delete(m, "expert_dtype") }), "source", "", `"expert_dtype": "fp4"`},
		"FP4 with a grid swapped": {true, weights(reshape(w1+"scale", 8, 128)), "scale", w1 + "scale", "transposed"},
		"FP4 without a scale":     {true, weights(func(all map[string]tensor.Tensor) { delete(all, w1+"scale") }), "scale", w1 + "weight", "I8 without a scale"},
		"integers that are new": {true, weights(func(all map[string]tensor.Tensor) {
			x := all["layers.0.ffn.gate.tid2eid"]
			x.Name = "layers.0.qweight"
			all[x.Name] = x
		}), "dtype", "layers.0.qweight", "I64"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			src := clone(t, v4)
			if !tt.native {
				src = v3(t)
			}
			tt.damage(t, src)
			parent := t.TempDir()
			_, err := convert.Convert(context.Background(), src, filepath.Join(parent, "out"), convert.BF16, convert.Options{})
			v, ok := errors.AsType[*convert.Violation](err)
			if !ok || v.Rule != tt.rule || tt.tensor != "" && v.Tensor != tt.tensor || !strings.Contains(v.Detail, tt.want) {
				t.Errorf("error %v: want rule %q of %s that says %q", err, tt.rule, tt.tensor, tt.want)
			}
			if entries, err := os.ReadDir(parent); err != nil || len(entries) != 0 {
				t.Errorf("left behind: %v %v", entries, err)
			}
		})
	}
}

// TestZeroScaleOfZeros is harmless.
func TestZeroScaleOfZeros(t *testing.T) {
	const q = "model.layers.1.mlp.experts.1.down_proj.weight"
	src := v3(t)
	reweigh(t, src, "model.safetensors", func(all map[string]tensor.Tensor) {
		setFloat(all[q+"_scale_inv"], 0, 0)
		for r := range 128 {
			clear(all[q].Data[r*136 : r*136+128])
		}
	})
	dst, _ := mustConvert(t, src, convert.BF16, convert.Options{})
	if check, err := convert.Check(context.Background(), src, dst); err != nil || !check.Passed() {
		t.Errorf("%v, %v", check, err)
	}
}

// TestDuplicateNameInSource: JSON allows it, readers disagree on which one counts.
func TestDuplicateNameInSource(t *testing.T) {
	src := clone(t, v4)
	path := filepath.Join(src, "model.safetensors")
	text := string(read(t, path))
	put(t, path, strings.Replace(text, `"norm.weight"`, `"head.weight"`, 1))
	_, err := convert.Convert(context.Background(), src, filepath.Join(t.TempDir(), "out"), convert.BF16, convert.Options{})
	if err == nil || !strings.Contains(err.Error(), `tensor "head.weight"`) || !strings.Contains(err.Error(), "the name occurs twice") {
		t.Errorf("error %v", err)
	}
}

func TestLayouts(t *testing.T) {
	src := v3(t)
	hf, _ := mustConvert(t, src, convert.BF16, convert.Options{})
	native, rep := mustConvert(t, src, convert.BF16, convert.Options{Layout: convert.Native})
	d, err := tensor.OpenDir(native)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, name := range []string{"embed.weight", "head.weight", "norm.weight", "layers.0.attn.wq_a.weight", "layers.0.attn.kv_norm.weight", "layers.1.ffn.gate.bias",
		"layers.1.ffn.experts.7.w2.weight", "layers.1.ffn.shared_experts.w3.weight", "layers.1.ffn_norm.weight"} {
		if _, ok := d.Info(name); !ok {
			t.Errorf("%s is missing", name)
		}
	}
	if rep.Layout != convert.Native {
		t.Errorf("layout %q", rep.Layout)
	}
	for _, dst := range []string{hf, native} {
		if check, err := convert.Check(context.Background(), src, dst); err != nil || !check.Passed() {
			t.Errorf("%v, %v", check, err)
		}
	}
	back, _ := mustConvert(t, native, convert.BF16, convert.Options{Layout: convert.HF})
	compareDirs(t, hf, back)
	// The architecture's lists go by Hugging Face's names, whichever the source has.
	a, _ := mustConvert(t, native, convert.W8A8Ascend, convert.Options{Layout: convert.HF})
	b, _ := mustConvert(t, hf, convert.W8A8Ascend, convert.Options{})
	compareDirs(t, b, a)
	for _, o := range []convert.Options{{Layout: "other"}, {Layout: convert.HF}} {
		if _, err := convert.Convert(context.Background(), v4, filepath.Join(t.TempDir(), "x"), convert.BF16, o); err == nil || !strings.Contains(err.Error(), "layout") {
			t.Errorf("layout %q of deepseek_v4: %v", o.Layout, err)
		}
	}
}

func TestOptionsThatAFormatDoesNotHave(t *testing.T) {
	for _, tt := range []struct {
		to string
		o  convert.Options
	}{
		{convert.BF16, convert.Options{Rounding: convert.Exact}}, {convert.FP8Block, convert.Options{Rounding: convert.Exact}},
		{convert.BF16, convert.Options{Scales: convert.ScalesF32}}, {convert.W8A8Ascend, convert.Options{Scales: convert.ScalesE8M0}},
		{convert.FP8Block, convert.Options{Scales: "float8"}}, {convert.W8A8Compressed, convert.Options{Naming: convert.MSModelSlim}},
		{convert.BF16, convert.Options{Memory: -1}}, {convert.BF16, convert.Options{Memory: 1 << 20}},
	} {
		if _, err := convert.Convert(context.Background(), source, filepath.Join(t.TempDir(), "x"), tt.to, tt.o); err == nil {
			t.Errorf("%s: %+v was accepted", tt.to, tt.o)
		}
	}
	for _, f := range convert.Formats() {
		if convert.Describe(f) == "" {
			t.Errorf("%s has no description", f)
		}
	}
}

// TestPlanIsWhatIsWritten: every tensor lies where the plan said, and the plan is JSON.
func TestPlanIsWhatIsWritten(t *testing.T) {
	for _, tt := range []struct{ src, to string }{{source, convert.W8A8Ascend}, {v3(t), convert.BF16}, {v4, convert.FP8}, {deepseek, convert.FP8Block}} {
		o := convert.Options{ShardSize: 300_000}
		plan, err := convert.Plan(context.Background(), tt.src, tt.to, o)
		if err != nil {
			t.Fatal(err)
		}
		dst, rep := mustConvert(t, tt.src, tt.to, o)
		d, err := tensor.OpenDir(dst)
		if err != nil {
			t.Fatal(err)
		}
		if len(plan.Tensors) != len(d.Infos()) || len(plan.Tensors) != rep.Totals.Outputs || len(plan.Files) < 2 || plan.BytesIn != rep.Totals.BytesIn {
			t.Errorf("%s: %d tensors in %d files planned, %d written", tt.to, len(plan.Tensors), len(plan.Files), len(d.Infos()))
		}
		for _, p := range plan.Tensors {
			i, ok := d.Info(p.Name)
			if !ok || i.Offset != p.Offset || i.Size != p.Size || i.File != p.File || i.DType.String() != p.DType || !slices.Equal(i.Shape, p.Shape) {
				t.Errorf("%s: planned %+v, written %+v", tt.to, p, i)
			}
		}
		for _, f := range plan.Files {
			if st, err := os.Stat(filepath.Join(dst, f.Name)); err != nil || st.Size() != f.Size {
				t.Errorf("%s: %s: %v, %v", tt.to, f.Name, st, err)
			}
		}
		d.Close()
		if _, err := json.Marshal(plan); err != nil || plan.PeakMemory <= 0 || plan.PeakMemory > 256<<20 {
			t.Errorf("%s: peak memory %d, %v", tt.to, plan.PeakMemory, err)
		}
	}
}
