package convert

import (
	"cmp"
	"slices"
	"strings"

	"tarbert/internal/tensor"
)

// planner decides what becomes of each weight.
type planner struct {
	format  format
	arch    architecture
	known   bool // the architecture has lists of its own
	model   modelConfig
	weights []*weight // in natural order of names: layer 2 before layer 10
	keep    []string
	scales  Scales
	round   Rounding
	rename  func(string) string                    // from Hugging Face's names to the destination's
	casts   map[tensor.DType]func(v *values) error // castTo, made once
	int8s   func(v *values) error                  // the format's int8Dialect.encode, made once
	// quantised holds the decision for each module with a weight.
	quantised map[string]bool
}

// plan decides the fate of every weight. It is an error if one has no rule.
func (p *planner) plan() ([]step, error) {
	p.casts = map[tensor.DType]func(v *values) error{tensor.F32: castTo(tensor.F32), tensor.BF16: castTo(tensor.BF16)}
	p.int8s = ascend.encode
	if p.format.name == W8A8Compressed {
		p.int8s = compressed.encode
	}
	if err := p.checkUnused(); err != nil {
		return nil, err
	}
	steps, err := p.format.plan(p)
	if err != nil {
		return nil, err
	}
	return steps, checkCollisions(steps)
}

// planBF16 casts every weight.
func planBF16(p *planner) ([]step, error) {
	return p.each(func(w *weight) (step, error) { return p.float(w, "every weight"), nil })
}

// planQuantised quantises the linear layers of the architecture's list.
func planQuantised(p *planner) ([]step, error) {
	if !p.known {
		return nil, violation("architecture", "config.json", "no list of layers for model_type %q: known are %s",
			p.model.ModelType, strings.Join(modelTypes(), ", "))
	}
	p.quantised = map[string]bool{}
	for _, w := range p.weights {
		if module, ok := strings.CutSuffix(w.name, ".weight"); ok {
			p.quantised[module] = p.quantises(module)
		}
		if p.format.name == FP8Block && w.enc != plain {
			return nil, violation("source", w.stored.Name, "it is %s already: %s takes a float model", w.spelling(), FP8Block)
		}
	}
	if v := checkFused(p.arch, p.quantised, p.format.name); v != nil {
		return nil, v
	}
	return p.each(p.layer)
}

// planExpanded turns FP4 into FP8 and leaves the rest as it is.
func planExpanded(p *planner) ([]step, error) {
	tile := p.model.Quant.Block
	if !slices.ContainsFunc(p.weights, func(w *weight) bool { return w.enc == fp4Code }) {
		return nil, violation("source", "config.json", "the source has no FP4 weights to expand: --to %s quantises a float model", FP8Block)
	}
	if tile[0] <= 0 || tile[1] <= 0 || tile[1]%fp4Group != 0 {
		return nil, violation("source", "config.json", "quantization_config has weight_block_size %v: the tiles of FP8 must be given, and hold whole groups of %d columns", tile, fp4Group)
	}
	return p.each(func(w *weight) (step, error) {
		name := p.rename(w.name)
		switch w.enc {
		case fp4Code:
			return step{weight: w, action: Expanded, reason: "FP4 to FP8 of the same values, proved tile by tile", matrix: true, unit: tile[0], encode: expandFP4(tile),
				slots: p.blockSlots(w, name, p.scaleName(w), tile)}, nil
		case fp8Code:
			return step{weight: w, action: Copied, reason: "FP8 already", matrix: true, unit: w.block[0], encode: copyCodes, slots: []slot{
				{output: newOutput(name, tensor.F8_E4M3, w.shape...)}, {output: newOutput(p.scaleName(w), w.scale.DType, w.scale.Shape...)}}}, nil
		}
		return p.copied(w, published), nil
	})
}

// scaleName is what the scale of a quantised weight is called in the destination:
// as the source calls it, where it has one.
func (p *planner) scaleName(w *weight) string {
	if w.scale != nil && p.arch.Native == nil {
		return w.scale.Name
	}
	return p.rename(w.name + "_scale_inv")
}

// blockSlots are a matrix of E4M3 and the grid of its scales.
func (p *planner) blockSlots(w *weight, name, scale string, block [2]int64) []slot {
	kind := tensor.F32
	if p.scales == ScalesE8M0 {
		kind = tensor.F8_E8M0
	}
	return []slot{{output: newOutput(name, tensor.F8_E4M3, w.shape...)},
		{output: newOutput(scale, kind, blocks(w.shape[0], block[0]), blocks(w.shape[1], block[1]))}}
}

// each applies what concerns every format, and decide to the rest.
func (p *planner) each(decide func(w *weight) (step, error)) ([]step, error) {
	steps := make([]step, 0, len(p.weights))
	for _, w := range p.weights {
		s, err := p.special(w)
		if err == nil && s.action == "" {
			s, err = decide(w)
		}
		if err != nil {
			return nil, err
		}
		steps = append(steps, s)
	}
	return steps, nil
}

// published is why a quantised source's other weights stay as they are.
const published = "not quantised: kept as published"

// special is what becomes of weights that every format treats alike; the zero step
// for others.
func (p *planner) special(w *weight) (step, error) {
	if r, ok := find(p.arch.Drop, w.name); ok {
		return step{weight: w, action: Dropped, reason: r.Reason}, nil
	}
	if d := w.stored.DType; w.enc == plain && (d == tensor.I32 || d == tensor.I64) {
		if r, ok := find(p.arch.Integers, w.name); ok {
			return p.copied(w, r.Reason), nil
		}
		return step{}, violation("dtype", w.stored.Name, "%s is not a float type that is converted (F32, F16, BF16): the source is quantised already, or not a model", d)
	}
	if r, ok := find(p.arch.Float32, w.name); ok {
		return p.cast(w, tensor.F32, r.Reason), nil
	}
	return step{}, nil
}

// float makes a weight bfloat16, but in a cast of a quantised source leaves what is
// stored otherwise: its publisher meant that, and DeepSeek's own conversion leaves it.
func (p *planner) float(w *weight, reason string) step {
	if w.enc == plain && p.model.Quant.Method != "" && p.format.name == BF16 {
		return p.copied(w, published)
	}
	return p.cast(w, tensor.BF16, reason)
}

// cast maps a weight to one of the same name.
func (p *planner) cast(w *weight, to tensor.DType, reason string) step {
	switch {
	case w.enc != plain:
		return step{weight: w, action: Dequantised, reason: reason, matrix: true, unit: 1,
			encode: dequantise, slots: []slot{{output: newOutput(p.rename(w.name), tensor.BF16, w.shape...)}}}
	case w.stored.DType == to:
		return p.copied(w, reason)
	}
	return step{weight: w, action: Cast, reason: reason, unit: 1, encode: p.casts[to],
		slots: []slot{{output: newOutput(p.rename(w.name), to, w.shape...)}}}
}

func (p *planner) copied(w *weight, reason string) step {
	return step{weight: w, action: Copied, reason: reason, unit: 1, encode: copyBand,
		slots: []slot{{output: newOutput(p.rename(w.name), w.stored.DType, w.shape...)}}}
}

// quantises decides for a module with a weight.
func (p *planner) quantises(module string) bool {
	fp8 := p.format.name == FP8Block
	if !fp8 && p.model.isMTP(module) || p.kept(module) {
		return false
	}
	among := func(patterns []string) bool {
		return slices.ContainsFunc(patterns, func(pattern string) bool { return matches(pattern, module) })
	}
	if fp8 && among(p.arch.FP8) {
		return true
	}
	if _, ok := find(p.arch.Float, module); ok {
		return false
	}
	return among(p.arch.Linear)
}

func (p *planner) kept(module string) bool {
	return slices.ContainsFunc(p.keep, func(pattern string) bool { return matches(pattern, module) })
}

// layer gives one weight of a quantised model its step.
func (p *planner) layer(w *weight) (step, error) {
	module, isWeight := strings.CutSuffix(w.name, ".weight")
	if !isWeight {
		var isBias bool
		if module, isBias = strings.CutSuffix(w.name, ".bias"); !isBias {
			return p.unquantised(w, w.name)
		}
		if p.quantised[module] && p.format.name == W8A8Ascend {
			return p.cast(w, tensor.F32, "bias of a quantised layer"), nil
		}
		return p.unquantised(w, module)
	}
	if !p.quantised[module] {
		return p.unquantised(w, module)
	}
	if len(w.shape) != 2 || w.shape[0] == 0 || w.shape[1] == 0 {
		return step{}, violation("shape", w.stored.Name, "shape %v: a quantised weight is a matrix [out, in]; leave it float with --keep %s", w.shape, module)
	}
	name := p.rename(w.name)
	s := step{weight: w, action: Quantised, matrix: true, unit: 1}
	switch p.format.name {
	case W8A8Ascend:
		s.reason, s.encode = "linear layer, int8 per output channel", p.int8s
		s.slots = []slot{{output: newOutput(name, tensor.I8, w.shape...)},
			{output: newOutput(name+"_offset", tensor.F32, w.shape[0], 1)}, {output: newOutput(name+"_scale", tensor.F32, w.shape[0], 1)}}
	case W8A8Compressed:
		s.reason, s.encode = "linear layer, int8 per output channel", p.int8s
		s.slots = []slot{{output: newOutput(name, tensor.I8, w.shape...)}, {output: newOutput(name+"_scale", compressed.scaleKind(p.round), w.shape[0], 1)}}
	default:
		s.reason, s.unit, s.encode = "linear layer, E4M3 in blocks", fp8Block[0], encodeFP8(fp8Block)
		s.slots = p.blockSlots(w, name, p.rename(w.name+"_scale_inv"), fp8Block)
	}
	return s, nil
}

// fp8Block is the block of --to fp8-block.
var fp8Block = [2]int64{128, 128}

// unquantised leaves a module in bfloat16 for the reason that its rule gives.
func (p *planner) unquantised(w *weight, module string) (step, error) {
	if r, ok := find(p.arch.Float, module); ok {
		return p.float(w, r.Reason), nil
	}
	switch {
	case p.kept(module):
		return p.float(w, "--keep"), nil
	case p.model.isMTP(module):
		return p.float(w, "multi-token-prediction layer: engines load it as float"), nil
	}
	for _, pattern := range p.arch.Linear { // the bias of a module that has no weight here
		if matches(pattern, module) {
			return p.float(w, "bias, or linear layer without a weight of its own"), nil
		}
	}
	return step{}, violation("complete", w.stored.Name, "no rule for it in architecture %q: leave it float with --keep %q", p.arch.ModelType, module)
}

// checkUnused finds a --keep pattern that matches nothing: a misspelt one would
// quantise what its writer wanted kept.
func (p *planner) checkUnused() error {
	for _, pattern := range p.keep {
		used := slices.ContainsFunc(p.weights, func(w *weight) bool { return matches(pattern, moduleOf(w.name)) })
		if !used {
			return violation("keep", pattern, "the pattern matches no module of the model")
		}
	}
	return nil
}

// moduleOf is a tensor's name without ".weight" or ".bias".
func moduleOf(name string) string {
	return strings.TrimSuffix(strings.TrimSuffix(name, ".weight"), ".bias")
}

// checkFused proves that modules which engines load as one have one type.
func checkFused(a architecture, quantised map[string]bool, format string) *Violation {
	first := map[string]string{}
	modules := make([]string, 0, len(quantised))
	for m := range quantised {
		modules = append(modules, m)
	}
	slices.SortFunc(modules, natural)
	for _, m := range modules {
		for _, g := range a.fusedGroups(m) {
			other, ok := first[g]
			if !ok {
				first[g] = m
				continue
			}
			if quantised[other] != quantised[m] {
				return violation("fused", m+".weight", "engines load %s as one, but %s is %s and %s is %s",
					g, other, typeName(quantised[other], format), m, typeName(quantised[m], format))
			}
		}
	}
	return nil
}

func typeName(quantised bool, format string) string {
	switch {
	case !quantised:
		return typeFloat
	case format == W8A8Ascend:
		return typeDynamic
	}
	return "quantised"
}

// checkCollisions proves that no two outputs have one name, unless they are parts
// of one.
func checkCollisions(steps []step) error {
	from := make(map[string]*step, len(steps))
	for i := range steps {
		for _, o := range steps[i].slots {
			if other, ok := from[o.name]; ok && other != &steps[i] && !shares(other, o.output) {
				return violation("complete", o.name, "both %s and %s would be written under this name", other.weight.stored.Name, steps[i].weight.stored.Name)
			}
			from[o.name] = &steps[i]
		}
	}
	return nil
}

func shares(s *step, o *output) bool {
	return slices.ContainsFunc(s.slots, func(t slot) bool { return t.output == o })
}

// natural compares names with runs of digits as numbers.
func natural(a, b string) int {
	i, j := 0, 0
	for i < len(a) && j < len(b) {
		if !digit(a[i]) || !digit(b[j]) {
			if a[i] != b[j] {
				return cmp.Compare(a[i], b[j])
			}
			i++
			j++
			continue
		}
		x, y := number(a[i:]), number(b[j:])
		if c := cmp.Or(cmp.Compare(len(trimZeros(x)), len(trimZeros(y))), cmp.Compare(trimZeros(x), trimZeros(y)), cmp.Compare(len(x), len(y))); c != 0 {
			return c
		}
		i += len(x)
		j += len(y)
	}
	return cmp.Compare(len(a)-i, len(b)-j)
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

func number(s string) string {
	i := 0
	for i < len(s) && digit(s[i]) {
		i++
	}
	return s[:i]
}

func trimZeros(s string) string { return strings.TrimLeft(s, "0") }
