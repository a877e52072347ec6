package reference

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// The values of quant_method in quantization_config that can be loaded.
const (
	methodFP8        = "fp8"
	methodCompressed = "compressed-tensors"
)

// readQuantization reads quantization_config. Methods other than fp8 and
// compressed-tensors are only named; whether they can be loaded is for Load to
// say.
func (c *Config) readQuantization(f *fields) {
	f.ignore("quantization_config")
	if !f.has("quantization_config") {
		return
	}
	q, err := parseFields(f.raw["quantization_config"], "quantization_config.")
	if err != nil {
		f.fail("config field \"quantization_config\": %w", err)
		return
	}
	c.Quantization = q.text("quant_method")
	switch c.Quantization {
	case "":
		q.fail("config field \"quantization_config.quant_method\" is missing")
	case methodFP8:
		c.readFP8(q)
	case methodCompressed:
		c.Compressed = readCompressed(q)
	default:
		return
	}
	if err := q.done(); err != nil {
		f.fail("%w", err)
	}
}

// readFP8 reads DeepSeek's FP8 blocks.
func (c *Config) readFP8(q *fields) {
	q.must("fmt", "e4m3")
	q.must("activation_scheme", "dynamic")
	q.ignore("modules_to_not_convert", "ignored_layers", "dequantize")
	block := []int{128, 128}
	q.get("weight_block_size", &block)
	if len(block) != 2 || block[0] < 1 || block[1] < 1 || block[0] > sizeLimit || block[1] > sizeLimit {
		q.fail("config field \"quantization_config.weight_block_size\" is %v: want two positive numbers", block)
		return
	}
	c.QuantizationBlock = [2]int{block[0], block[1]}
	c.QuantizationScaleFormat = q.text("scale_fmt")
	if s := c.QuantizationScaleFormat; s != "" && s != "ue8m0" {
		q.fail("config field \"quantization_config.scale_fmt\" is %q: only ue8m0 is known", s)
	}
}

// CompressedTensors says which linears of a model that compressed-tensors
// (llm-compressor) wrote are int8: those that Targets match and Ignore does
// not. An entry is "Linear", which means all, a module's name, or "re:" and a
// regular expression for the beginning of one.
type CompressedTensors struct {
	Targets, Ignore []string
}

// readCompressed reads the one scheme that is computed: int8 weights with a
// symmetric scale per output, int8 activations with a symmetric scale per
// token, found on the spot.
func readCompressed(q *fields) *CompressedTensors {
	const format = "int-quantized"
	out := &CompressedTensors{}
	q.required("format", format)
	q.must("quantization_status", "compressed")
	q.ignore("version", "global_compression_ratio")
	q.mustBeNull("kv_cache_scheme")
	q.mustBeEmpty("transform_config")
	if q.has("sparsity_config") && !emptyObject(q.raw["sparsity_config"]) {
		q.inside("sparsity_config", func(f *fields) {
			f.required("format", "dense")
			f.ignore("global_sparsity", "sparsity_structure", "registry_requires_subclass", "ignore", "targets")
		})
	}
	q.ignore("sparsity_config")
	q.get("ignore", &out.Ignore)
	q.inside("config_groups", func(groups *fields) {
		if len(groups.raw) == 0 {
			groups.fail("config field \"quantization_config.config_groups\" is empty: nothing would be quantised")
		}
		for _, name := range slices.Sorted(maps.Keys(groups.raw)) {
			groups.inside(name, func(g *fields) {
				g.must("format", format)
				g.mustBeNull("output_activations")
				g.inside("weights", func(w *fields) { w.int8Scheme("channel", false) })
				g.inside("input_activations", func(a *fields) { a.int8Scheme("token", true) })
				var targets []string
				if !g.get("targets", &targets) {
					g.fail("config field %q is missing", g.prefix+"targets")
				}
				out.Targets = append(out.Targets, targets...)
				g.checkPatterns("targets", targets)
			})
		}
	})
	q.checkPatterns("ignore", out.Ignore)
	return out
}

// int8Scheme reads one QuantizationArgs.
func (f *fields) int8Scheme(strategy string, dynamic bool) {
	f.required("num_bits", 8)
	f.required("type", "int")
	f.required("strategy", strategy)
	f.required("symmetric", true)
	if dynamic {
		f.required("dynamic", true)
	} else {
		f.must("dynamic", false)
	}
	for _, name := range []string{"group_size", "block_structure", "actorder", "scale_dtype"} {
		f.mustBeNull(name)
	}
	f.ignore("observer", "observer_kwargs", "zp_dtype") // how scales were found, and zero points, which symmetry has none of
}

// required is must for a field without a default.
func (f *fields) required(name string, want any) {
	if !f.has(name) {
		f.fail("config field %q is missing: only %v is supported", f.prefix+name, want)
	}
	f.must(name, want)
}

func (f *fields) mustBeNull(name string) {
	f.read[name] = true
	if f.has(name) {
		f.fail("config field %q is %s: only null is supported", f.prefix+name, f.raw[name])
	}
}

func (f *fields) mustBeEmpty(name string) {
	f.read[name] = true
	if f.has(name) && !emptyObject(f.raw[name]) {
		f.fail("config field %q is %s: only {} is supported", f.prefix+name, f.raw[name])
	}
}

func emptyObject(raw json.RawMessage) bool {
	var m map[string]json.RawMessage
	return json.Unmarshal(raw, &m) == nil && len(m) == 0 && !bytes.Equal(bytes.TrimSpace(raw), []byte("null"))
}

// inside reads an object that a field must hold.
func (f *fields) inside(name string, read func(*fields)) {
	f.read[name] = true
	if !f.has(name) {
		f.fail("config field %q is missing or null", f.prefix+name)
		return
	}
	inner, err := parseFields(f.raw[name], f.prefix+name+".")
	if err != nil {
		f.fail("config field %q: %w", f.prefix+name, err)
		return
	}
	read(inner)
	if err := inner.done(); err != nil {
		f.fail("%w", err)
	}
}

// checkPatterns refuses entries that would silently match nothing.
func (f *fields) checkPatterns(field string, entries []string) {
	for _, e := range entries {
		pattern, isPattern := strings.CutPrefix(e, "re:")
		if isPattern {
			if _, err := modulePattern(pattern); err != nil {
				f.fail("config field %q has %q: %w", f.prefix+field, e, err)
			}
		} else if e != "Linear" && e != "lm_head" && !strings.Contains(e, ".") {
			f.fail("config field %q has %q: only Linear, names of modules and re: patterns are supported", f.prefix+field, e)
		}
	}
}

// modulePattern compiles a pattern as Python's re.match takes it: from the
// beginning, to anywhere.
func modulePattern(pattern string) (*regexp.Regexp, error) {
	re, err := regexp.Compile("^(?:" + pattern + ")")
	if err != nil {
		return nil, fmt.Errorf("pattern cannot be used: %w", err)
	}
	return re, nil
}

// matcher returns what says whether the linear of a name is int8.
func (c *CompressedTensors) matcher() func(module string) bool {
	targets, ignore := matchAny(c.Targets), matchAny(c.Ignore)
	return func(module string) bool { return targets(module) && !ignore(module) }
}

func matchAny(entries []string) func(module string) bool {
	all, names := slices.Contains(entries, "Linear"), map[string]bool{}
	var patterns []*regexp.Regexp
	for _, e := range entries {
		names[e] = true
		if pattern, ok := strings.CutPrefix(e, "re:"); ok {
			if re, err := modulePattern(pattern); err == nil { // checked when it was read
				patterns = append(patterns, re)
			}
		}
	}
	return func(module string) bool {
		return all || names[module] || slices.ContainsFunc(patterns, func(re *regexp.Regexp) bool { return re.MatchString(module) })
	}
}
