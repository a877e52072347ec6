package kernel

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

func BenchmarkGemm(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, o := range available() {
		for _, threads := range []int{1, 2} {
			for _, s := range [][3]int{{256, 256, 256}, {512, 512, 512}, {1024, 1024, 1024}, {2048, 2048, 2048},
				{2000, 64, 96}, {2000, 256, 96}, {256, 64, 96}, {24, 64, 96}, {1, 64, 96}, {1, 1024, 1024}} {
				b.Run(fmt.Sprintf("%s/%dx%dx%d/%d", o.name, s[0], s[1], s[2], threads), func(b *testing.B) {
					m, n, k := s[0], s[1], s[2]
					x, y := Dense(sample(rng, m*k, false), m, k), Dense(sample(rng, k*n, false), k, n)
					for i := range x.Data {
						x.Data[i] = float32(i%7) - 3
					}
					for i := range y.Data {
						y.Data[i] = float32(i%5) - 2
					}
					z := Dense(make([]float32, m*n), m, n)
					pool := NewPool(threads)
					for b.Loop() {
						gemm(o, pool, x, y, z, false)
					}
					b.ReportMetric(2*float64(m)*float64(n)*float64(k)*float64(b.N)/float64(b.Elapsed().Nanoseconds()), "GFLOP/s")
				})
			}
		}
	}
}

func BenchmarkVector(b *testing.B) {
	rng := rand.New(rand.NewPCG(2, 2))
	const n = 4096
	x, y, z := make([]float32, n), make([]float32, n), make([]float32, n)
	for i := range x {
		x[i], y[i] = float32(rng.NormFloat64()), float32(rng.NormFloat64())
	}
	q := make([]int8, n)
	m, v := make([]float32, n), make([]float32, n)
	h := AdamWStep{LR: 1e-3, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, Correction1: 1, Correction2: 1, GradScale: 1}.coefficients()
	for _, o := range available() {
		for _, f := range []struct {
			name string
			run  func()
		}{
			{"dot", func() { o.dot(x, y) }},
			{"exp", func() { o.exp(z, x) }},
			{"softmax", func() { softmax(o, z, x) }},
			{"siluMul", func() { o.siluMul(z, x, y) }},
			{"siluMulBack", func() { o.siluMulBack(m, v, x, y, z) }},
			{"rmsNorm", func() { rmsNorm(o, z, x, y, 1e-6) }},
			{"adamw", func() { clear(v); o.adamw(z, x, m, v, &h) }},
			{"roundBF16", func() { o.roundBF16(z) }},
			{"quantize", func() { quantizeRow(o, q, x) }},
			{"transpose", func() { o.packT(z, x, 64, 64, 64, 64) }},
		} {
			b.Run(o.name+"/"+f.name, func(b *testing.B) {
				for b.Loop() {
					f.run()
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/element")
			})
		}
	}
}

func BenchmarkInt8(b *testing.B) {
	for _, o := range available() {
		for _, s := range [][3]int{{2000, 64, 96}, {256, 1024, 1024}, {1, 1024, 1024}} {
			b.Run(fmt.Sprintf("%s/%dx%dx%d", o.name, s[0], s[1], s[2]), func(b *testing.B) {
				m, n, k := s[0], s[1], s[2]
				x, w, c := make([]int8, m*k), packInt8(o, make([]int8, n*k), n, k), make([]int32, m*n)
				for b.Loop() {
					gemmInt8(o, nil, x, m, k, w, c)
				}
				b.ReportMetric(2*float64(m)*float64(n)*float64(k)*float64(b.N)/float64(b.Elapsed().Nanoseconds()), "GOP/s")
			})
		}
	}
}

func BenchmarkPool(b *testing.B) {
	p := NewPool(2)
	for b.Loop() {
		p.Run(2, func(int) {})
	}
}
