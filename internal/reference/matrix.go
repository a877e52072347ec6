package reference

import (
	"math"
	"slices"
	"sync"

	"tarbert/internal/reference/kernel"
	"tarbert/internal/tensor"
)

func (s *fileSource) vector(name string, n int) vec {
	x := s.floats(name, int64(n))
	if s.precision == BF16 {
		kernel.RoundBF16(x)
	}
	return vec{w: x}
}

func (s *fileSource) frozen(name string, n int) []float32 { return s.floats(name, int64(n)) }

func (s *fileSource) table(name string, rows, cols int) vec {
	if packed, narrow := s.matrix(name, rows, cols); narrow != nil {
		return vec{stored: narrow}
	} else if packed != nil {
		return vec{stored: packed}
	}
	return vec{}
}

func (s *fileSource) router(name string, out, in int) *linear {
	l := &linear{in: in, out: out}
	l.packed, l.narrow = s.matrix(name+".weight", out, in)
	return l
}

func (s *fileSource) linear(name string, out, in int, bias bool) *linear {
	var l *linear
	switch {
	case s.types != nil && s.kind(name+".weight") == kindDynamic:
		l = s.int8Linear(name, out, in, s.ascendScales)
	case s.isInt8 != nil && s.isInt8(name):
		l = s.int8Linear(name, out, in, s.compressedScales)
	default:
		l = &linear{in: in, out: out, bf16: s.precision == BF16}
		l.packed, l.narrow = s.matrix(name+".weight", out, in)
		if s.precision == FP8Block && l.narrow != nil && l.narrow.Form() == kernel.E4M3 {
			l.fp8 = &fp8Activations{group: s.c.QuantizationBlock[1], powerOfTwo: s.c.QuantizationScaleFormat == "ue8m0"}
		}
	}
	if bias {
		l.bias = s.vector(name+".bias", out)
	}
	return l
}

// tied makes the head of the embeddings: the same memory. Published files
// often repeat them as lm_head.weight; a different one there contradicts the
// config.
func (s *fileSource) tied(table vec, out, in int) *linear {
	s.sameAsEmbeddings("lm_head.weight", table, out, in)
	l := &linear{in: in, out: out, bf16: s.precision == BF16}
	switch m := table.stored.(type) {
	case *kernel.Packed:
		l.packed = m
	case *kernel.Narrow:
		l.narrow = m
	}
	return l
}

func (s *fileSource) sameAsEmbeddings(name string, table vec, rows, cols int) {
	if _, ok := s.dir.Info(name); !ok || s.err != nil || table.stored == nil {
		return
	}
	packed, narrow := s.matrix(name, rows, cols)
	if s.err != nil {
		return
	}
	again := vec{stored: packed}
	if narrow != nil {
		again.stored = narrow
	}
	a, b := make([]float32, cols), make([]float32, cols)
	for i := range rows {
		table.row(a, i)
		again.row(b, i)
		if !slices.Equal(a, b) {
			s.fail("tensor %s differs from model.embed_tokens.weight and contradicts config field \"tie_word_embeddings\"", name)
			return
		}
	}
}

// matrix reads W, [out, in], as a right-hand side: in float32 as packed, in a
// narrower form as narrow.
func (s *fileSource) matrix(name string, out, in int) (packed *kernel.Packed, narrow *kernel.Narrow) {
	info, ok := s.find(name, int64(out), int64(in))
	if !ok || !s.float(name) {
		return nil, nil
	}
	switch info.DType {
	case tensor.BF16, tensor.F16:
		narrow = kernel.NewNarrow(map[tensor.DType]kernel.Form{tensor.BF16: kernel.BF16, tensor.F16: kernel.F16}[info.DType], out, in)
		s.stream(name, out, 2*in, narrow.SetRows)
	case tensor.F8_E4M3:
		scales := s.blockScales(name, out, in)
		if s.err != nil || scales == nil {
			return nil, nil
		}
		narrow = kernel.NewNarrowE4M3(out, in, scales, s.c.QuantizationBlock)
		s.stream(name, out, in, narrow.SetRows)
	case tensor.F32:
		return s.float32Matrix(name, out, in)
	case tensor.I8:
		s.fail("tensor %s is I8 and not among the linears that the config calls int8", name)
	default:
		s.fail("tensor %s is %s: weights are F32, BF16, F16, F8_E4M3 with block scales, or I8", name, info.DType)
	}
	if narrow != nil && s.precision == BF16 {
		narrow.RoundBF16()
	}
	return nil, narrow
}

// float32Matrix is matrix of float32 weights.
func (s *fileSource) float32Matrix(name string, out, in int) (packed *kernel.Packed, narrow *kernel.Narrow) {
	var set func(from int, x []float32)
	if s.precision == BF16 {
		narrow = kernel.NewNarrow(kernel.BF16, out, in)
		set = func(from int, x []float32) {
			rounded := make([]byte, 2*len(x))
			if err := tensor.Narrow(rounded, x, tensor.BF16); err != nil {
				panic(err) // the sizes are right by construction
			}
			narrow.SetRows(from, rounded)
		}
	} else {
		packed = kernel.NewPacked(out, in)
		set = packed.SetRows
	}
	s.stream(name, out, 4*in, func(from int, raw []byte) {
		x := make([]float32, len(raw)/4)
		if err := tensor.Widen(x, raw, tensor.F32); err != nil {
			panic(err)
		}
		set(from, x)
	})
	return packed, narrow
}

// streamBytes is how much of a matrix is read at a time, roughly.
const streamBytes = 2 << 20

// stream reads a matrix of rows of so many bytes and hands it over in pieces
// that begin at multiples of 32 rows, several at a time.
func (s *fileSource) stream(name string, rows, width int, set func(from int, raw []byte)) {
	if s.err != nil || rows*width == 0 {
		return
	}
	step := max(streamBytes/width/32*32, 32)
	var mu sync.Mutex
	var first error
	s.pool.Run((rows+step-1)/step, func(i int) {
		buf, _ := s.buffers.Get().(*[]byte)
		if buf == nil {
			buf = new([]byte)
		}
		defer s.buffers.Put(buf)
		from := i * step
		raw := fit(buf, (min(from+step, rows)-from)*width)
		if err := s.dir.ReadAt(name, raw, int64(from)*int64(width)); err != nil {
			mu.Lock()
			defer mu.Unlock()
			first = err
			return
		}
		set(from, raw)
	})
	if first != nil {
		s.fail("%w", first)
	}
}

// blockScales reads the scales of an E4M3 weight.
func (s *fileSource) blockScales(name string, rows, cols int) []float32 {
	if s.c.Quantization != methodFP8 {
		s.fail("tensor %s is F8_E4M3, but config.json has no quantization_config of method fp8", name)
		return nil
	}
	block := s.c.QuantizationBlock
	return s.scales(name+"_scale_inv", (rows+block[0]-1)/block[0], (cols+block[1]-1)/block[1])
}

// fp8 reads an E4M3 weight and multiplies it by its blocks' scales.
func (s *fileSource) fp8(name string, rows, cols int) []float32 {
	block, scales := s.c.QuantizationBlock, s.blockScales(name, rows, cols)
	if s.err != nil || scales == nil {
		return nil
	}
	codes, err := s.dir.Bytes(name)
	if err != nil {
		s.fail("%w", err)
		return nil
	}
	across := (cols + block[1] - 1) / block[1]
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
