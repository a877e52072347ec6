package convert

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// smallHuggingFace writes the index, the configuration as the format has it, and
// copies of the model's other files.
func smallHuggingFace(ctx context.Context, c *conversion, dir string, rep *Report) error {
	if err := c.writeIndex(dir); err != nil {
		return err
	}
	for _, f := range c.sources {
		r, err := c.smallFile(ctx, dir, f)
		if err != nil {
			return err
		}
		rep.Files = append(rep.Files, r)
	}
	return nil
}

// smallAscend adds the description, last.
func smallAscend(ctx context.Context, c *conversion, dir string, rep *Report) error {
	if err := smallHuggingFace(ctx, c, dir, rep); err != nil {
		return err
	}
	arch, _, err := findArchitecture(c.model.ModelType)
	if err != nil {
		return err
	}
	return writeWith(filepath.Join(dir, descriptionName), describe(c.steps, arch.Order).encode)
}

// smallFile copies, edits or leaves one file of the source.
func (c *conversion) smallFile(ctx context.Context, dir string, f sourceFile) (FileReport, error) {
	r := FileReport{Name: f.name, Action: "copied", Size: f.size, Reason: f.left}
	switch {
	case slices.Contains(c.weights.Files(), f.name):
		r.Action, r.Reason = "converted", ""
	case f.left != "":
		r.Action = "left"
	case f.name == "config.json":
		text, err := c.edit().apply(c.config)
		if err != nil {
			return r, err
		}
		if !bytes.Equal(text, c.config) {
			r.Action = "edited"
		}
		return r, writeNew(filepath.Join(dir, f.name), text)
	default:
		return r, copyFile(ctx, filepath.Join(c.src, f.name), filepath.Join(dir, f.name))
	}
	return r, nil
}

// edit is what the format makes of the configuration.
func (c *conversion) edit() edit {
	switch c.format.name {
	case W8A8Compressed:
		return edit{quant: compressedConfig(c.ignored())}
	case FP8Block:
		return edit{quant: fp8Config(c.options.Scales, c.ignored())}
	case FP8:
		return edit{keep: true, experts: "fp8"}
	}
	return edit{}
}

// ignored lists the linear modules that stay float, as the destination names them:
// an engine that is not told would look for their scales. A layer for
// multi-token prediction that is float as a whole is one pattern.
func (c *conversion) ignored() []string {
	var names []string
	for i := range c.steps {
		s := &c.steps[i]
		module, ok := strings.CutSuffix(s.weight.name, ".weight")
		if !ok || len(s.weight.shape) != 2 || s.action == Quantised || s.action == Dropped || strings.HasSuffix(module, "embed_tokens") {
			continue
		}
		name := strings.TrimSuffix(s.slots[0].name, ".weight")
		if layer, ok := c.model.mtpLayer(module); ok && c.format.name == W8A8Compressed {
			prefix, _, _ := strings.Cut(name, "."+layer+".")
			name = fmt.Sprintf(`re:%s\.%s\..*`, regexp.QuoteMeta(prefix), layer)
		}
		names = append(names, name)
	}
	if c.format.name == W8A8Compressed && !slices.Contains(names, "lm_head") && c.model.Tied {
		names = append(names, "lm_head") // no tensor of its own, but a module
	}
	slices.SortFunc(names, natural)
	return slices.Compact(names)
}

// compressedConfig is the quantization_config of llm-compressor 0.14 for W8A8.
func compressedConfig(ignored []string) object {
	scheme := func(strategy, dynamic, observer string) string {
		return fmt.Sprintf(`{"actorder":null,"block_structure":null,"dynamic":%s,"group_size":null,"num_bits":8,"observer":%s,"observer_kwargs":{},`+
			`"scale_dtype":null,"strategy":%q,"symmetric":true,"type":"int","zp_dtype":null}`, dynamic, observer, strategy)
	}
	return object{
		{"config_groups", raw(fmt.Sprintf(`{"group_0":{"format":"int-quantized","input_activations":%s,"output_activations":null,"targets":["Linear"],"weights":%s}}`,
			scheme("token", "true", "null"), scheme("channel", "false", `"memoryless_minmax"`)))},
		{"format", raw(`"int-quantized"`)},
		{"global_compression_ratio", raw("null")},
		{"ignore", list(ignored)},
		{"kv_cache_scheme", raw("null")},
		{"quant_method", raw(`"compressed-tensors"`)},
		{"quantization_status", raw(`"compressed"`)},
		{"sparsity_config", raw("{}")},
		{"transform_config", raw("{}")},
		{"version", raw(`"0.19.0"`)},
	}
}

// fp8Config is the quantization_config of DeepSeek-V3, with the modules that
// engines must not look for scales of.
func fp8Config(scales Scales, ignored []string) object {
	o := object{
		{"activation_scheme", raw(`"dynamic"`)},
		{"fmt", raw(`"e4m3"`)},
		{"quant_method", raw(`"fp8"`)},
		{"weight_block_size", raw(fmt.Sprintf("[%d,%d]", fp8Block[0], fp8Block[1]))},
	}
	if scales == ScalesE8M0 {
		o = append(o, member{"scale_fmt", raw(`"ue8m0"`)})
	}
	return append(o, member{"modules_to_not_convert", list(ignored)})
}
