package main

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"

	"tarbert/internal/reference"
	"tarbert/internal/tensor"
)

// makeModel writes config.json and model.safetensors with random weights,
// unless they are there, and returns how many bytes of weights there are.
func makeModel(dir string, c *reference.Config, weights string) (int64, error) {
	if weights != "bf16" && weights != "fp8" {
		return 0, fmt.Errorf("-weights %q: known are bf16 and fp8", weights)
	}
	config, err := c.JSON()
	if err != nil {
		return 0, err
	}
	if weights == "fp8" {
		config = append([]byte(`{"quantization_config":{"quant_method":"fp8","fmt":"e4m3","activation_scheme":"dynamic","weight_block_size":[128,128]},`), config[1:]...)
	}
	var infos []tensor.Info
	var bytes int64
	for _, s := range c.Tensors() {
		info := tensor.Info{Name: s.Name, DType: tensor.BF16, Shape: s.Shape}
		if s.Linear && weights == "fp8" {
			info.DType = tensor.F8_E4M3
			infos = append(infos, tensor.Info{Name: s.Name + "_scale_inv", DType: tensor.F32, Shape: []int64{(s.Shape[0] + 127) / 128, (s.Shape[1] + 127) / 128}})
		}
		infos = append(infos, info)
	}
	layout, err := tensor.Plan(infos, nil)
	if err != nil {
		return 0, err
	}
	for _, info := range layout.Infos {
		bytes += info.Size
	}
	path := filepath.Join(dir, "model.safetensors")
	if st, err := os.Stat(path); err == nil && st.Size() == layout.Size {
		return bytes, nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), config, 0o644); err != nil {
		return 0, err
	}
	return bytes, fillModel(path, layout)
}

func fillModel(path string, layout *tensor.Layout) error {
	w, err := tensor.Create(path, layout)
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for _, info := range layout.Infos {
		h := fnv.New64a()
		h.Write([]byte(info.Name))
		r := rand.New(rand.NewPCG(1, h.Sum64()))
		for off := int64(0); off < info.Size; off += int64(len(buf)) {
			part := buf[:min(int64(len(buf)), info.Size-off)]
			fill(part, info, r)
			if err := w.WriteAt(info.Name, part, off); err != nil {
				return errors.Join(err, w.Abort())
			}
		}
	}
	return w.Commit()
}

// fill makes numbers with about the spread of a model's initial weights: a sum
// of four uniform ones is near enough to normal. Norms are one.
func fill(part []byte, info tensor.Info, r *rand.Rand) {
	const spread = 0.02
	switch {
	case info.DType == tensor.F32: // scales of E4M3 codes
		for i := 0; i < len(part); i += 4 {
			bits := math.Float32bits(spread / 100)
			part[i], part[i+1], part[i+2], part[i+3] = byte(bits), byte(bits>>8), byte(bits>>16), byte(bits>>24)
		}
	case len(info.Shape) == 1:
		for i := 0; i < len(part); i += 2 {
			part[i], part[i+1] = 0x80, 0x3f
		}
	default:
		size := info.DType.Bits() / 8
		for i := 0; i < len(part); i += size {
			u := r.Uint64()
			v := float32(int64(u&0xffff+u>>16&0xffff+u>>32&0xffff+u>>48)-2*0xffff) / 0x10000 * math.Sqrt2 * 1.2247 // variance 1
			if size == 1 {
				part[i] = tensor.ToF8E4M3(100 * v)
				continue
			}
			b := tensor.ToBF16(spread * v)
			part[i], part[i+1] = byte(b), byte(b>>8)
		}
	}
}
