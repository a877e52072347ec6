package convert

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"

	"tarbert/internal/tensor"
)

func compact(v json.RawMessage) string {
	var b bytes.Buffer
	if json.Compact(&b, v) != nil {
		return string(v)
	}
	return b.String()
}

// sameJSON reports whether two values are the same but for spelling: white
// space, the order of keys, 1e-6 and 0.000001.
func sameJSON(a, b json.RawMessage) bool {
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	return reflect.DeepEqual(x, y)
}

// complete: every source tensor is there once, in its shape and an allowed type,
// or on the list of what may be dropped; and nothing is there without a source.
func (c *checker) complete(context.Context) error {
	from := c.src.Infos()
	slices.SortFunc(from, func(a, b tensor.Info) int { return natural(a.Name, b.Name) })
	accounted := map[string]bool{}
	for _, info := range from {
		c.report.Tensors++
		c.report.BytesIn += info.Size
		to, ok := c.dst.Info(info.Name)
		if !ok {
			if _, may := find(c.arch.Drop, info.Name); may {
				continue
			}
			return violation("", info.Name, "missing from the destination: an engine would run with whatever is in that memory")
		}
		accounted[info.Name] = true
		if !slices.Equal(info.Shape, to.Shape) {
			return violation("", info.Name, "shape %v became %v", info.Shape, to.Shape)
		}
		if err := c.allowed(info, to); err != nil {
			return err
		}
		if to.DType == tensor.I8 {
			c.quantised = append(c.quantised, pair{info, to})
			accounted[info.Name+"_scale"], accounted[info.Name+"_offset"] = true, true
		} else {
			c.floats = append(c.floats, pair{info, to})
		}
	}
	c.report.Quantised = len(c.quantised)
	for _, info := range c.dst.Infos() {
		c.report.BytesOut += info.Size
		if !accounted[info.Name] {
			return violation("", info.Name, "it comes from no tensor of the source")
		}
	}
	return nil
}

// allowed judges the type of a tensor in the destination.
func (c *checker) allowed(from, to tensor.Info) error {
	switch to.DType {
	case tensor.I8:
		if c.report.Format != W8A8Ascend {
			return violation("", to.Name, "int8 in a directory without %s", descriptionName)
		}
		if len(to.Shape) != 2 || !strings.HasSuffix(to.Name, ".weight") {
			return violation("", to.Name, "int8, but not the matrix of a linear layer")
		}
	case tensor.BF16, tensor.F32:
	default:
		return violation("", to.Name, "%s became %s; allowed are BF16, F32 and, for linear layers, I8", from.DType, to.DType)
	}
	if r, ok := find(c.arch.Float32, to.Name); ok && to.DType != tensor.F32 {
		return violation("", to.Name, "%s became %s, but must be F32 (%s)", from.DType, to.DType, r.Reason)
	}
	return nil
}

// describes: the description names every tensor of the destination, no other,
// and each with the type that it has.
func (c *checker) describes(context.Context) error {
	if c.report.Format != W8A8Ascend {
		return nil
	}
	column := map[string]bool{}
	for _, p := range c.quantised {
		column[p.to.Name+"_scale"], column[p.to.Name+"_offset"] = true, true
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
	if len(c.quantised) > 0 {
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
	for _, info := range c.src.Infos() {
		if module, ok := strings.CutSuffix(info.Name, ".weight"); ok {
			to, _ := c.dst.Info(info.Name)
			quantised[module] = to.DType == tensor.I8
		}
	}
	if v := checkFused(c.arch, quantised); v != nil {
		return v
	}
	return nil
}

// scales: each quantised weight has a float32 column of scales, finite and
// positive within 2^±40, and one of offsets, all zero.
func (c *checker) scales(context.Context) error {
	var raw []byte
	var x []float64
	for _, p := range c.quantised {
		for _, suffix := range []string{"_scale", "_offset"} {
			name := p.to.Name + suffix
			info, ok := c.dst.Info(name)
			if !ok {
				return violation("", name, "missing beside the int8 weight")
			}
			if info.DType != tensor.F32 || !slices.Equal(info.Shape, []int64{p.to.Shape[0], 1}) {
				return violation("", name, "%s of shape %v; it must be F32 of [%d 1]", info.DType, info.Shape, p.to.Shape[0])
			}
			var err error
			if raw, x, err = window(c.dst, info, 0, info.Elements(), raw, x); err != nil {
				return err
			}
			for row, v := range x {
				if suffix == "_offset" && v != 0 {
					return violation("", name, "row %d: offset %v; symmetric quantisation has none", row, v)
				}
				if suffix == "_scale" && !(v >= 0x1p-40 && v <= 0x1p40) && !c.exact {
					return violation("", name, "row %d: scale %v is not between 2^-40 and 2^40", row, v)
				}
				if suffix == "_scale" && !(v > 0 && v <= math.MaxFloat32) {
					return violation("", name, "row %d: scale %v is not positive and finite", row, v)
				}
			}
		}
	}
	return nil
}

// boundFloat compares a tensor that stayed float: the same value in F32, the
// nearest in BF16.
func (c *checker) boundFloat(p pair, e *deviation) error {
	var raw []byte
	var x, y []float64
	n := p.from.Elements()
	for first := int64(0); first < n; first += bandBytes {
		k := min(bandBytes, n-first)
		var err error
		if raw, x, err = window(c.src, p.from, first, k, raw, x); err != nil {
			return err
		}
		if raw, y, err = window(c.dst, p.to, first, k, raw, y); err != nil {
			return violation("", p.to.Name, "%v", err)
		}
		for i := range x {
			allowed := 0.0
			if p.to.DType == tensor.BF16 && p.from.DType != tensor.BF16 {
				allowed = bf16HalfStep(x[i])
			}
			var ok bool
			if *e, ok = e.with(x[i], y[i], allowed); !ok {
				return violation("", p.to.Name, "element %d: %v became %v; rounding explains %.3g of the difference of %.3g",
					first+int64(i), x[i], y[i], allowed, math.Abs(x[i]-y[i]))
			}
		}
	}
	return nil
}

// boundInt8 compares a quantised tensor row by row.
func (c *checker) boundInt8(p pair, e *deviation) error {
	scaleInfo, _ := c.dst.Info(p.to.Name + "_scale")
	rows, cols := p.from.Shape[0], p.from.Shape[1]
	_, scales, err := window(c.dst, scaleInfo, 0, rows, nil, nil)
	if err != nil {
		return violation("", scaleInfo.Name, "%v", err)
	}
	var raw []byte
	var w, q []float64
	step := max(1, bandBytes/max(cols, 1))
	for first := int64(0); first < rows; first += step {
		k := min(step, rows-first)
		if raw, w, err = window(c.src, p.from, first*cols, k*cols, raw, w); err != nil {
			return err
		}
		if raw, q, err = window(c.dst, p.to, first*cols, k*cols, raw, q); err != nil {
			return violation("", p.to.Name, "%v", err)
		}
		for r := range k {
			at := r * cols
			if err := c.boundRow(p, first+r, w[at:at+cols], q[at:at+cols], scales[first+r], e); err != nil {
				return err
			}
		}
	}
	return nil
}

// boundRow holds one output channel against the bound of design.md, and its
// scale against the largest magnitude: a scale that is too large wastes codes.
func (c *checker) boundRow(p pair, row int64, w, q []float64, scale float64, e *deviation) error {
	wide := p.from.DType != tensor.BF16
	var top, topCode float64
	for i := range w {
		top, topCode = max(top, math.Abs(w[i])), max(topCode, math.Abs(q[i]))
		source := 0.0
		if wide && !c.exact {
			source = bf16HalfStep(w[i])
		}
		t := (math.Abs(w[i]) + source) / scale
		allowed := scale*(0.5+t*0x1p-22) + source
		if !c.exact {
			allowed += scale * bf16HalfStep(t)
		}
		var ok bool
		if *e, ok = e.with(w[i], q[i]*scale, allowed); !ok {
			return violation("", p.to.Name, "row %d, column %d: %v became code %v × scale %v = %v; rounding explains %.3g of the difference of %.3g",
				row, i, w[i], q[i], scale, q[i]*scale, allowed, math.Abs(w[i]-q[i]*scale))
		}
	}
	if scale > epsilon && top > 0 && topCode < int8Max-1 {
		return violation("", p.to.Name, "row %d: the largest code is %v of %d: scale %v is too large for magnitude %v", row, topCode, int8Max, scale, top)
	}
	return nil
}

// String is one line for people.
func (r *CheckReport) String() string {
	if r.Violation != nil {
		return fmt.Sprintf("%s: broken: %v", r.Format, r.Violation)
	}
	s := fmt.Sprintf("%s: %d tensors accounted for (%d quantised), %d elements within their bounds", r.Format, r.Tensors, r.Quantised, r.Elements)
	if r.WorstTensor != "" {
		s += fmt.Sprintf(", worst SQNR %.2f dB (%s)", r.WorstSQNR, r.WorstTensor)
	}
	return s
}
