package convert_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"tarbert/internal/convert"
	"tarbert/internal/tensor"
)

// synthetic writes a random float32 qwen3 of about the given number of megabytes.
func synthetic(b *testing.B, megabytes int) string {
	b.Helper()
	dir := b.TempDir()
	const h, inter = 1024, 3072
	layers := megabytes * 1_000_000 / (4 * (4*h*h + 3*h*inter))
	var infos []tensor.Info
	add := func(name string, shape ...int64) {
		infos = append(infos, tensor.Info{Name: name, DType: tensor.F32, Shape: shape})
	}
	for l := range layers {
		p := fmt.Sprintf("model.layers.%d.", l)
		for _, m := range []string{"q", "k", "v", "o"} {
			add(p+"self_attn."+m+"_proj.weight", h, h)
		}
		add(p+"mlp.gate_proj.weight", inter, h)
		add(p+"mlp.up_proj.weight", inter, h)
		add(p+"mlp.down_proj.weight", h, inter)
		add(p+"input_layernorm.weight", h)
	}
	l, err := tensor.Plan(infos, nil)
	if err != nil {
		b.Fatal(err)
	}
	w, err := tensor.Create(filepath.Join(dir, "model.safetensors"), l)
	if err != nil {
		b.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for _, i := range l.Infos {
		data := make([]byte, i.Size)
		for j := 0; j < len(data); j += 4 {
			binary.LittleEndian.PutUint32(data[j:], math.Float32bits(float32(rng.NormFloat64()*0.02)))
		}
		if err := w.WriteAt(i.Name, data, 0); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Commit(); err != nil {
		b.Fatal(err)
	}
	config := fmt.Sprintf(`{"model_type":"qwen3","num_hidden_layers":%d,"torch_dtype":"float32"}`, layers)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o644); err != nil {
		b.Fatal(err)
	}
	return dir
}

// BenchmarkConvert reports bytes of source per second, digests and both syncs
// to disk included; compare with cp's of the same source, interleaved.
func BenchmarkConvert(b *testing.B) {
	src := synthetic(b, 200)
	st, err := os.Stat(filepath.Join(src, "model.safetensors"))
	if err != nil {
		b.Fatal(err)
	}
	out := b.TempDir()
	for _, run := range []struct {
		name string
		do   func(dst string) error
	}{
		{"cp", func(dst string) error { return copySynced(src, dst) }},
		{"bf16", func(dst string) error {
			_, err := convert.Convert(context.Background(), src, dst, convert.BF16, convert.Options{})
			return err
		}},
		{"w8a8-ascend", func(dst string) error {
			_, err := convert.Convert(context.Background(), src, dst, convert.W8A8Ascend, convert.Options{})
			return err
		}},
	} {
		b.Run(run.name, func(b *testing.B) {
			b.SetBytes(st.Size())
			for i := 0; b.Loop(); i++ {
				dst := filepath.Join(out, fmt.Sprintf("%s-%d", run.name, i))
				if err := run.do(dst); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := os.RemoveAll(dst); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
	dst := filepath.Join(out, "checked")
	if _, err := convert.Convert(context.Background(), src, dst, convert.W8A8Ascend, convert.Options{}); err != nil {
		b.Fatal(err)
	}
	b.Run("check", func(b *testing.B) {
		b.SetBytes(st.Size())
		for b.Loop() {
			if rep, err := convert.Check(context.Background(), src, dst); err != nil || !rep.Passed() {
				b.Fatal(rep, err)
			}
		}
	})
}

// copySynced is cp followed by fsync.
func copySynced(src, dst string) error {
	if err := os.CopyFS(dst, os.DirFS(src)); err != nil {
		return err
	}
	f, err := os.Open(filepath.Join(dst, "model.safetensors"))
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
