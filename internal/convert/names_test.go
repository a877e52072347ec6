package convert

import (
	"testing"

	"pgregory.net/rapid"
)

// TestNamesGoThereAndBack: any name of a DeepSeek-V3 keeps its identity through the
// vendor's names, and no two become one.
func TestNamesGoThereAndBack(t *testing.T) {
	arch, _, err := findArchitecture("deepseek_v3")
	if err != nil {
		t.Fatal(err)
	}
	native := newNaming(arch, func(name string) bool { return name == "head.weight" })
	if !native.native || newNaming(arch, func(string) bool { return true }).native {
		t.Fatal("the layout of a source is not told from its names")
	}
	layer := rapid.Custom(func(t *rapid.T) string {
		n := rapid.SampledFrom([]string{"0", "7", "61"}).Draw(t, "layer")
		return "model.layers." + n + "." + rapid.SampledFrom([]string{
			"self_attn.q_proj.weight", "self_attn.q_a_proj.weight", "self_attn.q_a_layernorm.weight", "self_attn.q_b_proj.weight_scale_inv",
			"self_attn.kv_a_proj_with_mqa.weight", "self_attn.kv_a_proj_with_mqa.bias", "self_attn.kv_b_proj.weight", "self_attn.o_proj.weight",
			"mlp.gate.weight", "mlp.gate.e_score_correction_bias", "mlp.gate_proj.weight", "mlp.experts.17.down_proj.weight_scale_inv",
			"mlp.shared_experts.up_proj.weight", "input_layernorm.weight", "post_attention_layernorm.weight", "eh_proj.weight", "enorm.weight",
			"shared_head.head.weight", "shared_head.norm.weight", "embed_tokens.weight"}).Draw(t, "rest")
	})
	name := rapid.OneOf(layer, rapid.SampledFrom([]string{"lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"}))
	rapid.Check(t, func(t *rapid.T) {
		a, b := name.Draw(t, "a"), name.Draw(t, "b")
		there := arch.Native.toNative(a)
		if back := native.hf(there); back != a {
			t.Fatalf("%s became %s and %s", a, there, back)
		}
		if (there == arch.Native.toNative(b)) != (a == b) {
			t.Fatalf("%s and %s are both %s", a, b, there)
		}
	})
}
