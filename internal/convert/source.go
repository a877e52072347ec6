package convert

import (
	"slices"
	"strings"

	"tarbert/internal/tensor"
)

// encoding says how a stored tensor becomes numbers.
type encoding uint8

const (
	plain   encoding = iota // F32, F16, BF16, or integers that are looked up
	fp8Code                 // E4M3 codes, one scale for each block of rows and columns
	fp4Code                 // E2M1 codes, two in a byte of an I8 tensor, one E8M0 scale for each 32 columns of a row
)

// fp4Group is how many columns share a scale in the FP4 of DeepSeek-V4.
const fp4Group = 32

// weight is a tensor of the source as a model sees it: the stored one, with the
// scale that belongs to it.
type weight struct {
	name   string // as Hugging Face names it; what the architecture's lists go by
	stored *tensor.Info
	scale  *tensor.Info // nil for plain
	shape  []int64      // of the numbers: FP4 has two in a stored byte
	enc    encoding
	block  [2]int64 // rows and columns under one scale
	// powers says that the configuration promises scales that are powers of two.
	powers bool
}

// elements is how many numbers there are.
func (w *weight) elements() int64 {
	n := int64(1)
	for _, d := range w.shape {
		n *= d
	}
	return n
}

// narrow reports whether the numbers are bfloat16's: stored so, or defined so by
// the published arithmetic of FP8 and FP4, which ends in bfloat16.
func (w *weight) narrow() bool { return w.enc != plain || w.stored.DType == tensor.BF16 }

// spelling is the type for people.
func (w *weight) spelling() string {
	switch w.enc {
	case fp8Code:
		return "F8_E4M3×" + w.scale.DType.String()
	case fp4Code:
		return "E2M1×" + w.scale.DType.String()
	}
	return w.stored.DType.String()
}

// bytes of the tensors that the weight is stored in.
func (w *weight) bytes() int64 {
	if w.scale == nil {
		return w.stored.Size
	}
	return w.stored.Size + w.scale.Size
}

// scaleNames are what a weight's scale may be called: as in DeepSeek-V3, where the
// name says inverse and the number is the factor, and as in DeepSeek-V4.
func scaleNames(name string) []string {
	names := []string{name + "_scale_inv"}
	if module, ok := strings.CutSuffix(name, ".weight"); ok {
		names = append(names, module+".scale")
	}
	return names
}

// pairs finds every weight of the source: it puts tensors and scales together and
// refuses what could be read in two ways. The order is that of the natural names.
func pairs(infos []tensor.Info, m modelConfig, names naming) ([]*weight, error) {
	p := pairing{model: m, byName: make(map[string]*tensor.Info, len(infos))}
	for i := range infos {
		p.byName[infos[i].Name] = &infos[i]
	}
	sorted := make([]*tensor.Info, len(infos))
	for i := range infos {
		sorted[i] = &infos[i]
	}
	slices.SortFunc(sorted, func(a, b *tensor.Info) int { return natural(a.Name, b.Name) })
	all := make([]weight, 0, len(infos))
	for _, info := range sorted {
		is, err := p.isScale(info)
		if err != nil {
			return nil, err
		}
		if is {
			continue
		}
		w, err := p.weight(info)
		if err != nil {
			return nil, err
		}
		w.name = names.hf(info.Name)
		all = append(all, w)
	}
	if m.Quant.Method != "" && !slices.ContainsFunc(all, func(w weight) bool { return w.enc != plain }) {
		return nil, violation("source", "config.json", "quantization_config says %q, but no tensor is FP8 or FP4: remove it if the weights were cast already", m.Quant.Method)
	}
	weights := make([]*weight, len(all))
	for i := range all {
		weights[i] = &all[i]
	}
	return weights, nil
}

type pairing struct {
	model  modelConfig
	byName map[string]*tensor.Info
}

// isScale reports whether a tensor is the scale of another, and refuses one whose
// weight is missing or is not quantised.
func (p pairing) isScale(info *tensor.Info) (bool, error) {
	of := ""
	if name, ok := strings.CutSuffix(info.Name, "_scale_inv"); ok {
		of = name
	} else if module, ok := strings.CutSuffix(info.Name, ".scale"); ok {
		of = module + ".weight"
	} else {
		return false, nil
	}
	w := p.byName[of]
	certain := strings.HasSuffix(info.Name, ".weight_scale_inv") || info.DType == tensor.F8_E8M0
	switch {
	case w != nil && w.DType.Bits() == 8:
		return true, nil
	case w == nil && certain:
		return false, violation("complete", info.Name, "a scale without its weight %s: the source is incomplete", of)
	case certain:
		return false, violation("source", info.Name, "a scale, but %s is %s, which needs none: was it cast already, and the scale left behind?", of, w.DType)
	}
	return false, nil // a parameter that happens to be called so
}

// weight decides how one stored tensor is read.
func (p pairing) weight(info *tensor.Info) (weight, error) {
	w := weight{stored: info, shape: info.Shape, powers: p.model.Quant.ScaleFmt == "ue8m0"}
	switch info.DType {
	case tensor.F32, tensor.F16, tensor.BF16, tensor.I32, tensor.I64:
		return w, nil
	case tensor.F8_E4M3:
		w.enc, w.block = fp8Code, p.model.Quant.Block
	case tensor.I8:
		w.enc, w.block = fp4Code, [2]int64{1, fp4Group}
	default:
		return w, violation("dtype", info.Name, "%s is not read: sources are F32, F16, BF16, FP8 (F8_E4M3) with block scales, and FP4 in I8 with E8M0 scales", info.DType)
	}
	if len(info.Shape) != 2 {
		return w, violation("shape", info.Name, "%s of shape %v: block scales belong to a matrix", info.DType, info.Shape)
	}
	if err := p.findScale(&w); err != nil {
		return w, err
	}
	if w.enc == fp4Code {
		return w, p.checkFP4(&w)
	}
	return w, p.checkFP8(&w)
}

func (p pairing) findScale(w *weight) error {
	names := scaleNames(w.stored.Name)
	for _, n := range names {
		if s := p.byName[n]; s != nil {
			if w.scale != nil {
				return violation("scale", w.stored.Name, "it has two scales, %s and %s", w.scale.Name, n)
			}
			w.scale = s
		}
	}
	if w.scale == nil {
		return violation("scale", w.stored.Name, "%s without a scale: neither %s is in the source; its bytes are no numbers without one",
			w.stored.DType, strings.Join(names, " nor "))
	}
	return nil
}

// checkFP8 holds a weight and its scales against the configuration.
func (p pairing) checkFP8(w *weight) error {
	q := p.model.Quant
	switch {
	case q.Method == "":
		return violation("source", w.stored.Name, "F8_E4M3, but config.json has no quantization_config: the block size is not known; add it as published, with weight_block_size")
	case q.Block[0] <= 0 || q.Block[1] <= 0:
		return violation("source", w.stored.Name, "F8_E4M3, but quantization_config in config.json has no weight_block_size of two positive numbers: add it, e.g. [128, 128]")
	case q.Fmt != "" && q.Fmt != "e4m3":
		return violation("source", w.stored.Name, "F8_E4M3, but quantization_config in config.json says fmt %q", q.Fmt)
	}
	switch w.scale.DType {
	case tensor.F32, tensor.BF16, tensor.F8_E8M0:
	default:
		return violation("scale", w.scale.Name, "scales of %s are not read: F32, BF16 and F8_E8M0 are", w.scale.DType)
	}
	want := []int64{blocks(w.shape[0], w.block[0]), blocks(w.shape[1], w.block[1])}
	return gridIs(w, want)
}

// checkFP4 makes sure that bytes are pairs of E2M1 codes and not int8.
func (p pairing) checkFP4(w *weight) error {
	switch {
	case w.scale.DType != tensor.F8_E8M0:
		return violation("scale", w.scale.Name, "%s beside an I8 weight: FP4 has F8_E8M0 scales, and int8 sources are not read", w.scale.DType)
	case p.model.Quant.Experts != "fp4":
		return violation("source", w.stored.Name, `I8 with E8M0 scales looks like FP4, but config.json does not say "expert_dtype": "fp4": add it if it is`)
	}
	w.shape = []int64{w.shape[0], 2 * w.shape[1]}
	return gridIs(w, []int64{w.shape[0], blocks(w.shape[1], fp4Group)})
}

func gridIs(w *weight, want []int64) error {
	got := w.scale.Shape
	switch {
	case slices.Equal(got, want):
		return nil
	case slices.Equal(got, []int64{want[1], want[0]}):
		return violation("scale", w.scale.Name, "the grid of scales is %v where %v must be: it is transposed", got, want)
	}
	return violation("scale", w.scale.Name, "the grid of scales is %v; %v weights in blocks of %d×%d need %v",
		got, w.shape, w.block[0], w.block[1], want)
}

// blocks is how many blocks of size b cover n; the last may be partial.
func blocks(n, b int64) int64 { return (n + b - 1) / b }
