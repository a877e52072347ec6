package kernel

// AdamWStep holds what one optimiser step multiplies with. Correction1 and
// Correction2 are the bias corrections 1 - beta1^t and 1 - beta2^t.
type AdamWStep struct {
	LR, Beta1, Beta2, Eps, WeightDecay float32
	Correction1, Correction2           float32
	GradScale                          float32 // gradients are multiplied by it first (clipping, averaging)
}

// AdamW takes one step of decoupled weight decay (Loshchilov, Hutter 2019, in
// PyTorch's order): p shrinks by 1 - LR·WeightDecay, the moments m and v
// advance, and p moves by LR/Correction1 · m/(√v/√Correction2 + Eps).
func AdamW(p, g, m, v []float32, h AdamWStep) {
	sameLength("adamw", len(p), len(g), len(m), len(v))
	c := h.coefficients()
	best.adamw(p, g, m, v, &c)
}

// adamCoefficients are the scalars of a step as the assembly reads them: eight
// float32 in this order.
type adamCoefficients struct {
	gradScale, beta1, rest1, beta2, rest2 float32
	rootCorrection, eps                   float32 // denominator = √v·rootCorrection + eps
	step                                  float32 // negative: p += step·m/denominator
	decay                                 float32
}

func (h AdamWStep) coefficients() adamCoefficients {
	return adamCoefficients{
		gradScale: h.GradScale,
		beta1:     h.Beta1, rest1: 1 - h.Beta1,
		beta2: h.Beta2, rest2: 1 - h.Beta2,
		rootCorrection: 1 / sqrt32(h.Correction2), eps: h.Eps,
		step:  -(h.LR / h.Correction1),
		decay: 1 - float32(h.LR*h.WeightDecay),
	}
}

func adamwGo(p, g, m, v []float32, h *adamCoefficients) {
	for i := range p {
		grad := float32(g[i] * h.gradScale)
		m1 := FMA(h.rest1, grad, float32(h.beta1*m[i]))
		v1 := FMA(float32(h.rest2*grad), grad, float32(h.beta2*v[i]))
		m[i], v[i] = m1, v1
		denominator := FMA(sqrt32(v1), h.rootCorrection, h.eps)
		p[i] = FMA(h.step, m1/denominator, float32(p[i]*h.decay))
	}
}
