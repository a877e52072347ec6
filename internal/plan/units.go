package plan

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// FLOPs counts floating point operations: a multiply and an add are two.
type FLOPs float64

// Rate is work per time, in FLOP/s.
type Rate float64

// Seconds is a length of time.
type Seconds float64

// Bytes is an amount of memory.
type Bytes float64

// Over is how long the work takes at a rate.
func (w FLOPs) Over(r Rate) Seconds { return Seconds(float64(w) / float64(r)) }

// String has three digits and a decimal prefix: "1.84 TFLOP".
func (w FLOPs) String() string { return si(float64(w)) + "FLOP" }

// String has three digits and a decimal prefix: "212 GFLOP/s".
func (r Rate) String() string { return si(float64(r)) + "FLOP/s" }

// String is in GiB, MiB or KiB.
func (b Bytes) String() string {
	x, unit := float64(b), "B"
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if x < 1024 {
			break
		}
		x, unit = x/1024, u
	}
	return digits3(x) + " " + unit
}

// String is a duration as people say it: "48 s", "2 min 40 s", "3 h 12 min", "41 days".
func (s Seconds) String() string {
	x := float64(s)
	switch {
	case math.IsNaN(x) || math.IsInf(x, 0) || x < 0:
		return "unknown"
	case x < 10:
		return digits3(x) + " s"
	case x < 60:
		return fmt.Sprintf("%.0f s", x)
	case x < 3600:
		r := int(math.Round(x))
		return fmt.Sprintf("%d min %02d s", r/60, r%60)
	case x < 48*3600:
		r := int(math.Round(x / 60))
		return fmt.Sprintf("%d h %02d min", r/60, r%60)
	}
	return fmt.Sprintf("%s days", digits3(x/86400))
}

func seconds(d time.Duration) Seconds { return Seconds(d.Seconds()) }

// si writes three digits with a decimal prefix and a space before the unit.
func si(x float64) string {
	prefix := ""
	for _, p := range []string{"k", "M", "G", "T", "P", "E", "Z", "Y"} {
		if x < 999.5 {
			break
		}
		x, prefix = x/1000, p
	}
	return digits3(x) + " " + prefix
}

// digits3 is x with three significant digits and no exponent for numbers from 0.01 to 1e6.
func digits3(x float64) string {
	switch {
	case x >= 99.95:
		return strconv.FormatFloat(x, 'f', 0, 64)
	case x >= 9.995:
		return strconv.FormatFloat(x, 'f', 1, 64)
	case x == 0:
		return "0"
	}
	return strconv.FormatFloat(x, 'f', 2, 64)
}

// grouped writes a count with commas: 507,264.
func grouped(n int64) string {
	s := strconv.FormatInt(n, 10)
	var b strings.Builder
	for i, c := range s {
		if i > 0 && (len(s)-i)%3 == 0 && c != '-' && s[i-1] != '-' {
			b.WriteByte(',')
		}
		b.WriteRune(c)
	}
	return b.String()
}
