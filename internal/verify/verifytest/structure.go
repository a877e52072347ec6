package verifytest

import (
	"math"
	"math/rand/v2"
	"slices"
)

// permuteRows reorders a tensor's rows: row i comes from order(i).
func permuteRows(t *Tensor, order func(i int) int) {
	old := slices.Clone(t.Data)
	c := t.Cols()
	for i := range t.Rows() {
		copy(t.Row(i), old[order(i)*c:][:c])
	}
}

// permuteCols reorders columns.
func permuteCols(t *Tensor, order func(j int) int) {
	for i := range t.Rows() {
		row := slices.Clone(t.Row(i))
		for j := range row {
			t.Row(i)[j] = row[order(j)]
		}
	}
}

// structureFaults put right numbers in wrong places.
func structureFaults() []Fault {
	return []Fault{
		{Number: 11, Name: "gate and up swapped in one layer", Cause: allTokens, Weights: func(w Weights) error {
			return w.Swap("model.layers.0.mlp.gate_proj.", "model.layers.0.mlp.up_proj.")
		}},
		{Number: 11, Name: "gate and up swapped in one expert", Cause: few, Weights: func(w Weights) error {
			return w.Swap(layer1+"mlp.experts.4.gate_proj.", layer1+"mlp.experts.4.up_proj.")
		}},
		{Number: 11, Name: "kv_b_proj split as all keys, then all values", Cause: everywhere, Weights: first(func(t *Tensor) {
			const heads, nope, value = 4, 16, 24
			permuteRows(t, func(i int) int {
				h, d := i/(nope+value), i%(nope+value)
				if d < nope {
					return h*nope + d
				}
				return heads*nope + h*value + d - nope
			})
		}, layer1, "kv_b_proj")},
		{Number: 12, Name: "o_proj's shards in the wrong order", Cause: allTokens, Weights: first(func(t *Tensor) {
			half := t.Cols() / 2
			permuteCols(t, func(j int) int { return (j + half) % t.Cols() })
		}, layer1, "o_proj")},
		{Number: 12, Name: "heads of the values swapped", Cause: allTokens, Weights: first(func(t *Tensor) {
			const width = 40
			permuteRows(t, func(i int) int {
				switch {
				case i < width:
					return i + width
				case i < 2*width:
					return i - width
				}
				return i
			})
		}, layer2, "kv_b_proj")},
		{Number: 13, Name: "two layers in each other's place", Cause: everywhere, Weights: func(w Weights) error { return w.Swap(layer1, layer2) }},
		{Number: 13, Name: "the last layer missing", Cause: everywhere, Weights: every(zero, layer2, "o_proj"), Config: nil},
		{Number: 14, Name: "half of the rotary dimensions not in place", Cause: positions, Weights: every(func(t *Tensor) {
			n := t.Rows()
			permuteRows(t, func(i int) int {
				if i >= n-16 && i < n-8 {
					return i + 8
				}
				if i >= n-8 {
					return i - 8
				}
				return i
			})
		}, layer1, "kv_a_proj_with_mqa")},
		{Number: 15, Name: "attention scale times 1.05", Cause: allTokens, Weights: every(scaleBy(1.05), "q_proj")},
		{Number: 16, Name: "norm weights plus one (gemma)", Cause: everywhere, Weights: every(func(t *Tensor) {
			for i := range t.Data {
				t.Data[i]++
			}
		}, "input_layernorm")},
		{Number: 16, Name: "kv_a_layernorm missing", Cause: allTokens, Weights: first(func(t *Tensor) {
			for i := range t.Data {
				t.Data[i] = 1
			}
		}, layer1, "kv_a_layernorm")},
		{Number: 16, Name: "a norm's weights zero", Cause: allTokens, Weights: first(zero, layer1, "post_attention_layernorm")},
		{Number: 7, Name: "e_score_correction_bias missing", Cause: few, Weights: every(zero, "e_score_correction_bias")},
		{Number: 8, Name: "router weights off by 2^-8", Unseen: "only near ties go to another expert: below the floor", Weights: every(func(t *Tensor) {
			r := rand.New(rand.NewPCG(5, 5))
			for i := range t.Data {
				t.Data[i] *= float32(1 + r.NormFloat64()/256)
			}
		}, "mlp.gate.weight")},
		{Number: 23, Name: "unmerged adapter: rank one, 3 % of a matrix", Cause: allTokens, Weights: every(func(t *Tensor) { adapter(t, 0.03) }, "q_proj")},
	}
}

// adapter adds a random matrix of rank one whose size is a share of t's.
func adapter(t *Tensor, share float64) {
	r := rand.New(rand.NewPCG(7, uint64(t.Rows())))
	a, b := make([]float64, t.Rows()), make([]float64, t.Cols())
	var size, have float64
	for i := range a {
		a[i] = r.NormFloat64()
	}
	for j := range b {
		b[j] = r.NormFloat64()
	}
	for i := range a {
		for j := range b {
			size += a[i] * b[j] * a[i] * b[j]
			have += float64(t.Row(i)[j]) * float64(t.Row(i)[j])
		}
	}
	f := share * math.Sqrt(have/size)
	for i := range a {
		for j := range b {
			t.Row(i)[j] += float32(f * a[i] * b[j])
		}
	}
}

func set(name string, value any) func(map[string]any) {
	return func(c map[string]any) { c[name] = value }
}

// configFaults change one field of config.json.
func configFaults() []Fault {
	yarn := map[string]any{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 32.0, "beta_slow": 1.0}
	return []Fault{
		{Number: 7, Name: "routing weights not normalised", Cause: allTokens, Config: set("norm_topk_prob", false)},
		{Number: 7, Name: "routed_scaling_factor 1.25", Cause: allTokens, Config: set("routed_scaling_factor", 1.25)},
		{Number: 7, Name: "one expert a token instead of two", Cause: allTokens, Config: set("num_experts_per_tok", 1)},
		{Number: 7, Name: "expert groups on", Cause: few, Config: func(c map[string]any) { c["n_group"], c["topk_group"] = 4, 2 }},
		{Number: 14, Name: "rope_theta 12,000", Cause: positions, Config: set("rope_theta", 12000.0)},
		{Number: 14, Name: "rope_theta 50,000", Cause: positions, Config: set("rope_theta", 50000.0)},
		{Number: 14, Name: "rotary embedding not interleaved", Cause: positions, Config: set("rope_interleave", false)},
		{Number: 14, Name: "YaRN factor 4", Cause: positions, Config: set("rope_scaling", yarn)},
		{Number: 16, Name: "rms_norm_eps 1e-2", Cause: allTokens, Config: set("rms_norm_eps", 1e-2)},
	}
}
