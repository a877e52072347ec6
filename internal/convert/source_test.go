package convert

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"tarbert/internal/tensor"
)

// TestPairsLoseNothing: of any set of tensors, each is a weight or the scale of one,
// once; or the set is refused.
func TestPairsLoseNothing(t *testing.T) {
	dtypes := []tensor.DType{tensor.F32, tensor.BF16, tensor.F8_E4M3, tensor.I8, tensor.F8_E8M0, tensor.I64, tensor.U8}
	accepted := 0
	rapid.Check(t, func(t *rapid.T) {
		m := modelConfig{ModelType: "x", Quant: sourceQuant{Method: "fp8", Block: [2]int64{128, 128}, Experts: rapid.SampledFrom([]string{"", "fp4"}).Draw(t, "experts")}}
		var infos []tensor.Info
		add := func(name string, d tensor.DType, shape ...int64) {
			infos = append(infos, tensor.Info{Name: name, DType: d, Shape: shape})
		}
		add("anchor.weight", tensor.F8_E4M3, 130, 64)
		add("anchor.weight_scale_inv", tensor.F32, 2, 1)
		for i := range rapid.IntRange(0, 6).Draw(t, "n") {
			name := fmt.Sprintf("m%d", i)
			d := rapid.SampledFrom(dtypes).Draw(t, "dtype")
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				add(name+".weight", tensor.F8_E4M3, 256, 300)
				add(name+".weight_scale_inv", rapid.SampledFrom([]tensor.DType{tensor.F32, tensor.BF16, tensor.F8_E8M0}).Draw(t, "scale"), 2, 3)
			case 1:
				add(name+".weight", tensor.I8, 4, 64)
				add(name+".scale", tensor.F8_E8M0, 4, 4)
			case 2:
				add(name+".weight", d, 4, 4)
			case 3:
				add(name+".scale", d, 4)
			case 4:
				add(name+".weight", tensor.BF16, 4)
				add(name+".scale", d, 4)
			case 5:
				add(name+".bias", tensor.F32, 4)
			}
		}
		weights, err := pairs(infos, m, naming{})
		if err != nil {
			return
		}
		accepted++
		seen := map[string]int{}
		for _, w := range weights {
			seen[w.stored.Name]++
			if w.scale != nil {
				seen[w.scale.Name]++
			}
			if (w.enc == plain) != (w.scale == nil) {
				t.Fatalf("%s: encoding %d, scale %v", w.stored.Name, w.enc, w.scale)
			}
		}
		for _, i := range infos {
			if seen[i.Name] != 1 {
				t.Fatalf("%s is accounted for %d times", i.Name, seen[i.Name])
			}
		}
	})
	if accepted == 0 {
		t.Error("every set was refused")
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"model_type":"deepseek_v3","num_hidden_layers":61,"quantization_config":{"quant_method":"fp8","weight_block_size":[128,128],"fmt":"e4m3"}}`))
	f.Add([]byte(`{"model_type":"a","text_config":{"expert_dtype":"fp4","quantization_config":{}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseConfig(b)
		if err == nil && m.ModelType == "" {
			t.Fatal("a configuration without model_type was accepted")
		}
		m.Quant.readable() // must not panic
	})
}
