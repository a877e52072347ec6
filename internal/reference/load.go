package reference

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"tarbert/internal/reference/kernel"
	"tarbert/internal/tensor"
)

// Load reads a model directory: config.json with safetensors in F32, BF16,
// F16 or DeepSeek's FP8 blocks, or an AscendV1 directory of FLOAT and
// W8A8_DYNAMIC tensors. Every tensor that the config implies must be there in
// its shape, and nothing else, save multi-token-prediction layers, which are
// skipped, and an lm_head.weight equal to tied embeddings.
func Load(dir string, o Options) (*Model, error) {
	c, err := ReadConfig(dir)
	if err != nil {
		return nil, fmt.Errorf("load model: %w", err)
	}
	s, err := openSource(dir, c)
	if err != nil {
		return nil, fmt.Errorf("load model: %w", err)
	}
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
	return newModel(n, o.Precision, newPool(o.Threads)), nil
}

// fileSource supplies a model's tensors from a directory. The first error
// sticks; missing tensors are collected.
type fileSource struct {
	dir       *tensor.Dir
	c         *Config
	types     map[string]string // quant_model_description.json; nil without
	precision Precision
	used      map[string]bool
	missing   []string
	err       error
}

func openSource(dir string, c *Config) (*fileSource, error) {
	if c.Quantization != "" && c.Quantization != "fp8" {
		return nil, fmt.Errorf("config field \"quantization_config.quant_method\" is %q: only fp8 blocks can be loaded", c.Quantization)
	}
	types, err := readDescription(dir)
	if err != nil {
		return nil, err
	}
	d, err := tensor.OpenDir(dir)
	if err != nil {
		return nil, err
	}
	return &fileSource{dir: d, c: c, types: types, used: map[string]bool{}}, nil
}

// load builds the network in a profile.
func (s *fileSource) load(p Precision) (*network, error) {
	switch {
	case !slices.Contains([]Precision{F32, BF16, W8A8}, p):
		return nil, fmt.Errorf("precision %q: known are f32, bf16 and w8a8", p)
	case p == W8A8 && !s.quantised():
		return nil, errors.New("precision w8a8 needs W8A8_DYNAMIC weights: convert the model first (tarbert convert SRC DST --to w8a8-ascend)")
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
	if s.types != nil && s.kind(name) != kindFloat {
		s.fail("tensor %s is %s in %s: only linear weights can be", name, s.types[name], descriptionFile)
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

// weights is floats, rounded to bf16 in that profile.
func (s *fileSource) weights(name string, shape ...int64) []float32 {
	x := s.floats(name, shape...)
	if s.precision == BF16 {
		kernel.RoundBF16(x)
	}
	return x
}

func (s *fileSource) vector(name string, n int) vec {
	return vec{w: s.weights(name, int64(n))}
}

func (s *fileSource) frozen(name string, n int) []float32 { return s.floats(name, int64(n)) }

func (s *fileSource) table(name string, rows, cols int) vec {
	return vec{w: s.weights(name, int64(rows), int64(cols))}
}

func (s *fileSource) router(name string, out, in int) *linear {
	return s.pack(s.weights(name+".weight", int64(out), int64(in)), out, in, false)
}

func (s *fileSource) linear(name string, out, in int, bias bool) *linear {
	var l *linear
	if s.types != nil && s.kind(name+".weight") == kindDynamic {
		l = s.dynamic(name, out, in)
	} else {
		l = s.pack(s.weights(name+".weight", int64(out), int64(in)), out, in, s.precision == BF16)
	}
	if bias {
		l.bias = s.vector(name+".bias", out)
	}
	return l
}

// tied makes the head of the embeddings. Published files often repeat them as
// lm_head.weight; a different one there contradicts the config.
func (s *fileSource) tied(table vec, out, in int) *linear {
	const name = "lm_head.weight"
	if _, ok := s.dir.Info(name); ok && s.err == nil {
		if x := s.weights(name, int64(out), int64(in)); s.err == nil && !slices.Equal(x, table.w) {
			s.fail("tensor %s differs from model.embed_tokens.weight and contradicts config field \"tie_word_embeddings\"", name)
		}
	}
	return s.pack(table.w, out, in, s.precision == BF16)
}

func (s *fileSource) pack(w []float32, out, in int, bf16 bool) *linear {
	l := &linear{in: in, out: out, bf16: bf16}
	if len(w) == out*in {
		l.packed = kernel.Pack(kernel.Dense(w, out, in).Transpose())
	}
	return l
}

// fp8 reads an E4M3 weight and multiplies it by its blocks' scales.
func (s *fileSource) fp8(name string, rows, cols int) []float32 {
	block := s.c.QuantizationBlock
	if s.c.Quantization != "fp8" {
		s.fail("tensor %s is F8_E4M3, but config.json has no quantization_config of method fp8", name)
		return nil
	}
	across := (cols + block[1] - 1) / block[1]
	scales := s.scales(name+"_scale_inv", (rows+block[0]-1)/block[0], across)
	codes, err := s.dir.Bytes(name)
	if err != nil {
		s.fail("%w", err)
	}
	if s.err != nil || scales == nil || len(codes) != rows*cols {
		return nil
	}
	w := make([]float32, len(codes))
	for i := range rows {
		for j := range cols {
			w[i*cols+j] = tensor.FromF8E4M3(codes[i*cols+j]) * scales[i/block[0]*across+j/block[1]]
		}
	}
	return w
}

// scales reads block scales in F32, BF16 or as E8M0 exponents.
func (s *fileSource) scales(name string, rows, cols int) []float32 {
	info, ok := s.find(name, int64(rows), int64(cols))
	if !ok {
		return nil
	}
	var x []float32
	var err error
	if info.DType == tensor.F8_E8M0 {
		var codes []byte
		if codes, err = s.dir.Bytes(name); err == nil {
			for _, c := range codes {
				x = append(x, tensor.FromF8E8M0(c))
			}
		}
	} else {
		x, err = s.dir.Float32(name)
	}
	if err != nil {
		s.fail("%w", err)
		return nil
	}
	for i, v := range x {
		if !(v >= 0) || math.IsInf(float64(v), 0) {
			s.fail("tensor %s has scale %v at index %d", name, v, i)
		}
	}
	return x
}
