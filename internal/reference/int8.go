package reference

import (
	"tarbert/internal/reference/kernel"
	"tarbert/internal/tensor"
)

// quantised says whether the directory has int8 linears.
func (s *fileSource) quantised() bool {
	for _, t := range s.types {
		if t == kindDynamic {
			return true
		}
	}
	return s.isInt8 != nil
}

// int8Linear reads a linear of int8 codes with one scale per output: for int8
// products in that profile, to be widened in the others.
func (s *fileSource) int8Linear(name string, out, in int, scales func(name string, out int) []float32) *linear {
	l := &linear{in: in, out: out, bf16: s.precision == BF16}
	info, ok := s.find(name+".weight", int64(out), int64(in))
	if ok && info.DType != tensor.I8 {
		s.fail("tensor %s.weight is %s, and %s calls it int8, which is I8", name, info.DType, s.whoSays())
	}
	scale := scales(name, out)
	if !ok || s.err != nil || scale == nil {
		return l
	}
	if s.precision != W8A8 {
		l.narrow = kernel.NewNarrowInt8(out, in, scale)
		if s.precision == BF16 {
			l.narrow.RoundBF16()
		}
		s.stream(name+".weight", out, in, l.narrow.SetRows)
		return l
	}
	if in > kernel.MaxInt8K {
		s.fail("tensor %s.weight has rows of %d, more than the %d whose int8 sums fit 32 bits", name, in, kernel.MaxInt8K)
		return l
	}
	l.scale = scale
	kernel.RoundBF16(l.scale)
	codes := fit(&s.codes, out*in)
	s.stream(name+".weight", out, in, func(from int, raw []byte) {
		for i, b := range raw {
			codes[from*in+i] = int8(b)
		}
	})
	if s.err == nil {
		l.int8 = kernel.PackInt8(codes, out, in)
	}
	return l
}

// whoSays names what describes the quantisation.
func (s *fileSource) whoSays() string {
	if s.types != nil {
		return descriptionFile
	}
	return "config field \"quantization_config\""
}

// compressedScales reads one scale per output as compressed-tensors stores it.
// Symmetric codes have no zero points; a tensor of them is refused with all
// that the config does not imply.
func (s *fileSource) compressedScales(name string, out int) []float32 {
	name += ".weight_scale"
	if info, ok := s.find(name, int64(out), 1); ok && info.DType != tensor.BF16 && info.DType != tensor.F32 {
		s.fail("tensor %s is %s: scales are BF16 or F32", name, info.DType)
		return nil
	}
	return s.scales(name, out, 1)
}
