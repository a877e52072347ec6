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
	n := 0
	for _, f := range c.files {
		n += f.tensors
	}
	infos := make([]tensor.Info, 0, n)
	for i := range c.steps {
		for _, s := range c.steps[i].slots {
			infos = append(infos, tensor.Info{Name: s.name, Size: s.size, File: c.files[s.file].name})
		}
	}
	name := tensor.IndexName
	if c.options.Naming == MSModelSlim {
		name = "quant_model_weights.safetensors.index.json"
	}
	return writeWith(filepath.Join(dir, name), func(w io.Writer) error { return tensor.WriteIndex(w, infos) })
}
