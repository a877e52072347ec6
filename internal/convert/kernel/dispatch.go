package kernel

// ops is one implementation of the inner loops. The functions of loss take whole
// groups of sixteen elements; the others take any number.
type ops struct {
	name      string
	fp8       func(dst, src []byte, t *Table) bool
	fp4       func(dst, src, exponents []byte)
	expand    func(dst, src []byte, shifts []Shift)
	finite    func(src []byte) bool
	widen     func(dst []float32, src []byte)
	round     func(dst []byte, x []float32)
	maxAbs    func(x []float32) uint32
	maxAbs16  func(src []byte) uint32
	int8s     func(dst []byte, x []float32, scale float32, narrow bool)
	int8s16   func(dst, src []byte, scale float32, narrow bool)
	e4m3      func(dst []byte, x []float32, scale float32)
	noise     func(x []float32, codes []byte, inverse float32) [lanes]float32
	roundLoss func(x []float32, rounded []byte, s *partial)
	int8Loss  func(x []float32, codes []byte, b *int8Bound, s *partial)
	e4m3Loss  func(x []float32, codes []byte, b *e4m3Bound, s *partial)
}

func goOps() *ops {
	return &ops{name: "go", fp8: fp8Go, fp4: fp4Go, expand: expandGo, finite: finiteGo, widen: widenGo, round: roundGo, maxAbs: maxAbsGo,
		maxAbs16: maxAbs16Go, int8s: int8Go, int8s16: int8Go16, e4m3: e4m3Go, noise: int8NoiseGo, roundLoss: roundLossGo, int8Loss: int8LossGo, e4m3Loss: e4m3LossGo}
}

// fastest is what this processor runs best. It is set once.
var fastest = available()[0]

// Describe names the instruction set in use.
func Describe() string { return fastest.name }
