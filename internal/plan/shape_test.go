package plan

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tarbert/internal/reference"
)

// deepseekV3 is the published config.json of DeepSeek-V3.
func deepseekV3() ModelShape {
	return ModelShape{
		Type: "deepseek_v3", Layers: 61, Hidden: 7168, Vocabulary: 129280, Intermediate: 18432, Heads: 128, KVHeads: 128, QK: 192, V: 128,
		QLoraRank: 1536, KVLoraRank: 512, QKRope: 64, MoELayers: 58, Experts: 256, ExpertsPerToken: 8, SharedExperts: 1,
		ExpertIntermediate: 2048, RouterBias: true, MTPLayers: 1,
	}
}

func qwen3(layers, hidden, intermediate, heads, kv int, tied bool) ModelShape {
	return ModelShape{
		Type: "qwen3", Layers: layers, Hidden: hidden, Vocabulary: 151936, Tied: tied, Intermediate: intermediate,
		Heads: heads, KVHeads: kv, QK: 128, V: 128,
	}
}

func TestPublishedSizes(t *testing.T) {
	moe := qwen3(48, 2048, 6144, 32, 4, false)
	moe.Type, moe.MoELayers, moe.Experts, moe.ExpertsPerToken, moe.ExpertIntermediate = "qwen3_moe", 48, 128, 8, 768
	for _, c := range []struct {
		name   string
		shape  ModelShape
		total  float64 // published
		active float64 // published
		// with says whether the published active count includes the input embedding.
		with bool
		// tolerance of both, from the published digits.
		tolerance float64
	}{
		{"DeepSeek-V3 (arXiv:2412.19437)", deepseekV3(), 671e9, 37e9, false, 0.012},
		{"Qwen3-30B-A3B (model card)", moe, 30.5e9, 3.3e9, true, 0.02},
		{"Qwen3-8B (model card: 8.2B, 6.95B without embedding)", qwen3(36, 4096, 12288, 32, 8, false), 8.2e9, 6.95e9 + 2*151936*4096, true, 0.005},
		{"Qwen3-0.6B (safetensors: 596,049,920)", qwen3(28, 1024, 3072, 16, 8, true), 596049920, 0.44e9 + 2*151936*1024, true, 0.005},
	} {
		p := Params(c.shape)
		active := float64(p.Active)
		if c.with {
			active += float64(p.Embedding)
		}
		if off := math.Abs(float64(p.Total)/c.total - 1); off > c.tolerance {
			t.Errorf("%s: %s in total, published %.4g", c.name, grouped(p.Total), c.total)
		}
		if off := math.Abs(active/c.active - 1); off > c.tolerance {
			t.Errorf("%s: %.4g active, published %.4g", c.name, active, c.active)
		}
	}
	if got := Params(qwen3(28, 1024, 3072, 16, 8, true)).Total; got != 596049920 {
		t.Errorf("Qwen3-0.6B has %d parameters, its files hold 596,049,920", got)
	}
	// DeepSeek's README_WEIGHTS: 11.5 B unique parameters in the MTP module.
	if got := float64(Params(deepseekV3()).MTP); math.Abs(got/11.5e9-1) > 0.01 {
		t.Errorf("DeepSeek-V3's MTP module has %.4g parameters, published 11.5e9", got)
	}
}

// DeepSeek prints 250 GFLOP per token for V3 in training at a context of 4,096
// (arXiv:2505.09343, table 2), causal, by the formula in design.md.
func TestPublishedFLOPsPerToken(t *testing.T) {
	v3 := deepseekV3()
	if got := float64(trainFLOPs(v3, Params(v3), 4096)); math.Abs(got/250e9-1) > 0.02 {
		t.Errorf("%.4g FLOP per token, published 250e9", got)
	}
	// 405 B dense (Llama 3: 126 layers, 128 heads of 128): 2,448 GFLOP per token, same table.
	llama := ModelShape{Layers: 126, Hidden: 16384, Vocabulary: 128256, Intermediate: 53248, Heads: 128, KVHeads: 8, QK: 128, V: 128}
	if got := float64(trainFLOPs(llama, Params(llama), 4096)); math.Abs(got/2448e9-1) > 0.02 {
		t.Errorf("%.4g FLOP per token, published 2448e9", got)
	}
}

// The count from sizes is the count of what the reference model really holds.
func TestCountEqualsTheModel(t *testing.T) {
	const dir = "../../examples/sums/model"
	shape, err := ReadShape(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sumsShape(), shape); diff != "" {
		t.Errorf("shape of %s (-want +got):\n%s", dir, diff)
	}
	c, err := reference.ReadConfig(dir)
	if err != nil {
		t.Fatal(err)
	}
	m := reference.NewTrainable(c, 1, 1)
	var held int64
	for _, p := range append(m.Params(), m.RouterBias()...) {
		held += int64(len(p.Data))
	}
	if got := Params(shape).Total; got != held {
		t.Errorf("counted %d parameters, the model holds %d", got, held)
	}
}

func TestReadShapeNeedsAModel(t *testing.T) {
	if _, err := ReadShape(t.TempDir()); err == nil {
		t.Error("a folder without config.json has a shape")
	}
}
