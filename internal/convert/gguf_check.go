package convert

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"tarbert/internal/reference"
	"tarbert/internal/tensor"
	"tarbert/internal/tensor/gguf"
)

// ggufRules are what a GGUF file is held against.
func ggufRules(c *checker) []rule {
	p := &ggufProof{checker: c}
	rules := []rule{{"readable", p.opened(p.readable)}, {"servable", p.servable}, {"metadata", p.opened(p.metadata)}, {"complete", p.opened(p.complete)},
		{"scales", p.opened(p.scales)}, {"bound", p.opened(p.bounds)}, {"record", c.recorded}}
	if c.options.Base != "" {
		rules = append(rules, rule{"base", func(context.Context) error {
			return errors.New("a GGUF file cannot be compared with a base model: check the float model it was made of")
		}})
	}
	return rules
}

// ggufProof holds a GGUF file against the model directory that it is said to be
// made of. Like decode.go it shares no arithmetic with what wrote the file: each
// output element is found in the source by its own indices.
type ggufProof struct {
	*checker
	kind gguf.Type // of most matrices
	plan *ggufPlan
	file *gguf.File
}

// opened is a rule with the file open: the first opens it to see whether it can be.
func (p *ggufProof) opened(hold func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		files, err := filepath.Glob(filepath.Join(p.dstDir, "*.gguf"))
		if err != nil {
			return err
		}
		if len(files) != 1 {
			return violation("", p.dstDir, "%d GGUF files: give a directory with one; files that were split must be merged first (llama-gguf-split --merge)", len(files))
		}
		if p.file, err = gguf.Open(files[0]); err != nil {
			return violation("", filepath.Base(files[0]), "%v", err)
		}
		defer p.file.Close() // opened for reading: nothing can be lost
		return hold(ctx)
	}
}

// readable: there is one GGUF file, and it opens; and the record, if there is one.
func (p *ggufProof) readable(context.Context) error {
	rec, err := ReadRecord(p.dstDir)
	if p.foreign = errors.Is(err, errForeign); err != nil && !p.foreign {
		return violation("", recordName, "%v", err)
	}
	p.kind = p.matrices()
	if p.report.Format = ggufFormatName(p.kind); rec != nil {
		p.report.Format = rec.Format
	}
	return nil
}

// matrices is the type of most matrices.
func (p *ggufProof) matrices() gguf.Type {
	bytes := map[gguf.Type]int64{}
	most := gguf.F32
	for _, info := range p.file.Infos() {
		if len(info.Shape) > 1 {
			if bytes[info.Type] += info.Elements(); bytes[info.Type] > bytes[most] {
				most = info.Type
			}
		}
	}
	return most
}

// servable: llama.cpp runs such a model, and every weight of it has a place.
func (p *ggufProof) servable(context.Context) error {
	c, err := reference.ParseConfig(p.config)
	if err != nil {
		return fmt.Errorf("config.json: %w", err)
	}
	p.plan, err = planGGUF(c, p.weights, p.kind, func(string) bool { return false })
	return err
}

// freeKeys are those that do not change what llama.cpp computes.
var freeKeys = [...]string{
	"general.name", "general.author", "general.version", "general.organization", "general.finetune", "general.basename",
	"general.description", "general.size_label", "general.license", "general.file_type", "general.quantization_version",
	"general.alignment", "general.quantized_by", "general.tags", "general.languages", "tokenizer.chat_templates",
}

// complete: every output is there in its shape and an allowed type, and nothing else is.
func (p *ggufProof) complete(context.Context) error {
	for _, w := range p.weights {
		p.report.Tensors++
		p.report.BytesIn += w.bytes()
	}
	planned := make(map[string]bool, len(p.plan.outputs))
	for _, o := range p.plan.outputs {
		planned[o.name] = true
		info, ok := p.file.Info(o.name)
		if !ok {
			return violation("", o.name, "missing: llama.cpp would not load the file")
		}
		if !slices.Equal(info.Shape, o.shape) {
			return violation("", o.name, "shape %v; the source gives %v", info.Shape, o.shape)
		}
		p.report.BytesOut += info.Size
		switch info.Type {
		case gguf.F32:
		case gguf.F16, gguf.BF16, gguf.Q8_0:
			if o.kind == gguf.F32 && p.plan.kind != gguf.F32 {
				return violation("", o.name, "%v; llama.cpp has it in F32", info.Type)
			}
		default:
			return violation("", o.name, "%v has no bound here: F32, F16, BF16 and Q8_0 have", info.Type)
		}
	}
	for _, info := range p.file.Infos() {
		if !planned[info.Name] {
			return violation("", info.Name, "it comes from no tensor of the source")
		}
	}
	return nil
}

// metadata: every key that changes what is computed has the value that the
// source's configuration and tokenizer give.
func (p *ggufProof) metadata(context.Context) error {
	all, err := p.plan.metadata(p.srcDir, p.config)
	if err != nil {
		return err
	}
	got := map[string]any{}
	for _, kv := range p.file.Metadata() {
		got[kv.Key] = kv.Value
	}
	for _, kv := range all {
		if slices.Contains(freeKeys[:], kv.Key) {
			continue
		}
		v, ok := got[kv.Key]
		switch {
		case !ok && ggufAbsent(kv):
		case !ok:
			return violation("", kv.Key, "the key is missing; the source gives %s", brief(kv.Value))
		case !reflect.DeepEqual(v, kv.Value):
			return violation("", kv.Key, "it is %s; the source gives %s", brief(v), brief(kv.Value))
		}
		delete(got, kv.Key)
	}
	for _, kv := range p.file.Metadata() {
		if _, left := got[kv.Key]; left && strings.HasPrefix(kv.Key, p.plan.arch+".") {
			return violation("", kv.Key, "it is %s; the source says nothing of it", brief(kv.Value))
		}
	}
	return nil
}

// ggufAbsent says that a missing key means the same as this value.
func ggufAbsent(kv gguf.KV) bool {
	switch v := kv.Value.(type) {
	case bool:
		return !v
	case string:
		return v == ""
	}
	return false
}

// brief spells a value on one line: where two long ones differ is for other tools.
func brief(v any) string {
	s := fmt.Sprint(v)
	if len(s) > 80 {
		return fmt.Sprintf("%.60s… (%d bytes)", s, len(s))
	}
	return s
}

// scales: every scale of a block is a number, finite and not negative.
func (p *ggufProof) scales(ctx context.Context) error {
	var raw []byte
	for _, info := range p.file.Infos() {
		if info.Type != gguf.Q8_0 {
			continue
		}
		p.report.Quantised++
		for off := int64(0); off < info.Size; off += q8Window {
			if err := ctx.Err(); err != nil {
				return err
			}
			raw = grow(raw, min(q8Window, info.Size-off))
			if err := p.file.ReadAt(info.Name, raw, off); err != nil {
				return violation("", info.Name, "%v", err)
			}
			for i := 0; i < len(raw); i += q8Bytes {
				if scale := decodeF16(raw[i:]); !(scale >= 0 && scale <= 65504) {
					return violation("", info.Name, "block %d: scale %v is not a finite number from 0 on", (off+int64(i))/q8Bytes, scale)
				}
			}
		}
	}
	return nil
}

const (
	q8Block = 32
	q8Bytes = 34
	// q8Window is how many bytes of blocks are looked at together.
	q8Window = 34 << 13
)

// bounds: every element is within what its type's rounding can cost.
func (p *ggufProof) bounds(ctx context.Context) error {
	found := make([]*measured, len(p.plan.steps))
	err := inOrder(ctx, len(found), p.options.Workers, func(i int) error {
		found[i] = &measured{}
		return p.step(ctx, &p.plan.steps[i], found[i])
	})
	p.told()
	if err != nil {
		return err
	}
	for i, m := range found {
		s := &p.plan.steps[i]
		if len(s.slots) == 0 {
			continue
		}
		info, _ := p.file.Info(p.plan.outputs[s.slots[0].output].name)
		sqnr := decibels(m.Signal, m.Noise)
		p.report.Elements += s.weight.elements()
		p.report.Measured = append(p.report.Measured, CheckedTensor{Name: s.weight.stored.Name, From: s.weight.spelling(), To: info.Type.String(),
			SQNR: sqnr, MaxAbsError: m.Max, Bound: m.Bound})
		if m.Noise > 0 && (p.report.WorstTensor == "" || sqnr < p.report.WorstSQNR) {
			p.report.WorstSQNR, p.report.WorstTensor = sqnr, s.weight.stored.Name
		}
	}
	return nil
}

// step compares what became of one weight, some rows at a time.
func (p *ggufProof) step(ctx context.Context, s *ggufStep, m *measured) error {
	from := sourceView(p.src, s.weight)
	from.published = false // FP8's products are rounded to float32, not bfloat16
	for _, slot := range s.slots {
		info, _ := p.file.Info(p.plan.outputs[slot.output].name)
		group := slot.group
		if group == 0 {
			group = from.per() // one row after another: as many at a time as are read at a time
			if len(s.weight.shape) != 2 {
				group = max(q8Block, group/q8Block*q8Block)
			}
		}
		for first := int64(0); first < from.rows; first += group {
			if err := ctx.Err(); err != nil {
				return err
			}
			x, err := from.read(first, min(group, from.rows-first))
			if err != nil {
				return err
			}
			at := slot.base + first*from.cols
			if slot.group != 0 {
				x = pick(x, from.cols, slot)
				at = slot.base + first/group*slot.take*from.cols
			}
			if err := p.hold(s.weight, info, at, x, m); err != nil {
				return err
			}
			p.tell(2*s.weight.bytes()*min(group, from.rows-first)/from.rows, s.weight.stored.Name)
		}
	}
	return nil
}

// pick takes a slot's part of one group of rows, element by element of the output.
func pick(x []float64, cols int64, slot ggufSlot) []float64 {
	out := make([]float64, 0, slot.take*cols)
	if !slot.transpose {
		for i := range slot.take * cols {
			out = append(out, x[slot.from*cols+i])
		}
		return out
	}
	for c := range cols {
		for r := range slot.take {
			out = append(out, x[(slot.from+r)*cols+c])
		}
	}
	return out
}

// hold compares some elements of an output, from element at on, with what the source has.
func (p *ggufProof) hold(w *weight, info gguf.Info, at int64, x []float64, m *measured) error {
	raw := make([]byte, info.Type.Bytes(int64(len(x))))
	if err := p.file.ReadAt(info.Name, raw, info.Type.Bytes(at)); err != nil {
		return violation("", info.Name, "%v", err)
	}
	if info.Type == gguf.Q8_0 {
		return holdBlocks(info.Name, at, x, raw, m)
	}
	width := int(info.Type.Bytes(1))
	product := 0.0 // what rounding code × scale to float32 costs, relatively
	if w.enc != plain {
		product = 0x1p-24
	}
	for i, v := range x {
		var got, allowed float64
		b := raw[i*width:]
		switch info.Type {
		case gguf.F32:
			got = decodeF32(b)
		case gguf.F16:
			got, allowed = decodeF16(b), f16HalfStep(v)
		default:
			if got = decodeBF16(b); w.stored.DType != tensor.BF16 {
				allowed = bf16HalfStep(v)
			}
		}
		allowed += product * math.Abs(v)
		if !m.with(v, got, allowed) {
			return violation("", info.Name, "element %d: %v became %v; rounding explains %.3g of the difference of %.3g",
				at+int64(i), v, got, allowed, math.Abs(v-got))
		}
	}
	return nil
}

// f16HalfStep is half the distance of half-precision values around x.
func f16HalfStep(x float64) float64 {
	_, e := math.Frexp(x) // |x| = f × 2^e with f in [0.5, 1)
	return math.Ldexp(1, max(e-12, -25))
}

// holdBlocks compares blocks of 32: the scale is the source's largest magnitude
// over 127, to half precision, and every code within half a step of that.
func holdBlocks(name string, at int64, x []float64, raw []byte, m *measured) error {
	const block, bytes = q8Block, q8Bytes
	for b := 0; b*block < len(x); b++ {
		codes := raw[b*bytes : (b+1)*bytes]
		scale := decodeF16(codes)
		var top float64
		for _, v := range x[b*block : (b+1)*block] {
			top = max(top, math.Abs(v))
		}
		d := top / 127
		lost := math.Abs(scale - d)
		if !(lost <= f16HalfStep(d)*(1+0x1p-10)) {
			return violation("", name, "block %d: scale %v is not that of magnitude %v, which is %v", at/block+int64(b), scale, top, d)
		}
		for i := range block {
			v, code := x[b*block+i], decodeI8(codes[2+i:])
			allowed := d*(0.5+(math.Abs(code)+1)*0x1p-21) + math.Abs(code)*lost
			if scale == 0 { // too small for half precision: all of the block is zero
				allowed = top
			}
			if !m.with(v, code*scale, allowed) {
				return violation("", name, "element %d: %v became code %v × scale %v = %v; rounding explains %.3g of the difference of %.3g",
					at+int64(b*block+i), v, code, scale, code*scale, allowed, math.Abs(v-code*scale))
			}
		}
	}
	return nil
}
