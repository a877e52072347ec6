package reference

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tarbert/internal/tensor"
)

func compressedDir() string { return filepath.Join("testdata", "compressed", "w8a8") }

func loadCompressed(t testing.TB, p Precision) *Model {
	t.Helper()
	m, err := Load(compressedDir(), Options{Precision: p})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

type compressedGolden struct {
	cases []goldenCase
	file  *tensor.File
}

func readCompressedGolden(t testing.TB) compressedGolden {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(compressedDir(), "golden.json"))
	if err != nil {
		t.Fatal(err)
	}
	var g struct {
		Cases []goldenCase `json:"cases"`
	}
	if err := json.Unmarshal(data, &g); err != nil || len(g.Cases) == 0 {
		t.Fatalf("%d cases, error %v", len(g.Cases), err)
	}
	f, err := tensor.Open(filepath.Join(compressedDir(), "golden.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return compressedGolden{g.Cases, f}
}

// compare gives the largest difference of a model's logits from stored ones,
// and at how many positions it is below 2e-4.
func (g compressedGolden) compare(t testing.TB, m *Model, prefix string) (worst float64, near int) {
	t.Helper()
	vocab := m.Config().VocabSize
	for i, c := range g.cases {
		want, err := g.file.Float32(prefix + string(rune('0'+i)))
		if err != nil {
			t.Fatal(err)
		}
		got, err := m.Forward(context.Background(), []Input{{Seq: m.NewSequence(), Tokens: c.Tokens, All: true}})
		if err != nil {
			t.Fatal(err)
		}
		if len(want) != len(c.Tokens)*vocab {
			t.Fatalf("case %d: %d golden logits", i, len(want))
		}
		for p, row := range got[0] {
			here := 0.0
			for j, x := range row {
				here = max(here, math.Abs(float64(x-want[p*vocab+j])))
			}
			if worst = max(worst, here); here <= 2e-4 {
				near++
			}
		}
	}
	return worst, near
}

// TestCompressedTensorsAgreeWithTransformers holds the dequantised model to
// 2e-4 of transformers, and int8 products to what float32 arithmetic on the
// same quantised numbers gives. There the last bit of an activation can turn a
// code by one, after which whatever sees that token differs by about 0.05: so
// positions are counted before that happens in one of the texts (of 1, 7, 40
// and 120 tokens), and the rest are bounded by three times that.
func TestCompressedTensorsAgreeWithTransformers(t *testing.T) {
	g := readCompressedGolden(t)
	for _, c := range []struct {
		p      Precision
		prefix string
		bound  float64
		near   int
	}{{F32, "logits.", 2e-4, 168}, {W8A8, "w8a8.", 0.16, 1 + 4 + 40 + 11}} {
		m := loadCompressed(t, c.p)
		worst, near := g.compare(t, m, c.prefix)
		t.Logf("%s: largest difference %.2g, below 2e-4 at %d positions", c.p, worst, near)
		if !(worst <= c.bound && near >= c.near) {
			t.Errorf("%s: logits differ by %v, and by less than 2e-4 at %d positions", c.p, worst, near)
		}
	}
	if p := loadCompressed(t, "").Precision(); p != W8A8 {
		t.Errorf("by default the profile is %s", p)
	}
	m := loadCompressed(t, F32)
	for i, c := range g.cases {
		seq, next := m.NewSequence(), c.Tokens
		for j, want := range c.Greedy {
			logits, err := m.Forward(context.Background(), []Input{{Seq: seq, Tokens: next}})
			if err != nil {
				t.Fatal(err)
			}
			next = []int{Sampler{}.Pick(logits[0][0], 0)}
			if next[0] != want {
				t.Fatalf("case %d: greedy token %d is %d, transformers has %d", i, j, next[0], want)
			}
		}
	}
}

// TestCompressedTensorsDequantise compares weights with the tool's own: codes
// times scales, which the tool rounds to the scales' bf16.
func TestCompressedTensorsDequantise(t *testing.T) {
	g := readCompressedGolden(t)
	exact, rounded := loadCompressed(t, F32), loadCompressed(t, BF16)
	for name, pick := range map[string]func(*network) *linear{
		"model.layers.0.self_attn.q_proj.weight": func(n *network) *linear { return n.layers[0].gqa.q },
		"model.layers.1.mlp.down_proj.weight":    func(n *network) *linear { return n.layers[1].mlp.down },
	} {
		want, err := g.file.Float32("dequantised." + name)
		if err != nil {
			t.Fatal(err)
		}
		l, r := pick(exact.net), pick(rounded.net)
		row, asBF16 := make([]float32, l.in), make([]float32, l.in)
		for j := range l.out {
			l.narrow.Row(row, j)
			r.narrow.Row(asBF16, j)
			for k := range row {
				if w := want[j*l.in+k]; tensor.FromBF16(tensor.ToBF16(row[k])) != w || asBF16[k] != w {
					t.Fatalf("%s row %d column %d: %v and in bf16 %v, the tool has %v", name, j, k, row[k], asBF16[k], w)
				}
			}
		}
	}
}

// TestCompressedTensorsAgainstTheirSource bounds what quantisation costs.
func TestCompressedTensorsAgainstTheirSource(t *testing.T) {
	source, err := Load(ascendDir("source"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	tokens := text(3, 512, 200)
	both, weights := meanKL(t, source, loadCompressed(t, W8A8), tokens), meanKL(t, source, loadCompressed(t, F32), tokens)
	t.Logf("mean KL to the source: w8a8 %.3g, dequantised f32 %.3g", both, weights)
	if !(weights > 0 && weights < both && both < 0.05) {
		t.Errorf("mean KL to the source: w8a8 %v, dequantised f32 %v", both, weights)
	}
	const name = "model.layers.2.mlp.up_proj"
	w, err := tensor.OpenDir(ascendDir("source"))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	want, err := w.Float32(name + ".weight")
	if err != nil {
		t.Fatal(err)
	}
	scales := readFiles(t, compressedDir()).tensor(name + ".weight_scale")
	l := loadCompressed(t, F32).net.layers[2].mlp.up
	row := make([]float32, l.in)
	for j := range l.out {
		l.narrow.Row(row, j)
		scale := float64(tensor.FromBF16(uint16(scales.Data[2*j]) | uint16(scales.Data[2*j+1])<<8))
		for k, v := range row { // half a step, and the bf16 rounding of the quotient before it
			if d := math.Abs(float64(v - want[j*l.in+k])); d > scale*(0.5+0.25) {
				t.Fatalf("row %d column %d is %v from the source, with a scale of %v", j, k, d, scale)
			}
		}
	}
}

// TestScalesOfCompressedTensors stores scales as F32: the same bits from the
// same values; and in int8 products, values between two of bf16 count as the
// nearest.
func TestScalesOfCompressedTensors(t *testing.T) {
	const name = "model.layers.0.self_attn.q_proj.weight_scale"
	score := func(p Precision, do func(x []float32)) []Position {
		f := readFiles(t, compressedDir())
		if do != nil {
			s := f.tensor(name)
			x := make([]float32, len(s.Data)/2)
			if err := tensor.Widen(x, s.Data, tensor.BF16); err != nil {
				t.Fatal(err)
			}
			do(x)
			*s = tensor.FromFloat32(name, s.Shape, x, tensor.F32)
		}
		m, err := Load(f.write(t), Options{Precision: p})
		if err != nil {
			t.Fatal(err)
		}
		out, err := m.Score(context.Background(), text(6, 512, 30), 0)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	same := func(a, b []Position) bool {
		return slices.EqualFunc(a, b, func(x, y Position) bool { return x.LogProb == y.LogProb })
	}
	between := func(x []float32) {
		for i := range x {
			x[i] = math.Float32frombits(math.Float32bits(x[i]) + 0x7fff)
		}
	}
	for _, p := range []Precision{F32, W8A8} {
		stored := score(p, nil)
		if !same(stored, score(p, func([]float32) {})) {
			t.Errorf("%s: the same scales in float32 give other bits", p)
		}
		if got := same(stored, score(p, between)); got != (p == W8A8) {
			t.Errorf("%s: scales between two bf16 values give the same bits: %t", p, got)
		}
	}
}

// editedCompressed is the fixture's config with one field changed; nil removes
// it.
func editedCompressed(t testing.TB, value any, path ...string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(compressedDir(), "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var root map[string]any
	if err := json.Unmarshal(data, &root); err != nil {
		t.Fatal(err)
	}
	at := root["quantization_config"].(map[string]any)
	for _, p := range path[:len(path)-1] {
		at = at[p].(map[string]any)
	}
	if at[path[len(path)-1]] = value; value == nil {
		delete(at, path[len(path)-1])
	}
	out, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestCompressedSchemesThatAreNotComputed names the field of each.
func TestCompressedSchemesThatAreNotComputed(t *testing.T) {
	type change struct {
		value any
		path  []string
		want  string
	}
	group := func(rest ...string) []string { return append([]string{"config_groups", "group_0"}, rest...) }
	for _, c := range []change{
		{"pack-quantized", []string{"format"}, "quantization_config.format"},
		{nil, []string{"format"}, "quantization_config.format"},
		{"frozen", []string{"quantization_status"}, "quantization_status"},
		{map[string]any{"num_bits": 8}, []string{"kv_cache_scheme"}, "kv_cache_scheme"},
		{map[string]any{"config_groups": 1}, []string{"transform_config"}, "transform_config"},
		{map[string]any{"format": "sparse-24-bitmask"}, []string{"sparsity_config"}, "sparsity_config.format"},
		{map[string]any{}, []string{"config_groups"}, "config_groups"},
		{nil, []string{"config_groups"}, "config_groups"},
		{"x", []string{"ignore"}, "ignore"},
		{[]any{"re:(?!lm_head)"}, []string{"ignore"}, "(?!lm_head)"},
		{[]any{"Conv2d"}, []string{"ignore"}, "Conv2d"},
		{1, []string{"surprise"}, "surprise"},
		{"float-quantized", group("format"), "group_0.format"},
		{nil, group("targets"), "group_0.targets"},
		{[]any{"Embedding"}, group("targets"), "Embedding"},
		{map[string]any{"num_bits": 8}, group("output_activations"), "output_activations"},
		{nil, group("input_activations"), "group_0.input_activations"},
		{4, group("weights", "num_bits"), "weights.num_bits"},
		{"float", group("weights", "type"), "weights.type"},
		{"group", group("weights", "strategy"), "weights.strategy"},
		{nil, group("weights", "strategy"), "weights.strategy"},
		{false, group("weights", "symmetric"), "weights.symmetric"},
		{true, group("weights", "dynamic"), "weights.dynamic"},
		{128, group("weights", "group_size"), "weights.group_size"},
		{"weight", group("weights", "actorder"), "weights.actorder"},
		{1, group("weights", "other"), "weights.other"},
		{"tensor", group("input_activations", "strategy"), "input_activations.strategy"},
		{false, group("input_activations", "dynamic"), "input_activations.dynamic"},
		{nil, group("input_activations", "dynamic"), "input_activations.dynamic"},
		{false, group("input_activations", "symmetric"), "input_activations.symmetric"},
	} {
		_, err := ParseConfig(editedCompressed(t, c.value, c.path...))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s = %v: error %v, want one about %q", strings.Join(c.path, "."), c.value, err, c.want)
		}
	}
	for _, c := range []change{
		{[]any{"lm_head", "re:.*mlp.gate$"}, []string{"ignore"}, ""},
		{map[string]any{"format": "dense"}, []string{"sparsity_config"}, ""},
		{nil, []string{"transform_config"}, ""},
		{nil, group("format"), ""},
		{"minmax", group("weights", "observer"), ""},
	} {
		if _, err := ParseConfig(editedCompressed(t, c.value, c.path...)); err != nil {
			t.Errorf("%s = %v: %v", strings.Join(c.path, "."), c.value, err)
		}
	}
}

func TestCompressedModules(t *testing.T) {
	for _, c := range []struct {
		targets, ignore []string
		module          string
		want            bool
	}{
		{[]string{"Linear"}, []string{"lm_head"}, "model.layers.0.mlp.up_proj", true},
		{[]string{"Linear"}, []string{"lm_head"}, "lm_head", false},
		{[]string{"Linear"}, nil, "lm_head", true},
		{[]string{"Linear"}, []string{"re:.*kv_b_proj"}, "model.layers.3.self_attn.kv_b_proj", false},
		{[]string{"Linear"}, []string{"re:kv_b_proj"}, "model.layers.3.self_attn.kv_b_proj", true}, // from the beginning only
		{[]string{"Linear"}, []string{"re:model.layers.3"}, "model.layers.3.self_attn.kv_b_proj", false},
		{[]string{"Linear"}, []string{"re:a|model.layers"}, "model.layers.3.self_attn.kv_b_proj", false},
		{[]string{"re:.*q_proj$"}, nil, "model.layers.0.self_attn.q_proj", true},
		{[]string{"re:.*q_proj$"}, nil, "model.layers.0.self_attn.k_proj", false},
		{[]string{"model.layers.0.mlp.up_proj"}, nil, "model.layers.0.mlp.up_proj", true},
		{[]string{"Linear"}, []string{"Linear"}, "model.layers.0.mlp.up_proj", false},
	} {
		got := (&CompressedTensors{Targets: c.targets, Ignore: c.ignore}).matcher()(c.module)
		if got != c.want {
			t.Errorf("targets %v, ignore %v: %s is int8: %t", c.targets, c.ignore, c.module, got)
		}
	}
}
