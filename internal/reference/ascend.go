package reference

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"tarbert/internal/reference/kernel"
)

// AscendV1 is the directory format of msmodelslim, Huawei's quantiser, that
// vllm-ascend loads: quant_model_description.json names every tensor's type.
// A W8A8_DYNAMIC linear has weight I8 [out, in], weight_scale F32 [out, 1] and
// weight_offset, zero since the codes are symmetric.
const (
	descriptionFile = "quant_model_description.json"
	kindFloat       = "FLOAT"
	kindDynamic     = "W8A8_DYNAMIC"
)

// readDescription reads the tensors' types; nil where there is no such file.
func readDescription(dir string) (map[string]string, error) {
	path := filepath.Join(dir, descriptionFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read quantisation: %w", err)
	}
	var raw map[string]any
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	types := map[string]string{}
	for k, v := range raw {
		if t, ok := v.(string); ok {
			types[k] = t
		}
	}
	return types, nil
}

// kind is a tensor's type by the description.
func (s *fileSource) kind(name string) string {
	t, ok := s.types[name]
	switch {
	case !ok:
		s.fail("tensor %s is not in %s", name, descriptionFile)
	case t != kindFloat && t != kindDynamic:
		s.fail("tensor %s is %s in %s: only FLOAT and W8A8_DYNAMIC can be loaded", name, t, descriptionFile)
	}
	return t
}

// float fails, and is false, for a tensor that the description calls quantised.
func (s *fileSource) float(name string) bool {
	if s.types != nil && s.kind(name) != kindFloat {
		s.fail("tensor %s is %s in %s: only linear weights can be", name, s.types[name], descriptionFile)
		return false
	}
	return true
}

// ascendScales reads one scale per output, rounded to bf16 as vllm-ascend's
// loader does, and checks that the offsets are zero.
func (s *fileSource) ascendScales(name string, out int) []float32 {
	for _, suffix := range []string{".weight_scale", ".weight_offset"} {
		if s.kind(name+suffix) != kindDynamic {
			s.fail("tensor %s is %s in %s, and its weight is W8A8_DYNAMIC", name+suffix, s.types[name+suffix], descriptionFile)
		}
	}
	scale := s.scales(name+".weight_scale", out, 1)
	kernel.RoundBF16(scale)
	if _, ok := s.find(name+".weight_offset", int64(out), 1); !ok {
		return scale
	}
	offset, err := s.dir.Float32(name + ".weight_offset")
	if err != nil {
		s.fail("%w", err)
	}
	for i, v := range offset {
		if v != 0 {
			s.fail("tensor %s.weight_offset is %v at index %d: W8A8_DYNAMIC is symmetric, the offset must be 0", name, v, i)
		}
	}
	return scale
}
