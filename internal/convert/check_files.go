package convert

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"tarbert/internal/tensor"
)

// safetensorsRules are those of the formats whose weights are safetensors.
func safetensorsRules(c *checker) []rule {
	rules := []rule{{"readable", c.readable}, {"config", c.configs}, {"files", c.copies}, {"complete", c.complete}}
	if c.format.name == W8A8Ascend {
		rules = append(rules, rule{"description", c.describes})
	}
	rules = append(rules, rule{"fused", c.fused}, rule{"scales", c.scales}, rule{"bound", c.bounds}, rule{"record", c.recorded})
	if c.options.Base != "" {
		rules = append(rules, rule{"base", c.based})
	}
	return rules
}

// readable: the destination's weights open, their index is the union of their
// headers, and the description, where there is one, can be read.
func (c *checker) readable(context.Context) (err error) {
	if c.dst, err = tensor.OpenDir(c.dstDir); err != nil {
		return violation("", c.dstDir, "%v", err)
	}
	if c.format.name == W8A8Ascend {
		b, err := os.ReadFile(filepath.Join(c.dstDir, descriptionName))
		if err != nil {
			return err
		}
		if c.types, c.typesModel, err = parseDescription(b); err != nil {
			return violation("", descriptionName, "%v", err)
		}
	}
	rec, err := ReadRecord(c.dstDir)
	if c.foreign = errors.Is(err, errForeign); err != nil && !c.foreign {
		return violation("", recordName, "%v", err)
	}
	if rec != nil && c.format.int8 {
		c.report.Rounding = rec.Rounding
	}
	c.exact = c.report.Rounding == Exact
	return nil
}

// configs: the destination's configuration is the source's, but of a bfloat16
// model, with what the format says of its quantisation and no other.
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
	e := edit{}
	if c.format.name == FP8 {
		e = edit{keep: true, experts: "fp8"}
	}
	edited, err := e.apply(c.config)
	if err != nil {
		return err
	}
	want, err := parseObject(edited)
	if err != nil {
		return err
	}
	if err := c.quantisation(got); err != nil {
		return err
	}
	for _, key := range []string{"dtype", "torch_dtype"} {
		if v := got.get(key); v != nil && string(v) != `"bfloat16"` {
			return violation("", "config.json", "%s is %s: scales of another type than bfloat16 crash the int8 kernels", key, v)
		}
	}
	return sameMembers(want, got)
}

// quantisation judges quantization_config and expert_dtype.
func (c *checker) quantisation(got object) error {
	quant := got.get("quantization_config")
	switch c.format.name {
	case W8A8Ascend:
		if present(quant) {
			return violation("", "config.json", "it has a quantization_config: vllm-ascend goes by %s alone", descriptionName)
		}
	case BF16:
		if present(quant) {
			return violation("", "config.json", "it has a quantization_config, but no weight is quantised: engines would look for scales")
		}
	case FP8Block, FP8:
		q := c.dstModel.Quant
		if q.Block[0] <= 0 || q.Block[1] <= 0 {
			return violation("", "config.json", "quantization_config has no weight_block_size of two positive numbers")
		}
		if c.format.name == FP8 && q.Experts != "fp8" {
			return violation("", "config.json", "expert_dtype is %q: engines take anything but \"fp8\" for FP4", q.Experts)
		}
	case W8A8Compressed:
		return c.compressedQuantisation(quant)
	}
	return nil
}

// compressedQuantisation: int8, symmetric, a scale for each channel and token, as
// the only group.
func (c *checker) compressedQuantisation(quant json.RawMessage) error {
	type scheme struct {
		Bits      int    `json:"num_bits"`
		Type      string `json:"type"`
		Strategy  string `json:"strategy"`
		Symmetric bool   `json:"symmetric"`
		Dynamic   any    `json:"dynamic"`
	}
	var q struct {
		Format string   `json:"format"`
		Ignore []string `json:"ignore"`
		Groups map[string]struct {
			Weights     scheme `json:"weights"`
			Activations scheme `json:"input_activations"`
		} `json:"config_groups"`
	}
	if err := json.Unmarshal(quant, &q); err != nil {
		return violation("", "config.json", "quantization_config: %v", err)
	}
	if q.Format != "int-quantized" || len(q.Groups) != 1 {
		return violation("", "config.json", "quantization_config has format %q and %d groups; it must be int-quantized, and one", q.Format, len(q.Groups))
	}
	for _, g := range q.Groups {
		want := [2]scheme{{8, "int", "channel", true, false}, {8, "int", "token", true, true}}
		if got := [2]scheme{g.Weights, g.Activations}; got != want {
			return violation("", "config.json", "quantization_config describes weights and activations as %+v; they are %+v", got, want)
		}
	}
	return c.allIgnored(q.Ignore)
}

// allIgnored: an engine looks for the scales of every linear layer that it is not
// told to ignore.
func (c *checker) allIgnored(patterns []string) error {
	exact := map[string]bool{}
	var re []*regexp.Regexp
	for _, p := range patterns {
		expr, ok := strings.CutPrefix(p, "re:")
		if !ok {
			exact[p] = true
			continue
		}
		r, err := regexp.Compile("^(?:" + expr + ")")
		if err != nil {
			return violation("", "config.json", "ignore has %q, which cannot be read: %v", p, err)
		}
		re = append(re, r)
	}
	for _, info := range c.dst.Infos() {
		module, ok := strings.CutSuffix(info.Name, ".weight")
		if !ok || len(info.Shape) != 2 || info.DType == tensor.I8 || strings.HasSuffix(module, "embed_tokens") || module == "embed" || exact[module] {
			continue
		}
		if !slices.ContainsFunc(re, func(r *regexp.Regexp) bool { return r.MatchString(module) }) {
			return violation("", "config.json", "%s is not quantised, and ignore does not list it: an engine would look for its scale", module)
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

// sameMembers compares two configurations but for dtypes and the version of the
// program that wrote them.
func sameMembers(want, got object) error {
	free := []string{"dtype", "torch_dtype", "transformers_version", "quantization_config", "_name_or_path", "expert_dtype"}
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
	digest, err := (&conversion{src: c.srcDir, sources: files, weights: c.src}).sourceDigest(ctx)
	if err != nil {
		return err
	}
	if digest != rec.SourceDigest {
		return violation("", recordName, "it is the record of another source: digest %s, not %s", rec.SourceDigest, digest)
	}
	c.report.Recorded = true
	return nil
}

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
