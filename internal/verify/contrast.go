package verify

import (
	"path/filepath"
	"slices"
	"strings"
)

// Contrast is the candidate started once more with one thing changed. If that
// closes the gap, the thing is the cause.
type Contrast struct {
	Name  string   `json:"name"`
	Blame string   `json:"blame"` // what is to blame if it closes the gap
	Argv  []string `json:"argv"`
}

// change is one contrast of one program: flags that are set (with their value,
// or without) or taken away. when, if set, must be given in the command for the
// contrast to mean anything.
type change struct {
	name, blame string
	when        string
	set         []string // flag, value; value "" = a flag alone
	drop        string
	hints       []string // words of causes that put it first
}

var contrastsOf = map[string][]change{
	"vllm": {
		{"the rotary embedding without its kernel", "the engine's rotary_embedding kernel", "", []string{"--compilation-config", `{"custom_ops":["-rotary_embedding"]}`}, "", []string{"rotary", "position"}},
		{"no custom operations", "one of the engine's custom operations", "", []string{"--compilation-config", `{"custom_ops":["none"]}`}, "", []string{"every token", "whole", "position"}},
		{"eager mode", "graph capture or compilation", "", []string{"--enforce-eager", ""}, "", []string{"decode", "graph"}},
		{"KV cache in the model's dtype", "the KV cache's dtype or scale", "--kv-cache-dtype", []string{"--kv-cache-dtype", "auto"}, "", []string{"cache", "decode"}},
		{"tensor parallel 1", "tensor parallelism: shards or collectives", "--tensor-parallel-size", []string{"--tensor-parallel-size", "1"}, "", []string{"shard", "load"}},
		{"no prefix cache", "the prefix cache", "", []string{"--no-enable-prefix-caching", ""}, "", []string{"paging", "cache"}},
		{"no chunked prefill", "chunked prefill", "", []string{"--no-enable-chunked-prefill", ""}, "", []string{"certain lengths"}},
		{"no speculative decoding", "speculative decoding", "--speculative-config", nil, "--speculative-config", []string{"decode", "sampler"}},
		{"no quantisation flag", "the quantisation that is asked for", "--quantization", nil, "--quantization", []string{"quantisation", "noise"}},
		{"float32", "the dtype of computation", "", []string{"--dtype", "float32"}, "", []string{"noise", "rounding", "overflow"}},
	},
	"sglang": {
		{"eager mode", "graph capture", "", []string{"--disable-cuda-graph", ""}, "", []string{"decode", "graph"}},
		{"KV cache in the model's dtype", "the KV cache's dtype or scale", "--kv-cache-dtype", []string{"--kv-cache-dtype", "auto"}, "", []string{"cache", "decode"}},
		{"tensor parallel 1", "tensor parallelism: shards or collectives", "--tp", []string{"--tp", "1"}, "", []string{"shard", "load"}},
		{"no prefix cache", "the prefix cache", "", []string{"--disable-radix-cache", ""}, "", []string{"paging", "cache"}},
		{"no speculative decoding", "speculative decoding", "--speculative-algorithm", nil, "--speculative-algorithm", []string{"decode", "sampler"}},
		{"no chunked prefill", "chunked prefill", "", []string{"--chunked-prefill-size", "-1"}, "", []string{"certain lengths"}},
	},
	"llama-server": {
		{"no flash attention", "the flash attention kernel", "", []string{"-fa", "off"}, "", []string{"position", "attention"}},
		{"KV cache in float32", "the KV cache's dtype", "", []string{"-ctk", "f32", "-ctv", "f32"}, "", []string{"cache", "decode"}},
		{"no repacking", "a repacked weight layout", "", []string{"--no-repack", ""}, "", []string{"every token", "whole"}},
	},
	"tarbert": {
		{"activations in float32", "the precision of computation (activations in 8 bits, bf16)", "", []string{"--precision", "f32"}, "", []string{"noise", "quantisation"}},
		{"computed in bf16", "activations in 8 bits", "", []string{"--precision", "bf16"}, "", nil},
	},
}

// Contrasts are the experiments that a command allows, those first that the
// causes read from the signature point at. Reference, if set, is a model
// directory that stands in for the candidate's: the same engine on the right
// weights tells weights from engine, and comes first. A contrast that would
// change nothing is left out.
func Contrasts(argv []string, causes []Cause, reference string) []Contrast {
	program := programOf(argv)
	changes := slices.Clone(contrastsOf[program])
	rank := func(c change) int {
		for i, cause := range causes {
			for _, h := range c.hints {
				if strings.Contains(cause.Name, h) {
					return i
				}
			}
		}
		return len(causes)
	}
	slices.SortStableFunc(changes, func(a, b change) int { return rank(a) - rank(b) })
	var out []Contrast
	if at := modelAt(argv, program); reference != "" && at >= 0 && argv[at] != reference {
		swapped := slices.Clone(argv)
		swapped[at] = reference
		out = append(out, Contrast{"the reference's weights in the candidate's engine", "the candidate's weights", swapped})
	}
	for _, c := range changes {
		if c.when != "" && flagAt(argv, c.when) < 0 {
			continue
		}
		changed := slices.Clone(argv)
		if c.drop != "" {
			changed = without(changed, c.drop)
		}
		for i := 0; i+1 < len(c.set); i += 2 {
			changed = with(changed, c.set[i], c.set[i+1])
		}
		if !slices.Equal(changed, argv) {
			out = append(out, Contrast{c.name, c.blame, changed})
		}
	}
	return out
}

// programOf names the engine that a command starts, whatever starts it.
func programOf(argv []string) string {
	for _, a := range argv {
		switch base := filepath.Base(a); {
		case base == "vllm" || strings.HasPrefix(a, "vllm.entrypoints"):
			return "vllm"
		case strings.HasPrefix(a, "sglang.launch_server") || base == "sglang":
			return "sglang"
		case base == "llama-server" || base == "tarbert":
			return base
		}
	}
	return ""
}

// modelAt is where the command names the model; -1 = not found.
func modelAt(argv []string, program string) int {
	for i, a := range argv[:len(argv)-1] {
		switch {
		case a == "serve" && (program == "vllm" || program == "tarbert"), a == "--model", a == "--model-path":
			return i + 1
		}
	}
	return -1
}

// flagAt is the index of a flag in either of its forms; -1 = not there.
func flagAt(argv []string, flag string) int {
	return slices.IndexFunc(argv, func(a string) bool { return a == flag || strings.HasPrefix(a, flag+"=") })
}

func without(argv []string, flag string) []string {
	at := flagAt(argv, flag)
	if at < 0 {
		return argv
	}
	n := 1
	if argv[at] == flag && at+1 < len(argv) && !strings.HasPrefix(argv[at+1], "-") {
		n = 2
	}
	return slices.Delete(slices.Clone(argv), at, at+n)
}

func with(argv []string, flag, value string) []string {
	if value == "" && slices.Contains(argv, flag) {
		return argv
	}
	out := append(without(argv, flag), flag)
	if value != "" {
		out = append(out, value)
	}
	if at := flagAt(argv, flag); at >= 0 && at+1 < len(argv) && argv[at+1] == value {
		return argv // it is set so already
	}
	return out
}
