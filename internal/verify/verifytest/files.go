package verifytest

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"tarbert/internal/tensor"
)

// Weights are a float32 model's tensors by name.
type Weights map[string]*Tensor

// Tensor is one, row by row.
type Tensor struct {
	Shape []int64
	Data  []float32
}

// Cols is the length of a row.
func (t *Tensor) Cols() int { return int(t.Shape[len(t.Shape)-1]) }

// Rows is how many there are.
func (t *Tensor) Rows() int { return len(t.Data) / t.Cols() }

// Row is row i, in place.
func (t *Tensor) Row(i int) []float32 { return t.Data[i*t.Cols():][:t.Cols()] }

// Scale multiplies every element.
func (t *Tensor) Scale(by float32) {
	for i := range t.Data {
		t.Data[i] *= by
	}
}

// Match lists, sorted, the tensors whose names contain every part.
func (w Weights) Match(parts ...string) []*Tensor {
	var out []*Tensor
	for _, name := range slices.Sorted(maps.Keys(w)) {
		if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(name, p) }) {
			out = append(out, w[name])
		}
	}
	return out
}

// Swap exchanges the contents of all tensors under two prefixes.
func (w Weights) Swap(a, b string) error {
	n := 0
	for name, t := range w {
		if rest, ok := strings.CutPrefix(name, a); ok {
			other := w[b+rest]
			if other == nil || !slices.Equal(t.Shape, other.Shape) {
				return fmt.Errorf("%s has no partner under %s", name, b)
			}
			t.Data, other.Data = other.Data, t.Data
			n++
		}
	}
	if n == 0 {
		return fmt.Errorf("nothing is called %s…", a)
	}
	return nil
}

// Copy writes a copy of the float32 model in src to dst, which must not have
// one, with its weights and its config changed. Either function may be nil.
func Copy(src, dst string, weights func(Weights) error, config func(map[string]any)) error {
	d, err := tensor.OpenDir(src)
	if err != nil {
		return err
	}
	defer d.Close()
	w := Weights{}
	for _, info := range d.Infos() {
		x, err := d.Float32(info.Name)
		if err != nil {
			return err
		}
		w[info.Name] = &Tensor{info.Shape, x}
	}
	if weights != nil {
		if err := weights(w); err != nil {
			return err
		}
	}
	var out []tensor.Tensor
	for _, name := range slices.Sorted(maps.Keys(w)) {
		out = append(out, tensor.FromFloat32(name, w[name].Shape, w[name].Data, tensor.F32))
	}
	if err := tensor.WriteFile(filepath.Join(dst, "model.safetensors"), out, map[string]string{"format": "pt"}); err != nil {
		return err
	}
	return copyConfig(src, dst, config)
}

func copyConfig(src, dst string, change func(map[string]any)) error {
	b, err := os.ReadFile(filepath.Join(src, "config.json"))
	if err != nil {
		return err
	}
	var c map[string]any
	if err := json.Unmarshal(b, &c); err != nil {
		return err
	}
	if change != nil {
		change(c)
	}
	if b, err = json.MarshalIndent(c, "", "  "); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dst, "config.json"), b, 0o644)
}
