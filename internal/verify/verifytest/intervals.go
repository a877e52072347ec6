package verifytest

import "math"

// ClopperPearson is the exact two-sided interval of a rate of which count of n
// were seen, at 1 − level (Clopper and Pearson 1934).
func ClopperPearson(count, n int, level float64) (low, high float64) {
	k := float64(count)
	low, high = 0, 1
	if count > 0 {
		low = solve(func(p float64) float64 { return 1 - binomialCDF(k-1, n, p) - level/2 })
	}
	if count < n {
		high = solve(func(p float64) float64 { return level/2 - binomialCDF(k, n, p) })
	}
	return low, high
}

// solve finds the zero of a function that rises from below to above it on [0, 1].
func solve(f func(float64) float64) float64 {
	low, high := 0.0, 1.0
	for range 60 {
		if mid := (low + high) / 2; f(mid) < 0 {
			low = mid
		} else {
			high = mid
		}
	}
	return (low + high) / 2
}

func binomialCDF(k float64, n int, p float64) float64 {
	if p <= 0 {
		return 1
	}
	if p >= 1 {
		return 0
	}
	all, _ := math.Lgamma(float64(n + 1))
	sum := 0.0
	for i := 0.0; i <= k; i++ {
		a, _ := math.Lgamma(i + 1)
		b, _ := math.Lgamma(float64(n) - i + 1)
		sum += math.Exp(all - a - b + i*math.Log(p) + (float64(n)-i)*math.Log1p(-p))
	}
	return min(sum, 1)
}
