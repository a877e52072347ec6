package verifytest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
)

// Chip rewrites a model into one that computes the same function with other
// roundings, as another chip does: matrices and norms that cancel are scaled
// against each other by random factors, so that in bfloat16 every weight and
// every activation is rounded anew, and in exact arithmetic nothing changes.
// Config and weights belong together. It knows deepseek_v3 without a low-rank
// query, and qwen3.
func Chip(seed uint64) (func(Weights) error, func(map[string]any)) {
	draw := func(name string) float32 { // in (1, 2), never a power of two
		h := seed
		for _, b := range []byte(name) {
			h = (h ^ uint64(b)) * 0x100000001b3
		}
		return float32(1.05 + 0.9*rand.New(rand.NewPCG(h, seed)).Float64())
	}
	stream := draw("stream")
	return func(w Weights) error {
			for _, name := range slices.Sorted(maps.Keys(w)) { // products round, so their order counts
				t := w[name]
				if layer, latent := strings.CutSuffix(name, "self_attn.kv_b_proj.weight"); latent {
					if err := chipHeads(w, layer, draw); err != nil {
						return err
					}
					continue
				}
				f, err := chipFactor(w, name, draw)
				if err != nil {
					return err
				}
				t.Scale(f)
			}
			return nil
		}, func(c map[string]any) {
			if eps, ok := c["rms_norm_eps"].(float64); ok {
				c["rms_norm_eps"] = eps * float64(stream) * float64(stream)
			}
		}
}

// chipHeads scales the parts of one layer's kv_b_proj, and the rows of
// kv_a_proj_with_mqa: of the latent, which a norm follows, and of the rotated
// key, which none does.
func chipHeads(w Weights, layer string, draw func(string) float32) error {
	heads, nope, err := headRows(w, layer)
	if err != nil {
		return err
	}
	query, latent := draw(layer+"query"), draw(layer+"latent norm")
	b, a := w[layer+"self_attn.kv_b_proj.weight"], w[layer+"self_attn.kv_a_proj_with_mqa.weight"]
	scaleRows(b, func(i int) float32 {
		if i%(b.Rows()/heads) < nope {
			return 1 / query / latent
		}
		return draw(layer+"value") / latent
	})
	scaleRows(a, func(i int) float32 {
		if i < b.Cols() {
			return draw("stream")
		}
		return 1 / query
	})
	return nil
}

func scaleRows(t *Tensor, by func(i int) float32) {
	for i := range t.Rows() {
		f := by(i)
		for j := range t.Row(i) {
			t.Row(i)[j] *= f
		}
	}
}

// headRows gives the number of heads and the rows of a head's keys in kv_b_proj.
func headRows(w Weights, at string) (heads, nope int, err error) {
	q, a := w[at+"self_attn.q_proj.weight"], w[at+"self_attn.kv_a_proj_with_mqa.weight"]
	b, o := w[at+"self_attn.kv_b_proj.weight"], w[at+"self_attn.o_proj.weight"]
	if q == nil || a == nil || o == nil {
		return 0, 0, fmt.Errorf("%s: not latent attention", at)
	}
	// q has heads·(nope+rope) rows, b heads·(nope+value), o heads·value columns.
	rope := a.Rows() - b.Cols()
	heads = (q.Rows() + o.Cols() - b.Rows()) / rope
	return heads, q.Rows()/heads - rope, nil
}

// chipFactor is what a whole tensor is multiplied by.
func chipFactor(w Weights, name string, draw func(string) float32) (float32, error) {
	layer := ""
	if strings.HasPrefix(name, "model.layers.") {
		layer = strings.Join(strings.SplitN(name, ".", 4)[:3], ".") + "."
	}
	in, post, stream, query := draw(layer+"input"), draw(layer+"post"), draw("stream"), draw(layer+"query")
	if w[layer+"self_attn.q_norm.weight"] != nil {
		query = stream // a norm follows
	}
	for _, c := range []struct {
		suffix string
		by     func(stem string) float32
	}{
		{"embed_tokens.weight", func(string) float32 { return stream }},
		{"lm_head.weight", func(string) float32 { return 1 / draw("norm") }},
		{"model.norm.weight", func(string) float32 { return draw("norm") }},
		{"input_layernorm.weight", func(string) float32 { return in }},
		{"post_attention_layernorm.weight", func(string) float32 { return post }},
		{"kv_a_layernorm.weight", func(string) float32 { return draw(layer + "latent norm") }},
		{"kv_a_proj_with_mqa.weight", func(string) float32 { return 1 / in }}, // and by rows in chipHeads
		{"q_norm.weight", func(string) float32 { return draw(layer + "query") }},
		{"k_norm.weight", func(string) float32 { return 1 / draw(layer+"query") }},
		{"q_proj.weight", func(string) float32 { return query / in }},
		{"k_proj.weight", func(string) float32 { return stream / in }},
		{"v_proj.weight", func(string) float32 { return draw(layer+"value") / in }},
		{"o_proj.weight", func(string) float32 { return stream / draw(layer+"value") }},
		{"gate_proj.weight", func(string) float32 { return 1 / post }},
		{"up_proj.weight", func(stem string) float32 { return draw(stem) / post }},
		{"down_proj.weight", func(stem string) float32 { return stream / draw(stem) }},
		{"mlp.gate.weight", func(string) float32 { return 1 / post }},
		{"e_score_correction_bias", func(string) float32 { return 1 }},
	} {
		if stem, ok := strings.CutSuffix(name, c.suffix); ok {
			return c.by(stem), nil
		}
	}
	return 0, fmt.Errorf("%s: no rule for it", name)
}
