package verifytest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"tarbert/internal/reference"
	"tarbert/internal/tensor"
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
func structureFaults(c *reference.Config) []Fault {
	last := fmt.Sprintf("model.layers.%d.", c.NumHiddenLayers-1)
	return []Fault{
		{Number: 11, Name: "gate and up swapped in one layer", Cause: allTokens, Weights: func(w Weights) error {
			return w.Swap("model.layers.0.mlp.gate_proj.", "model.layers.0.mlp.up_proj.")
		}},
		{Number: 12, Name: "o_proj's shards in the wrong order", Cause: allTokens, Weights: first(func(t *Tensor) {
			half := t.Cols() / 2
			permuteCols(t, func(j int) int { return (j + half) % t.Cols() })
		}, layer1, "o_proj")},
		{Number: 13, Name: "two layers in each other's place", Cause: everywhere, Weights: func(w Weights) error { return w.Swap(layer1, layer2) }},
		{Number: 13, Name: "the last layer missing", Cause: everywhere, Weights: func(w Weights) error {
			if err := every(zero, last, "o_proj")(w); err != nil {
				return err
			}
			return every(zero, last, "down_proj")(w)
		}},
		{Number: 15, Name: "attention scale times 1.05", Cause: positions, Weights: every(scaleBy(1.05), queries(c))},
		{Number: 16, Name: "norm weights plus one (gemma)", Cause: everywhere, Weights: every(func(t *Tensor) {
			for i := range t.Data {
				t.Data[i]++
			}
		}, "input_layernorm")},
		{Number: 16, Name: "a norm's weights zero", Cause: allTokens, Weights: first(zero, layer1, "post_attention_layernorm")},
		{Number: 18, Name: "fp16 overflow: a matrix saturates at half of its largest weight", Cause: noise, StandIn: "activations that overflow", Weights: first(func(t *Tensor) {
			top := float32(maxAbs(t.Data) / 2)
			for i, v := range t.Data {
				t.Data[i] = max(-top, min(top, v))
			}
		}, layer1, "o_proj")},
		{Number: 23, Name: "stale checkpoint: nine tenths of the run", Cause: allTokens, Stale: true},
		{Number: 23, Name: "unmerged adapter: rank one, 3 % of the query matrices", Cause: positions, Weights: every(func(t *Tensor) { adapter(t, 0.03) }, "q_proj")},
	}
}

// queries names what scales the queries: their projection, or the norm after it.
func queries(c *reference.Config) string {
	if c.ModelType == reference.DeepseekV3 {
		return "q_proj"
	}
	return "q_norm"
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
		{Number: 14, Name: "rope_theta 12,000", Cause: positions, Config: set("rope_theta", 12000.0)},
		{Number: 14, Name: "rope_theta 50,000", Cause: positions, Config: set("rope_theta", 50000.0)},
		{Number: 14, Name: "YaRN factor 4", Cause: positions, Config: set("rope_scaling", yarn)},
		{Number: 16, Name: "rms_norm_eps 1e-2", Cause: allTokens, Config: set("rms_norm_eps", 1e-2)},
	}
}

// latentFaults are of latent attention.
func latentFaults(c *reference.Config) []Fault {
	heads, nope, value, rope := c.NumAttentionHeads, c.QKNopeHeadDim, c.VHeadDim, c.QKRopeHeadDim
	return []Fault{
		{Number: 11, Name: "kv_b_proj split as all keys, then all values", Cause: everywhere, Weights: first(func(t *Tensor) {
			permuteRows(t, func(i int) int {
				h, d := i/(nope+value), i%(nope+value)
				if d < nope {
					return h*nope + d
				}
				return heads*nope + h*value + d - nope
			})
		}, layer1, "kv_b_proj")},
		{Number: 12, Name: "heads of the values swapped", Cause: allTokens, Weights: first(func(t *Tensor) {
			width := nope + value
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
		{Number: 14, Name: "half of the rotary dimensions not in place", Cause: positions, Weights: every(func(t *Tensor) {
			n := t.Rows()
			permuteRows(t, func(i int) int {
				if i >= n-rope && i < n-rope/2 {
					return i + rope/2
				}
				if i >= n-rope/2 {
					return i - rope/2
				}
				return i
			})
		}, layer1, "kv_a_proj_with_mqa")},
		{Number: 16, Name: "kv_a_layernorm missing", Cause: allTokens, Weights: first(func(t *Tensor) {
			for i := range t.Data {
				t.Data[i] = 1
			}
		}, layer1, "kv_a_layernorm")},
		{Number: 14, Name: "rotary embedding not interleaved", Cause: positions, Config: set("rope_interleave", false)},
	}
}

// denseFaults are of grouped-query attention with normed queries and keys, and
// what stands for faults of experts where there are none.
func denseFaults(c *reference.Config) []Fault {
	dim := c.HeadDim
	interleaved := func(t *Tensor) { // row d of a head comes from where the other convention has it
		permuteRows(t, func(i int) int {
			h, d := i/dim, i%dim
			return h*dim + d%2*dim/2 + d/2
		})
	}
	return []Fault{
		{Number: 3, Name: "a shard of down_proj is zero", Cause: allTokens, Weights: first(func(t *Tensor) {
			for i := range t.Rows() {
				clear(t.Row(i)[:t.Cols()/8])
			}
		}, layer1, "down_proj")},
		{Number: 3, Name: "one row of up_proj times 8", Cause: few, Weights: first(func(t *Tensor) {
			for j := range t.Row(7) {
				t.Row(7)[j] *= 8
			}
		}, layer2, "up_proj")},
		{Number: 11, Name: "queries interleaved by head where they are concatenated", Cause: positions, Weights: first(func(t *Tensor) {
			heads := t.Rows() / dim
			permuteRows(t, func(i int) int { return i%heads*dim + i/heads })
		}, layer1, "q_proj")},
		{Number: 12, Name: "heads of the keys and values swapped", Cause: positions, Weights: func(w Weights) error {
			for _, name := range []string{"k_proj", "v_proj"} {
				if err := first(func(t *Tensor) { permuteRows(t, func(i int) int { return (i + dim) % t.Rows() }) }, layer2, name)(w); err != nil {
					return err
				}
			}
			return nil
		}},
		{Number: 14, Name: "rotary embedding interleaved", Cause: positions, Weights: func(w Weights) error {
			for _, name := range []string{"q_proj", "k_proj"} {
				if err := every(interleaved, name)(w); err != nil {
					return err
				}
			}
			for _, name := range []string{"q_norm", "k_norm"} {
				if err := every(func(t *Tensor) {
					old := slices.Clone(t.Data)
					for d := range t.Data {
						t.Data[d] = old[d%2*dim/2+d/2]
					}
				}, name)(w); err != nil {
					return err
				}
			}
			return nil
		}},
		{Number: 16, Name: "q_norm's and k_norm's weights missing", Cause: positions, Weights: func(w Weights) error {
			ones := func(t *Tensor) {
				for i := range t.Data {
					t.Data[i] = 1
				}
			}
			if err := every(ones, "q_norm")(w); err != nil {
				return err
			}
			return every(ones, "k_norm")(w)
		}},
		{Number: 19, Name: "norm weights in bf16", Unseen: "the bf16 floor rounds them too: inside it by construction",
			Weights: every(func(t *Tensor) {
				for i, v := range t.Data {
					t.Data[i] = tensor.FromBF16(tensor.ToBF16(v))
				}
			}, "norm")},
	}
}
