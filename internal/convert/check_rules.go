package convert

import (
	"context"
	"math"
	"slices"
	"strings"

	"tarbert/internal/tensor"
)

// complete: every weight of the source is there once, in its shape and an allowed
// type, or on the list of what may be dropped; and nothing is there without a source.
func (c *checker) complete(context.Context) error {
	accounted := map[string]bool{}
	for _, w := range c.weights {
		c.report.Tensors++
		c.report.BytesIn += w.bytes()
		to, ok := c.find(w)
		if !ok {
			if _, may := find(c.arch.Drop, w.name); may {
				continue
			}
			return violation("", w.stored.Name, "missing from the destination: an engine would run with whatever is in that memory")
		}
		if accounted[to.Name] {
			return violation("", to.Name, "two tensors of the source became it")
		}
		accounted[to.Name] = true
		p := pair{from: w, to: to}
		shape := to.Shape
		switch to.DType {
		case tensor.I8:
			p.enc, p.scale = int8Column, to.Name+"_scale"
			accounted[p.scale] = true
			if c.format.name == W8A8Ascend {
				accounted[to.Name+"_offset"] = true
			}
		case tensor.F8_E4M3:
			p.enc, p.scale = fp8Code, c.gridName(w, to.Name)
			accounted[p.scale] = true
		}
		if !slices.Equal(w.shape, shape) {
			return violation("", to.Name, "shape %v became %v", w.shape, shape)
		}
		if err := c.allowed(p); err != nil {
			return err
		}
		if p.enc != plain {
			c.report.Quantised++
		}
		c.pairs = append(c.pairs, p)
	}
	for _, info := range c.dst.Infos() {
		c.report.BytesOut += info.Size
		if !accounted[info.Name] {
			return violation("", info.Name, "it comes from no tensor of the source")
		}
	}
	return nil
}

// find is the tensor that a weight became, under whichever names.
func (c *checker) find(w *weight) (tensor.Info, bool) {
	if info, ok := c.dst.Info(w.stored.Name); ok {
		return info, true
	}
	if info, ok := c.dst.Info(w.name); ok {
		return info, true
	}
	if c.arch.Native == nil {
		return tensor.Info{}, false
	}
	return c.dst.Info(c.arch.Native.toNative(w.name))
}

// gridName is what the scales of an FP8 tensor of the destination are called.
func (c *checker) gridName(w *weight, name string) string {
	for _, n := range scaleNames(name) {
		if _, ok := c.dst.Info(n); ok {
			return n
		}
	}
	if w.scale != nil && w.stored.Name == name { // missing: it would have the source's name
		return w.scale.Name
	}
	return name + "_scale_inv"
}

// allowed judges the type of a tensor in the destination.
func (c *checker) allowed(p pair) error {
	from, to := p.from.spelling(), p.to
	switch to.DType {
	case tensor.I8:
		if !c.format.int8 {
			return violation("", to.Name, "int8 in a directory without %s, and without a quantization_config for int8", descriptionName)
		}
		if len(to.Shape) != 2 || !strings.HasSuffix(to.Name, ".weight") {
			return violation("", to.Name, "int8, but not the matrix of a linear layer")
		}
	case tensor.F8_E4M3:
		if !c.format.fp8 {
			return violation("", to.Name, "F8_E4M3 in a directory whose configuration does not say quant_method fp8")
		}
		if len(to.Shape) != 2 {
			return violation("", to.Name, "F8_E4M3, but not a matrix")
		}
	case tensor.BF16, tensor.F32:
	default:
		if p.from.enc != plain || to.DType != p.from.stored.DType || to.DType == tensor.F16 {
			return violation("", to.Name, "%s became %s; allowed are BF16, F32 and, for linear layers, I8 or F8_E4M3 where the format has it", from, to.DType)
		}
	}
	if r, ok := find(c.arch.Float32, p.from.name); ok && to.DType != tensor.F32 {
		return violation("", to.Name, "%s became %s, but must be F32 (%s)", from, to.DType, r.Reason)
	}
	return nil
}

// describes: the description names every tensor of the destination, no other,
// and each with the type that it has.
func (c *checker) describes(context.Context) error {
	column := map[string]bool{}
	quantised := false
	for _, p := range c.pairs {
		if p.enc == int8Column {
			column[p.to.Name+"_scale"], column[p.to.Name+"_offset"], quantised = true, true, true
		}
	}
	for _, info := range c.dst.Infos() {
		want := typeFloat
		if info.DType == tensor.I8 || column[info.Name] {
			want = typeDynamic
		}
		switch got, ok := c.types[info.Name]; {
		case !ok:
			return violation("", info.Name, "not in %s: the loader stops with KeyError", descriptionName)
		case got != want:
			return violation("", info.Name, "%s says %s, but its data are %s", descriptionName, got, want)
		}
	}
	names := make([]string, 0, len(c.types))
	for name := range c.types {
		names = append(names, name)
	}
	slices.SortFunc(names, natural)
	for _, name := range names {
		if _, ok := c.dst.Info(name); !ok {
			return violation("", name, "%s has it, the weights do not", descriptionName)
		}
	}
	want := typeFloat
	if quantised {
		want = typeDynamic
	}
	if c.typesModel != want {
		return violation("", descriptionName, "model_quant_type is %q, the highest type that occurs is %s", c.typesModel, want)
	}
	return nil
}

// fused: modules that engines load as one have one type.
func (c *checker) fused(context.Context) error {
	quantised := map[string]bool{}
	for _, p := range c.pairs {
		if module, ok := strings.CutSuffix(p.from.name, ".weight"); ok {
			quantised[module] = p.enc != plain
		}
	}
	if v := checkFused(c.arch, quantised, c.format.name); v != nil {
		return v
	}
	return nil
}

// scales: each quantised weight has its scales, of the right shape and type, finite,
// positive and in range; and in AscendV1 a column of offsets, all zero.
func (c *checker) scales(context.Context) error {
	for _, p := range c.pairs {
		var err error
		switch p.enc {
		case int8Column:
			err = c.columns(p)
		case fp8Code:
			err = c.gridOf(p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// columns judges what stands beside an int8 weight.
func (c *checker) columns(p pair) error {
	types := []tensor.DType{tensor.F32}
	if c.format.name == W8A8Compressed {
		types = append(types, tensor.BF16)
	}
	x, err := c.beside(p, p.scale, []int64{p.to.Shape[0], 1}, types...)
	if err != nil {
		return err
	}
	for row, v := range x {
		switch {
		case !(v > 0 && v <= math.MaxFloat32):
			return violation("", p.scale, "row %d: scale %v is not positive and finite", row, v)
		case !(v >= 0x1p-40 && v <= 0x1p40) && !c.exact:
			return violation("", p.scale, "row %d: scale %v is not between 2^-40 and 2^40", row, v)
		case isExponent(v):
			return violation("", p.scale, "row %d: scale %v is an exponent byte stored as a float, as of E8M0: about %v was meant", row, v, math.Ldexp(1, int(v)-127))
		}
	}
	if c.format.name != W8A8Ascend {
		return nil
	}
	name := p.to.Name + "_offset"
	if x, err = c.beside(p, name, []int64{p.to.Shape[0], 1}, tensor.F32); err != nil {
		return err
	}
	for row, v := range x {
		if v != 0 {
			return violation("", name, "row %d: offset %v; symmetric quantisation has none", row, v)
		}
	}
	return nil
}

// gridOf judges the scales of an FP8 weight.
func (c *checker) gridOf(p pair) error {
	block := c.dstModel.Quant.Block
	shape := []int64{blocks(p.to.Shape[0], block[0]), blocks(p.to.Shape[1], block[1])}
	x, err := c.beside(p, p.scale, shape, tensor.F32, tensor.BF16, tensor.F8_E8M0)
	if err != nil {
		return err
	}
	info, _ := c.dst.Info(p.scale)
	for i, v := range x {
		if why := badScale(float32(v), info.DType, c.dstModel.Quant.ScaleFmt == "ue8m0"); why != "" {
			return violation("", p.scale, "block row %d, column %d: %s", int64(i)/shape[1], int64(i)%shape[1], why)
		}
	}
	return nil
}

// beside decodes what must stand beside a quantised weight.
func (c *checker) beside(p pair, name string, shape []int64, types ...tensor.DType) ([]float64, error) {
	info, ok := c.dst.Info(name)
	switch {
	case !ok:
		return nil, violation("", name, "missing beside the %s weight", p.to.DType)
	case !slices.Contains(types, info.DType):
		return nil, violation("", name, "%s of shape %v; it must be %v of %v", info.DType, info.Shape, types, shape)
	case slices.Equal(info.Shape, []int64{shape[1], shape[0]}) && shape[0] != shape[1]:
		return nil, violation("", name, "the grid of scales is %v where %v must be: it is transposed", info.Shape, shape)
	case !slices.Equal(info.Shape, shape):
		return nil, violation("", name, "%s of shape %v; it must be %v of %v", info.DType, info.Shape, types, shape)
	}
	_, x, err := window(c.dst, info, 0, info.Elements(), nil, nil)
	if err != nil {
		return nil, violation("", name, "%v", err)
	}
	return x, nil
}
