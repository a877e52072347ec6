package convert

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"tarbert/internal/tensor"
)

// The formats that Convert writes.
const (
	BF16           = "bf16"
	W8A8Ascend     = "w8a8-ascend"
	W8A8Compressed = "w8a8-compressed"
	FP8Block       = "fp8-block"
	FP8            = "fp8"
)

// format is one value of --to. The engine pairs weights with their scales,
// decodes, streams bands, journals, resumes, syncs and names files; an entry says
// the rest. A format of other files than safetensors brings its own place, small
// and rules, and is otherwise the same.
type format struct {
	name  string // of --to
	about string // one line for --help
	// int8 says that rounding can be chosen, and that the report shows what both cost.
	int8 bool
	// fp8 says that the type of scales can be chosen; without a choice it is scales.
	fp8    bool
	scales Scales
	// plan decides the fate of every weight, in the order in which they are written.
	plan func(p *planner) ([]step, error)
	// place lays the steps' outputs out in files: it sets file and offset of every
	// output, and returns the files.
	place func(c *conversion, steps []step) ([]fileLayout, error)
	// small writes what is not weights, and lists every file of the source in rep.Files.
	small func(ctx context.Context, c *conversion, dir string, rep *Report) error
	// recognise says whether a directory holds the format. The first entry that does
	// so is it.
	recognise func(d directory) bool
	// rules are what Check holds a directory of the format against, in order.
	rules func(c *checker) []rule
}

// formatTable lists the formats: one entry for each --to.
func formatTable() []format {
	return append(ggufFormats(), []format{
		{name: W8A8Ascend, about: "AscendV1 W8A8_DYNAMIC, as vllm-ascend loads it", int8: true,
			plan: planQuantised, place: placeSafetensors, small: smallAscend, recognise: isAscend, rules: safetensorsRules},
		{name: W8A8Compressed, about: "compressed-tensors int8, as llm-compressor writes it", int8: true,
			plan: planQuantised, place: placeSafetensors, small: smallHuggingFace, recognise: isCompressed, rules: safetensorsRules},
		{name: FP8Block, about: "E4M3 in blocks of 128×128, from a float model", fp8: true, scales: ScalesF32,
			plan: planQuantised, place: placeSafetensors, small: smallHuggingFace, recognise: isFP8Block, rules: safetensorsRules},
		{name: FP8, about: "E4M3 in the model's blocks, from FP4 experts, without loss", fp8: true, scales: ScalesE8M0,
			plan: planExpanded, place: placeSafetensors, small: smallHuggingFace, recognise: isFP8, rules: safetensorsRules},
		{name: BF16, about: "bfloat16, from FP8, FP4, F32 or F16",
			plan: planBF16, place: placeSafetensors, small: smallHuggingFace, recognise: isBF16, rules: safetensorsRules},
	}...)
}

// Formats lists the formats' names, the plainest first.
func Formats() []string {
	var names []string
	for _, f := range formatTable() {
		names = append(names, f.name)
	}
	slices.Reverse(names)
	return names
}

// Describe says in one line what a format is; empty for one that there is not.
func Describe(name string) string {
	f, err := findFormat(name)
	if err != nil {
		return ""
	}
	return f.about
}

func findFormat(name string) (format, error) {
	for _, f := range formatTable() {
		if f.name == name {
			return f, nil
		}
	}
	return format{}, fmt.Errorf("no format %q: there are %s", name, strings.Join(Formats(), ", "))
}

// rule is one thing that Check proves.
type rule struct {
	name string
	hold func(context.Context) error
}

// output is one tensor of the destination.
type output struct {
	name   string
	kind   string       // type as the file spells it: "BF16", "I8", "Q8_0"
	dtype  tensor.DType // zero for a type that safetensors does not have
	shape  []int64
	size   int64 // bytes
	file   int   // index of its fileLayout
	offset int64 // in that file
	left   int64 // bytes not yet written
}

// newOutput is one of a type that safetensors has.
func newOutput(name string, d tensor.DType, shape ...int64) *output {
	o := &output{name: name, kind: d.String(), dtype: d, shape: shape, size: int64(d.Bits()) / 8}
	for _, n := range shape {
		o.size *= n
	}
	return o
}

// slot is the part of an output that a step writes: all of it, or from byte base
// on one expert's share of a stacked tensor.
type slot struct {
	*output
	base int64
}

// fileLayout is a file of the destination before its data: header goes to offset
// 0, outputs to theirs, and what is between them is zero.
type fileLayout struct {
	name    string
	size    int64
	tensors int
	header  []byte
}

// step is what is to be done with one weight.
type step struct {
	weight *weight
	action Action
	reason string
	slots  []slot // none when dropped
	// matrix says that encode takes whole rows of a matrix, in multiples of unit
	// (but for the last); otherwise any run of elements is a band, of rows of one.
	matrix bool
	unit   int64
	encode func(v *values) error
}

// bytes of what the step writes into slots that are its own.
func (s *step) bytes() int64 {
	var n int64
	for _, o := range s.slots {
		n += o.size
	}
	return n
}

// to is the type of the first output.
func (s *step) to() string {
	if len(s.slots) == 0 {
		return ""
	}
	return s.slots[0].kind
}
