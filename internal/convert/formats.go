package convert

import (
	"context"

	"tarbert/internal/tensor"
)

// A format is one value of --to. The engine reads headers, pairs weights with
// their scales, decodes, streams bands through a bounded pool, journals, resumes,
// syncs and names files; an entry says the rest. A format for other files than
// safetensors gives its own place, small and rules, and is otherwise the same.
//
// The fields are still settling; formatTable in this file becomes the list of them.
type format struct {
	name  string // of --to
	about string // one line for --help
	// plan decides the fate of every weight, in the order in which they are written.
	plan func(p *planner) ([]step, error)
	// place lays the outputs out in files: it sets file and offset of every one.
	place func(c *conversion, outputs []*output) ([]fileLayout, error)
	// small writes, or lists as left, what is not weights: configuration, tokenizer, index.
	small func(ctx context.Context, c *conversion, dir string, rep *Report) error
	// recognise says whether a directory with these files holds this format.
	recognise func(names []string, config object) bool
	// rules are what Check holds a directory of this format against, in order.
	rules func(c *checker) []rule
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
}

// slot is the part of an output that a step writes: all of it (base 0), or one
// expert's share of a stacked tensor.
type slot struct {
	*output
	base int64 // bytes from the output's first
}

// fileLayout is a file of the destination before its data: header goes to offset
// 0, outputs to theirs, and what is between them is zero.
type fileLayout struct {
	name   string
	size   int64
	header []byte
}

// values is a band on its way: whole rows of one weight, decoded. A step's encode
// function gets it and calls write, any number of times.
type values struct {
	first, rows, cols int64
	// bf holds BF16 bytes where the weight's values are BF16 (sources in BF16, FP8
	// and FP4); wide holds float32 where they are F32 or F16. One of them is nil.
	bf   []byte
	wide []float32
	// write puts bytes into the step's slot number out, off bytes from its base.
	write func(out int, off int64, b []byte) error
}
