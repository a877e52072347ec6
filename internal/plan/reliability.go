package plan

import (
	"fmt"
	"math"
)

// RestartCost is what one interruption costs beside the work lost since the
// last save, in seconds, by part.
type RestartCost struct {
	Detect Range `json:"detect"` // until somebody knows
	Place  Range `json:"place"`  // stop, replace the node, queue
	Init   Range `json:"init"`   // processes, communicators, compilation
	Load   Range `json:"load"`   // reading the checkpoint, first slow steps
}

// At is the sum's quantile with the parts slow or fast together: the wide side.
func (r RestartCost) At(q float64) Hours {
	return Seconds(r.Detect.At(q) + r.Place.At(q) + r.Init.At(q) + r.Load.At(q)).Hours()
}

// Young is the checkpoint interval sqrt(2δM): δ blocking time per save, M mean
// time between interruptions (Young 1974).
func Young(save, mean Hours) Hours {
	return Hours(math.Sqrt(2 * float64(save) * float64(mean)))
}

// Daly is the higher-order interval (Daly 2006); M where δ ≥ 2M.
func Daly(save, mean Hours) Hours {
	d, m := float64(save), float64(mean)
	if d >= 2*m {
		return mean
	}
	x := d / (2 * m)
	return Hours(math.Sqrt(2*d*m)*(1+math.Sqrt(x)/3+x/9) - d)
}

// ETTR is the expected share of wall time that becomes kept steps, exactly for
// exponential interruptions:
//
//	τ / (M·e^(R/M)·(e^((τ+δ)/M) − 1))
func ETTR(interval, save, restart, mean Hours) float64 {
	t, d, r, m := float64(interval), float64(save), float64(restart), float64(mean)
	if math.IsInf(m, 1) {
		return t / (t + d)
	}
	return t / (m * math.Exp(r/m) * math.Expm1((t+d)/m))
}

// ETTRFirstOrder is 1/(1 + δ/τ + τ/2M + R/M).
func ETTRFirstOrder(interval, save, restart, mean Hours) float64 {
	t, d, r, m := float64(interval), float64(save), float64(restart), float64(mean)
	return 1 / (1 + d/t + t/(2*m) + r/m)
}

// ETTRMeta is the form of arXiv:2410.21680, without queueing:
// 1 − N·r_f·(u0 + Δt/2).
func ETTRMeta(nodes int, perNodeDay float64, restart, interval Hours) float64 {
	return 1 - float64(nodes)*perNodeDay*(restart+interval/2).Days()
}

// Spares is the least k for which the chance that more than k nodes are under
// repair at once is at most 1 − sure.
func Spares(nodes int, perNodeHour float64, repair Hours, sure float64) (int, error) {
	mean := float64(nodes) * perNodeHour * float64(repair)
	if !(mean >= 0) || math.IsInf(mean, 0) {
		return 0, fmt.Errorf("spares: mean of %g nodes under repair", mean)
	}
	if !(sure > 0 && sure < 1) {
		return 0, fmt.Errorf("spares: confidence %g: must be between 0 and 1", sure)
	}
	// The terms in logarithms: exp(−mean) of a large pool is zero.
	sum := 0.0
	for k := 0; ; k++ {
		lg, _ := math.Lgamma(float64(k + 1))
		term := 0.0
		if mean > 0 {
			term = math.Exp(float64(k)*math.Log(mean) - mean - lg)
		} else if k == 0 {
			term = 1
		}
		sum += term
		if sum >= sure || float64(k) > mean+40*math.Sqrt(mean)+40 {
			return k, nil
		}
	}
}
