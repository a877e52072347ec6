package kernel

import (
	"slices"
	"time"
)

// MeasureGFLOPS is the rate, in 10^9 float32 operations a second, at which
// this machine multiplies matrices now: the median over repetitions of a
// 512×512×512 product for at least d on so many threads.
func MeasureGFLOPS(threads int, d time.Duration) float64 {
	const n = 512
	a, b, c := make([]float32, n*n), make([]float32, n*n), make([]float32, n*n)
	for i := range a {
		a[i], b[i] = float32(i%7)-3, float32(i%5)-2
	}
	pool := NewPool(threads)
	var rates []float64
	for start := time.Now(); len(rates) < 3 || time.Since(start) < d; {
		from := time.Now()
		Gemm(pool, Dense(a, n, n), Dense(b, n, n), Dense(c, n, n), false)
		rates = append(rates, 2*n*n*n/float64(max(time.Since(from).Nanoseconds(), 1)))
	}
	slices.Sort(rates[1:]) // the first warms up
	return rates[1:][len(rates[1:])/2]
}

// MeasurePeakGFLOPS is the rate of fused multiply-adds that touch no memory,
// on so many threads: the bound on MeasureGFLOPS. The best of repetitions of
// about a tenth of a millisecond over d.
func MeasurePeakGFLOPS(threads int, d time.Duration) float64 {
	pool := NewPool(threads)
	rounds := 1000
	rate := func() float64 {
		from := time.Now()
		pool.Run(pool.Threads(), func(int) { best.peak(rounds) })
		return float64(pool.Threads()) * float64(rounds) * best.peakFlops / float64(max(time.Since(from).Nanoseconds(), 1))
	}
	for range 10 { // lengthen until starting the goroutines no longer matters
		if float64(rounds)*best.peakFlops/rate() > 1e5*float64(pool.Threads()) {
			break
		}
		rounds *= 2
	}
	top := 0.0
	for start := time.Now(); top == 0 || time.Since(start) < d; {
		top = max(top, rate())
	}
	return top
}

// peakGo is eight chains of multiply-adds a round.
func peakGo(rounds int) {
	var acc [8]float32
	for range rounds {
		for i := range acc {
			acc[i] = FMA(acc[i], 0.5, 1)
		}
	}
}
