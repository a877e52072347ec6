package convert

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"tarbert/internal/tensor"
)

// step is what is to be done with one source tensor.
type step struct {
	source  tensor.Info
	action  Action
	reason  string
	to      tensor.DType  // of the output of the same name
	outputs []tensor.Info // name, type, shape; none when dropped
}

// bytes of the outputs.
func (s step) bytes() int64 {
	var n int64
	for _, o := range s.outputs {
		n += o.Elements() * int64(o.DType.Bits()) / 8
	}
	return n
}

// plan decides the fate of every tensor: in natural order of names, layer 2
// before layer 10. It is an error if one has no rule.
func plan(infos []tensor.Info, m modelConfig, format string, keep []string) ([]step, error) {
	p := planner{model: m, format: format, keep: keep}
	var err error
	var known bool
	if p.arch, known, err = findArchitecture(m.ModelType); err != nil {
		return nil, err
	}
	if format == W8A8Ascend && !known {
		return nil, violation("architecture", "config.json", "no list of layers for model_type %q: known are %s",
			m.ModelType, strings.Join(modelTypes(), ", "))
	}
	sorted := slices.Clone(infos)
	slices.SortFunc(sorted, func(a, b tensor.Info) int { return natural(a.Name, b.Name) })
	quantised := map[string]bool{}
	for _, info := range sorted {
		if module, ok := strings.CutSuffix(info.Name, ".weight"); ok {
			quantised[module] = p.quantises(module)
		}
	}
	steps := make([]step, 0, len(sorted))
	for _, info := range sorted {
		s, err := p.decide(info, quantised)
		if err != nil {
			return nil, err
		}
		steps = append(steps, s)
	}
	if err := p.checkUnused(sorted); err != nil {
		return nil, err
	}
	if v := checkFused(p.arch, quantised); format == W8A8Ascend && v != nil {
		return nil, v
	}
	return steps, checkCollisions(steps)
}

type planner struct {
	arch   architecture
	model  modelConfig
	format string
	keep   []string
}

// quantises decides for a module with a weight.
func (p planner) quantises(module string) bool {
	if p.format != W8A8Ascend || p.model.isMTP(module) || p.kept(module) {
		return false
	}
	if _, ok := find(p.arch.Float, module); ok {
		return false
	}
	return slices.ContainsFunc(p.arch.Linear, func(pattern string) bool { return matches(pattern, module) })
}

func (p planner) kept(module string) bool {
	return slices.ContainsFunc(p.keep, func(pattern string) bool { return matches(pattern, module) })
}

// decide gives one tensor its step.
func (p planner) decide(info tensor.Info, quantised map[string]bool) (step, error) {
	if r, ok := find(p.arch.Drop, info.Name); ok {
		return step{source: info, action: Dropped, reason: r.Reason}, nil
	}
	switch info.DType {
	case tensor.F32, tensor.BF16, tensor.F16:
	default:
		return step{}, violation("dtype", info.Name, "%s is not a float type that is converted (F32, F16, BF16): the source is quantised already, or not a model", info.DType)
	}
	if r, ok := find(p.arch.Float32, info.Name); ok {
		return one(info, tensor.F32, r.Reason), nil
	}
	if p.format == BF16 {
		return one(info, tensor.BF16, "every weight"), nil
	}
	module, isWeight := strings.CutSuffix(info.Name, ".weight")
	if !isWeight {
		var isBias bool
		if module, isBias = strings.CutSuffix(info.Name, ".bias"); !isBias {
			return p.float(info, info.Name)
		}
		if quantised[module] {
			return one(info, tensor.F32, "bias of a quantised layer"), nil
		}
		return p.float(info, module)
	}
	if !quantised[module] {
		return p.float(info, module)
	}
	if len(info.Shape) != 2 || info.Shape[0] == 0 || info.Shape[1] == 0 {
		return step{}, violation("shape", info.Name, "shape %v: a quantised weight is a matrix [out, in]; leave it float with --keep %s", info.Shape, module)
	}
	column := []int64{info.Shape[0], 1}
	return step{source: info, action: Quantised, reason: "linear layer, int8 per output channel", to: tensor.I8, outputs: []tensor.Info{
		{Name: info.Name, DType: tensor.I8, Shape: info.Shape},
		{Name: info.Name + "_offset", DType: tensor.F32, Shape: column},
		{Name: info.Name + "_scale", DType: tensor.F32, Shape: column},
	}}, nil
}

// float leaves a module in bfloat16 for the reason that its rule gives.
func (p planner) float(info tensor.Info, module string) (step, error) {
	if r, ok := find(p.arch.Float, module); ok {
		return one(info, tensor.BF16, r.Reason), nil
	}
	switch {
	case p.kept(module):
		return one(info, tensor.BF16, "--keep"), nil
	case p.model.isMTP(module):
		return one(info, tensor.BF16, "multi-token-prediction layer: engines load it as float"), nil
	}
	for _, pattern := range p.arch.Linear { // the bias of a module that has no weight here
		if matches(pattern, module) {
			return one(info, tensor.BF16, "linear layer without a weight of its own"), nil
		}
	}
	return step{}, violation("complete", info.Name, "no rule for it in architecture %q: leave it float with --keep %q", p.arch.ModelType, module)
}

// one maps a tensor to one of the same name.
func one(info tensor.Info, to tensor.DType, reason string) step {
	action := Cast
	if info.DType == to {
		action = Copied
	}
	return step{source: info, action: action, reason: reason, to: to,
		outputs: []tensor.Info{{Name: info.Name, DType: to, Shape: info.Shape}}}
}

// checkUnused finds a --keep pattern that matches nothing: a misspelt one would
// quantise what its writer wanted kept.
func (p planner) checkUnused(infos []tensor.Info) error {
	for _, pattern := range p.keep {
		used := slices.ContainsFunc(infos, func(i tensor.Info) bool { return matches(pattern, moduleOf(i.Name)) })
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
func checkFused(a architecture, quantised map[string]bool) *Violation {
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
					g, other, typeName(quantised[other]), m, typeName(quantised[m]))
			}
		}
	}
	return nil
}

func typeName(quantised bool) string {
	if quantised {
		return typeDynamic
	}
	return typeFloat
}

// checkCollisions proves that no two outputs have one name.
func checkCollisions(steps []step) error {
	from := map[string]string{}
	for _, s := range steps {
		for _, o := range s.outputs {
			if other, ok := from[o.Name]; ok {
				return violation("complete", o.Name, "both %s and %s would be written under this name", other, s.source.Name)
			}
			from[o.Name] = s.source.Name
		}
	}
	return nil
}

// shard splits the steps, in order, so that no file holds more than most bytes
// of tensors, unless one step alone does.
func shard(steps []step, most int64) [][]step {
	var shards [][]step
	var size int64
	for _, s := range steps {
		n := s.bytes()
		if len(shards) == 0 || size > 0 && size+n > most {
			shards, size = append(shards, nil), 0
		}
		shards[len(shards)-1] = append(shards[len(shards)-1], s)
		size += n
	}
	return shards
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

// shardName is the name of file i of n, counted from 0.
func shardName(format string, naming Naming, i, n int) string {
	switch {
	case naming == MSModelSlim:
		return fmt.Sprintf("quant_model_weights-%05d-of-%05d.safetensors", i+1, n)
	case format == BF16 && n == 1:
		return "model.safetensors"
	}
	return fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, n)
}
