package convert

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// plainly edits a configuration as the formats do that write none of their own.
func plainly(b []byte) ([]byte, error) { return edit{}.apply(b) }

func TestEditConfig(t *testing.T) {
	tests := map[string]struct{ in, want string }{
		"nothing to do":     {`{"model_type":"x", "torch_dtype": "bfloat16"}`, `{"model_type":"x", "torch_dtype": "bfloat16"}`},
		"newer spelling":    {`{"dtype":"float32","a":1.50}`, "{\n  \"dtype\": \"bfloat16\",\n  \"a\": 1.50\n}\n"},
		"neither":           {`{"a":[1,{"b":null}]}`, "{\n  \"a\": [\n    1,\n    {\n      \"b\": null\n    }\n  ],\n  \"torch_dtype\": \"bfloat16\"\n}\n"},
		"both":              {`{"dtype":"float32","torch_dtype":"float16"}`, "{\n  \"dtype\": \"bfloat16\",\n  \"torch_dtype\": \"bfloat16\"\n}\n"},
		"quantised":         {`{"quantization_config":{"a":1},"dtype":"bfloat16"}`, "{\n  \"dtype\": \"bfloat16\"\n}\n"},
		"quantised, nested": {`{"dtype":"bfloat16","text_config":{"quantization_config":{},"dtype":"float32","z":1}}`, "{\n  \"dtype\": \"bfloat16\",\n  \"text_config\": {\n    \"dtype\": \"bfloat16\",\n    \"z\": 1\n  }\n}\n"},
	}
	for name, tt := range tests {
		got, err := plainly([]byte(tt.in))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, string(got)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	for _, bad := range []string{``, `[]`, `{"a":1`, `{"a":1,"a":2}`, `{"a":1}}`, `{"a":1} {"b":2}`, `{"text_config":[]}`} {
		if got, err := plainly([]byte(bad)); err == nil {
			t.Errorf("%s became %s", bad, got)
		}
	}
}

// FuzzEditConfig: whatever is accepted keeps every other member, and a second
// edit changes nothing.
func FuzzEditConfig(f *testing.F) {
	f.Add([]byte(`{"model_type":"x","dtype":"float32","text_config":{"quantization_config":{}},"n":1e400,"s":"\u00e9\n"}`))
	f.Add([]byte(`{"quantization_config":null,"torch_dtype":"float16","a":[{"b":[]}]}`))
	f.Add([]byte(`{"a":1,"a":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		once, err := plainly(b)
		if err != nil {
			return
		}
		if !json.Valid(once) {
			t.Fatalf("%q became %q", b, once)
		}
		twice, err := plainly(once)
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("a second edit made %q of %q (%v)", twice, once, err)
		}
		before, err := parseObject(b)
		if err != nil {
			t.Fatal(err)
		}
		after, err := parseObject(once)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range before {
			switch m.key {
			case "dtype", "torch_dtype", "quantization_config", "text_config":
				continue
			}
			if compact(after.get(m.key)) != compact(m.value) {
				t.Fatalf("%q was %s and became %s", m.key, m.value, after.get(m.key))
			}
		}
	})
}

func FuzzParseDescription(f *testing.F) {
	f.Add([]byte(`{"a.weight":"W8A8_DYNAMIC","version":"1.0.0","model_quant_type":"FLOAT","metadata":{},"group_size":0,"optional":{}}`))
	f.Add([]byte(`{"a":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		kinds, _, err := parseDescription(b)
		if err != nil {
			return
		}
		var all map[string]json.RawMessage
		if err := json.Unmarshal(b, &all); err != nil {
			t.Fatalf("accepted what is not JSON: %v", err)
		}
		if len(kinds) > len(all) {
			t.Fatalf("%d types of %d members", len(kinds), len(all))
		}
	})
}

func TestSameJSON(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{`{"a":1e-6,"b":[1,2]}`, `{ "b": [1, 2], "a": 0.000001 }`, true}, {`10000`, `10000.0`, true}, {`1`, `"1"`, false},
		{`[1,2]`, `[2,1]`, false}, {`null`, `false`, false}, {`{"a":1}`, `{"a":1,"b":null}`, false},
	} {
		if got := sameJSON(json.RawMessage(tt.a), json.RawMessage(tt.b)); got != tt.want {
			t.Errorf("sameJSON(%s, %s) = %v", tt.a, tt.b, got)
		}
	}
}

func TestModelConfig(t *testing.T) {
	m, err := parseConfig([]byte(`{"model_type":"deepseek_v3","num_hidden_layers":61}`))
	if err != nil {
		t.Fatal(err)
	}
	for module, want := range map[string]bool{
		"model.layers.60.mlp.gate": false, "model.layers.61.eh_proj": true, "model.layers.61": true, "lm_head": false, "model.layers.x.y": false,
	} {
		if got := m.isMTP(module); got != want {
			t.Errorf("isMTP(%s) = %v", module, got)
		}
	}
	if _, err := parseConfig([]byte(`{}`)); err == nil {
		t.Error("a configuration without model_type was accepted")
	}
}
