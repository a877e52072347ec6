package convert

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"tarbert/internal/reference"
	"tarbert/internal/tensor"
	"tarbert/internal/tensor/gguf"
)

// The GGUF formats: the type of the matrices.
const (
	GGUFF32  = "gguf-f32"
	GGUFBF16 = "gguf-bf16"
	GGUFQ8   = "gguf-q8_0"
)

// ggufFile is what the weights are called.
const ggufFile = "model.gguf"

// ggufFormatName is --to of a type.
func ggufFormatName(kind gguf.Type) string { return "gguf-" + strings.ToLower(kind.String()) }

// ggufFormats lists them, the narrowest first, as formatTable does.
func ggufFormats() []format {
	return []format{
		ggufFormat(gguf.Q8_0, "one GGUF file for llama.cpp, tokenizer included: matrices in blocks of 32 int8"),
		ggufFormat(gguf.BF16, "one GGUF file for llama.cpp, tokenizer included: matrices in bfloat16"),
		ggufFormat(gguf.F32, "one GGUF file for llama.cpp, tokenizer included: all in float32"),
	}
}

// ggufFormat is the format whose matrices have a type.
func ggufFormat(kind gguf.Type, about string) format {
	return format{
		name: ggufFormatName(kind), about: about, small: smallGGUF, recognise: isGGUF, rules: ggufRules,
		// What becomes of a weight depends on the configuration, which place has.
		plan: func(p *planner) ([]step, error) {
			steps := make([]step, len(p.weights))
			for i, w := range p.weights {
				steps[i] = step{weight: w}
			}
			return steps, nil
		},
		place: func(c *conversion, steps []step) ([]fileLayout, error) { return placeGGUF(c, steps, kind) },
	}
}

// placeGGUF decides every step and lays the one file out.
func placeGGUF(c *conversion, steps []step, kind gguf.Type) ([]fileLayout, error) {
	config, err := reference.ParseConfig(c.config)
	if err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	weights := make([]*weight, len(steps))
	for i := range steps {
		weights[i] = steps[i].weight
	}
	plan, err := planGGUF(config, weights, kind, c.keeps)
	if err != nil {
		return nil, err
	}
	metadata, err := plan.metadata(c.src, c.config)
	if err != nil {
		return nil, err
	}
	layout, err := gguf.Plan(metadata, plan.infos())
	if err != nil {
		return nil, fmt.Errorf("plan %s: %w", ggufFile, err)
	}
	outputs := make([]*output, len(layout.Infos))
	for i, info := range layout.Infos {
		outputs[i] = &output{name: info.Name, kind: info.Type.String(), shape: info.Shape, size: info.Size, offset: info.Offset}
	}
	for i := range plan.steps { // the order of names, which is that of steps
		steps[i] = ggufEngineStep(&plan.steps[i], plan, outputs)
	}
	return []fileLayout{{name: ggufFile, size: layout.Size, tensors: len(outputs), header: layout.Header()}}, nil
}

// keeps reports whether --keep names a module.
func (c *conversion) keeps(module string) bool {
	return slices.ContainsFunc(c.options.Keep, func(pattern string) bool { return matches(pattern, module) })
}

// ggufEngineStep chooses the arithmetic of one weight. What safetensors have as
// well is converted as for them.
func ggufEngineStep(s *ggufStep, plan *ggufPlan, outputs []*output) step {
	w := s.weight
	if len(s.slots) == 0 {
		return step{weight: w, action: Dropped, reason: s.reason}
	}
	var kinds []gguf.Type
	var slots []slot
	for _, t := range s.slots {
		kind := plan.outputs[t.output].kind
		kinds = append(kinds, kind)
		slots = append(slots, slot{output: outputs[t.output], base: kind.Bytes(t.base)})
	}
	e := step{weight: w, action: Cast, reason: s.reason, matrix: true, unit: s.group(), encode: encodeGGUF(kinds[0])}
	to := tensor.BF16
	if kinds[0] == gguf.F32 {
		to = tensor.F32
	}
	switch {
	case s.group() > 1:
		e.encode = splitGGUF(s.slots, kinds)
	case kinds[0] == gguf.BF16 && w.enc != plain:
		e.encode = dequantise
	case kinds[0] != gguf.F32 && kinds[0] != gguf.BF16 || w.enc != plain:
	case w.stored.DType == to:
		e.matrix, e.encode = false, copyBand
	default:
		e.matrix, e.encode = false, castTo(to)
	}
	switch {
	case slices.Contains(kinds, gguf.Q8_0):
		e.action = Quantised
	case w.enc != plain:
		e.action = Dequantised
	case w.stored.DType.String() == kinds[0].String():
		e.action = Copied
	}
	e.slots = slots
	return e
}

// metadata is that of the file for a model directory, whose config.json is given.
func (p *ggufPlan) metadata(dir string, config []byte) (gguf.Metadata, error) {
	generation, err := os.ReadFile(filepath.Join(dir, "generation_config.json"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	m, err := ggufGeneral(p.arch, config, generation, p.outputs)
	if err != nil {
		return nil, err
	}
	ggufParameters(&m, p.arch, p.config, p.kind)
	return m, ggufTokenizer(&m, dir, p.config)
}

// smallGGUF copies what is not in the file already, and counts stacked tensors once.
func smallGGUF(ctx context.Context, c *conversion, dir string, rep *Report) error {
	for _, f := range c.sources {
		r := FileReport{Name: f.name, Action: "copied", Size: f.size, Reason: f.left}
		switch {
		case slices.Contains(c.weights.Files(), f.name):
			r.Action, r.Reason = "converted", ""
		case f.left != "":
			r.Action = "left"
		case f.name == "config.json" || aboutText(f.name):
			r.Action, r.Reason = "left", "in "+ggufFile
		default:
			if err := copyFile(ctx, filepath.Join(c.src, f.name), filepath.Join(dir, f.name)); err != nil {
				return err
			}
		}
		rep.Files = append(rep.Files, r)
	}
	seen := map[*output]bool{}
	rep.Totals.Outputs, rep.Totals.BytesOut = 0, 0
	for i := range c.steps {
		s := &c.steps[i]
		if len(s.slots) == 1 { // its share, where the tensor is a stack
			rep.Tensors[i].BytesOut = s.slots[0].size / (product(s.slots[0].shape) / s.weight.elements())
		}
		for _, t := range s.slots {
			if !seen[t.output] {
				seen[t.output] = true
				rep.Totals.Outputs++
				rep.Totals.BytesOut += t.size
			}
		}
	}
	return nil
}

// isGGUF: a GGUF file, and no other weights.
func isGGUF(d directory) bool {
	has := func(suffix string) bool {
		return slices.ContainsFunc(d.names, func(n string) bool { return strings.HasSuffix(n, suffix) })
	}
	return has(".gguf") && !has(".safetensors")
}
