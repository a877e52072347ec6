package convert

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tarbert/internal/tensor"
)

// names makes source infos; one-dimensional where the name says norm or bias.
func infos(d tensor.DType, names ...string) []tensor.Info {
	var out []tensor.Info
	for _, n := range names {
		shape := []int64{4, 8}
		if strings.Contains(n, "norm") || strings.HasSuffix(n, "bias") {
			shape = []int64{4}
		}
		out = append(out, tensor.Info{Name: n, DType: d, Shape: shape})
	}
	return out
}

// plan plans a source of these tensors.
func plan(infos []tensor.Info, m modelConfig, format string, keep []string) ([]step, error) {
	f, err := findFormat(format)
	if err != nil {
		return nil, err
	}
	arch, known, err := findArchitecture(m.ModelType)
	if err != nil {
		return nil, err
	}
	names := newNaming(arch, func(string) bool { return false })
	weights, err := pairs(infos, m, names)
	if err != nil {
		return nil, err
	}
	rename, err := names.translate(AsSource, m.ModelType)
	if err != nil {
		return nil, err
	}
	p := &planner{format: f, arch: arch, known: known, model: m, weights: weights, keep: keep, scales: f.scales, round: Compatible, rename: rename}
	return p.plan()
}

// TestDescriptionEqualsMsmodelslims plans the source that a description of
// msmodelslim's tells of, and describes the plan.
func TestDescriptionEqualsMsmodelslims(t *testing.T) {
	for modelType, file := range map[string]string{
		"qwen3":     "testdata/msmodelslim-26.1.0/qwen3/full-tiny/quant_model_description.json",
		"qwen3_moe": "testdata/msmodelslim-26.1.0/qwen3moe/quant_model_description.json",
	} {
		theirs, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		want, wantType, err := parseDescription(theirs)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for n := range want {
			if !strings.HasSuffix(n, "_scale") && !strings.HasSuffix(n, "_offset") {
				names = append(names, n)
			}
		}
		steps, err := plan(infos(tensor.BF16, names...), modelConfig{ModelType: modelType, Layers: 3}, W8A8Ascend, nil)
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		arch, _, err := findArchitecture(modelType)
		if err != nil {
			t.Fatal(err)
		}
		if err := describe(steps, arch.Order).encode(&b); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b.Bytes(), theirs) {
			t.Errorf("%s: the description's bytes differ", modelType)
		}
		text := b.Bytes()
		got, gotType, err := parseDescription(text)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" || gotType != wantType {
			t.Errorf("%s: %s %s", modelType, gotType, diff)
		}
		var raw map[string]any
		if err := json.Unmarshal(text, &raw); err != nil || raw["version"] != "1.0.0" || raw["group_size"] != 0.0 {
			t.Errorf("description's ending: %v %v", raw["version"], err)
		}
	}
}

func TestPlanOfDeepSeek(t *testing.T) {
	m := modelConfig{ModelType: "deepseek_v3", Layers: 2}
	const l1 = "model.layers.1."
	steps, err := plan(infos(tensor.F32,
		"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight",
		l1+"self_attn.q_a_proj.weight", l1+"self_attn.q_a_layernorm.weight", l1+"self_attn.q_b_proj.weight",
		l1+"self_attn.kv_a_proj_with_mqa.weight", l1+"self_attn.kv_a_proj_with_mqa.bias", l1+"self_attn.kv_b_proj.weight", l1+"self_attn.o_proj.weight",
		l1+"mlp.gate.weight", l1+"mlp.gate.e_score_correction_bias", l1+"mlp.experts.10.down_proj.weight", l1+"mlp.experts.2.down_proj.weight",
		l1+"mlp.shared_experts.up_proj.weight", l1+"self_attn.rotary_emb.inv_freq",
		"model.layers.2.eh_proj.weight", "model.layers.2.mlp.experts.0.down_proj.weight", "model.layers.2.shared_head.norm.weight",
	), m, W8A8Ascend, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	var order []string
	for _, s := range steps {
		got[s.weight.stored.Name] = string(s.action) + " " + s.to()
		order = append(order, s.weight.stored.Name)
	}
	want := map[string]string{
		"model.embed_tokens.weight": "cast BF16", "lm_head.weight": "cast BF16", "model.norm.weight": "cast BF16",
		l1 + "self_attn.q_a_proj.weight": "quantised I8", l1 + "self_attn.q_a_layernorm.weight": "cast BF16", l1 + "self_attn.q_b_proj.weight": "quantised I8",
		l1 + "self_attn.kv_a_proj_with_mqa.weight": "quantised I8", l1 + "self_attn.kv_a_proj_with_mqa.bias": "copied F32",
		l1 + "self_attn.kv_b_proj.weight": "cast BF16", l1 + "self_attn.o_proj.weight": "quantised I8",
		l1 + "mlp.gate.weight": "cast BF16", l1 + "mlp.gate.e_score_correction_bias": "copied F32",
		l1 + "mlp.experts.10.down_proj.weight": "quantised I8", l1 + "mlp.experts.2.down_proj.weight": "quantised I8",
		l1 + "mlp.shared_experts.up_proj.weight": "quantised I8", l1 + "self_attn.rotary_emb.inv_freq": "dropped ",
		"model.layers.2.eh_proj.weight": "cast BF16", "model.layers.2.mlp.experts.0.down_proj.weight": "cast BF16", "model.layers.2.shared_head.norm.weight": "cast BF16",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if slices.Index(order, l1+"mlp.experts.2.down_proj.weight") > slices.Index(order, l1+"mlp.experts.10.down_proj.weight") {
		t.Errorf("expert 10 before expert 2: %v", order)
	}
}

func TestPlanRefuses(t *testing.T) {
	m := modelConfig{ModelType: "qwen3_moe", Layers: 2}
	const l0 = "model.layers.0."
	expert := func(n string) string { return l0 + "mlp.experts." + n + ".down_proj.weight" }
	tests := map[string]struct {
		infos []tensor.Info
		model modelConfig
		keep  []string
		rule  string
		of    string
	}{
		"a tensor without a rule":    {infos(tensor.F32, l0+"self_attn.indexer.wq.weight"), m, nil, "complete", l0 + "self_attn.indexer.wq.weight"},
		"an odd tensor":              {infos(tensor.F32, "model.layers.0.alpha"), m, nil, "complete", "model.layers.0.alpha"},
		"a type that is no float":    {infos(tensor.F8_E4M3, l0+"mlp.gate.weight"), m, nil, "scale", l0 + "mlp.gate.weight"},
		"a scale without a weight":   {infos(tensor.F32, l0+"self_attn.q_proj.weight_scale_inv"), m, nil, "complete", l0 + "self_attn.q_proj.weight_scale_inv"},
		"an unknown architecture":    {infos(tensor.F32, "a.weight"), modelConfig{ModelType: "llama"}, nil, "architecture", "config.json"},
		"half of q, k, v kept":       {infos(tensor.F32, l0+"self_attn.q_proj.weight", l0+"self_attn.k_proj.weight"), m, []string{"*.k_proj"}, "fused", l0 + "self_attn.q_proj.weight"},
		"one expert kept":            {infos(tensor.F32, expert("0"), expert("1"), expert("2")), m, []string{"*.experts.1.*"}, "fused", expert("1")},
		"a pattern without a module": {infos(tensor.F32, expert("0")), m, []string{"*.expert.0.*"}, "keep", "*.expert.0.*"},
		"a vector to quantise":       {[]tensor.Info{{Name: expert("0"), DType: tensor.F32, Shape: []int64{4}}}, m, nil, "shape", expert("0")},
		"outputs of one name": {append(infos(tensor.F32, expert("0")), tensor.Info{Name: expert("0") + "_scale", DType: tensor.F32, Shape: []int64{4, 1}}),
			m, []string{expert("0") + "_scale"}, "complete", expert("0") + "_scale"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := plan(tt.infos, tt.model, W8A8Ascend, tt.keep)
			v, ok := errors.AsType[*Violation](err)
			if !ok || v.Rule != tt.rule || v.Tensor != tt.of {
				t.Errorf("error %v, want rule %q of %s", err, tt.rule, tt.of)
			}
		})
	}
	// What cannot be quantised can be cast.
	if _, err := plan(infos(tensor.F32, "a.weight"), modelConfig{ModelType: "llama"}, BF16, nil); err != nil {
		t.Errorf("bf16 of an unknown architecture: %v", err)
	}
	// A whole group may be kept.
	steps, err := plan(infos(tensor.F32, expert("0"), expert("1")), m, W8A8Ascend, []string{"*.experts.*"})
	if err != nil || steps[0].action != Cast || steps[1].action != Cast {
		t.Errorf("all experts kept: %v %v", steps, err)
	}
}

// TestShardsPartition: any split keeps every step once, in order, and no file
// is larger than allowed unless it has a single tensor.
func TestShardsPartition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.Int64Range(0, 100), 1, 40).Draw(t, "sizes")
		most := rapid.Int64Range(1, 150).Draw(t, "most")
		var steps []step
		for i, n := range sizes {
			info := tensor.Info{Name: string(rune('a' + i)), DType: tensor.I8, Shape: []int64{n}}
			steps = append(steps, step{weight: &weight{stored: &info}, slots: []slot{{output: newOutput(info.Name, tensor.I8, n)}}})
		}
		var joined []string
		for _, s := range shard(steps, most) {
			var size int64
			if len(s) == 0 {
				t.Fatal("an empty file")
			}
			for _, x := range s {
				joined = append(joined, x.weight.stored.Name)
				size += x.bytes()
			}
			if size > most && len(slices.DeleteFunc(slices.Clone(s), func(x step) bool { return x.bytes() == 0 })) > 1 {
				t.Fatalf("%d bytes in a file of at most %d", size, most)
			}
		}
		if len(joined) != len(steps) {
			t.Fatalf("%d steps became %d", len(steps), len(joined))
		}
		for i, s := range steps {
			if joined[i] != s.weight.stored.Name {
				t.Fatalf("step %d is %s", i, joined[i])
			}
		}
	})
}

func TestMatches(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		want          bool
	}{
		{"", "", true}, {"", "a", false}, {"*", "", true}, {"*", "a.b", true}, {"a*", "a", true}, {"a", "ab", false},
		{"*norm", "model.norm", true}, {"*norm", "model.norm.x", false}, {"*.mlp.gate", "model.layers.0.mlp.gate", true},
		{"*.mlp.gate", "model.layers.0.mlp.gate_proj", false}, {"a*b*c", "aXbYbc", true}, {"a*b*c", "aXbYb", false}, {"a**c", "abc", true},
	} {
		if got := matches(tt.pattern, tt.name); got != tt.want {
			t.Errorf("matches(%q, %q) = %v", tt.pattern, tt.name, got)
		}
	}
}

// TestMatchesAgreesWithARecursiveOne on small alphabets, where stars matter.
func TestMatchesAgreesWithARecursiveOne(t *testing.T) {
	var slow func(p, n string) bool
	slow = func(p, n string) bool {
		switch {
		case p == "":
			return n == ""
		case p[0] == '*':
			return slow(p[1:], n) || n != "" && slow(p, n[1:])
		}
		return n != "" && p[0] == n[0] && slow(p[1:], n[1:])
	}
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.StringMatching(`[ab*]{0,8}`).Draw(t, "pattern")
		n := rapid.StringMatching(`[ab]{0,10}`).Draw(t, "name")
		if matches(p, n) != slow(p, n) {
			t.Fatalf("matches(%q, %q) = %v", p, n, matches(p, n))
		}
	})
}

// TestNaturalIsAnOrder: antisymmetric, transitive, zero only for equal names.
func TestNaturalIsAnOrder(t *testing.T) {
	name := rapid.StringMatching(`[a-b.]{0,2}[0-9]{0,3}[a-b.]{0,2}[0-9]{0,2}`)
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := name.Draw(t, "a"), name.Draw(t, "b"), name.Draw(t, "c")
		if natural(a, b) != -natural(b, a) || (natural(a, b) == 0) != (a == b) {
			t.Fatalf("%q and %q: %d, %d", a, b, natural(a, b), natural(b, a))
		}
		if natural(a, b) <= 0 && natural(b, c) <= 0 && natural(a, c) > 0 {
			t.Fatalf("%q ≤ %q ≤ %q, but not %q ≤ %q", a, b, c, a, c)
		}
	})
	if natural("layers.2.x", "layers.10.x") >= 0 || natural("a1", "a01") >= 0 {
		t.Error("numbers are not compared as numbers")
	}
}
