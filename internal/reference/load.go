package reference

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"tarbert/internal/reference/kernel"
	"tarbert/internal/tensor"
)

// Load reads a model directory: config.json with safetensors in F32, BF16,
// F16, DeepSeek's FP8 blocks or compressed-tensors' int8, or an AscendV1
// directory of FLOAT and W8A8_DYNAMIC tensors. Every tensor that the config
// implies must be there in its shape, and nothing else, save
// multi-token-prediction layers, which are skipped, and an lm_head.weight equal
// to tied embeddings.
//
// Matrices are read piece by piece and stay in the width they are stored in;
// nothing is in memory twice.
func Load(dir string, o Options) (*Model, error) {
	c, err := ReadConfig(dir)
	if err != nil {
		return nil, fmt.Errorf("load model: %w", err)
	}
	s, err := openSource(dir, c)
	if err != nil {
		return nil, fmt.Errorf("load model: %w", err)
	}
	s.pool = newPool(o.Threads)
	if o.Precision == "" {
		o.Precision = F32
		if s.quantised() {
			o.Precision = W8A8
		}
	}
	n, err := s.load(o.Precision)
	if err := errors.Join(err, s.dir.Close()); err != nil {
		return nil, fmt.Errorf("load model %s: %w", dir, err)
	}
	return newModel(n, o.Precision, s.pool), nil
}

// fileSource supplies a model's tensors from a directory. The first error
// sticks; missing tensors are collected.
type fileSource struct {
	dir       *tensor.Dir
	c         *Config
	types     map[string]string        // quant_model_description.json; nil without
	isInt8    func(module string) bool // compressed-tensors' linears; nil without
	precision Precision
	pool      *kernel.Pool // nil: serial
	buffers   sync.Pool    // of *[]byte
	codes     []int8
	used      map[string]bool
	missing   []string
	err       error
}

func openSource(dir string, c *Config) (*fileSource, error) {
	if !slices.Contains([]string{"", methodFP8, methodCompressed}, c.Quantization) {
		return nil, fmt.Errorf("config field \"quantization_config.quant_method\" is %q: only fp8 blocks and compressed-tensors int8 can be loaded", c.Quantization)
	}
	types, err := readDescription(dir)
	if err != nil {
		return nil, err
	}
	d, err := tensor.OpenDir(dir)
	if err != nil {
		return nil, err
	}
	s := &fileSource{dir: d, c: c, types: types, used: map[string]bool{}}
	if c.Compressed != nil {
		s.isInt8 = c.Compressed.matcher()
	}
	return s, nil
}

// load builds the network in a profile.
func (s *fileSource) load(p Precision) (*network, error) {
	switch {
	case !slices.Contains([]Precision{F32, BF16, FP8Block, W8A8}, p):
		return nil, fmt.Errorf("precision %q: known are f32, bf16, fp8-block and w8a8", p)
	case p == W8A8 && !s.quantised():
		return nil, errors.New("precision w8a8 needs int8 weights, W8A8_DYNAMIC or compressed-tensors: convert the model first (tarbert convert SRC DST --to w8a8-ascend)")
	case p == FP8Block && s.c.Quantization != methodFP8:
		return nil, errors.New("precision fp8-block needs weights in FP8 blocks: a quantization_config of method fp8 in config.json")
	}
	s.precision = p
	n := s.c.build(s)
	if p == BF16 {
		n.bf16, n.rope.bf16 = true, true
	}
	return n, s.finish()
}

// finish reports what is missing or left over.
func (s *fileSource) finish() error {
	if s.err != nil {
		return s.err
	}
	if len(s.missing) > 0 {
		return fmt.Errorf("the config implies tensors that the files lack: %s", some(s.missing))
	}
	var extra []string
	for _, info := range s.dir.Infos() {
		if !s.used[info.Name] && !s.c.PredictionLayer(info.Name) {
			extra = append(extra, info.Name)
		}
	}
	if len(extra) > 0 {
		return fmt.Errorf("the files have tensors that the config does not imply: %s", some(extra))
	}
	return nil
}

// some lists names, at most five of them.
func some(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

func (s *fileSource) fail(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf(format, args...)
	}
}

// find looks a tensor up and checks its shape.
func (s *fileSource) find(name string, shape ...int64) (tensor.Info, bool) {
	s.used[name] = true
	if s.err != nil {
		return tensor.Info{}, false
	}
	info, ok := s.dir.Info(name)
	if !ok {
		s.missing = append(s.missing, name)
		return info, false
	}
	if !slices.Equal(info.Shape, shape) {
		s.fail("tensor %s has shape %v where the config implies %v", name, info.Shape, shape)
		return info, false
	}
	return info, true
}

// floats reads a float tensor, widened to float32.
func (s *fileSource) floats(name string, shape ...int64) []float32 {
	info, ok := s.find(name, shape...)
	if !ok {
		return nil
	}
	if !s.float(name) {
		return nil
	}
	if info.DType == tensor.F8_E4M3 {
		return s.fp8(name, int(shape[0]), int(shape[1]))
	}
	x, err := s.dir.Float32(name)
	if err != nil {
		s.fail("%w", err)
	}
	return x
}
