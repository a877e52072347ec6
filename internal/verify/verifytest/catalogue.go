package verifytest

import (
	"errors"
	"math"
	"math/rand/v2"

	"tarbert/internal/reference"
	"tarbert/internal/tensor"
)

// Fault is something that goes wrong in a deployment. Number is that of the
// catalogue in docs; a number may have several variants.
type Fault struct {
	Number int
	Name   string
	// Weights and Config edit a copy of the model's files, Stale takes an older
	// checkpoint's; Engine sets hooks; Busy sets hooks that act under load, and
	// Replica edits the files of one of several replicas.
	Weights func(Weights) error
	Config  func(map[string]any)
	Stale   bool
	Engine  func(*Engine)
	Busy    func(*Engine)
	Replica func(Weights) error
	// Text and Template rewrite what a tokenizer and a template make of a
	// conversation, which token-id prompts never meet.
	Text func(string) string
	// StandIn, if set, says what the planted change imitates.
	StandIn string
	// Cause is part of the cause that should be named; | separates alternatives.
	Cause string
	// Unseen, if set, is why the fault need not be found.
	Unseen string
}

const (
	everywhere = "wrong weights as a whole"
	few        = "few tokens are hit hard"
	positions  = "positions"
	start      = "the start of the text"
	scaled     = "logits are scaled"
	allTokens  = "every token is off"
	noise      = "noise everywhere alike"
	penalty    = "a penalty"
	decodeOnly = "decode path only"
	sampler    = "the sampler"
	loadOnly   = "under load only"
	lengths    = "certain lengths"
	endpoint   = "the endpoint"
)

const (
	layer1 = "model.layers.1."
	layer2 = "model.layers.2."
)

// Catalogue is every fault that can be planted in a model: a deepseek_v3 with
// at least three layers, the first of them dense, or a qwen3.
func Catalogue(c *reference.Config) []Fault {
	out := weightFaults()
	if c.NumExperts > 0 {
		out = append(out, expertFaults()...)
	} else {
		out = append(out, denseFaults(c)...)
	}
	out = append(out, structureFaults(c)...)
	if c.ModelType == reference.DeepseekV3 {
		out = append(out, latentFaults(c)...)
	}
	out = append(out, configFaults()...)
	return append(out, engineFaults()...)
}

// first applies f to the one tensor that has the parts in its name.
func first(f func(*Tensor), parts ...string) func(Weights) error {
	return func(w Weights) error {
		m := w.Match(parts...)
		if len(m) == 0 {
			return errors.New("no such tensor")
		}
		f(m[0])
		return nil
	}
}

// every applies f to all tensors that have the parts in their names.
func every(f func(*Tensor), parts ...string) func(Weights) error {
	return func(w Weights) error {
		m := w.Match(parts...)
		if len(m) == 0 {
			return errors.New("no such tensors")
		}
		for _, t := range m {
			f(t)
		}
		return nil
	}
}

// blocks calls f with every block of 32 elements of a row and its power-of-two scale.
func blocks(t *Tensor, f func(block []float32, scale float64)) {
	for i := range t.Rows() {
		row := t.Row(i)
		for at := 0; at < len(row); at += 32 {
			b := row[at:min(at+32, len(row))]
			if top := maxAbs(b); top > 0 {
				f(b, math.Exp2(math.Ceil(math.Log2(top))))
			}
		}
	}
}

func maxAbs(x []float32) float64 {
	top := 0.0
	for _, v := range x {
		top = max(top, math.Abs(float64(v)))
	}
	return top
}

// quantise rounds x to levels steps of its largest magnitude.
func quantise(x []float32, levels float64) {
	top := maxAbs(x)
	if top == 0 {
		return
	}
	for i, v := range x {
		x[i] = float32(math.RoundToEven(float64(v)/top*levels) / levels * top)
	}
}

func perRow(levels float64) func(*Tensor) {
	return func(t *Tensor) {
		for i := range t.Rows() {
			quantise(t.Row(i), levels)
		}
	}
}

func scaleBy(f float32) func(*Tensor) { return func(t *Tensor) { t.Scale(f) } }

func zero(t *Tensor) { clear(t.Data) }

func random(t *Tensor) {
	r := rand.New(rand.NewPCG(3, 3))
	size := 0.0
	for _, v := range t.Data {
		size += float64(v) * float64(v)
	}
	size = math.Sqrt(size / float64(len(t.Data)))
	for i := range t.Data {
		t.Data[i] = float32(size * r.NormFloat64())
	}
}

func weightFaults() []Fault {
	return []Fault{
		{Number: 1, Name: "E8M0 scale byte read as a number", Cause: everywhere, Weights: first(func(t *Tensor) {
			blocks(t, func(b []float32, s float64) {
				for i := range b {
					b[i] *= float32((math.Log2(s) + 127) / s)
				}
			})
		}, layer1, "o_proj")},
		{Number: 2, Name: "block scales rounded up after quantising", Cause: allTokens, Weights: first(func(t *Tensor) {
			blocks(t, func(b []float32, s float64) {
				f := float32(s / maxAbs(b))
				for i := range b {
					b[i] *= f
				}
			})
		}, layer1, "o_proj")},
		{Number: 9, Name: "one layer's weight scales times 1.1", Cause: allTokens, Weights: every(scaleBy(1.1), layer1, "_proj")},
		{Number: 9, Name: "row scales inverted", Cause: everywhere, Weights: first(func(t *Tensor) {
			for i := range t.Rows() {
				s := maxAbs(t.Row(i)) / 127
				for j := range t.Row(i) {
					t.Row(i)[j] *= float32(1 / (s * s))
				}
			}
		}, layer2, "o_proj")},
		{Number: 10, Name: "edge block has its neighbour's scale", Cause: few + "|" + allTokens, Weights: first(func(t *Tensor) {
			for i := range t.Rows() {
				row := t.Row(i)
				edge, before := row[len(row)-32:], row[len(row)-64:len(row)-32]
				f := float32(maxAbs(before) / maxAbs(edge))
				for j := range edge {
					edge[j] *= f
				}
			}
		}, layer1, "o_proj")},
		{Number: 17, Name: "one vocabulary row is another's", Cause: few, Weights: func(w Weights) error {
			t := w["lm_head.weight"]
			copy(t.Row('7'), t.Row('A'))
			return nil
		}},
		{Number: 17, Name: "output head tied to the embeddings", Cause: everywhere, Weights: func(w Weights) error {
			copy(w["lm_head.weight"].Data, w["model.embed_tokens.weight"].Data)
			return nil
		}},
		{Number: 17, Name: "padding rows of the vocabulary leak", Cause: allTokens, Weights: func(w Weights) error {
			t := w["lm_head.weight"]
			for i := 258; i < t.Rows(); i++ { // after the bytes, end of text and padding
				copy(t.Row(i), t.Row(' '))
			}
			return nil
		}},
		{Number: 17, Name: "stale output head (2 % noise)", Cause: noise, Weights: every(func(t *Tensor) {
			r := rand.New(rand.NewPCG(9, 9))
			for i := range t.Data {
				t.Data[i] *= float32(1 + 0.02*r.NormFloat64())
			}
		}, "lm_head")},
		{Number: 18, Name: "bf16 model served in fp16 weights", Unseen: "without overflow fp16 keeps more bits than bf16: nearer to the truth",
			Weights: every(func(t *Tensor) {
				for i, v := range t.Data {
					t.Data[i] = tensor.FromF16(tensor.ToF16(v))
				}
			}, "_proj")},
		{Number: 21, Name: "4-bit weights in groups of 32", Cause: allTokens, Weights: every(func(t *Tensor) {
			for i := range t.Rows() {
				for at := 0; at < t.Cols(); at += 32 {
					quantise(t.Row(i)[at:min(at+32, t.Cols())], 7)
				}
			}
		}, "_proj")},
		{Number: 21, Name: "8-bit weights, one scale a tensor", Cause: noise, Weights: every(func(t *Tensor) { quantise(t.Data, 127) }, "_proj")},
		{Number: 21, Name: "6-bit weights, one scale a row", Cause: noise, Weights: every(perRow(31), "_proj")},
		{Number: 22, Name: "quantised twice: FP8, then INT8 at half the range", Cause: noise, Weights: every(func(t *Tensor) {
			for i := range t.Rows() {
				row := t.Row(i)
				s := float32(maxAbs(row) / 448)
				for j, v := range row {
					row[j] = tensor.FromF8E4M3(tensor.ToF8E4M3(v/s)) * s
				}
				top := maxAbs(row) / 2
				for j, v := range row {
					row[j] = float32(math.RoundToEven(max(-127, min(127, float64(v)/top*127))) / 127 * top)
				}
			}
		}, "_proj")},
		{Number: 39, Name: "bf16 bits read as fp16 in one matrix", Cause: everywhere, Weights: first(func(t *Tensor) {
			for i, v := range t.Data {
				t.Data[i] = tensor.FromF16(tensor.ToBF16(v))
			}
		}, layer1, "o_proj")},
	}
}

// expertFaults are of routed experts and their router.
func expertFaults() []Fault {
	return []Fault{
		{Number: 3, Name: "an expert's down_proj is zero", Cause: few, Weights: first(zero, layer1, "experts.0.down_proj")},
		{Number: 3, Name: "an expert's down_proj is random", Cause: few, Weights: first(random, layer1, "experts.3.down_proj")},
		{Number: 3, Name: "an expert's down_proj is doubled", Cause: few, Weights: first(scaleBy(2), layer2, "experts.5.down_proj")},
		{Number: 3, Name: "an expert's up_proj times 1.25", Cause: few, Weights: first(scaleBy(1.25), layer2, "experts.2.up_proj")},
		{Number: 4, Name: "two experts swapped", Cause: few, Weights: func(w Weights) error {
			return w.Swap(layer1+"mlp.experts.0.", layer1+"mlp.experts.1.")
		}},
		{Number: 5, Name: "experts rotated by one", Cause: allTokens, Weights: func(w Weights) error {
			for _, pair := range [][2]string{{"0", "1"}, {"1", "2"}, {"2", "3"}, {"3", "4"}, {"4", "5"}, {"5", "6"}, {"6", "7"}} {
				if err := w.Swap(layer1+"mlp.experts."+pair[0]+".", layer1+"mlp.experts."+pair[1]+"."); err != nil {
					return err
				}
			}
			return nil
		}},
		{Number: 6, Name: "shared expert missing in one layer", Cause: allTokens, Weights: first(zero, layer1, "shared_experts.down_proj")},
		{Number: 19, Name: "router weights in bf16", Unseen: "the bf16 floor rounds them too: inside it by construction",
			Weights: every(func(t *Tensor) {
				for i, v := range t.Data {
					t.Data[i] = tensor.FromBF16(tensor.ToBF16(v))
				}
			}, "mlp.gate.weight")},
		{Number: 7, Name: "e_score_correction_bias missing", Cause: allTokens, Weights: every(zero, "e_score_correction_bias")},
		{Number: 7, Name: "routing weights not normalised", Cause: allTokens, Config: set("norm_topk_prob", false)},
		{Number: 7, Name: "routed_scaling_factor 1.25", Cause: allTokens, Config: set("routed_scaling_factor", 1.25)},
		{Number: 7, Name: "one expert a token instead of two", Cause: allTokens, Config: set("num_experts_per_tok", 1)},
		{Number: 7, Name: "expert groups on", Cause: few, Config: func(c map[string]any) { c["n_group"], c["topk_group"] = 4, 2 }},
		{Number: 8, Name: "router weights off by 2^-8", Unseen: "only near ties go to another expert: below the floor", Weights: every(func(t *Tensor) {
			r := rand.New(rand.NewPCG(5, 5))
			for i := range t.Data {
				t.Data[i] *= float32(1 + r.NormFloat64()/256)
			}
		}, "mlp.gate.weight")},
		{Number: 11, Name: "gate and up swapped in one expert", Cause: few, Weights: func(w Weights) error {
			return w.Swap(layer1+"mlp.experts.4.gate_proj.", layer1+"mlp.experts.4.up_proj.")
		}},
	}
}
