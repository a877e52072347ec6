package reference

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"tarbert/internal/reference/kernel"
	"tarbert/internal/tensor"
)

// widened is the model with every weight in float32, codes multiplied by their
// scales and all quantisation gone.
func (f *modelFiles) widened(t testing.TB) *modelFiles {
	t.Helper()
	out := &modelFiles{}
	var config map[string]any
	if err := json.Unmarshal(f.config, &config); err != nil {
		t.Fatal(err)
	}
	delete(config, "quantization_config")
	var err error
	if out.config, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	for _, x := range f.tensors {
		if strings.HasSuffix(x.Name, "_scale") || strings.HasSuffix(x.Name, "_scale_inv") || strings.HasSuffix(x.Name, "_offset") {
			continue
		}
		out.tensors = append(out.tensors, tensor.FromFloat32(x.Name, x.Shape, f.values(t, x), tensor.F32))
	}
	return out
}

// values are a tensor's numbers.
func (f *modelFiles) values(t testing.TB, x tensor.Tensor) []float32 {
	t.Helper()
	n := 1
	for _, d := range x.Shape {
		n *= int(d)
	}
	w := make([]float32, n)
	switch x.DType {
	case tensor.I8:
		scales := f.values(t, *f.tensor(x.Name + "_scale"))
		kernel.RoundBF16(scales) // as vllm-ascend's loader does; the others are bf16
		for i, c := range x.Data {
			w[i] = float32(int8(c)) * scales[i/int(x.Shape[1])]
		}
	case tensor.F8_E4M3:
		scales, cols := f.values(t, *f.tensor(x.Name + "_scale_inv")), int(x.Shape[1])
		for i, c := range x.Data {
			w[i] = tensor.FromF8E4M3(c) * scales[i/cols/128*((cols+127)/128)+i%cols/128]
		}
	default:
		if err := tensor.Widen(w, x.Data, x.DType); err != nil {
			t.Fatalf("tensor %s: %v", x.Name, err)
		}
	}
	return w
}

// inHalf is the model with float32 weights rounded to IEEE half precision.
func (f *modelFiles) inHalf(t testing.TB) *modelFiles {
	t.Helper()
	for i, x := range f.tensors {
		f.tensors[i] = tensor.FromFloat32(x.Name, x.Shape, f.values(t, x), tensor.F16)
	}
	return f
}

// TestStoredWidthChangesNoBits loads models as they are stored, and with every
// weight widened to float32 in the file: in prefill, in decoding and in
// training, the logits are the same bits.
func TestStoredWidthChangesNoBits(t *testing.T) {
	dirs := map[string]string{"ascendv1": ascendDir("w8a8"), "compressed": compressedDir(), "half": readFiles(t, goldenDir("qwen3-moe")).inHalf(t).write(t)}
	for _, name := range goldenModels {
		dirs[name] = goldenDir(name)
	}
	for name, dir := range dirs {
		wide := readFiles(t, dir).widened(t).write(t)
		for _, p := range []Precision{F32, BF16} {
			var rows [2][][]float32
			for i, d := range []string{dir, wide} {
				m, err := Load(d, Options{Precision: p})
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				rows[i] = prefillAndDecode(t, m)
			}
			if !slices.EqualFunc(rows[0], rows[1], sameBits) {
				t.Errorf("%s in %s: other bits than with widened weights", name, p)
			}
			if p == F32 {
				trained, err := LoadTrainable(wide, 2)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.EqualFunc(rows[0], prefillAndDecode(t, trained.Inference()), sameBits) {
					t.Errorf("%s: other bits than in training", name)
				}
			}
		}
	}
}

// prefillAndDecode gives the logits of 70 tokens at once and of two more.
func prefillAndDecode(t testing.TB, m *Model) [][]float32 {
	t.Helper()
	tokens := text(8, 300, 72)
	seq := m.NewSequence()
	var rows [][]float32
	for _, part := range [][]int{tokens[:70], tokens[70:71], tokens[71:]} {
		out, err := m.Forward(context.Background(), []Input{{Seq: seq, Tokens: part, All: true}})
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, out[0]...)
	}
	return rows
}

// TestWeightsStayInTheirWidth looks at the memory of every matrix.
func TestWeightsStayInTheirWidth(t *testing.T) {
	for _, c := range []struct {
		dir  string
		p    Precision
		want map[kernel.Form]bool
	}{
		{goldenDir("qwen3-published-bf16-sharded"), F32, map[kernel.Form]bool{kernel.BF16: true}},
		{goldenDir("qwen3-published-bf16-sharded"), BF16, map[kernel.Form]bool{kernel.BF16: true}},
		{goldenDir("qwen3"), BF16, map[kernel.Form]bool{kernel.BF16: true}}, // float32 in the file
		{goldenDir("deepseek-v3-fp8"), F32, map[kernel.Form]bool{kernel.BF16: true, kernel.E4M3: true}},
		{goldenDir("deepseek-v3-fp8"), BF16, map[kernel.Form]bool{kernel.BF16: true, kernel.E4M3: true}},
		{ascendDir("w8a8"), F32, map[kernel.Form]bool{kernel.BF16: true, kernel.Int8: true}},
	} {
		m, err := Load(c.dir, Options{Precision: c.p})
		if err != nil {
			t.Fatal(err)
		}
		got := map[kernel.Form]bool{}
		for _, l := range m.net.linears() {
			if l.narrow == nil {
				t.Fatalf("%s in %s: a linear of %d×%d is in float32", c.dir, c.p, l.out, l.in)
			}
			got[l.narrow.Form()] = true
		}
		for f := range got {
			if !c.want[f] {
				t.Errorf("%s in %s: weights in form %d", c.dir, c.p, f)
			}
		}
		if len(got) != len(c.want) {
			t.Errorf("%s in %s: forms %v, want %v", c.dir, c.p, got, c.want)
		}
		if m.Config().TieWordEmbeddings && m.net.embed.stored != any(m.net.head.narrow) {
			t.Errorf("%s: tied embeddings are in memory twice", c.dir)
		}
	}
}
