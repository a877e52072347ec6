package convert

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"tarbert/internal/reference"
	"tarbert/internal/tensor/gguf"
)

// ggufOutput is a tensor of the GGUF file.
type ggufOutput struct {
	name  string
	kind  gguf.Type
	shape []int64
}

// ggufSlot is what a weight gives to an output: all its rows, from element base
// of the output on; or of every group of rows those from row from on, take of
// them, as they are or transposed.
type ggufSlot struct {
	output            int
	base              int64
	group, from, take int64 // group 0: all rows
	transpose         bool
}

// ggufStep is the fate of one weight: slots, or a reason why there are none.
type ggufStep struct {
	weight *weight
	slots  []ggufSlot
	reason string
}

// ggufPlan is the file to be: outputs in its order, steps in the order of names.
type ggufPlan struct {
	arch    string
	config  *reference.Config
	kind    gguf.Type // of the matrices
	kept    func(module string) bool
	outputs []ggufOutput
	steps   []ggufStep
}

// planGGUF decides the fate of every weight. It is an error if one that the
// configuration asks for is missing or has another shape, or if one has no place.
func planGGUF(c *reference.Config, weights []*weight, kind gguf.Type, kept func(module string) bool) (*ggufPlan, error) {
	arch, ok := ggufArchitecture(c.ModelType)
	if !ok {
		return nil, violation("architecture", "config.json", "llama.cpp's names are not known here for model_type %q", c.ModelType)
	}
	if v := ggufObstacle(c); v != nil {
		return nil, v
	}
	if err := ggufComplete(c, weights); err != nil {
		return nil, err
	}
	p := &ggufPlan{arch: arch, config: c, kind: kind, kept: kept}
	// The converter reads file by file, names in order within each: so the outputs lie.
	sorted := slices.Clone(weights)
	slices.SortFunc(sorted, func(a, b *weight) int {
		return cmp.Or(cmp.Compare(a.stored.File, b.stored.File), cmp.Compare(a.stored.Name, b.stored.Name))
	})
	stacks := map[int][]int{} // layer to the steps of its experts
	for _, w := range sorted {
		if err := p.add(w, stacks); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(p.steps, func(a, b ggufStep) int { return natural(a.weight.name, b.weight.name) })
	return p, nil
}

// ggufComplete holds the weights against those that the configuration implies.
func ggufComplete(c *reference.Config, weights []*weight) error {
	found := make(map[string]*weight, len(weights))
	for _, w := range weights {
		found[w.name] = w
	}
	for _, s := range c.Tensors() {
		w, ok := found[s.Name]
		if !ok {
			return violation("complete", s.Name, "missing: config.json asks for it, and llama.cpp would not load the file")
		}
		if !slices.Equal(w.shape, s.Shape) {
			return violation("complete", s.Name, "shape %v, but config.json asks for %v", w.shape, s.Shape)
		}
		delete(found, s.Name)
	}
	for _, w := range weights { // what is left: known to be superfluous, or a mistake
		if _, left := found[w.name]; !left || ggufDrop(c, w.name) != "" {
			continue
		}
		if w.name == "lm_head.weight" && slices.Equal(w.shape, []int64{int64(c.VocabSize), int64(c.HiddenSize)}) {
			continue // tied, and there all the same
		}
		return violation("complete", w.name, "config.json knows no such tensor: it would be lost")
	}
	return nil
}

// ggufDrop is why a weight is left out; empty for one that is not.
func ggufDrop(c *reference.Config, name string) string {
	switch {
	case c.PredictionLayer(name):
		return "multi-token-prediction layer: deepseek2 has none"
	case c.ModelType == reference.DeepseekV3 && c.TieWordEmbeddings && name == "lm_head.weight":
		return "tied to the embedding"
	case strings.HasSuffix(name, ".rotary_emb.inv_freq"):
		return "recomputed from rope_theta"
	}
	return ""
}

// add gives one weight its step, and the file its outputs.
func (p *ggufPlan) add(w *weight, stacks map[int][]int) error {
	if reason := ggufDrop(p.config, w.name); reason != "" {
		p.steps = append(p.steps, ggufStep{weight: w, reason: reason})
		return nil
	}
	place, ok := ggufPlaceOf(w.name)
	if !ok {
		return violation("complete", w.name, "llama.cpp has no name for it in architecture %s", p.arch)
	}
	switch {
	case place.expert >= 0:
		stacks[place.layer] = append(stacks[place.layer], len(p.steps))
		p.steps = append(p.steps, ggufStep{weight: w})
		if len(stacks[place.layer]) == 3*p.config.NumExperts {
			p.stack(stacks[place.layer])
		}
	case len(place.names) == 2:
		p.split(w, place.names)
	default:
		i, reason := p.output(place.names[0], w.shape, p.kept(moduleOf(w.name)))
		p.steps = append(p.steps, ggufStep{weight: w, slots: []ggufSlot{{output: i}}, reason: reason})
	}
	return nil
}

// output adds a tensor to the file and says why it has its type.
func (p *ggufPlan) output(name string, shape []int64, kept bool) (index int, reason string) {
	kind := p.kind
	block, _ := kind.Block()
	switch {
	case len(shape) <= 1 || strings.HasSuffix(name, "_norm.weight") || !strings.HasSuffix(name, ".weight"):
		kind, reason = gguf.F32, "a vector: llama.cpp has them in float32"
	case strings.HasSuffix(name, ".ffn_gate_inp.weight"):
		kind, reason = gguf.F32, "the router: llama.cpp has it in float32"
	case kept && kind == gguf.Q8_0:
		kind, reason = gguf.BF16, "--keep"
	case shape[len(shape)-1]%block != 0:
		kind, reason = gguf.F16, fmt.Sprintf("rows of %d do not fill %v's blocks: half precision, as llama.cpp's converter has it", shape[len(shape)-1], kind)
	default:
		reason = "every matrix"
	}
	p.outputs = append(p.outputs, ggufOutput{name: name, kind: kind, shape: shape})
	return len(p.outputs) - 1, reason
}

// stack adds the outputs of a layer's experts, whose last one has come, in the
// converter's order. One that is kept keeps its stack.
func (p *ggufPlan) stack(steps []int) {
	for _, matrix := range []string{".down_proj.", ".gate_proj.", ".up_proj."} {
		var experts []*ggufStep
		kept := false
		for _, i := range steps {
			if s := &p.steps[i]; strings.Contains(s.weight.name, matrix) {
				experts = append(experts, s)
				kept = kept || p.kept(moduleOf(s.weight.name))
			}
		}
		place, _ := ggufPlaceOf(experts[0].weight.name)
		shape := append([]int64{int64(p.config.NumExperts)}, experts[0].weight.shape...)
		i, reason := p.output(place.names[0], shape, kept)
		for _, s := range experts {
			place, _ := ggufPlaceOf(s.weight.name)
			s.reason = reason
			s.slots = []ggufSlot{{output: i, base: int64(place.expert) * product(s.weight.shape)}}
		}
	}
}

// split adds the two outputs of kv_b_proj, whose rows are, head by head, the
// keys' and the values' up-projection: attn_k_b [heads, rank, nope], transposed
// so that it can be absorbed into the query, and attn_v_b [heads, value, rank].
func (p *ggufPlan) split(w *weight, names []string) {
	c := p.config
	heads, rank := int64(c.NumAttentionHeads), int64(c.KVLoraRank)
	nope, value := int64(c.QKNopeHeadDim), int64(c.VHeadDim)
	kept := p.kept(moduleOf(w.name))
	k, _ := p.output(names[0], []int64{heads, rank, nope}, kept)
	v, _ := p.output(names[1], []int64{heads, value, rank}, kept)
	p.steps = append(p.steps, ggufStep{weight: w, reason: "keys and values apart, keys transposed", slots: []ggufSlot{
		{output: k, group: nope + value, from: 0, take: nope, transpose: true},
		{output: v, group: nope + value, from: nope, take: value},
	}})
}

func product(shape []int64) int64 { return gguf.Info{Shape: shape}.Elements() }

// group is the number of rows that must be converted together.
func (s *ggufStep) group() int64 {
	if len(s.slots) == 0 {
		return 1
	}
	return max(s.slots[0].group, 1)
}

// infos describes the outputs for gguf.Plan.
func (p *ggufPlan) infos() []gguf.Info {
	infos := make([]gguf.Info, len(p.outputs))
	for i, o := range p.outputs {
		infos[i] = gguf.Info{Name: o.name, Type: o.kind, Shape: o.shape}
	}
	return infos
}
