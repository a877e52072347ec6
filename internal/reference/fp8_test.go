package reference

import (
	"context"
	"math"
	"path/filepath"
	"testing"

	"tarbert/internal/tensor"
)

// TestFP8BlockAgreesWithPyTorch compares the fp8-block profile with PyTorch's
// casts to E4M3 and products per block of 128, in every linear of the model
// that the file has in E4M3.
func TestFP8BlockAgreesWithPyTorch(t *testing.T) {
	const name = "deepseek-v3-fp8"
	m := loadGolden(t, name, Options{Precision: FP8Block})
	cases, _ := readGolden(t, name)
	f, err := tensor.Open(filepath.Join(goldenDir(name), "fp8block.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	worst, vocab := 0.0, m.Config().VocabSize
	for i, c := range cases {
		want, err := f.Float32("fp8block." + string(rune('0'+i)))
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
		for j, w := range want {
			worst = max(worst, math.Abs(float64(got[0][j/vocab][j%vocab]-w)))
		}
	}
	t.Logf("largest difference %.2g", worst)
	if !(worst <= 2e-4) {
		t.Errorf("logits differ by %v", worst)
	}
	if m.Precision() != FP8Block {
		t.Errorf("profile %s", m.Precision())
	}
}

// TestFP8BlockIsNotTheDefault: what activations an engine quantises is the
// engine's matter, the weights alone do not ask for it.
func TestFP8BlockIsNotTheDefault(t *testing.T) {
	if p := loadGolden(t, "deepseek-v3-fp8", Options{}).Precision(); p != F32 {
		t.Errorf("profile by default %s", p)
	}
}

// TestScaleFormat: "scale_fmt": "ue8m0" makes the activations' scales powers of
// two, which changes the bits of that profile and of no other.
func TestScaleFormat(t *testing.T) {
	f := readFiles(t, goldenDir("deepseek-v3-fp8"))
	quantization := map[string]any{"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": []int{128, 128}, "scale_fmt": "ue8m0"}
	f.config = edited(t, "deepseek-v3-fp8", map[string]any{"quantization_config": quantization})
	dir := f.write(t)
	for _, p := range []Precision{F32, FP8Block} {
		plain, powers := loadGolden(t, "deepseek-v3-fp8", Options{Precision: p}), (*Model)(nil)
		powers, err := Load(dir, Options{Precision: p})
		if err != nil {
			t.Fatal(err)
		}
		kl := meanKL(t, plain, powers, text(4, 320, 50))
		if (kl != 0) != (p == FP8Block) || !(kl >= 0 && kl < 0.2) {
			t.Errorf("%s: scale_fmt ue8m0 is %v nats away", p, kl)
		}
	}
	quantization["scale_fmt"] = "float8"
	if _, err := ParseConfig(edited(t, "deepseek-v3-fp8", map[string]any{"quantization_config": quantization})); err == nil {
		t.Error("an unknown scale_fmt was read")
	}
}
