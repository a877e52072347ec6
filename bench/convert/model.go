package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"

	"tarbert/internal/tensor"
)

// model is one being written: its tensors, and what fills each.
type model struct {
	infos []tensor.Info
	size  int64
}

func (m *model) add(name string, d tensor.DType, shape ...int64) {
	n := int64(d.Bits()) / 8
	for _, s := range shape {
		n *= s
	}
	m.infos = append(m.infos, tensor.Info{Name: name, DType: d, Shape: shape, Size: n})
	m.size += n
}

// fp8 adds a matrix of E4M3 codes with float32 scales for blocks of 128×128.
func (m *model) fp8(module string, out, in int64) {
	m.add(module+".weight", tensor.F8_E4M3, out, in)
	m.add(module+".weight_scale_inv", tensor.F32, (out+127)/128, (in+127)/128)
}

// native adds a matrix as DeepSeek-V4 has it: FP8 with E8M0 scales for blocks, or FP4 with
// one for each 32 columns.
func (m *model) native(module string, fp4 bool, out, in int64) {
	if fp4 {
		m.add(module+".weight", tensor.I8, out, in/2)
		m.add(module+".scale", tensor.F8_E8M0, out, in/32)
		return
	}
	m.add(module+".weight", tensor.F8_E4M3, out, in)
	m.add(module+".scale", tensor.F8_E8M0, (out+127)/128, (in+127)/128)
}

// qwen3 has the shape of Qwen3-1.7B, with as many layers as fill the size.
func qwen3(size int64) (*model, map[string]any) {
	const hidden, inner, heads, kv, dim, vocab = 2048, 6144, 16, 8, 128, 32768
	m := &model{}
	m.add("model.embed_tokens.weight", tensor.BF16, vocab, hidden)
	m.add("model.norm.weight", tensor.BF16, hidden)
	m.add("lm_head.weight", tensor.BF16, vocab, hidden)
	layers := 0
	for ; m.size < size; layers++ {
		p := fmt.Sprintf("model.layers.%d.", layers)
		m.add(p+"input_layernorm.weight", tensor.BF16, hidden)
		m.add(p+"post_attention_layernorm.weight", tensor.BF16, hidden)
		m.add(p+"self_attn.q_norm.weight", tensor.BF16, dim)
		m.add(p+"self_attn.k_norm.weight", tensor.BF16, dim)
		m.add(p+"self_attn.q_proj.weight", tensor.BF16, heads*dim, hidden)
		m.add(p+"self_attn.k_proj.weight", tensor.BF16, kv*dim, hidden)
		m.add(p+"self_attn.v_proj.weight", tensor.BF16, kv*dim, hidden)
		m.add(p+"self_attn.o_proj.weight", tensor.BF16, hidden, heads*dim)
		m.add(p+"mlp.gate_proj.weight", tensor.BF16, inner, hidden)
		m.add(p+"mlp.up_proj.weight", tensor.BF16, inner, hidden)
		m.add(p+"mlp.down_proj.weight", tensor.BF16, hidden, inner)
	}
	return m, map[string]any{"architectures": []string{"Qwen3ForCausalLM"}, "model_type": "qwen3", "torch_dtype": "bfloat16",
		"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv,
		"head_dim": dim, "vocab_size": vocab, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 4096,
		"attention_bias": false, "tie_word_embeddings": false, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0, "use_cache": true}
}

// deepseekV3 has DeepSeek-V3's widths, fewer heads, one dense layer, and as many experts
// and layers as fill the size.
func deepseekV3(size int64) (*model, map[string]any) {
	const hidden, inner, moe, q, kv, nope, rope, value, heads, vocab, experts = 7168, 18432, 2048, 1536, 512, 128, 64, 128, 16, 8192, 32
	m := &model{}
	m.add("model.embed_tokens.weight", tensor.BF16, vocab, hidden)
	m.add("model.norm.weight", tensor.BF16, hidden)
	m.add("lm_head.weight", tensor.BF16, vocab, hidden)
	mlp := func(p string, n int64) {
		m.fp8(p+".gate_proj", n, hidden)
		m.fp8(p+".up_proj", n, hidden)
		m.fp8(p+".down_proj", hidden, n)
	}
	layers := 0
	for ; m.size < size; layers++ {
		p := fmt.Sprintf("model.layers.%d.", layers)
		m.add(p+"input_layernorm.weight", tensor.BF16, hidden)
		m.add(p+"post_attention_layernorm.weight", tensor.BF16, hidden)
		m.fp8(p+"self_attn.q_a_proj", q, hidden)
		m.add(p+"self_attn.q_a_layernorm.weight", tensor.BF16, q)
		m.fp8(p+"self_attn.q_b_proj", heads*(nope+rope), q)
		m.fp8(p+"self_attn.kv_a_proj_with_mqa", kv+rope, hidden)
		m.add(p+"self_attn.kv_a_layernorm.weight", tensor.BF16, kv)
		m.fp8(p+"self_attn.kv_b_proj", heads*(nope+value), kv)
		m.fp8(p+"self_attn.o_proj", hidden, heads*value)
		if layers == 0 {
			mlp(p+"mlp", inner)
			continue
		}
		m.add(p+"mlp.gate.weight", tensor.BF16, experts, hidden)
		m.add(p+"mlp.gate.e_score_correction_bias", tensor.F32, experts)
		mlp(p+"mlp.shared_experts", moe)
		for e := range experts {
			mlp(fmt.Sprintf("%smlp.experts.%d", p, e), moe)
		}
	}
	return m, map[string]any{"architectures": []string{"DeepseekV3ForCausalLM"}, "model_type": "deepseek_v3", "torch_dtype": "bfloat16",
		"hidden_size": hidden, "intermediate_size": inner, "moe_intermediate_size": moe, "num_hidden_layers": layers, "num_attention_heads": heads,
		"num_key_value_heads": heads, "q_lora_rank": q, "kv_lora_rank": kv, "qk_nope_head_dim": nope, "qk_rope_head_dim": rope, "v_head_dim": value,
		"n_routed_experts": experts, "n_shared_experts": 1, "num_experts_per_tok": 4, "first_k_dense_replace": 1, "vocab_size": vocab,
		"num_nextn_predict_layers": 0, "quantization_config": map[string]any{"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
			"weight_block_size": []int{128, 128}}}
}

// deepseekV4 has the names and types of DeepSeek-V4: native names, FP8 with E8M0 scales,
// FP4 experts in I8 bytes.
func deepseekV4(size int64) (*model, map[string]any) {
	const hidden, moe, vocab, experts = 4096, 2048, 8192, 64
	m := &model{}
	m.add("embed.weight", tensor.BF16, vocab, hidden)
	m.add("norm.weight", tensor.BF16, hidden)
	m.add("head.weight", tensor.BF16, vocab, hidden)
	layers := 0
	for ; m.size < size; layers++ {
		p := fmt.Sprintf("layers.%d.", layers)
		m.add(p+"attn_norm.weight", tensor.BF16, hidden)
		m.add(p+"ffn_norm.weight", tensor.BF16, hidden)
		m.native(p+"attn.wo_a", false, 8192, hidden)
		m.native(p+"attn.wo_b", false, hidden, 8192)
		m.add(p+"attn.attn_sink", tensor.F32, 64)
		m.add(p+"ffn.gate.weight", tensor.BF16, experts, hidden)
		m.add(p+"ffn.gate.bias", tensor.F32, experts)
		for _, w := range []string{"w1", "w3"} {
			m.native(p+"ffn.shared_experts."+w, false, moe, hidden)
		}
		m.native(p+"ffn.shared_experts.w2", false, hidden, moe)
		for e := range experts {
			q := fmt.Sprintf("%sffn.experts.%d.", p, e)
			m.native(q+"w1", true, moe, hidden)
			m.native(q+"w2", true, hidden, moe)
			m.native(q+"w3", true, moe, hidden)
		}
	}
	return m, map[string]any{"architectures": []string{"DeepseekV4ForCausalLM"}, "model_type": "deepseek_v4", "torch_dtype": "bfloat16",
		"hidden_size": hidden, "moe_intermediate_size": moe, "num_hidden_layers": layers, "n_routed_experts": experts, "vocab_size": vocab,
		"expert_dtype": "fp4", "quantization_config": map[string]any{"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
			"scale_fmt": "ue8m0", "weight_block_size": []int{128, 128}}}
}

// shardBytes is how much of tensors a file gets.
const shardBytes = 1 << 30

// makeModel writes a model directory of random weights, in shards.
func makeModel(dir, kind string, size int64) error {
	shapes := map[string]func(int64) (*model, map[string]any){"qwen3": qwen3, "deepseek_v3": deepseekV3, "deepseek_v4": deepseekV4}
	shape := shapes[kind]
	if shape == nil || dir == "" {
		return fmt.Errorf("make needs -dir and -kind qwen3, deepseek_v3 or deepseek_v4")
	}
	m, config := shape(size)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var shards [][]tensor.Info
	var in int64
	for i, info := range m.infos {
		if i == 0 || in+info.Size > shardBytes {
			shards, in = append(shards, nil), 0
		}
		shards[len(shards)-1] = append(shards[len(shards)-1], info)
		in += info.Size
	}
	fill := newFiller()
	var index []tensor.Info
	for i, infos := range shards {
		name := fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(shards))
		l, err := tensor.Plan(infos, nil)
		if err != nil {
			return err
		}
		w, err := tensor.Create(filepath.Join(dir, name), l)
		if err != nil {
			return err
		}
		for _, info := range l.Infos {
			if err := fill.tensor(w, info); err != nil {
				return err
			}
			info.File = name
			index = append(index, info)
		}
		if err := w.Commit(); err != nil {
			return err
		}
	}
	text, err := tensor.EncodeIndex(index)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, tensor.IndexName), text, 0o644); err != nil {
		return err
	}
	if err := copyTokenizer(dir, kind); err != nil {
		return err
	}
	b, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return err
	}
	fmt.Printf("%s: %d tensors, %.2f GiB in %d files\n", dir, len(m.infos), float64(m.size)/(1<<30), len(shards))
	return os.WriteFile(filepath.Join(dir, "config.json"), append(b, '\n'), 0o644)
}

// copyTokenizer gives a qwen3 the small tokenizer of the tests: msmodelslim wants one.
func copyTokenizer(dir, kind string) error {
	const from = "../internal/convert/testdata/msmodelslim-26.1.0/qwen3/source"
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json", "generation_config.json"} {
		if kind != "qwen3" {
			return nil
		}
		b, err := os.ReadFile(filepath.Join(from, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// filler holds a few megabytes of values of each type, from which tensors are
// filled, each from another place on.
type filler struct {
	rng    *rand.Rand
	stocks map[tensor.DType][]byte
}

const stock = 1 << 22 // elements

func newFiller() *filler {
	f := &filler{rng: rand.New(rand.NewPCG(4, 2)), stocks: map[tensor.DType][]byte{}}
	for _, d := range []tensor.DType{tensor.BF16, tensor.F32, tensor.F8_E4M3, tensor.F8_E8M0, tensor.I8} {
		width := d.Bits() / 8
		b := make([]byte, 2*stock*width)
		for i := range stock {
			x := f.rng.NormFloat64()
			switch d {
			case tensor.BF16:
				binary.LittleEndian.PutUint16(b[2*i:], tensor.ToBF16(float32(x*0.02)))
			case tensor.F32: // scales and router biases: no integers, all positive
				binary.LittleEndian.PutUint32(b[4*i:], math.Float32bits(float32(1e-4*(1+math.Abs(x)))))
			case tensor.F8_E4M3:
				b[i] = tensor.ToF8E4M3(float32(x * 100))
			case tensor.F8_E8M0:
				b[i] = byte(118 + f.rng.IntN(5))
			default:
				b[i] = byte(f.rng.Uint32())
			}
		}
		copy(b[stock*width:], b[:stock*width])
		f.stocks[d] = b
	}
	return f
}

func (f *filler) tensor(w *tensor.Writer, info tensor.Info) error {
	width := int64(info.DType.Bits()) / 8
	for off := int64(0); off < info.Size; off += stock * width {
		n := min(info.Size-off, stock*width)
		from := int64(f.rng.IntN(stock)) * width
		if err := w.WriteAt(info.Name, f.stocks[info.DType][from:from+n], off); err != nil {
			return err
		}
	}
	return nil
}
