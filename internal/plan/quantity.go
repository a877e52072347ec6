package plan

import (
	"encoding/json"
	"fmt"
	"math"
)

// Hours is a length of time in hours, the unit of failure rates and budgets.
type Hours float64

// Seconds converts.
func (h Hours) Seconds() Seconds { return Seconds(h * 3600) }

// Hours converts.
func (s Seconds) Hours() Hours { return Hours(s / 3600) }

// String is like that of Seconds.
func (h Hours) String() string { return h.Seconds().String() }

// MarshalJSON writes null for what never ends: JSON has no infinity.
func (h Hours) MarshalJSON() ([]byte, error) {
	if math.IsInf(float64(h), 0) || math.IsNaN(float64(h)) {
		return []byte("null"), nil
	}
	return json.Marshal(float64(h))
}

// UnmarshalJSON reads it back: null is without end.
func (h *Hours) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		*h = Hours(math.Inf(1))
		return nil
	}
	return json.Unmarshal(b, (*float64)(h))
}

// Days is the length in days of 24 hours.
func (h Hours) Days() float64 { return float64(h) / 24 }

// DeviceHours is devices × hours.
type DeviceHours float64

// String is with three digits and a decimal prefix: "2.66 M device-hours".
func (d DeviceHours) String() string { return si(float64(d)) + "device-hours" }

// Hazard is interruptions per device-hour. Published figures are quoted per million device-hours.
type Hazard float64

// PerMillion is a hazard given per million device-hours.
func PerMillion(x float64) Hazard { return Hazard(x / 1e6) }

// MeanTime is the mean time between interruptions of n devices together; infinite at hazard 0.
func (h Hazard) MeanTime(devices int) Hours {
	return Hours(1 / (float64(h) * float64(devices)))
}

// Bandwidth is bytes per second.
type Bandwidth float64

// Over is how long so many bytes take.
func (b Bytes) Over(w Bandwidth) Seconds { return Seconds(float64(b) / float64(w)) }

// Money is an amount in the inventory's currency.
type Money float64

// String has three digits and a prefix, without a currency.
func (m Money) String() string {
	if m < 0 {
		return "-" + (-m).String()
	}
	if m < 1000 {
		return digits3(float64(m))
	}
	s := si(float64(m))
	return s[:len(s)-2] + s[len(s)-1:]
}

// Range is what is known of a number: between Low and High, log-uniform. Low ==
// High is a known number, and may be written as one. Source says where it is
// from; it is printed.
type Range struct {
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
	Source string  `json:"source,omitempty"`
	// Claim says that it rests on a vendor's claim: such a number is never used
	// alone, so it must be a range.
	Claim bool `json:"claim,omitempty"`
}

// SetNumber is how a bare number in a file is taken.
func (r *Range) SetNumber(x float64) { *r = Range{Low: x, High: x} }

// Narrow is the range after something was seen: an observation of the number
// with the standard error of its logarithm. What was known and what was seen
// weigh by their precision, so the result is not wider than the range before,
// unless it is Outside: an observation that the range had not expected.
func (r Range) Narrow(observed, deviation float64, source string) (narrowed Range, outside bool) {
	if !(r.Low > 0) || !(observed > 0) || !(deviation > 0) {
		return r, false
	}
	half := math.Log(r.High/r.Low) / 2
	if half == 0 {
		return r, math.Abs(math.Log(observed/r.Low)) > 3*deviation
	}
	prior := half / math.Sqrt(3) // a uniform logarithm's standard deviation
	middle := math.Log(r.Low) + half
	off := math.Abs(math.Log(observed) - middle)
	if outside = off > half+2*deviation; outside {
		prior = max(prior, off/math.Sqrt(3)) // the range was wrong: it may not hold back what was seen
	}
	weight := 1/(prior*prior) + 1/(deviation*deviation)
	at := (middle/(prior*prior) + math.Log(observed)/(deviation*deviation)) / weight
	spread := math.Sqrt(3 / weight)
	return Range{Low: math.Exp(at - spread), High: math.Exp(at + spread), Source: source}, outside
}

// Times is the range of a product with a number.
func (r Range) Times(x float64) Range {
	r.Low, r.High = r.Low*x, r.High*x
	return r
}

// Known is a number without doubt.
func Known(x float64, source string) Range { return Range{Low: x, High: x, Source: source} }

// At is a quantile, q in [0,1].
func (r Range) At(q float64) float64 {
	if r.Low == r.High || !(r.Low > 0) {
		return r.Low + q*(r.High-r.Low) // a range that touches zero is uniform
	}
	return r.Low * math.Pow(r.High/r.Low, q)
}

// Mid is the median.
func (r Range) Mid() float64 { return r.At(0.5) }

// Spread is High/Low; 1 for a known number.
func (r Range) Spread() float64 {
	if r.Low <= 0 {
		return math.Inf(1)
	}
	return r.High / r.Low
}

// String is "10–110", or "19.7" for a known number.
func (r Range) String() string {
	if r.Low == r.High {
		return trim3(r.Low)
	}
	return trim3(r.Low) + "–" + trim3(r.High)
}

// check says what is wrong with a range whose numbers must be finite and not negative.
func (r Range) check(field string, needPositive bool) error {
	for _, x := range []float64{r.Low, r.High} {
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return fmt.Errorf("%s: not a finite number", field)
		}
	}
	switch {
	case r.Low < 0:
		return fmt.Errorf("%s: %g is negative", field, r.Low)
	case needPositive && r.Low == 0:
		return fmt.Errorf("%s: must be positive; give a range if it is not known", field)
	case r.Low > r.High:
		return fmt.Errorf("%s: low %g is above high %g", field, r.Low, r.High)
	case r.Claim && r.Low == r.High:
		return fmt.Errorf("%s: %g is a vendor's claim, and a claim is never used alone: give a range around it", field, r.Low)
	}
	return nil
}

// trim3 is three significant digits without trailing zeros: "1.5", "1,230".
func trim3(x float64) string {
	if math.Abs(x) >= 1000 {
		return grouped(int64(math.Round(x)))
	}
	return fmt.Sprintf("%.3g", x)
}
