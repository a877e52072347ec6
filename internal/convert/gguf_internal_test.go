package convert

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tarbert/internal/tensor"
	"tarbert/internal/tensor/gguf"
)

func TestGGUFNames(t *testing.T) {
	for _, c := range []struct {
		name   string
		want   []string
		expert int
	}{
		{"model.embed_tokens.weight", []string{"token_embd.weight"}, -1},
		{"lm_head.weight", []string{"output.weight"}, -1},
		{"model.norm.weight", []string{"output_norm.weight"}, -1},
		{"model.layers.12.self_attn.q_norm.weight", []string{"blk.12.attn_q_norm.weight"}, -1},
		{"model.layers.0.self_attn.k_proj.bias", []string{"blk.0.attn_k.bias"}, -1},
		{"model.layers.3.mlp.gate.e_score_correction_bias", []string{"blk.3.exp_probs_b.bias"}, -1},
		{"model.layers.3.mlp.gate.weight", []string{"blk.3.ffn_gate_inp.weight"}, -1},
		{"model.layers.3.mlp.gate_proj.weight", []string{"blk.3.ffn_gate.weight"}, -1},
		{"model.layers.3.mlp.experts.255.up_proj.weight", []string{"blk.3.ffn_up_exps.weight"}, 255},
		{"model.layers.3.self_attn.kv_b_proj.weight", []string{"blk.3.attn_k_b.weight", "blk.3.attn_v_b.weight"}, -1},
	} {
		got, ok := ggufPlaceOf(c.name)
		if !ok || cmp.Diff(c.want, got.names) != "" || got.expert != c.expert {
			t.Errorf("%s: %+v, %v", c.name, got, ok)
		}
	}
	for _, name := range []string{"", "weight", "model.embed_tokens", "model.layers.x.input_layernorm.weight", "model.layers.1.unknown.weight",
		"model.layers.1.mlp.experts.x.up_proj.weight", "model.layers.1.mlp.experts.1.weight", "model.layers.1.mlp.gate.weight_scale_inv"} {
		if got, ok := ggufPlaceOf(name); ok {
			t.Errorf("%q: %+v", name, got)
		}
	}
}

// TestGGUFSizeLabel: by gguf-py's size_label.
func TestGGUFSizeLabel(t *testing.T) {
	for _, c := range []struct {
		shapes [][]int64
		want   string
	}{
		{[][]int64{{159, 1000}}, "159K"},
		{[][]int64{{999}}, "1.0K"},
		{[][]int64{{9_950}}, "10K"}, // the digits are counted of the number rounded
		{[][]int64{{1_500_000}}, "1.5M"},
		{[][]int64{{8_190_735_360}}, "8.2B"},
		{[][]int64{{671, 1_000_000_000}}, "671B"},
		{[][]int64{{1_000_000, 1_000_000}, {600_000, 1_000_000}}, "1.6T"},
	} {
		var outputs []ggufOutput
		for i, s := range c.shapes {
			outputs = append(outputs, ggufOutput{name: fmt.Sprint(i), shape: s})
		}
		if got := ggufSizeLabel(outputs); got != c.want {
			t.Errorf("%v is %q, want %q", c.shapes, got, c.want)
		}
	}
	experts := []ggufOutput{{name: "token_embd.weight", shape: []int64{1000, 1000}},
		{name: "blk.0.ffn_up_exps.weight", shape: []int64{8, 1000, 500}}, {name: "blk.0.ffn_down_exps.weight", shape: []int64{8, 500, 1000}}}
	if got := ggufSizeLabel(experts); got != "8x2.0M" {
		t.Errorf("experts: %q", got)
	}
}

func TestGGUFSampling(t *testing.T) {
	m, err := ggufGeneral("qwen3", []byte(`{"_name_or_path":"Qwen/Qwen3-8B"}`),
		[]byte(`{"top_k":20,"top_p":0.95,"temperature":0.6,"repetition_penalty":1.05,"do_sample":true}`), []ggufOutput{{name: "a", shape: []int64{1500}}})
	if err != nil {
		t.Fatal(err)
	}
	want := gguf.Metadata{{Key: "general.architecture", Value: "qwen3"}, {Key: "general.type", Value: "model"},
		{Key: "general.sampling.top_k", Value: int32(20)}, {Key: "general.sampling.top_p", Value: float32(0.95)},
		{Key: "general.sampling.temp", Value: float32(0.6)}, {Key: "general.sampling.penalty_repeat", Value: float32(1.05)},
		{Key: "general.name", Value: "Qwen3-8B"}, {Key: "general.size_label", Value: "1.5K"}}
	if diff := cmp.Diff(want, m); diff != "" {
		t.Error(diff)
	}
	m, err = ggufGeneral("qwen3", []byte(`{"_name_or_path":"/home/me/runs/7"}`), nil, nil)
	if _, ok := m.Get("general.name"); err != nil || ok {
		t.Errorf("a directory became the model's name: %v, %v", m, err)
	}
	if _, err := ggufGeneral("qwen3", []byte(`{}`), []byte(`{"top_k":"x"}`), nil); err == nil {
		t.Error("a top_k that is no number was taken")
	}
}

// TestGGUFSplitByDefinition: whatever the bands, element (head, rank, nope) of
// attn_k_b is row head*(nope+value)+nope of kv_b_proj, and attn_v_b the rest.
func TestGGUFSplitByDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		heads, rank := rapid.Int64Range(1, 5).Draw(t, "heads"), rapid.Int64Range(1, 9).Draw(t, "rank")
		nope, value := rapid.Int64Range(1, 6).Draw(t, "nope"), rapid.Int64Range(1, 6).Draw(t, "value")
		rows := heads * (nope + value)
		x := make([]float32, rows*rank)
		for i := range x {
			x[i] = float32(i)
		}
		raw := make([]byte, 4*len(x))
		if err := tensor.Narrow(raw, x, tensor.F32); err != nil {
			t.Fatal(err)
		}
		w := &weight{stored: &tensor.Info{Name: "w", DType: tensor.F32, Shape: []int64{rows, rank}}, shape: []int64{rows, rank}}
		slots := []ggufSlot{{group: nope + value, take: nope, transpose: true}, {group: nope + value, from: nope, take: value}}
		encode := splitGGUF(slots, []gguf.Type{gguf.F32, gguf.F32})
		out := [2][]byte{make([]byte, 4*heads*rank*nope), make([]byte, 4*heads*rank*value)}
		for head := int64(0); head < heads; {
			n := rapid.Int64Range(1, heads-head).Draw(t, "heads of a band")
			first := head * (nope + value)
			v := &values{weight: w, first: first, rows: n * (nope + value), cols: rank, buf: &buffer{}, loss: &deviation{},
				raw: raw[4*first*rank : 4*(first+n*(nope+value))*rank]}
			v.write = func(slot int, off int64, b []byte) error { copy(out[slot][off:], b); return nil }
			if err := encode(v); err != nil {
				t.Fatal(err)
			}
			head += n
		}
		at := func(slot int, i int64) float32 {
			return math.Float32frombits(binary.LittleEndian.Uint32(out[slot][4*i:]))
		}
		for h := range heads {
			for r := range rank {
				for n := range nope {
					if got, want := at(0, (h*rank+r)*nope+n), x[(h*(nope+value)+n)*rank+r]; got != want {
						t.Fatalf("k_b of head %d, rank %d, nope %d is %v, want %v", h, r, n, got, want)
					}
				}
				for n := range value {
					if got, want := at(1, (h*value+n)*rank+r), x[(h*(nope+value)+nope+n)*rank+r]; got != want {
						t.Fatalf("v_b of head %d, value %d, rank %d is %v, want %v", h, n, r, got, want)
					}
				}
			}
		}
	})
}

// TestGGUFRowsDoNotDependOnBands: Q8_0 of one band is that of many.
func TestGGUFRowsDoNotDependOnBands(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows, cols := rapid.Int64Range(1, 9).Draw(t, "rows"), 32*rapid.Int64Range(1, 3).Draw(t, "blocks")
		x := rapid.SliceOfN(rapid.Float32Range(-3e4, 3e4), int(rows*cols), int(rows*cols)).Draw(t, "x")
		raw, want := make([]byte, 4*len(x)), make([]byte, gguf.Q8_0.Bytes(int64(len(x))))
		if err := errors.Join(tensor.Narrow(raw, x, tensor.F32), gguf.Encode(want, x, gguf.Q8_0)); err != nil {
			t.Fatal(err)
		}
		w := &weight{stored: &tensor.Info{Name: "w", DType: tensor.F32, Shape: []int64{rows, cols}}, shape: []int64{rows, cols}}
		got := make([]byte, len(want))
		for first := int64(0); first < rows; {
			n := rapid.Int64Range(1, rows-first).Draw(t, "rows of a band")
			v := &values{weight: w, first: first, rows: n, cols: cols, buf: &buffer{}, loss: &deviation{}, raw: raw[4*first*cols : 4*(first+n)*cols]}
			v.write = func(_ int, off int64, b []byte) error { copy(got[off:], b); return nil }
			if err := encodeGGUF(gguf.Q8_0)(v); err != nil {
				t.Fatal(err)
			}
			first += n
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

// TestGGUFHoldsBlocksToTheirBound: what ggml makes is within it, and one code or
// two steps of the scale off is not, in the conversion and in the check.
func TestGGUFHoldsBlocksToTheirBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := rapid.SliceOfN(rapid.Float32Range(-1, 1), 32, 32).Draw(t, "x")
		x[rapid.IntRange(0, 31).Draw(t, "top")] = 1
		power := rapid.IntRange(-140, 20).Draw(t, "power")
		wide := make([]float64, len(x))
		for i := range x {
			x[i] = float32(math.Ldexp(float64(x[i]), power))
			wide[i] = float64(x[i])
		}
		out := make([]byte, 34)
		if err := gguf.Encode(out, x, gguf.Q8_0); err != nil {
			t.Fatal(err)
		}
		var d deviation
		if i := holdQ8(x, out, &d.Loss); i >= 0 {
			t.Fatalf("element %d of %v is outside its bound", i, x)
		}
		if err := holdBlocks("t", 0, wide, out, &measured{}); err != nil {
			t.Fatal(err)
		}
		if power < -6 { // the scale is no normal number of half precision
			return
		}
		for name, change := range map[string]func([]byte){
			"scale": func(b []byte) { b[0] ^= 2 },
			"code": func(b []byte) {
				if b[2] += 2; int8(b[2]) < 0 && x[0] > 0 { // past 127
					b[2] -= 4
				}
			},
		} {
			wrong := append([]byte(nil), out...)
			change(wrong)
			if i := holdQ8(x, wrong, &d.Loss); i < 0 {
				t.Fatalf("a %s that is off passed for %v", name, x)
			}
			if err := holdBlocks("t", 0, wide, wrong, &measured{}); err == nil {
				t.Fatalf("a %s that is off passed the check for %v", name, x)
			}
		}
	})
}
