package convert

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

	"tarbert/internal/progress"
	"tarbert/internal/tensor"
)

// Convert writes the weights of the model directory src, in a format, to dst,
// which must not exist, be empty, or hold this very conversion, complete: then
// that is its result. The other files of a model are copied along. A *Violation
// is a model that cannot be converted faithfully; any other error is of the
// options, the source's form, or the environment. In no case of error does dst appear.
func Convert(ctx context.Context, src, dst, format string, o Options) (*Report, error) {
	o, err := o.complete(format)
	if err != nil {
		return nil, fmt.Errorf("convert: %w", err)
	}
	c := &conversion{src: src, format: format, options: o}
	if err := c.open(); err != nil {
		return nil, fmt.Errorf("convert %s: %w", src, err)
	}
	defer c.weights.Close()
	rep, err := c.into(ctx, dst)
	if err != nil {
		return nil, fmt.Errorf("convert %s to %s: %w", src, format, err)
	}
	return rep, nil
}

// complete checks the options and fills in the defaults.
func (o Options) complete(format string) (Options, error) {
	if !slices.Contains(Formats(), format) {
		return o, fmt.Errorf("no format %q: there are %v", format, Formats())
	}
	if o.Rounding == "" {
		o.Rounding = Compatible
	}
	if o.Rounding != Compatible && o.Rounding != Exact {
		return o, fmt.Errorf("no rounding %q: there are %s and %s", o.Rounding, Compatible, Exact)
	}
	if o.Naming == "" {
		o.Naming = HuggingFace
	}
	if o.Naming != HuggingFace && (o.Naming != MSModelSlim || format != W8A8Ascend) {
		return o, fmt.Errorf("no naming %q for %s", o.Naming, format)
	}
	if o.ShardSize == 0 {
		o.ShardSize = 4 << 30
	}
	if o.ShardSize < 0 || o.Workers < 0 {
		return o, errors.New("shard size and workers cannot be negative")
	}
	if o.Workers == 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	return o, nil
}

// conversion is one on its way: the source, opened, and what is to be done with it.
type conversion struct {
	src     string
	format  string
	options Options

	files   []sourceFile
	config  []byte
	model   modelConfig
	weights *tensor.Dir
	steps   []step
}

// open reads the source's configuration and headers and plans every tensor.
func (c *conversion) open() (err error) {
	if c.files, err = listSource(c.src); err != nil {
		return err
	}
	if c.config, err = os.ReadFile(filepath.Join(c.src, "config.json")); err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	if c.model, err = parseConfig(c.config); err != nil {
		return err
	}
	if c.model.quantised() {
		return violation("source", "config.json", "it has a quantization_config: the weights are quantised already; give the float model")
	}
	if c.weights, err = tensor.OpenDir(c.src); err != nil {
		return err
	}
	err = c.checkTied()
	if err == nil {
		c.steps, err = plan(c.weights.Infos(), c.model, c.format, c.options.Keep)
	}
	if err != nil {
		return errors.Join(err, c.weights.Close())
	}
	return nil
}

// checkTied refuses a model that says its output head is its embedding, and has
// a head that is something else: engines would use one or the other.
func (c *conversion) checkTied() error {
	const embedding, head = "model.embed_tokens.weight", "lm_head.weight"
	e, okE := c.weights.Info(embedding)
	h, okH := c.weights.Info(head)
	if !c.model.Tied || !okE || !okH {
		return nil
	}
	if e.DType != h.DType || !slices.Equal(e.Shape, h.Shape) {
		return violation("tied", head, "config.json has tie_word_embeddings, but its type or shape is not that of %s", embedding)
	}
	a, b := make([]byte, bandBytes), make([]byte, bandBytes)
	for off := int64(0); off < e.Size; off += bandBytes {
		n := min(bandBytes, e.Size-off)
		if err := errors.Join(c.weights.ReadAt(embedding, a[:n], off), c.weights.ReadAt(head, b[:n], off)); err != nil {
			return err
		}
		if !bytes.Equal(a[:n], b[:n]) {
			return violation("tied", head, "config.json has tie_word_embeddings, but it differs from %s within %d bytes from byte %d", embedding, n, off)
		}
	}
	return nil
}

// into makes dst, or finds it made.
func (c *conversion) into(ctx context.Context, dst string) (*Report, error) {
	dst, err := filepath.Abs(dst)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dst)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("look at destination: %w", err)
	}
	if len(entries) > 0 {
		rep, err := c.reuse(ctx, dst)
		if err != nil {
			return nil, fmt.Errorf("destination %s is not empty: %w; name another or remove it", dst, err)
		}
		return rep, nil
	}
	p, err := newPartial(dst)
	if err != nil {
		return nil, err
	}
	rep, err := c.build(ctx, p.dir)
	if err == nil {
		err = p.commit()
	}
	if err != nil {
		return nil, errors.Join(err, p.abort())
	}
	return rep, nil
}

// build fills an empty directory, the record last.
func (c *conversion) build(ctx context.Context, dir string) (*Report, error) {
	before, err := c.stat()
	if err != nil {
		return nil, err
	}
	rep := c.report()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		rep.SourceDigest, err = c.sourceDigest(gctx)
		return err
	})
	g.Go(func() (err error) {
		rep.Tensors, err = c.writeWeights(gctx, dir)
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if err := c.writeSmall(ctx, dir, rep); err != nil {
		return nil, err
	}
	after, err := c.stat()
	if err != nil {
		return nil, err
	}
	if before != after {
		return nil, errors.New("the source changed while it was read: begin again when nothing writes to it")
	}
	rep.Totals = total(rep.Tensors)
	return rep, c.seal(ctx, dir, rep)
}

// report is what is known before any data has moved.
func (c *conversion) report() *Report {
	a, _, _ := findArchitecture(c.model.ModelType)
	ignored := slices.Concat(a.Drop, a.Float32)
	if c.format == W8A8Ascend {
		ignored = append(ignored, a.Float...)
	}
	return &Report{
		Version: recordVersion, Format: c.format, Rounding: c.options.Rounding, Naming: c.options.Naming,
		ShardSize: c.options.ShardSize, Architecture: c.model.ModelType, Keep: c.options.Keep, Ignored: ignored,
	}
}

// stat sums up sizes and times of the source's files.
func (c *conversion) stat() (string, error) {
	var b bytes.Buffer
	for _, f := range c.files {
		st, err := os.Stat(filepath.Join(c.src, f.name))
		if err != nil {
			return "", fmt.Errorf("read source: %w", err)
		}
		fmt.Fprintf(&b, "%q %d %d\n", f.name, st.Size(), st.ModTime().UnixNano())
	}
	return b.String(), nil
}

// sourceDigest is over every file that decides what the conversion gives.
func (c *conversion) sourceDigest(ctx context.Context) (string, error) {
	weights := map[string]bool{}
	for _, name := range c.weights.Files() {
		weights[name] = true
	}
	var names []string
	for _, f := range c.files {
		if f.matters(weights) {
			names = append(names, f.name)
		}
	}
	files, err := digestFiles(ctx, c.src, names)
	return FilesDigest(files), err
}

// writeSmall writes what is not weights, and lists every file of the source.
func (c *conversion) writeSmall(ctx context.Context, dir string, rep *Report) error {
	for _, f := range c.files {
		r := FileReport{Name: f.name, Action: "copied", Size: f.size, Reason: f.left}
		var err error
		switch {
		case slices.Contains(c.weights.Files(), f.name):
			r.Action, r.Reason = "converted", ""
		case f.left != "":
			r.Action = "left"
		case f.name == "config.json":
			var text []byte
			if text, err = editConfig(c.config); err == nil {
				if !bytes.Equal(text, c.config) {
					r.Action = "edited"
				}
				err = writeNew(filepath.Join(dir, f.name), text)
			}
		default:
			err = copyFile(ctx, filepath.Join(c.src, f.name), filepath.Join(dir, f.name))
		}
		if err != nil {
			return err
		}
		rep.Files = append(rep.Files, r)
	}
	if c.format != W8A8Ascend {
		return nil
	}
	text, err := describe(c.steps).encode()
	if err != nil {
		return err
	}
	return writeNew(filepath.Join(dir, descriptionName), text)
}

// seal hashes what was written and writes the record.
func (c *conversion) seal(ctx context.Context, dir string, rep *Report) error {
	names, err := fileNames(dir)
	if err != nil {
		return err
	}
	written, err := digestFiles(ctx, dir, names)
	if err != nil {
		return err
	}
	for _, w := range written {
		i := slices.IndexFunc(rep.Files, func(f FileReport) bool {
			return f.Name == w.Name && (f.Action == "copied" || f.Action == "edited")
		})
		if i < 0 {
			w.Action = "written"
			rep.Files = append(rep.Files, w)
			continue
		}
		rep.Files[i].Size, rep.Files[i].SHA256 = w.Size, w.SHA256
	}
	rep.Digest = FilesDigest(rep.Files)
	return writeRecord(dir, rep)
}

// tell reports progress in megabytes of source read.
func (c *conversion) tell(done, all int64, name string) {
	c.options.Progress.Report(progress.Update{
		Stage: "convert", Done: float64(done) / 1e6, Total: float64(all) / 1e6, Unit: "MB", Note: c.format + ": " + name,
	})
}
