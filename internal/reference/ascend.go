package reference

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"tarbert/internal/reference/kernel"
	"tarbert/internal/tensor"
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

// quantised says whether the directory has int8 linears.
func (s *fileSource) quantised() bool {
	for _, t := range s.types {
		if t == kindDynamic {
			return true
		}
	}
	return false
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

// dynamic reads a W8A8_DYNAMIC linear: as int8 in that profile, dequantised in
// the others.
func (s *fileSource) dynamic(name string, out, in int) *linear {
	l := &linear{in: in, out: out, bf16: s.precision == BF16}
	codes := s.int8(name+".weight", out, in)
	l.scale = s.channelScales(name, out)
	for _, suffix := range []string{".weight_scale", ".weight_offset"} {
		if s.kind(name+suffix) != kindDynamic {
			s.fail("tensor %s is %s in %s, and its weight is W8A8_DYNAMIC", name+suffix, s.types[name+suffix], descriptionFile)
		}
	}
	if s.err != nil || codes == nil || l.scale == nil {
		return l
	}
	if s.precision == W8A8 {
		if in > kernel.MaxInt8K {
			s.fail("tensor %s.weight has rows of %d, more than the %d whose int8 sums fit 32 bits", name, in, kernel.MaxInt8K)
			return l
		}
		l.int8 = kernel.PackInt8(codes, out, in)
		return l
	}
	w := make([]float32, len(codes))
	for i, q := range codes {
		w[i] = float32(q) * l.scale[i/in]
	}
	if s.precision == BF16 {
		kernel.RoundBF16(w)
	}
	l.packed = kernel.Pack(kernel.Dense(w, out, in).Transpose())
	return l
}

func (s *fileSource) int8(name string, out, in int) []int8 {
	info, ok := s.find(name, int64(out), int64(in))
	if !ok {
		return nil
	}
	if info.DType != tensor.I8 {
		s.fail("tensor %s is %s, and %s calls it W8A8_DYNAMIC, which is I8", name, info.DType, descriptionFile)
		return nil
	}
	data, err := s.dir.Bytes(name)
	if err != nil {
		s.fail("%w", err)
		return nil
	}
	codes := make([]int8, len(data))
	for i, b := range data {
		codes[i] = int8(b)
	}
	return codes
}

// channelScales reads one scale per output, rounded to bf16 as vllm-ascend's
// loader does, and checks that the offsets are zero.
func (s *fileSource) channelScales(name string, out int) []float32 {
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
