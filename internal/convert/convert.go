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
	"strings"

	"golang.org/x/sync/errgroup"

	"tarbert/internal/progress"
	"tarbert/internal/tensor"
)

// Convert writes the weights of the model directory src, in a format, to dst,
// which must not exist, be empty, or hold this very conversion, complete: then
// that is its result. The other files of a model are copied along. A *Violation
// is a model that cannot be converted faithfully; any other error is of the
// options, the source's form, or the environment. In no case of error does dst
// appear. What a killed or cancelled conversion has written stays beside it, and
// the same call takes it up.
func Convert(ctx context.Context, src, dst, format string, o Options) (*Report, error) {
	c, err := begin(src, format, o)
	if err != nil {
		return nil, err
	}
	defer c.weights.Close()
	rep, err := c.into(ctx, dst)
	if err != nil {
		return nil, fmt.Errorf("convert %s to %s: %w", src, format, err)
	}
	return rep, nil
}

// complete checks the options and fills in the defaults.
func (o Options) complete(f format) (Options, error) {
	if o.Rounding == "" {
		o.Rounding = Compatible
	}
	if o.Naming == "" {
		o.Naming = HuggingFace
	}
	if o.Scales == "" {
		o.Scales = f.scales
	}
	if o.ShardSize == 0 {
		o.ShardSize = 4 << 30
	}
	if o.Workers == 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Memory == 0 {
		o.Memory = 256 << 20
	}
	switch {
	case o.Rounding != Compatible && o.Rounding != Exact:
		return o, fmt.Errorf("no rounding %q: there are %s and %s", o.Rounding, Compatible, Exact)
	case o.Rounding != Compatible && !f.int8:
		return o, fmt.Errorf("rounding %s is of the int8 formats; %s has one rounding", o.Rounding, f.name)
	case o.Naming != HuggingFace && (o.Naming != MSModelSlim || f.name != W8A8Ascend):
		return o, fmt.Errorf("no naming %q for %s", o.Naming, f.name)
	case o.Scales != "" && !f.fp8:
		return o, fmt.Errorf("scales %s: the type of scales can be chosen for %s and %s, not for %s", o.Scales, FP8Block, FP8, f.name)
	case o.Scales != "" && o.Scales != ScalesF32 && o.Scales != ScalesE8M0:
		return o, fmt.Errorf("no scales %q: there are %s and %s", o.Scales, ScalesF32, ScalesE8M0)
	case o.ShardSize < 0 || o.Workers < 0 || o.Memory < 0:
		return o, errors.New("shard size, workers and memory cannot be negative")
	}
	return o, nil
}

// conversion is one on its way: the source, opened, and what is to be done with it.
type conversion struct {
	src     string
	format  format
	options Options

	sources []sourceFile
	config  []byte
	model   modelConfig
	weights *tensor.Dir
	steps   []step
	files   []fileLayout
	budget  budget
	digests []FileReport // of the files of weights, once they are written
}

// begin opens a source and plans its conversion.
func begin(src, format string, o Options) (*conversion, error) {
	f, err := findFormat(format)
	if err != nil {
		return nil, fmt.Errorf("convert: %w", err)
	}
	if o, err = o.complete(f); err != nil {
		return nil, fmt.Errorf("convert: %w", err)
	}
	c := &conversion{src: src, format: f, options: o}
	if err := c.open(); err != nil {
		return nil, fmt.Errorf("convert %s: %w", src, err)
	}
	return c, nil
}

// open reads the source's configuration and headers and plans every tensor.
func (c *conversion) open() (err error) {
	if c.sources, err = listSource(c.src); err != nil {
		return err
	}
	if c.config, err = os.ReadFile(filepath.Join(c.src, "config.json")); err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	if c.model, err = parseConfig(c.config); err != nil {
		return err
	}
	if err := c.model.Quant.readable(); err != nil {
		return err
	}
	if c.weights, err = tensor.OpenDir(c.src); err != nil {
		return err
	}
	if err := c.planAll(); err != nil {
		return errors.Join(err, c.weights.Close())
	}
	return nil
}

// planAll decides the fate of every weight and the place of every output.
func (c *conversion) planAll() error {
	if err := c.checkTied(); err != nil {
		return err
	}
	arch, known, err := findArchitecture(c.model.ModelType)
	if err != nil {
		return err
	}
	has := func(name string) bool { _, ok := c.weights.Info(name); return ok }
	names := newNaming(arch, has)
	rename, err := names.translate(c.options.Layout, c.model.ModelType)
	if err != nil {
		return err
	}
	weights, err := pairs(c.weights.Infos(), c.model, names)
	if err != nil {
		return err
	}
	p := &planner{format: c.format, arch: arch, known: known, model: c.model, weights: weights, keep: c.options.Keep,
		scales: c.options.Scales, round: c.options.Rounding, rename: rename}
	if c.steps, err = p.plan(); err != nil {
		return err
	}
	if c.files, err = c.format.place(c, c.steps); err != nil {
		return err
	}
	if len(c.files) == 0 {
		return violation("complete", "", "the source has no tensors")
	}
	c.budget, err = newBudget(c.steps, c.options)
	return err
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
	a, b := make([]byte, bandElements), make([]byte, bandElements)
	for off := int64(0); off < e.Size; off += bandElements {
		n := min(bandElements, e.Size-off)
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
		return rep, sweepPartials(dst)
	}
	identity, err := c.identity()
	if err != nil {
		return nil, err
	}
	p, err := newPartial(dst, identity)
	if err != nil {
		return nil, err
	}
	rep, err := c.build(ctx, p)
	if err == nil {
		err = p.commit()
	}
	switch {
	case err == nil:
		return rep, nil
	case ctx.Err() != nil:
		return nil, errors.Join(err, p.leave())
	}
	return nil, errors.Join(err, p.abort())
}

// build fills a partial directory, the record last.
func (c *conversion) build(ctx context.Context, p *partial) (*Report, error) {
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
	g.Go(func() error {
		return c.writeWeights(gctx, p, rep)
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if err := c.clean(p.dir); err != nil {
		return nil, err
	}
	if err := c.format.small(ctx, c, p.dir, rep); err != nil {
		return nil, err
	}
	after, err := c.stat()
	if err != nil {
		return nil, err
	}
	if before != after {
		return nil, errors.New("the source changed while it was read: begin again when nothing writes to it")
	}
	return rep, c.seal(ctx, p.dir, rep)
}

// clean removes what an earlier, killed process wrote after the weights: it is
// written again.
func (c *conversion) clean(dir string) error {
	names, err := fileNames(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if !slices.ContainsFunc(c.files, func(f fileLayout) bool { return f.name == n }) && n != journalName {
			if err := os.RemoveAll(filepath.Join(dir, n)); err != nil {
				return err
			}
		}
	}
	return nil
}

// report is what is known before any data has moved.
func (c *conversion) report() *Report {
	a, _, _ := findArchitecture(c.model.ModelType)
	ignored := slices.Concat(a.Drop, a.Float32)
	if c.format.int8 || c.format.name == FP8Block {
		ignored = append(ignored, a.Float...)
	}
	return &Report{
		Version: recordVersion, Format: c.format.name, Rounding: c.options.Rounding, Naming: c.options.Naming, Layout: c.options.Layout, Scales: c.options.Scales,
		ShardSize: c.options.ShardSize, Architecture: c.model.ModelType, Keep: c.options.Keep, Ignored: ignored,
	}
}

// stat sums up sizes and times of the source's files.
func (c *conversion) stat() (string, error) {
	var b bytes.Buffer
	for _, f := range c.sources {
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
	for _, f := range c.sources {
		if f.matters(weights) {
			names = append(names, f.name)
		}
	}
	files, err := digestFiles(ctx, c.src, names)
	return FilesDigest(files), err
}

// seal hashes what was written and writes the record.
func (c *conversion) seal(ctx context.Context, dir string, rep *Report) error {
	names, err := fileNames(dir)
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(n string) bool {
		return n == journalName || slices.ContainsFunc(c.digests, func(f FileReport) bool { return f.Name == n })
	})
	written, err := digestFiles(ctx, dir, names)
	if err != nil {
		return err
	}
	written = append(written, c.digests...)
	slices.SortFunc(written, func(a, b FileReport) int { return strings.Compare(a.Name, b.Name) })
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
		Stage: "convert", Done: float64(done) / 1e6, Total: float64(all) / 1e6, Unit: "MB", Note: c.format.name + ": " + name,
	})
}
