package kernel

func fp8(dst, src []byte, t *Table) bool { return fp8Go(dst, src, t) }

func widen(dst []float32, src []byte) { widenGo(dst, src) }

func round(dst []byte, x []float32) { roundGo(dst, x) }

func roundLoss(x []float32, rounded []byte) Loss { return roundLossGo(x, rounded) }

func maxAbs(x []float32) uint32 { return maxAbsGo(x) }

func int8s(dst []byte, x []float32, scale float32, narrow bool) { int8Go(dst, x, scale, narrow) }

func int8Loss(x []float32, codes []byte, b int8Bound) Loss { return int8LossGo(x, codes, b) }
