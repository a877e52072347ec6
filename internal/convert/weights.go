package convert

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"

	"tarbert/internal/tensor"
)

// bandBytes is about how much of a tensor is converted at a time: what fits the
// second-level cache together with its output.
const bandBytes = 1 << 19

// band is some rows of one step's tensor.
type band struct {
	step     *step
	file     *tensor.Writer
	first, n int64 // rows
	cols     int64 // elements in a row
}

// writeWeights writes every shard, and the index if there is one.
func (c *conversion) writeWeights(ctx context.Context, dir string) (reports []TensorReport, err error) {
	shards := shard(c.steps, c.options.ShardSize)
	if len(shards) == 0 {
		return nil, violation("complete", "", "the source has no tensors")
	}
	var files []*tensor.Writer
	defer func() {
		for _, f := range files {
			err = errors.Join(err, f.Abort())
		}
	}()
	var index []tensor.Info
	var bands []band
	names := map[string]string{} // source tensor to file
	for i, steps := range shards {
		name := shardName(c.format, c.options.Naming, i, len(shards))
		f, infos, err := c.create(filepath.Join(dir, name), steps)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
		for _, info := range infos {
			info.File = name
			index = append(index, info)
		}
		for j := range steps {
			bands = append(bands, split(&steps[j], f)...)
			names[steps[j].source.Name] = name
		}
	}
	deviations, err := c.convertBands(ctx, bands)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if err := f.Commit(); err != nil {
			return nil, err
		}
	}
	if err := c.writeIndex(dir, len(shards), index); err != nil {
		return nil, err
	}
	return tensorReports(c.steps, bands, deviations, names), nil
}

// create plans a shard and makes its file, of its full size.
func (c *conversion) create(path string, steps []step) (*tensor.Writer, []tensor.Info, error) {
	var outputs []tensor.Info
	for _, s := range steps {
		outputs = append(outputs, s.outputs...)
	}
	var metadata map[string]string // {"format":"pt"}
	if c.options.Naming == MSModelSlim {
		metadata = map[string]string{} // msmodelslim writes none
	}
	layout, err := tensor.Plan(outputs, metadata)
	if err != nil {
		return nil, nil, fmt.Errorf("plan %s: %w", filepath.Base(path), err)
	}
	f, err := tensor.Create(path, layout)
	return f, layout.Infos, err
}

// writeIndex writes the index, which only a single bfloat16 file goes without.
func (c *conversion) writeIndex(dir string, shards int, infos []tensor.Info) error {
	if c.format == BF16 && shards == 1 {
		return nil
	}
	text, err := tensor.EncodeIndex(infos)
	if err != nil {
		return err
	}
	name := tensor.IndexName
	if c.options.Naming == MSModelSlim {
		name = "quant_model_weights.safetensors.index.json"
	}
	return writeNew(filepath.Join(dir, name), text)
}

// split cuts a step into bands of whole rows; what is not quantised has rows of one element.
func split(s *step, f *tensor.Writer) []band {
	if s.action == Dropped {
		return nil
	}
	rows, cols := s.source.Elements(), int64(1)
	if s.action == Quantised {
		rows, cols = s.source.Shape[0], s.source.Shape[1]
	}
	step := max(1, bandBytes/(cols*int64(s.source.DType.Bits()/8)))
	var bands []band
	for first := int64(0); first < rows; first += step {
		bands = append(bands, band{step: s, file: f, first: first, n: min(step, rows-first), cols: cols})
	}
	return bands
}

// convertBands converts all bands, several at once, and measures each.
func (c *conversion) convertBands(ctx context.Context, bands []band) ([]deviation, error) {
	var all int64
	for _, b := range bands {
		all += b.sourceBytes()
	}
	deviations := make([]deviation, len(bands))
	var done atomic.Int64
	buffers := sync.Pool{New: func() any { return new(buffer) }}
	err := inOrder(ctx, len(bands), c.options.Workers, func(i int) error {
		buf := buffers.Get().(*buffer)
		defer buffers.Put(buf)
		if err := c.convertBand(bands[i], buf, &deviations[i]); err != nil {
			return err
		}
		c.tell(done.Add(bands[i].sourceBytes()), all, bands[i].step.source.Name)
		return nil
	})
	return deviations, err
}

// inOrder calls f(0) to f(n-1), taken up in order by some goroutines, until one
// fails. The error is that of the lowest index that failed, whichever was first.
func inOrder(ctx context.Context, n, workers int, f func(i int) error) error {
	errs := make([]error, n)
	var next atomic.Int64
	var failed atomic.Bool
	var wg sync.WaitGroup
	for range min(workers, n) {
		wg.Go(func() {
			for !failed.Load() && ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if errs[i] = f(i); errs[i] != nil {
					failed.Store(true)
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (b band) elements() int64 { return b.n * b.cols }

func (b band) sourceBytes() int64 { return b.elements() * int64(b.step.source.DType.Bits()) / 8 }

// buffer is one worker's memory.
type buffer struct {
	raw, out, scales []byte
	x, work          []float32
}

func grow[T any](s []T, n int64) []T {
	if int64(cap(s)) < n {
		return make([]T, n)
	}
	return s[:n]
}

// convertBand reads, converts, measures and writes one band.
func (c *conversion) convertBand(b band, buf *buffer, e *deviation) error {
	info := b.step.source
	width := int64(info.DType.Bits() / 8)
	start := b.first * b.cols
	buf.raw = grow(buf.raw, b.sourceBytes())
	if err := c.weights.ReadAt(info.Name, buf.raw, start*width); err != nil {
		return err
	}
	buf.x = grow(buf.x, b.elements())
	if err := tensor.Widen(buf.x, buf.raw, info.DType); err != nil {
		return fmt.Errorf("tensor %q: %w", info.Name, err)
	}
	if i := firstNonFinite(buf.x); i >= 0 {
		return violation("finite", info.Name, "element %d of the source is %v", start+int64(i), buf.x[i])
	}
	if b.step.action == Quantised {
		return c.quantiseBand(b, buf, e)
	}
	out := buf.raw
	switch {
	case b.step.action == Copied:
	case b.step.to == tensor.BF16:
		buf.out = grow(buf.out, 2*b.elements())
		out = buf.out
		if bad := toBF16(out, buf.x, e); bad >= 0 {
			return violation("bound", info.Name, "element %d: %v does not fit %s", start+int64(bad), buf.x[bad], b.step.to)
		}
	default: // F32 holds every F16 and BF16 value: nothing to measure
		buf.out = grow(buf.out, b.elements()*int64(b.step.to.Bits()/8))
		out = buf.out
		if err := tensor.Narrow(out, buf.x, b.step.to); err != nil {
			return fmt.Errorf("tensor %q: %w", info.Name, err)
		}
	}
	return b.file.WriteAt(info.Name, out, start*int64(b.step.to.Bits()/8))
}

// quantiseBand writes codes, scales and offsets of some rows.
func (c *conversion) quantiseBand(b band, buf *buffer, e *deviation) error {
	name := b.step.source.Name
	buf.out, buf.work = grow(buf.out, b.elements()), grow(buf.work, b.cols)
	buf.scales = grow(buf.scales, 4*b.n)
	ch := channel{wide: b.step.source.DType != tensor.BF16, exact: c.options.Rounding == Exact}
	for r := range b.n {
		row := buf.x[r*b.cols : (r+1)*b.cols]
		scale, bad := quantiseRow(buf.out[r*b.cols:(r+1)*b.cols], row, buf.work, ch, e)
		if bad >= 0 {
			return violation("bound", name, "row %d, column %d: %v is not within half a step of scale %v", b.first+r, bad, row[bad], scale)
		}
		if err := tensor.Narrow(buf.scales[4*r:4*r+4], []float32{scale}, tensor.F32); err != nil {
			return err
		}
	}
	if err := b.file.WriteAt(name, buf.out, b.first*b.cols); err != nil {
		return err
	}
	if err := b.file.WriteAt(name+"_scale", buf.scales, 4*b.first); err != nil {
		return err
	}
	clear(buf.scales)
	return b.file.WriteAt(name+"_offset", buf.scales, 4*b.first)
}

// tensorReports merges the bands' measurements, in order, into one report a tensor.
func tensorReports(steps []step, bands []band, deviations []deviation, files map[string]string) []TensorReport {
	reports := make([]TensorReport, 0, len(steps))
	next := 0
	for i := range steps {
		s := &steps[i]
		var e deviation
		for ; next < len(bands) && bands[next].step.source.Name == s.source.Name; next++ {
			e.merge(deviations[next])
		}
		r := TensorReport{
			Name: s.source.Name, Action: s.action, Reason: s.reason, From: s.source.DType.String(), Shape: s.source.Shape,
			MaxAbsError: e.max, Bound: e.bound, SQNR: e.sqnr(), BytesIn: s.source.Size, BytesOut: s.bytes(),
		}
		if s.action != Dropped {
			r.To, r.File = s.to.String(), files[s.source.Name]
		}
		for _, o := range s.outputs {
			r.Outputs = append(r.Outputs, o.Name)
		}
		reports = append(reports, r)
	}
	return reports
}
