package verify

import (
	"slices"
	"strings"
	"testing"
)

func TestContrasts(t *testing.T) {
	rotary := []Cause{{Name: "positions or attention: the rotary embedding (…)"}}
	names := func(c []Contrast) (out []string) {
		for _, x := range c {
			out = append(out, x.Name)
		}
		return out
	}
	for _, c := range []struct {
		name, command, reference string
		causes                   []Cause
		first                    []string // in this order
		never                    []string
		argv                     string // of the first
	}{
		{"a rotary signature", "vllm serve m --port {port}", "", rotary, []string{"the rotary embedding without its kernel", "no custom operations"},
			[]string{"KV cache in the model's dtype", "tensor parallel 1", "no speculative decoding"}, `vllm serve m --port {port} --compilation-config {"custom_ops":["-rotary_embedding"]}`},
		{"flags that are given can be taken back", "vllm serve m --port {port} --kv-cache-dtype fp8 --tensor-parallel-size=4", "", []Cause{{Name: "decode path only: the KV cache's dtype"}},
			[]string{"eager mode", "KV cache in the model's dtype"}, nil, "vllm serve m --port {port} --kv-cache-dtype fp8 --tensor-parallel-size=4 --enforce-eager"},
		{"what is set already is no contrast", "vllm serve m --port {port} --enforce-eager --dtype float32", "", nil, nil, []string{"eager mode", "float32"}, ""},
		{"the reference's weights first", "/opt/vllm serve ./w8a8 --port {port}", "./bf16", rotary, []string{"the reference's weights in the candidate's engine", "the rotary embedding without its kernel"}, nil,
			"/opt/vllm serve ./bf16 --port {port}"},
		{"sglang", "python -m sglang.launch_server --model-path m --port {port} --tp 4", "", nil, []string{"eager mode", "tensor parallel 1"}, nil, ""},
		{"an engine nobody knows", "my-engine --port {port}", "", rotary, nil, []string{"eager mode"}, ""},
	} {
		got := Contrasts(strings.Fields(c.command), c.causes, c.reference)
		if n := names(got); len(n) < len(c.first) || !slices.Equal(n[:len(c.first)], c.first) || slices.ContainsFunc(c.never, func(x string) bool { return slices.Contains(n, x) }) {
			t.Errorf("%s: %q, want first %q and never %q", c.name, n, c.first, c.never)
		} else if c.argv != "" && strings.Join(got[0].Argv, " ") != c.argv {
			t.Errorf("%s: %q, want %q", c.name, got[0].Argv, c.argv)
		}
		for _, x := range got {
			if slices.Equal(x.Argv, strings.Fields(c.command)) {
				t.Errorf("%s: %s changes nothing", c.name, x.Name)
			}
		}
	}
	replaced := Contrasts(strings.Fields("vllm serve m --port {port} --kv-cache-dtype fp8 --max-model-len 8"), nil, "")
	i := slices.IndexFunc(replaced, func(c Contrast) bool { return c.Name == "KV cache in the model's dtype" })
	if i < 0 || strings.Join(replaced[i].Argv, " ") != "vllm serve m --port {port} --max-model-len 8 --kv-cache-dtype auto" {
		t.Errorf("%+v", replaced)
	}
}
