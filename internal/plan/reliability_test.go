package plan

import (
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if math.IsNaN(got) || math.Abs(got-want) > tolerance {
		t.Errorf("%s: %.4f, published %.4f", what, got, want)
	}
}

func TestPublishedMeanTimes(t *testing.T) {
	const rsc1, rsc2 = 6.50 / 1000 / 8 / 24, 2.34 / 1000 / 8 / 24 // per device-hour
	for _, r := range readTable(t, "rsc_mttf.csv") {
		gpus := int(number(t, r, "gpus"))
		near(t, r["gpus"]+" GPUs, RSC-1", float64(Hazard(rsc1).MeanTime(gpus)), number(t, r, "formula_rsc1_hours"), 0.002*number(t, r, "formula_rsc1_hours"))
		near(t, r["gpus"]+" GPUs, RSC-2", float64(Hazard(rsc2).MeanTime(gpus)), number(t, r, "formula_rsc2_hours"), 0.002*number(t, r, "formula_rsc2_hours"))
		if strings.HasPrefix(r["kind"], "projection") {
			printed := number(t, r, "mttf_hours")
			near(t, r["gpus"]+" GPUs", float64(Hazard(rsc1).MeanTime(gpus)), printed, 0.03*printed)
		}
	}
	near(t, "Llama 3's mean time between failures", float64(PerMillion(19.73).MeanTime(16384)), 3.09, 0.01)
}

func TestPublishedETTR(t *testing.T) {
	minutes := func(x float64) Hours { return Hours(x / 60) }
	for _, r := range readTable(t, "rsc_ettr.csv") {
		rate := map[string]float64{"RSC-1": 6.50, "RSC-2": 2.34}[r["cluster"]] / 1000
		switch r["case"] {
		case "5-minute checkpoints at 16k", "hourly checkpoints at 16k", "100k GPUs":
			nodes := int(number(t, r, "gpus")) / 8
			near(t, r["case"], ETTRMeta(nodes, rate, minutes(number(t, r, "restart_min")), minutes(number(t, r, "ckpt_interval_min"))), number(t, r, "ettr_formula"), 0.001)
		case "large runs average":
			near(t, "RSC-1 at 2,048", ETTRMeta(256, rate, minutes(5), minutes(60)), 0.960, 0.001)
			near(t, "RSC-1 at 4,096", ETTRMeta(512, rate, minutes(5), minutes(60)), 0.919, 0.001)
		}
	}
	mean := PerMillion(19.73).MeanTime(16384)
	for _, c := range []struct {
		what          string
		save, restart Seconds
		want          float64
	}{{"Llama: δ 30 s, R 10 min", 30, 600, 0.887}, {"Llama: δ 5 s, R 5 min", 5, 300, 0.946}} {
		d, r := c.save.Hours(), c.restart.Hours()
		near(t, c.what, ETTRFirstOrder(Young(d, mean), d, r, mean), c.want, 0.001)
		near(t, c.what+", exactly", ETTR(Daly(d, mean), d, r, mean), c.want, 0.01)
	}
	// BLOOM: 40 s to save, one failure every 4.7 days: Young says 1.6 h.
	near(t, "BLOOM's interval", float64(Young(Seconds(40).Hours(), PerMillion(23.25).MeanTime(384))), 1.6, 0.05)
}

// Daly's interval is the best of the exact form, and the first order agrees where failures are rare.
func TestIntervals(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mean := Hours(rapid.Float64Range(0.5, 1000).Draw(t, "M"))
		save := mean * Hours(rapid.Float64Range(1e-5, 0.05).Draw(t, "δ/M"))
		restart := mean * Hours(rapid.Float64Range(0, 0.5).Draw(t, "R/M"))
		best := ETTR(Daly(save, mean), save, restart, mean)
		if best <= 0 || best >= 1 {
			t.Fatalf("ETTR %g", best)
		}
		for _, f := range []Hours{0.5, 0.8, 1.25, 2} {
			if other := ETTR(Daly(save, mean)*f, save, restart, mean); other > best*1.001 {
				t.Fatalf("%g times Daly's interval is better: %g > %g", float64(f), other, best)
			}
		}
		if rare := ETTR(Daly(save, 1e4*mean), save, restart, 1e4*mean); math.Abs(rare-ETTRFirstOrder(Daly(save, 1e4*mean), save, restart, 1e4*mean)) > 1e-3 {
			t.Fatalf("first order differs where failures are rare: %g", rare)
		}
	})
	if got := Daly(3, 1); got != 1 {
		t.Errorf("δ ≥ 2M: interval %v, want M", got)
	}
}

func TestSpares(t *testing.T) {
	// StepFun: 4.195 faults per 1,000 node-days, 132.8 h mean repair: 2.3 % of nodes down.
	k, err := Spares(400, 4.195/1000/24, 132.8, 0.99)
	if err != nil || k < 14 || k > 18 {
		t.Errorf("%d spares for 400 nodes with 9.3 down on average (%v)", k, err)
	}
	if k, err := Spares(100000, 4.195/1000/24, 132.8, 0.99); err != nil || k < 2321 || k > 2500 {
		t.Errorf("%d spares for 100,000 nodes (%v)", k, err)
	}
	if k, err := Spares(10, 0, 100, 0.99); err != nil || k != 0 {
		t.Errorf("%d spares for nodes that never fail (%v)", k, err)
	}
	if _, err := Spares(10, -1, 1, 0.99); err == nil {
		t.Error("a negative rate was accepted")
	}
}
