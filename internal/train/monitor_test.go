package train

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tarbert/internal/device"
)

// feed gives a monitor losses and returns the kinds that it found, and the step at which it acts (0 = never).
func feed(losses []float64) (kinds []string, acts int) {
	m := newMonitor(0)
	for i, x := range losses {
		for _, f := range m.loss(i+1, x) {
			if !slices.Contains(kinds, f.kind) {
				kinds = append(kinds, f.kind)
			}
			if f.act && acts == 0 {
				acts = i + 1
			}
		}
	}
	return kinds, acts
}

// falling is a loss as runs have it: it falls, with noise in proportion and heavy tails.
func falling(seed uint64, n int) []float64 {
	r := rand.New(rand.NewPCG(seed, 1))
	out := make([]float64, n)
	for i := range out {
		out[i] = (0.4 + 3*math.Exp(-float64(i)/80)) * math.Exp(0.08*r.NormFloat64())
		if r.IntN(100) == 0 {
			out[i] *= 1.3
		}
	}
	return out
}

func TestMonitorOfLosses(t *testing.T) {
	change := func(from, to int, f func(i int, x float64) float64) []float64 {
		l := falling(1, 600)
		for i := from; i < to; i++ {
			l[i] = f(i, l[i])
		}
		return l
	}
	for _, tt := range []struct {
		name   string
		losses []float64
		kind   string
		acts   int
	}{
		{"as it should be", falling(2, 600), "", 0},
		{"× 10 for one step", change(300, 301, func(_ int, x float64) float64 { return 10 * x }), alarmSpike, 0},
		{"× 10 for nine steps", change(300, 309, func(_ int, x float64) float64 { return 10 * x }), alarmSpike, 0},
		{"× 10 for fifty steps", change(300, 350, func(_ int, x float64) float64 { return 10 * x }), alarmSpike, 310},
		{"it creeps up", change(200, 600, func(i int, x float64) float64 { return x * (1 + float64(i-200)/200) }), alarmDrift, 0},
		{"it does not move", change(200, 600, func(int, float64) float64 { return 0.5 }), alarmFlat, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			kinds, acts := feed(tt.losses)
			if tt.kind == "" && len(kinds) > 0 || tt.kind != "" && !slices.Contains(kinds, tt.kind) || acts != tt.acts {
				t.Errorf("found %v, acts at %d; want %q, %d", kinds, acts, tt.kind, tt.acts)
			}
		})
	}
}

// Seeds other than those above: no rollback on normal noise.
func TestMonitorLeavesNoiseAlone(t *testing.T) {
	for seed := range uint64(200) {
		if kinds, acts := feed(falling(1000+seed, 400)); acts != 0 || slices.Contains(kinds, alarmDrift) || slices.Contains(kinds, alarmFlat) {
			t.Errorf("seed %d: %v, acts at %d", 1000+seed, kinds, acts)
		}
	}
}

func TestMonitorOfNormsAndMismatch(t *testing.T) {
	m := newMonitor(0)
	var found []finding
	for i := range 100 {
		x := 1 + 0.1*math.Sin(float64(i))
		if i >= 60 && i < 64 {
			x = 50
		}
		found = append(found, m.norm(i+1, x)...)
	}
	if len(found) != 1 || found[0].kind != alarmGradNorm || found[0].from != 63 {
		t.Errorf("found %+v, want one at the third high norm", found)
	}
	for _, tt := range []struct {
		x    float64
		says string
	}{{0.02, ""}, {0.05, "worth a look"}, {0.15, "more than 0.1"}, {0.01, ""}} {
		f := mismatch(1, tt.x)
		if (len(f) > 0) != (tt.says != "") || len(f) > 0 && !strings.Contains(f[0].text, tt.says) {
			t.Errorf("mismatch %v: %+v; want %q", tt.x, f, tt.says)
		}
	}
}

func TestStragglers(t *testing.T) {
	score := func(seed uint64, n int, slow func(step, r int) float64) []string {
		rng := rand.New(rand.NewPCG(seed, 2))
		var r ranks
		var said []string
		for step := 1; step <= n; step++ {
			seconds := make([]float64, 8)
			for i := range seconds {
				seconds[i] = 0.5 * (1 + 0.03*rng.NormFloat64()) * slow(step, i)
			}
			for _, f := range r.take(step, seconds) {
				said = append(said, f.text)
			}
		}
		return said
	}
	even := func(int, int) float64 { return 1 }
	for seed := range uint64(50) {
		if said := score(500+seed, 320, even); len(said) > 0 {
			t.Errorf("seed %d: %v on even ranks", 500+seed, said)
		}
	}
	for _, tt := range []struct {
		name string
		slow func(step, r int) float64
		says string
	}{
		{"10 %", func(_, r int) float64 { return 1 + 0.1*float64(b2i(r == 5)) }, "rank 5 "},
		{"3 times, later", func(s, r int) float64 { return 1 + 2*float64(b2i(r == 2 && s > 100)) }, "rank 2 "},
		{"all of them, against their own past", func(s, _ int) float64 { return 1 + float64(b2i(s > 100)) }, "itself at first"},
	} {
		if said := strings.Join(score(3, 320, tt.slow), "\n"); !strings.Contains(said, tt.says) {
			t.Errorf("%s: %q, want %q", tt.name, said, tt.says)
		}
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestWatchdog(t *testing.T) {
	start := time.Unix(1e9, 0)
	at := func(d time.Duration) time.Time { return start.Add(d) }
	stage := func(step int) string {
		if step <= 100 {
			return "sft"
		}
		return "grpo"
	}
	limits := Limits{First: time.Hour, Unit: 10 * time.Minute, Floor: time.Second}
	// Fifty steps of two seconds, watched ten times a second.
	trained := func() (*watchdog, time.Duration) {
		w := newWatchdog(limits, durations{}, stage, 0, at(0))
		w.enter("step", at(time.Second))
		now := time.Second
		for step := 1; step <= 50; step++ {
			for range 20 {
				now += 100 * time.Millisecond
				if _, why := w.look(at(now), 100*time.Millisecond); why != "" {
					panic(why)
				}
			}
			w.advance(step, at(now))
		}
		return w, now
	}
	// hangs is how long after its last step it is taken for hung, whatever else happens meanwhile.
	hangs := func(w *watchdog, now time.Duration, meanwhile func(time.Time)) time.Duration {
		for d := time.Duration(0); d < 2*time.Hour; d += 100 * time.Millisecond {
			meanwhile(at(now + d))
			if silent, why := w.look(at(now+d), 100*time.Millisecond); why != "" {
				return silent
			}
		}
		return 0
	}
	quiet := func(time.Time) {}
	w, now := trained()
	if got := hangs(w, now, quiet); got < 4*time.Second || got > 6*time.Second {
		t.Errorf("steps of 2 s: hung after %v, want within three times the learned time", got)
	}
	w, now = trained()
	if got := hangs(w, now, func(x time.Time) { w.advance(50, x); w.enter("step", x) }); got > 6*time.Second || got == 0 {
		t.Errorf("the same step and section again and again: hung after %v", got)
	}
	w, now = trained()
	n := 0
	if got := hangs(w, now, func(x time.Time) { n++; w.enter([]string{"eval", "step"}[n%2], x) }); got == 0 {
		t.Error("alternating between sections is taken for progress for ever")
	}
	w, now = trained()
	w.enter("checkpoint", at(now))
	if got := hangs(w, now, quiet); got < time.Hour {
		t.Errorf("the first checkpoint: hung after %v, before anything is known of it", got)
	}
	w, now = trained()
	w.step = 100
	w.since = at(now)
	if got := hangs(w, now, quiet); got < time.Hour {
		t.Errorf("another recipe stage: hung after %v by the old one's times", got)
	}
	w, now = trained()
	if _, why := w.look(at(now+5*time.Hour), 100*time.Millisecond); why != "" {
		t.Errorf("a look after five hours of nobody looking: %s", why)
	}
}

func TestBlame(t *testing.T) {
	at := time.Unix(1e9, 0)
	f := func(chip, code string, after time.Duration, r device.Remedy) ChipFault {
		return ChipFault{Chip: chip, Code: code, At: at.Add(after), Remedy: r}
	}
	for _, tt := range []struct {
		name    string
		faults  []ChipFault
		program bool
		cordon  string
	}{
		{"one process fault", []ChipFault{f("0", "31", 0, device.RemedyProcess)}, false, ""},
		{"the same on two chips within 30 s", []ChipFault{f("0", "31", 0, device.RemedyProcess), f("1", "31", 29*time.Second, device.RemedyProcess)}, true, ""},
		{"the same on two chips, 31 s apart", []ChipFault{f("0", "31", 0, device.RemedyProcess), f("1", "31", 31*time.Second, device.RemedyProcess)}, false, ""},
		{"two faults on two chips", []ChipFault{f("0", "31", 0, device.RemedyProcess), f("1", "13", time.Second, device.RemedyProcess)}, false, ""},
		{"the same chip twice in a day", []ChipFault{f("0", "31", 0, device.RemedyProcess), f("0", "13", 20*time.Hour, device.RemedyProcess)}, false, "0"},
		{"the same chip twice in two days", []ChipFault{f("0", "31", 0, device.RemedyProcess), f("0", "31", 25*time.Hour, device.RemedyProcess)}, false, ""},
		{"off the bus", []ChipFault{f("3", "79", 0, device.RemedyNode)}, false, "3"},
		{"no new work", []ChipFault{f("3", "x", 0, device.RemedyDrain)}, false, "3"},
		{"nobody knows the code", []ChipFault{f("3", "?", 0, device.RemedyUnknown), f("3", "?", time.Second, device.RemedyUnknown)}, false, ""},
	} {
		b := blame(tt.faults)
		if (b.Program != "") != tt.program || strings.Join(b.Cordon, ",") != tt.cordon || len(b.Cordon) != len(b.Why) {
			t.Errorf("%s: %+v", tt.name, b)
		}
	}
}

// Daly's interval is where the exact expected time has its minimum, and the
// published check holds.
func TestDaly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cost := rapid.Float64Range(0.1, 100).Draw(t, "cost")
		between := rapid.Float64Range(20*cost, 1e6).Draw(t, "between")
		// The share of time that is useful: τ / (M (e^((τ+δ)/M) − 1)).
		ettr := func(tau float64) float64 { return tau / (between * math.Expm1((tau+cost)/between)) }
		best := daly(cost, between)
		for _, x := range []float64{0.5, 0.8, 1.25, 2} {
			if ettr(best*x) > ettr(best)+1e-4 {
				t.Fatalf("δ %v, M %v: %v s is better than Daly's %v s (%v, %v)", cost, between, best*x, best, ettr(best*x), ettr(best))
			}
		}
	})
	r := bestInterval(2, 20, 10, 500, 1000, 3, 86400*3, 50)
	if tau := daly(2, (86400*3+priorFailure)/4); r.Steps != int(math.Round(tau/0.5)) || r.Save != 2 {
		t.Errorf("%+v, want %v steps", r, tau/0.5)
	}
	if r := bestInterval(0.25, 0, 0, 0, 0, 9, 1e6, 50); r.Steps != 0 {
		t.Errorf("%+v from nothing", r)
	}
	// Saves that fell between two looks cost something all the same.
	if r := bestInterval(0.25, 0, 9, 500, 1000, 0, 86400, 50); r.Save != 0.025 || r.Steps < 50 {
		t.Errorf("%+v from nine saves that nobody saw", r)
	}
}
