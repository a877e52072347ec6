package convert

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// PlannedTensor is one tensor of the destination, before its data.
type PlannedTensor struct {
	Name   string  `json:"name"`
	DType  string  `json:"dtype"`
	Shape  []int64 `json:"shape"`
	File   string  `json:"file"`
	Offset int64   `json:"offset"` // from the start of the file
	Size   int64   `json:"size"`   // bytes
	From   string  `json:"from"`   // source tensor; the first, where there are several
	Action Action  `json:"action"`
	Reason string  `json:"reason"`
}

// PlannedFile is one file of weights.
type PlannedFile struct {
	Name    string `json:"name"`
	Size    int64  `json:"size"`
	Tensors int    `json:"tensors"`
}

// PlanReport is what a conversion will do.
type PlanReport struct {
	Format       string          `json:"format"`
	Architecture string          `json:"architecture"`
	Files        []PlannedFile   `json:"files"`
	Tensors      []PlannedTensor `json:"tensors"` // in the order in which they are written
	Dropped      []TensorReport  `json:"dropped,omitempty"`
	BytesIn      int64           `json:"bytes_in"`  // of tensors
	BytesOut     int64           `json:"bytes_out"` // of files
	Bands        int64           `json:"bands"`
	Workers      int             `json:"workers"`
	// PeakMemory is the most bytes that the process will take.
	PeakMemory int64 `json:"peak_memory"`
}

// Plan says what Convert would do, to the byte, from the headers alone: no data is
// read and nothing is written.
func Plan(ctx context.Context, src, format string, o Options) (*PlanReport, error) {
	c, err := begin(src, format, o)
	if err != nil {
		return nil, err
	}
	defer c.weights.Close()
	r := &PlanReport{Format: format, Architecture: c.model.ModelType, Bands: c.budget.bands(), Workers: c.budget.workers, PeakMemory: c.budget.peak}
	for _, f := range c.files {
		r.Files = append(r.Files, PlannedFile{Name: f.name, Size: f.size, Tensors: f.tensors})
		r.BytesOut += f.size
	}
	seen := map[*output]bool{}
	for i := range c.steps {
		s := &c.steps[i]
		r.BytesIn += s.weight.bytes()
		if s.action == Dropped {
			r.Dropped = append(r.Dropped, TensorReport{Name: s.weight.stored.Name, Action: Dropped, Reason: s.reason,
				From: s.weight.spelling(), Shape: s.weight.shape, BytesIn: s.weight.bytes()})
		}
		for _, t := range s.slots {
			if seen[t.output] {
				continue
			}
			seen[t.output] = true
			r.Tensors = append(r.Tensors, PlannedTensor{Name: t.name, DType: t.kind, Shape: t.shape, File: c.files[t.file].name,
				Offset: t.offset, Size: t.size, From: s.weight.stored.Name, Action: s.action, Reason: s.reason})
		}
	}
	return r, ctx.Err()
}

// identity is over everything that decides which bytes a conversion writes where.
func (c *conversion) identity() (string, error) {
	state, err := c.stat()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	o := c.options
	fmt.Fprintf(h, "%d %d %s %s %s %s %s %d %q\n%s", recordVersion, bandElements, c.format.name, o.Rounding, o.Naming, o.Layout, o.Scales, o.ShardSize, o.Keep, state)
	for _, f := range c.files {
		fmt.Fprintf(h, "%q %d %x\n", f.name, f.size, sha256.Sum256(f.header))
	}
	for i := range c.steps {
		s := &c.steps[i]
		fmt.Fprintf(h, "%q %s %v\n", s.weight.stored.Name, s.action, s.cut())
		for _, t := range s.slots {
			fmt.Fprintf(h, " %q %s %d %d %d %d\n", t.name, t.kind, t.size, t.file, t.offset, t.base)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
