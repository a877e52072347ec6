package kernel

// CountAbove is how many of at most 2^24 elements of x are greater than t. A
// NaN is not.
func CountAbove(x []float32, t float32) int { return int(wideFastest().above(x, t)) }

// CountFrom is how many of at most 2^24 elements of x are t or greater.
func CountFrom(x []float32, t float32) int { return int(wideFastest().from(x, t)) }

func countAboveGo(x []float32, t float32) float32 {
	n := 0
	for _, v := range x {
		if v > t {
			n++
		}
	}
	return float32(n)
}

func countFromGo(x []float32, t float32) float32 {
	n := 0
	for _, v := range x {
		if v >= t {
			n++
		}
	}
	return float32(n)
}
