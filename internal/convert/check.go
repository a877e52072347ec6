package convert

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"tarbert/internal/tensor"
)

// CheckReport is what Check found.
type CheckReport struct {
	Format       string `json:"format"`
	Architecture string `json:"architecture"`
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
	// Violation is the first rule that is broken; nil if none is.
	Violation *Violation `json:"violation,omitempty"`
}

// Passed reports whether every rule held.
func (r *CheckReport) Passed() bool { return r.Violation == nil }

// Check proves that dst is a faithful conversion of src, whoever made it: it
// reads both again with decoders of its own and holds every rule against them,
// in order, until one is broken. The format is recognised from the files. An
// error is of the source or the environment; what is wrong with the destination
// is the report's Violation.
func Check(ctx context.Context, src, dst string) (*CheckReport, error) {
	rep := &CheckReport{}
	c := &checker{srcDir: src, dstDir: dst, report: rep}
	defer c.close()
	if err := c.openSource(); err != nil {
		return nil, fmt.Errorf("check: source %s: %w", src, err)
	}
	rules := []struct {
		name string
		hold func(context.Context) error
	}{
		{"readable", c.readable},
		{"config", c.configs},
		{"files", c.copies},
		{"complete", c.complete},
		{"description", c.describes},
		{"fused", c.fused},
		{"scales", c.scales},
		{"bound", c.bounds},
		{"record", c.recorded},
	}
	for _, r := range rules {
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
	report         *CheckReport

	config     []byte
	model      modelConfig
	arch       architecture
	src, dst   *tensor.Dir
	exact      bool   // a record of ours says that scales are float32
	foreign    bool   // no record of ours
	quantised  []pair // in natural order
	floats     []pair
	types      map[string]string // the description's, by tensor
	typesModel string
}

// pair is a source tensor and the one of the same name in the destination.
type pair struct{ from, to tensor.Info }

func (c *checker) close() {
	for _, d := range []*tensor.Dir{c.src, c.dst} {
		if d != nil {
			d.Close() // opened for reading: nothing can be lost
		}
	}
}

func (c *checker) openSource() (err error) {
	if c.config, err = os.ReadFile(filepath.Join(c.srcDir, "config.json")); err != nil {
		return err
	}
	if c.model, err = parseConfig(c.config); err != nil {
		return err
	}
	if c.model.quantised() {
		return errors.New("config.json has a quantization_config: give the float model that was converted")
	}
	if c.arch, _, err = findArchitecture(c.model.ModelType); err != nil {
		return err
	}
	c.report.Architecture = c.model.ModelType
	c.src, err = tensor.OpenDir(c.srcDir)
	return err
}

// readable: the destination's weights open, their index is the union of their
// headers, and the description, where there is one, can be read.
func (c *checker) readable(context.Context) (err error) {
	if c.dst, err = tensor.OpenDir(c.dstDir); err != nil {
		return violation("", c.dstDir, "%v", err)
	}
	c.report.Format = BF16
	b, err := os.ReadFile(filepath.Join(c.dstDir, descriptionName))
	if err == nil {
		c.report.Format = W8A8Ascend
		if c.types, c.typesModel, err = parseDescription(b); err != nil {
			return violation("", descriptionName, "%v", err)
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	rec, err := ReadRecord(c.dstDir)
	if c.foreign = errors.Is(err, errForeign); err != nil && !c.foreign {
		return violation("", recordName, "%v", err)
	}
	c.exact = rec != nil && rec.Rounding == Exact && c.report.Format == W8A8Ascend
	return nil
}

// configs: the destination's configuration is the source's, but of a bfloat16
// model without quantization_config, in either spelling.
func (c *checker) configs(context.Context) error {
	b, err := os.ReadFile(filepath.Join(c.dstDir, "config.json"))
	if errors.Is(err, os.ErrNotExist) {
		return violation("", "config.json", "missing")
	}
	if err != nil {
		return err
	}
	got, err := parseObject(b)
	if err != nil {
		return violation("", "config.json", "%v", err)
	}
	edited, err := editConfig(c.config)
	if err != nil {
		return err
	}
	want, err := parseObject(edited)
	if err != nil {
		return err
	}
	if present(got.get("quantization_config")) {
		return violation("", "config.json", "it has a quantization_config: vllm-ascend goes by %s alone", descriptionName)
	}
	for _, key := range []string{"dtype", "torch_dtype"} {
		if v := got.get(key); v != nil && string(v) != `"bfloat16"` {
			return violation("", "config.json", "%s is %s: scales of another type than bfloat16 crash the int8 kernels", key, v)
		}
	}
	return sameMembers(want, got)
}

// sameMembers compares two configurations but for dtypes and the version of the
// program that wrote them.
func sameMembers(want, got object) error {
	free := []string{"dtype", "torch_dtype", "transformers_version", "quantization_config", "_name_or_path"}
	for _, m := range want {
		if slices.Contains(free, m.key) {
			continue
		}
		v := got.get(m.key)
		if v == nil {
			return violation("", "config.json", "%q is missing; the source has %s", m.key, compact(m.value))
		}
		if !sameJSON(v, m.value) {
			return violation("", "config.json", "%q is %s; the source has %s", m.key, compact(v), compact(m.value))
		}
	}
	for _, m := range got {
		if !slices.Contains(free, m.key) && want.get(m.key) == nil {
			return violation("", "config.json", "%q is not in the source's", m.key)
		}
	}
	return nil
}

// copies: the files that turn text into tokens are the source's, to the byte.
func (c *checker) copies(ctx context.Context) error {
	files, err := listSource(c.srcDir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if f.left != "" || !aboutText(f.name) {
			continue
		}
		want, err := digestFile(ctx, filepath.Join(c.srcDir, f.name))
		if err != nil {
			return err
		}
		got, err := digestFile(ctx, filepath.Join(c.dstDir, f.name))
		if errors.Is(err, os.ErrNotExist) {
			return violation("", f.name, "missing: the source has it")
		}
		if err != nil {
			return err
		}
		if got.SHA256 != want.SHA256 {
			return violation("", f.name, "differs from the source's")
		}
	}
	return nil
}

// aboutText reports whether a file takes part in turning text into tokens and back.
func aboutText(name string) bool {
	for _, pattern := range []string{"tokenizer*", "vocab*", "merges.txt", "chat_template*", "special_tokens_map.json",
		"added_tokens.json", "generation_config.json", "*.model", "*.tiktoken"} {
		if matches(pattern, name) {
			return true
		}
	}
	return false
}

// recorded: where the destination has a record of ours, it is of this source and
// its files are as they were written.
func (c *checker) recorded(ctx context.Context) error {
	if c.foreign {
		return nil
	}
	rec, err := ReadRecord(c.dstDir)
	if err != nil {
		return violation("", recordName, "%v", err)
	}
	if err := rec.verify(ctx, c.dstDir); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return violation("", recordName, "%v", err)
	}
	files, err := listSource(c.srcDir)
	if err != nil {
		return err
	}
	digest, err := (&conversion{src: c.srcDir, files: files, weights: c.src}).sourceDigest(ctx)
	if err != nil {
		return err
	}
	if digest != rec.SourceDigest {
		return violation("", recordName, "it is the record of another source: digest %s, not %s", rec.SourceDigest, digest)
	}
	c.report.Recorded = true
	return nil
}

// bounds: every element decodes to within what its format's rounding can cost.
func (c *checker) bounds(ctx context.Context) error {
	pairs := slices.Concat(c.floats, c.quantised)
	found := make([]deviation, len(pairs))
	err := inOrder(ctx, len(pairs), runtime.GOMAXPROCS(0), func(i int) error {
		if pairs[i].to.DType == tensor.I8 {
			return c.boundInt8(pairs[i], &found[i])
		}
		return c.boundFloat(pairs[i], &found[i])
	})
	for i, e := range found {
		c.report.Elements += pairs[i].from.Elements()
		if e.noise > 0 && (c.report.WorstTensor == "" || e.sqnr() < c.report.WorstSQNR) {
			c.report.WorstSQNR, c.report.WorstTensor = e.sqnr(), pairs[i].from.Name
		}
	}
	return err
}
