package plan

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
)

// soak says whether the long versions run.
func soak() bool { return os.Getenv("TARBERT_SOAK") == "1" }

// realFaults is what a set of nodes of a trace really went through from an
// hour on; after the trace's end it begins again.
func realFaults(tr Trace, nodes map[int]bool, from Hours) func() (Interruption, bool) {
	var events []Interruption
	for turn := range 4 {
		for _, f := range tr.Faults {
			if at := f.Start - from + Hours(turn)*tr.Length; nodes[f.Node] && at >= 0 {
				events = append(events, Interruption{At: at, Repair: f.End - f.Start})
			}
		}
	}
	slices.SortFunc(events, func(a, b Interruption) int { return compare(a.At, b.At) })
	i := -1
	return func() (Interruption, bool) {
		i++
		if i >= len(events) {
			return Interruption{}, false
		}
		return events[i], true
	}
}

// calibrated is how often campaigns finished within each forecast quantile.
type calibrated struct {
	campaigns int
	within    map[float64]float64
}

var judgedQuantiles = []float64{0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95}

// calibrate replays campaigns on one part of the trace's nodes and forecasts
// them from the other part alone. The forecaster knows the work and the ranges;
// it does not know the nodes, the faults or the restart's cost.
func calibrate(t *testing.T, tr Trace, seed uint64, splits, perSplit, histories int, poisson bool) calibrated {
	t.Helper()
	c := calibrated{within: map[float64]float64{}}
	rng := rand.New(rand.NewPCG(seed, 1))
	for range splits {
		learn, judge := tr.Split(rng)
		for range perSplit {
			m := RunModel{
				Nodes: 16 + rng.IntN(judge.Nodes-24), DevicesPerNode: 8, Work: Known(200+1300*rng.Float64(), ""), Save: Known(30, ""),
				Hazard: Known(float64(learn.Hazard(8))*1e6, ""), Restart: ordinaryRestart(), Spares: -1, RepairFactor: Known(1, ""),
			}
			source := learn
			if poisson {
				source = poissonLike(learn, rng)
			}
			f, err := SimulateRun(m, source, Simulation{Histories: histories, Seed: rng.Uint64()})
			if err != nil {
				t.Fatal(err)
			}
			order := rng.Perm(judge.Nodes)[:m.Nodes]
			nodes, faulty := map[int]bool{}, judge.faulty()
			for _, k := range order {
				if k < len(faulty) {
					nodes[faulty[k]] = true
				}
			}
			level := float64(m.Restart.At(rng.Float64()))
			campaign := Campaign{Work: Hours(m.Work.Low), Interval: f.Interval, Save: Seconds(30).Hours(), Spares: f.Spares}
			out := campaign.Run(realFaults(judge, nodes, Hours(rng.Float64())*judge.Length), func() Hours { return Hours(level * math.Exp(0.4*rng.NormFloat64()-0.08)) }, 1e6)
			sorted := slices.Sorted(slices.Values(f.Wall))
			c.campaigns++
			for _, q := range judgedQuantiles {
				if out.Wall <= quantile(sorted, q) {
					c.within[q]++
				}
			}
		}
	}
	for q := range c.within {
		c.within[q] /= float64(c.campaigns)
	}
	return c
}

// poissonLike is the same number of faults dealt evenly over nodes and hours:
// what a forecast without overdispersion would assume.
func poissonLike(tr Trace, rng *rand.Rand) Trace {
	out := Trace{Nodes: tr.Nodes, Length: tr.Length}
	for _, f := range tr.Faults {
		at := Hours(rng.Float64()) * tr.Length
		out.Faults = append(out.Faults, Fault{Node: rng.IntN(tr.Nodes), Start: at, End: at + f.End - f.Start})
	}
	slices.SortFunc(out.Faults, func(a, b Fault) int { return compare(a.Start, b.Start) })
	return out
}

func (c calibrated) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d campaigns: ", c.campaigns)
	for _, q := range judgedQuantiles {
		fmt.Fprintf(&b, " P%.0f covers %.1f %%", 100*q, 100*c.within[q])
	}
	return b.String()
}

// On nodes that the forecaster has never seen, P90 covers 90 % ± 3 and P50 50 % ± 3.
func TestCalibration(t *testing.T) {
	tr := stepfun(t)
	c := calibrate(t, tr, 20261123, 100, 20, 150, false)
	t.Log(c)
	if p := c.within[0.9]; p < 0.87 || p > 0.93 {
		t.Errorf("P90 covers %.3f", p)
	}
	if p := c.within[0.5]; p < 0.47 || p > 0.53 {
		t.Errorf("P50 covers %.3f", p)
	}
}

func TestSoakCalibration(t *testing.T) {
	if !soak() {
		t.Skip("set TARBERT_SOAK=1")
	}
	tr := stepfun(t)
	const seed = 20261128 // nothing was chosen on it
	c := calibrate(t, tr, seed, 500, 5, 400, false)
	t.Log("trace bootstrap:", c)
	even := calibrate(t, tr, seed, 500, 5, 400, true)
	t.Log("the same with faults spread evenly:", even)
	if *update {
		if err := os.WriteFile("../../docs/calibration.svg", reliabilityDiagram(c, even), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if p := c.within[0.9]; p < 0.87 || p > 0.93 {
		t.Errorf("P90 covers %.3f", p)
	}
	if p := c.within[0.5]; p < 0.47 || p > 0.53 {
		t.Errorf("P50 covers %.3f", p)
	}
	if even.within[0.9] >= c.within[0.9] {
		t.Errorf("spreading faults evenly covers more: %.3f", even.within[0.9])
	}
}

// The calendar times that three published runs took are inside P10–P90, from
// their published work, rate and hazards.
func TestPublishedCalendarTimes(t *testing.T) {
	tr := stepfun(t)
	for _, c := range []struct {
		name   string
		m      RunModel
		actual float64 // days
	}{
		{ // 15.6T tokens at 380–430 TFLOP/s (table 4); the card's 30.84M GPU-hours are 78.4 days of 16,384 GPUs.
			"Llama 3 405B", RunModel{
				Nodes: 2048, DevicesPerNode: 8, Hazard: Range{Low: 19.73, High: 21.95}, Save: seconds2(5, 30), Restart: ordinaryRestart(), Spares: -1,
				Work: Range{Low: llamaHours(t, 430), High: llamaHours(t, 380)}, RepairFactor: Known(1, ""), Drift: Range{Low: 0, High: 0.03},
			}, 30.84e6 / 16384 / 24,
		},
		{ // 366B tokens in iterations of 105.2 s; 117 days (March to July 2022); hung jobs did not exit, no spares ready at first.
			"BLOOM", RunModel{
				Nodes: 48, DevicesPerNode: 8, Hazard: Range{Low: 15.5, High: 31}, Save: Known(40, ""), Interval: 2.9, Spares: 4,
				Restart: RestartCost{Detect: seconds2(600, 8*3600), Place: seconds2(600, 4*3600), Init: seconds2(300, 1800), Load: seconds2(300, 1200)},
				Work:    Range{Low: 366e9 / 2048 / 2048 * 105.2 / 3600, High: 366e9 / 2048 / 2048 * 113 / 3600}, RepairFactor: Known(1, ""), Drift: Range{Low: 0, High: 0.05},
			}, 117,
		},
		{ // 33 days of steps at 147 TFLOP/s on 1,024; about 60 days on 992; hours by hand for each of 105+ restarts.
			"OPT-175B", RunModel{
				Nodes: 124, DevicesPerNode: 8, Hazard: Range{Low: 73.5, High: 84}, Save: seconds2(60, 300), Interval: 4, Spares: 12,
				Restart: RestartCost{Detect: seconds2(600, 4*3600), Place: seconds2(600, 6*3600), Init: seconds2(600, 2*3600), Load: seconds2(600, 2*3600)},
				Work:    Range{Low: 33.08 * 24 * 1024 / 992, High: 33.08 * 24 * 1024 / 992 * 1.1}, RepairFactor: Range{Low: 0.1, High: 1}, Drift: Range{Low: 0, High: 0.1},
			}, 60,
		},
	} {
		f, err := SimulateRun(c.m, tr, Simulation{Histories: 1000, Seed: 3})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: P10 %.0f, P50 %.0f, P90 %.0f days, took %.0f; ETTR %.3f, %.0f interruptions", c.name, f.P10.Days(), f.P50.Days(), f.P90.Days(), c.actual, f.ETTR, f.Interruptions)
		if f.P10.Days() > c.actual || f.P90.Days() < c.actual {
			t.Errorf("%s took %.0f days, the forecast says %.0f to %.0f", c.name, c.actual, f.P10.Days(), f.P90.Days())
		}
	}
}

// llamaHours is the hours of steps of 15.6T tokens on 16,384 GPUs.
func llamaHours(t *testing.T, tflops float64) float64 {
	t.Helper()
	return 15.6e12 * float64(perToken(t, llama405(), 8192, modelFull, false)) / (16384 * tflops * 1e12) / 3600
}

// More evidence of the same kind never widens the forecast on average.
func TestNarrowerRangesNarrowTheForecast(t *testing.T) {
	tr := stepfun(t)
	width := func(work, hazard Range) float64 {
		m := llamaModel()
		m.Nodes, m.Work, m.Hazard = 256, work, hazard
		f, err := SimulateRun(m, tr, Simulation{Histories: 1500, Seed: 5})
		if err != nil {
			t.Fatal(err)
		}
		return float64(f.P90 - f.P10)
	}
	wide := width(Range{Low: 1000, High: 2000}, Range{Low: 10, High: 110})
	middle := width(Range{Low: 1200, High: 1600}, Range{Low: 10, High: 110})
	narrow := width(Range{Low: 1300, High: 1500}, Range{Low: 25, High: 45})
	if !(wide > middle && middle > narrow) {
		t.Errorf("P10–P90 is %.0f, %.0f, %.0f h with less and less unknown", wide, middle, narrow)
	}
}

// reliabilityDiagram draws how often campaigns finished within each forecast
// quantile; on the diagonal the forecast means what it says.
func reliabilityDiagram(bootstrap, even calibrated) []byte {
	const size, left, top = 360.0, 60.0, 20.0
	x := func(q float64) float64 { return left + size*q }
	y := func(p float64) float64 { return top + size*(1-p) }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="sans-serif" font-size="12">`+"\n", left+size+20, top+size+60)
	fmt.Fprintf(&b, `<title>Reliability of the forecast, %d campaigns on nodes it has not seen</title>`+"\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n", bootstrap.campaigns)
	for i := range 6 {
		q := float64(i) / 5
		fmt.Fprintf(&b, `<path d="M%g %gV%gM%g %gH%g" stroke="#ddd"/><text x="%g" y="%g" text-anchor="middle">%.0f</text><text x="%g" y="%g" text-anchor="end">%.0f</text>`+"\n",
			x(q), y(0), y(1), x(0), y(q), x(1), x(q), y(0)+16, 100*q, x(0)-6, y(q)+4, 100*q)
	}
	fmt.Fprintf(&b, `<path d="M%g %gL%g %g" stroke="#888" stroke-dasharray="4"/>`+"\n", x(0), y(0), x(1), y(1))
	for _, c := range []struct {
		c     calibrated
		color string
	}{{bootstrap, "#0a5"}, {even, "#c52"}} {
		fmt.Fprintf(&b, `<path fill="none" stroke="%s" stroke-width="2" d="M%g %g`, c.color, x(0), y(0))
		for _, q := range judgedQuantiles {
			fmt.Fprintf(&b, "L%.1f %.1f", x(q), y(c.c.within[q]))
		}
		fmt.Fprintf(&b, "L%g %g\"/>\n", x(1), y(1))
	}
	fmt.Fprintf(&b, `<text x="%g" y="%g" fill="#0a5">trace bootstrap</text><text x="%g" y="%g" fill="#c52">faults spread evenly</text>`+"\n", x(0.03), y(0.93), x(0.03), y(0.87))
	fmt.Fprintf(&b, `<text x="%g" y="%g" text-anchor="middle">forecast quantile, %%</text><text transform="translate(%g %g) rotate(-90)" text-anchor="middle">campaigns finished by then, %%</text>`+"\n</svg>\n",
		x(0.5), y(0)+38, left-36, y(0.5))
	return []byte(b.String())
}
