package verify

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"tarbert/internal/tensor"
)

// floats is a model directory in float32: quantised weights are widened.
type floats struct {
	config  map[string]json.RawMessage
	tensors map[string][]float32
	shapes  map[string][]int64
}

// quantMarks are config fields that say how weights are stored, not what they are.
var quantMarks = []string{"torch_dtype", "dtype", "quantization_config", "quantize", "transformers_version", "architectures", "use_cache"}

func readFloats(dir string) (*floats, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return nil, err
	}
	f := &floats{tensors: map[string][]float32{}, shapes: map[string][]int64{}}
	if err := json.Unmarshal(raw, &f.config); err != nil {
		return nil, fmt.Errorf("%s: config.json: %w", dir, err)
	}
	d, err := tensor.OpenDir(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	for _, info := range d.Infos() {
		if strings.HasSuffix(info.Name, "_scale") || strings.HasSuffix(info.Name, "_offset") {
			continue
		}
		if f.tensors[info.Name], err = widened(d, info); err != nil {
			return nil, err
		}
		f.shapes[info.Name] = info.Shape
	}
	return f, nil
}

// widened is a tensor in float32; int8 is multiplied by its rows' weight_scale
// (W8A8_DYNAMIC is symmetric: its offsets are zero).
func widened(d *tensor.Dir, info tensor.Info) ([]float32, error) {
	if info.DType != tensor.I8 {
		return d.Float32(info.Name)
	}
	codes, err := d.Bytes(info.Name)
	if err != nil {
		return nil, err
	}
	scale, err := d.Float32(info.Name + "_scale")
	if err != nil {
		return nil, err
	}
	if len(scale) == 0 || len(codes)%len(scale) != 0 || int64(len(scale)) != info.Shape[0] {
		return nil, fmt.Errorf("tensor %s: %d scales for shape %v", info.Name, len(scale), info.Shape)
	}
	x, cols := make([]float32, len(codes)), len(codes)/len(scale)
	for i, c := range codes {
		x[i] = float32(int8(c)) * scale[i/cols]
	}
	return x, nil
}

func (f *floats) comparable(g *floats) error {
	for name, shape := range f.shapes {
		if !slices.Equal(shape, g.shapes[name]) {
			return fmt.Errorf("tensor %s has shape %v in the reference and %v in the candidate: they are not of one architecture", name, shape, g.shapes[name])
		}
	}
	if len(f.shapes) != len(g.shapes) {
		return errors.New("the candidate has tensors that the reference lacks")
	}
	return nil
}

// configDiff lists the fields that differ, with both values, sorted.
func (f *floats) configDiff(g *floats) []string {
	all := map[string]bool{}
	for _, c := range []map[string]json.RawMessage{f.config, g.config} {
		for name := range c {
			all[name] = true
		}
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if !slices.Contains(quantMarks, name) && !sameJSON(f.config[name], g.config[name]) {
			out = append(out, fmt.Sprintf("%s (%s, was %s)", name, orNone(g.config[name]), orNone(f.config[name])))
		}
	}
	return out
}

func orNone(b json.RawMessage) string {
	if b == nil {
		return "none"
	}
	return string(b)
}

// sameJSON takes numbers written differently (1e4, 10000.0) for the same.
func sameJSON(a, b json.RawMessage) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	ax, errA := json.Marshal(x)
	by, errB := json.Marshal(y)
	return errA == nil && errB == nil && bytes.Equal(ax, by)
}

// clone shares the tensors, which nobody changes.
func (f *floats) clone() *floats {
	return &floats{f.config, maps.Clone(f.tensors), f.shapes}
}

// with is f with the named tensors of g.
func (f *floats) with(g *floats, names []string) *floats {
	out := f.clone()
	for _, name := range names {
		out.tensors[name] = g.tensors[name]
	}
	return out
}

// write makes a float32 model directory.
func (f *floats) write(dir string) error {
	c := maps.Clone(f.config)
	delete(c, "quantization_config")
	delete(c, "quantize")
	c["torch_dtype"] = json.RawMessage(`"float32"`)
	delete(c, "dtype")
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), b, 0o644); err != nil {
		return err
	}
	var out []tensor.Tensor
	for _, name := range slices.Sorted(maps.Keys(f.tensors)) {
		out = append(out, tensor.FromFloat32(name, f.shapes[name], f.tensors[name], tensor.F32))
	}
	return tensor.WriteFile(filepath.Join(dir, "model.safetensors"), out, map[string]string{"format": "pt"})
}
