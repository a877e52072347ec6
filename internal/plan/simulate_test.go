package plan

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// stepfun is the half of a real cluster's faults that is in testdata.
func stepfun(t testing.TB) Trace {
	t.Helper()
	tr, notes, err := DefaultTrace()
	if err != nil {
		t.Fatal(err)
	}
	if len(notes) != 2 || !strings.Contains(notes[0], "node 160") {
		t.Fatalf("merged %q, want the two overlaps of node 160", notes)
	}
	return tr
}

func seconds2(low, high float64) Range { return Range{Low: low, High: high} }

// ordinaryRestart is what a tuned stack needs: detection by heartbeat, u0 of 5–20 min.
func ordinaryRestart() RestartCost {
	return RestartCost{Detect: seconds2(10, 600), Place: seconds2(60, 600), Init: seconds2(30, 300), Load: seconds2(120, 600)}
}

func llamaModel() RunModel {
	return RunModel{
		Nodes: 2048, DevicesPerNode: 8, Work: Range{Low: 1300, High: 1700}, Hazard: Range{Low: 15, High: 25}, Save: seconds2(5, 30),
		Restart: ordinaryRestart(), Spares: -1, RepairFactor: Known(1, ""), Drift: Range{Low: 0, High: 0.03},
	}
}

func TestTraceIsRead(t *testing.T) {
	tr := stepfun(t)
	if len(tr.Faults) != 319 || len(tr.faulty()) != 116 {
		t.Errorf("%d faults on %d nodes", len(tr.Faults), len(tr.faulty()))
	}
	// The whole trace has 21.85 per million device-hours; this half has more.
	if h := float64(tr.Hazard(8)) * 1e6; h < 20 || h > 28 {
		t.Errorf("hazard %.1f per million device-hours", h)
	}
}

func TestTraceErrorsNameTheLine(t *testing.T) {
	o := TraceOptions{Nodes: 2, Length: 100}
	for want, text := range map[string]string{
		"line 2: node 1: the fault from 5.00 h begins": "1,1,10,a,b,c\n1,5,6,a,b,c\n",
		"line 1: end_h 1 is before start_h 2":          "1,2,1,a,b,c\n",
		"line 1: start_h 200 is after":                 "1,200,201,a,b,c\n",
		"line 1: node \"x\"":                           "x,1,2,a,b,c\n",
		"line 1: start_h \"NaN\"":                      "1,NaN,2,a,b,c\n",
		"wrong number of fields":                       "1,2\n",
		"3 nodes had faults, more than the 2":          "1,1,2,a,b,c\n2,1,2,a,b,c\n3,1,2,a,b,c\n",
	} {
		if _, _, err := ReadTrace(strings.NewReader(text), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func FuzzReadTrace(f *testing.F) {
	f.Add("node,start_h,end_h,level,class,description\n0,93.49,624.98,Hardware Failure,GPU,x\n")
	f.Add("1,1,10,a,b,c\n1,5,6,a,b,c\n")
	f.Fuzz(func(t *testing.T, text string) {
		tr, _, err := ReadTrace(strings.NewReader(text), TraceOptions{Nodes: 100, Length: 1e4, Merge: true})
		if err != nil {
			return
		}
		end := map[int]Hours{}
		for _, x := range tr.Faults {
			if x.Start < end[x.Node] || x.End < x.Start {
				t.Fatalf("fault %+v overlaps or runs backwards", x)
			}
			end[x.Node] = x.End
		}
	})
}

// Every hour of a campaign is in exactly one account, and an undisturbed one takes its work and saves.
func TestLedgerCloses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Campaign{
			Work: Hours(rapid.Float64Range(1, 500).Draw(t, "work")), Interval: Hours(rapid.Float64Range(0.1, 10).Draw(t, "interval")),
			Save: Hours(rapid.Float64Range(0, 0.2).Draw(t, "save")), Spares: rapid.IntRange(0, 3).Draw(t, "spares"),
		}
		at := Hours(0)
		n := rapid.IntRange(0, 60).Draw(t, "faults")
		next := func() (Interruption, bool) {
			n--
			at += Hours(rapid.Float64Range(0, 20).Draw(t, "gap"))
			return Interruption{At: at, Repair: Hours(rapid.Float64Range(0, 50).Draw(t, "repair"))}, n >= 0
		}
		o := c.Run(next, func() Hours { return 0.25 }, 1e6)
		if parts := o.Useful + o.Saving + o.Lost + o.Restarting + o.Waiting; math.Abs(float64(parts-o.Wall)) > 1e-6 {
			t.Fatalf("parts add to %v of %v: %+v", parts, o.Wall, o)
		}
		if o.Useful != c.Work || o.Wall < c.Work {
			t.Fatalf("%+v for %v of work", o, c.Work)
		}
	})
}

// The simulation under plain exponential faults agrees with the closed form.
func TestSimulationAgreesWithTheExactForm(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const mean, restart, save = 3.09, 0.25, 0.01
	tau := Daly(save, mean)
	at := Hours(0)
	c := Campaign{Work: 20000, Interval: tau, Save: save, Spares: 1 << 30}
	// Faults while down start the recovery again, as in the exact form.
	o := c.Run(func() (Interruption, bool) { at += Hours(rng.ExpFloat64() * mean); return Interruption{At: at}, true }, func() Hours { return restart }, 1e9)
	if want := ETTR(tau, save, restart, mean); math.Abs(o.ETTR()/want-1) > 0.01 {
		t.Errorf("simulated %.4f, exact %.4f", o.ETTR(), want)
	}
}

func TestForecastIsReproducible(t *testing.T) {
	tr := stepfun(t)
	one, err := SimulateRun(llamaModel(), tr, Simulation{Histories: 300, Seed: 7, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	two, err := SimulateRun(llamaModel(), tr, Simulation{Histories: 300, Seed: 7, Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	if one.P50 != two.P50 || one.P90 != two.P90 || one.ETTR != two.ETTR {
		t.Errorf("one thread %v/%v, two %v/%v", one.P50, one.P90, two.P50, two.P90)
	}
	if one.P10 > one.P50 || one.P50 > one.P90 || one.ETTR < 0.7 || one.ETTR > 0.99 {
		t.Errorf("forecast %+v", one)
	}
}

func TestTenThousandHistoriesAreQuick(t *testing.T) {
	start := time.Now()
	f, err := SimulateRun(llamaModel(), stepfun(t), Simulation{Histories: 10000, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	t.Logf("10,000 histories of %.0f interruptions each in %v: P50 %v, P90 %v ± %v, ETTR %.3f, dominated by %v", f.Interruptions, took, f.P50, f.P90, f.P90Error, f.ETTR, f.Dominates)
	if f.P90Error <= 0 || f.P90Error > f.P90/100 {
		t.Errorf("P90 %v ± %v has not converged", f.P90, f.P90Error)
	}
}

func BenchmarkForecast10000(b *testing.B) {
	tr := stepfun(b)
	for b.Loop() {
		if _, err := SimulateRun(llamaModel(), tr, Simulation{Histories: 10000, Seed: 1}); err != nil {
			b.Fatal(err)
		}
	}
}
