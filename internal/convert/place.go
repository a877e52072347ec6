package convert

import (
	"fmt"
	"io"
	"path/filepath"

	"tarbert/internal/tensor"
)

// placeSafetensors splits the steps over files, in order, and plans each as the
// reference library would write it.
func placeSafetensors(c *conversion, steps []step) ([]fileLayout, error) {
	shards := shard(steps, c.options.ShardSize)
	var metadata map[string]string // {"format":"pt"}
	if c.options.Naming == MSModelSlim {
		metadata = map[string]string{} // msmodelslim writes none
	}
	files := make([]fileLayout, len(shards))
	for i, some := range shards {
		var infos []tensor.Info
		byName := map[string]*output{}
		for j := range some {
			for _, s := range some[j].slots {
				infos = append(infos, tensor.Info{Name: s.name, DType: s.dtype, Shape: s.shape})
				byName[s.name] = s.output
			}
		}
		name := shardName(c.format.name, c.options.Naming, i, len(shards))
		layout, err := tensor.Plan(infos, metadata)
		if err != nil {
			return nil, fmt.Errorf("plan %s: %w", name, err)
		}
		for _, info := range layout.Infos {
			o := byName[info.Name]
			o.file, o.offset = i, info.Offset
		}
		files[i] = fileLayout{name: name, size: layout.Size, tensors: len(infos), header: layout.Header()}
	}
	return files, nil
}

// shard splits the steps, in order, so that no file holds more than most bytes
// of tensors, unless one step alone does.
func shard(steps []step, most int64) [][]step {
	var shards [][]step
	var size int64
	first := 0
	for i := range steps {
		n := steps[i].bytes()
		if size > 0 && size+n > most {
			shards = append(shards, steps[first:i])
			first, size = i, 0
		}
		size += n
	}
	if len(steps) > 0 {
		shards = append(shards, steps[first:])
	}
	return shards
}

// shardName is the name of file i of n, counted from 0.
func shardName(format string, naming Naming, i, n int) string {
	switch {
	case naming == MSModelSlim:
		return fmt.Sprintf("quant_model_weights-%05d-of-%05d.safetensors", i+1, n)
	case format != W8A8Ascend && n == 1:
		return "model.safetensors"
	}
	return fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, n)
}

// writeIndex writes the index, which only a single file called
// model.safetensors goes without.
func (c *conversion) writeIndex(dir string) error {
	if len(c.files) == 1 && c.files[0].name == "model.safetensors" {
		return nil
	}
	arch, _, err := findArchitecture(c.model.ModelType)
	if err != nil {
		return err
	}
	outputs := inOrderOf(c.steps, arch.Order)
	infos := make([]tensor.Info, 0, len(outputs))
	for _, o := range outputs {
		infos = append(infos, tensor.Info{Name: o.name, Size: o.size, File: c.files[o.file].name})
	}
	if c.options.Naming == MSModelSlim {
		return writeWith(filepath.Join(dir, "quant_model_weights.safetensors.index.json"), func(w io.Writer) error { return tensor.WriteIndexInOrder(w, infos) })
	}
	return writeWith(filepath.Join(dir, tensor.IndexName), func(w io.Writer) error { return tensor.WriteIndex(w, infos) })
}
