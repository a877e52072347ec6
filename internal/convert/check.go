package convert

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

	"tarbert/internal/progress"
	"tarbert/internal/tensor"
)

// CheckedTensor is what Check measured of one weight.
type CheckedTensor struct {
	Name string `json:"name"` // in the source
	From string `json:"from"`
	To   string `json:"to"`
	// SQNR is in dB; absent where nothing was lost.
	SQNR        float64 `json:"sqnr_db,omitempty"`
	MaxAbsError float64 `json:"max_abs_error"`
	Bound       float64 `json:"bound"`
}

// CheckReport is what Check found.
type CheckReport struct {
	Format       string `json:"format"`
	Architecture string `json:"architecture"`
	// Rounding of int8, where a record of ours says which.
	Rounding Rounding `json:"rounding,omitempty"`
	// Recorded says that the destination has a record of ours, which held.
	Recorded  bool     `json:"recorded"`
	Tensors   int      `json:"tensors"` // of the source, each accounted for
	Quantised int      `json:"quantised"`
	Elements  int64    `json:"elements"` // compared
	BytesIn   int64    `json:"bytes_in"`
	BytesOut  int64    `json:"bytes_out"`
	Rules     []string `json:"rules"` // that held, in order
	// WorstSQNR is the lowest of any tensor in dB, and WorstTensor its name;
	// absent where nothing lost precision.
	WorstSQNR   float64 `json:"worst_sqnr_db,omitempty"`
	WorstTensor string  `json:"worst_tensor,omitempty"`
	// Codes counts the int8 codes of all quantised weights, from -128 to 127.
	Codes    []int64         `json:"codes,omitempty"`
	Measured []CheckedTensor `json:"measured,omitempty"`
	Base     *BaseReport     `json:"base,omitempty"`
	// Violation is the first rule that is broken; nil if none is.
	Violation *Violation `json:"violation,omitempty"`
}

// Passed reports whether every rule held.
func (r *CheckReport) Passed() bool { return r.Violation == nil }

// CheckOptions of a check. The zero value is Check's.
type CheckOptions struct {
	// Base is the model that the source was fine-tuned from; with it, the check also
	// proves that the conversion has not lost the fine-tune.
	Base string
	// Workers is how many tensors are compared at once; default one per processor.
	Workers  int
	Progress progress.Func
}

// Check proves that dst is a faithful conversion of src, whoever made it: it
// reads both again with decoders of its own and holds every rule against them,
// in order, until one is broken. The format is recognised from the files. An
// error is of the source or the environment; what is wrong with the destination
// is the report's Violation.
func Check(ctx context.Context, src, dst string) (*CheckReport, error) {
	return CheckWith(ctx, src, dst, CheckOptions{})
}

// CheckWith is Check with options.
func CheckWith(ctx context.Context, src, dst string, o CheckOptions) (*CheckReport, error) {
	rep := &CheckReport{}
	o.Workers = cmp.Or(o.Workers, runtime.GOMAXPROCS(0))
	c := &checker{srcDir: src, dstDir: dst, report: rep, options: o}
	defer c.close()
	if err := c.openSource(); err != nil {
		return nil, fmt.Errorf("check: source %s: %w", src, err)
	}
	if err := c.recognise(); err != nil {
		return nil, fmt.Errorf("check %s: %w", dst, err)
	}
	for _, r := range c.format.rules(c) {
		err := r.hold(ctx)
		if v, ok := errors.AsType[*Violation](err); ok {
			v.Rule, rep.Violation = r.name, v
			return rep, nil
		}
		if err != nil {
			return nil, fmt.Errorf("check %s: %w", dst, err)
		}
		rep.Rules = append(rep.Rules, r.name)
	}
	return rep, nil
}

// checker holds what the rules look at.
type checker struct {
	srcDir, dstDir string
	options        CheckOptions
	report         *CheckReport

	config  []byte
	model   modelConfig
	arch    architecture
	names   naming
	src     *tensor.Dir
	weights []*weight
	format  format

	dst        *tensor.Dir
	dstModel   modelConfig
	exact      bool // a record of ours says that scales are float32
	foreign    bool // no record of ours
	pairs      []pair
	types      map[string]string // the description's, by tensor
	typesModel string

	mu       sync.Mutex
	compared int64 // bytes of both sides
}

// tell reports, in megabytes of both sides, how far a comparison is.
func (c *checker) tell(bytes int64, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.compared += bytes
	c.options.Progress.Report(progress.Update{Stage: "check", Done: float64(c.compared) / 1e6,
		Total: float64(c.report.BytesIn+c.report.BytesOut) / 1e6, Unit: "MB", Note: c.report.Format + ": " + name})
}

// told ends the progress of a comparison.
func (c *checker) told() {
	all := float64(c.report.BytesIn+c.report.BytesOut) / 1e6
	c.options.Progress.Report(progress.Update{Stage: "check", Done: all, Total: all, Unit: "MB", Note: c.report.Format})
}

// pair is a weight of the source and the tensor that it became.
type pair struct {
	from  *weight
	to    tensor.Info
	enc   encoding // plain, int8Column, fp8Code
	scale string   // name; empty for plain
}

func (c *checker) close() {
	for _, d := range []*tensor.Dir{c.src, c.dst} {
		if d != nil {
			d.Close() // opened for reading: nothing can be lost
		}
	}
}

func (c *checker) openSource() (err error) {
	c.src, c.weights, c.config, c.model, err = openWeights(c.srcDir)
	if err != nil {
		return err
	}
	if c.arch, _, err = findArchitecture(c.model.ModelType); err != nil {
		return err
	}
	c.names = newNaming(c.arch, has(c.src))
	c.report.Architecture = c.model.ModelType
	return nil
}

// openWeights opens a model directory and pairs its weights with their scales.
func openWeights(dir string) (d *tensor.Dir, weights []*weight, config []byte, m modelConfig, err error) {
	if config, err = os.ReadFile(filepath.Join(dir, "config.json")); err != nil {
		return nil, nil, nil, m, err
	}
	if m, err = parseConfig(config); err != nil {
		return nil, nil, nil, m, err
	}
	if err = m.Quant.readable(); err != nil {
		return nil, nil, nil, m, err
	}
	arch, _, err := findArchitecture(m.ModelType)
	if err != nil {
		return nil, nil, nil, m, err
	}
	if d, err = tensor.OpenDir(dir); err != nil {
		return nil, nil, nil, m, err
	}
	if weights, err = pairs(d.Infos(), m, newNaming(arch, has(d))); err != nil {
		return nil, nil, nil, m, errors.Join(err, d.Close())
	}
	return d, weights, config, m, nil
}

func has(d *tensor.Dir) func(name string) bool {
	return func(name string) bool { _, ok := d.Info(name); return ok }
}

// directory is what a format is recognised by.
type directory struct {
	names  []string // of its files
	method string   // quant_method; empty without one, or without a configuration
	fp4    bool     // the source has FP4 weights
}

func isAscend(d directory) bool     { return slices.Contains(d.names, descriptionName) }
func isCompressed(d directory) bool { return d.method == "compressed-tensors" }
func isFP8Block(d directory) bool   { return d.method == "fp8" && !d.fp4 }
func isFP8(d directory) bool        { return d.method == "fp8" && d.fp4 }
func isBF16(directory) bool         { return true }

// recognise finds the format of the destination, and the record of ours if there is one.
func (c *checker) recognise() error {
	names, err := fileNames(c.dstDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	d := directory{names: names, fp4: slices.ContainsFunc(c.weights, func(w *weight) bool { return w.enc == fp4Code })}
	if b, err := os.ReadFile(filepath.Join(c.dstDir, "config.json")); err == nil {
		if m, err := parseConfig(b); err == nil { // a broken one breaks a rule later
			d.method, c.dstModel = m.Quant.Method, m
		}
	}
	for _, f := range formatTable() {
		if f.recognise(d) {
			c.format, c.report.Format = f, f.name
			return nil
		}
	}
	return errors.New("it holds no format that is known")
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
	if r.Base != nil {
		s += fmt.Sprintf(", %.1f %% of the fine-tune kept", 100*r.Base.Kept)
	}
	return s
}
