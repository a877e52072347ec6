package qualify

import (
	"math"
	"strings"
	"testing"
	"time"

	"tarbert/internal/device"
	"tarbert/internal/gate"
	"tarbert/internal/spec"
	"tarbert/internal/train"
)

func steps(data string, losses ...float64) (out []train.TriedStep) {
	for i, l := range losses {
		out = append(out, train.TriedStep{Step: i + 1, Loss: l, Data: data})
	}
	return out
}

func TestAgainstTheReference(t *testing.T) {
	want := steps("d", 5, 4, 3)
	for _, c := range []struct {
		name       string
		arithmetic string
		got        []train.TriedStep
		verdict    gate.Verdict
		says       string
	}{
		{"the same", "float32", steps("d", 5, 4, 3), gate.Pass, "3 steps by x in float32: losses within 0"},
		{"float32 rounding", "float32", steps("d", 5, 4.001, 3.004), gate.Pass, "(step 3)"},
		{"too far for float32", "float32", steps("d", 5, 4.001, 3.006), gate.Fail, "step 3 by x in float32: the loss is 3.006, the reference's 3; 0.006 apart, allowed 0.005"},
		{"near enough for bfloat16", "bfloat16", steps("d", 5.05, 4.05, 2.95), gate.Pass, "allowed 0.1"},
		{"too far for bfloat16", "bfloat16", steps("d", 5, 4, 3.2), gate.Fail, "step 3"},
		{"nobody says what it computes in", "", steps("d", 5, 4.09, 3), gate.Pass, "by x: losses"},
		{"other data", "float32", steps("e", 5, 4.5, 3), gate.Inconclusive, "the same data"},
		{"it does not say which data", "float32", steps("", 5, 4.5, 3), gate.Inconclusive, "the same data"},
		{"other data and all the same right", "float32", steps("", 5, 4, 3), gate.Pass, ""},
		{"no loss", "float32", steps("d", 5, math.NaN(), 3), gate.Inconclusive, "no loss at step 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := against(&Trainer{Name: "x", Arithmetic: c.arithmetic}, want, c.got).judge()
			if got.Verdict != c.verdict || !strings.Contains(got.Detail, c.says) {
				t.Errorf("%+v, want %s with %q", got, c.verdict, c.says)
			}
		})
	}
}

// A waiver lets what is inconclusive pass, by name and until its last day; never a fail.
func TestWaivers(t *testing.T) {
	day := func(d int) time.Time { return time.Date(2026, 5, d, 0, 0, 0, 0, time.UTC) }
	all := []spec.CheckWaiver{{Checks: []string{"parity", "speed"}, By: "me", Why: "so", Until: day(10)}}
	check := func(name string, v gate.Verdict) gate.Check { return gate.Check{Name: name, Verdict: v, Detail: "d"} }
	for _, c := range []struct {
		name   string
		now    time.Time
		checks []gate.Check
		want   gate.Verdict
		used   int
	}{
		{"in force on its last day", day(10).Add(23 * time.Hour), []gate.Check{check("capability", gate.Pass), check("parity", gate.Inconclusive)}, gate.Pass, 1},
		{"over", day(11), []gate.Check{check("capability", gate.Pass), check("parity", gate.Inconclusive)}, gate.Inconclusive, 0},
		{"a fail is not waived", day(1), []gate.Check{check("capability", gate.Pass), check("parity", gate.Fail)}, gate.Fail, 0},
		{"another check", day(1), []gate.Check{check("parity", gate.Inconclusive), check("checkpoint", gate.Inconclusive)}, gate.Inconclusive, 1},
		{"nothing was needed", day(1), []gate.Check{check("parity", gate.Pass)}, gate.Pass, 0},
		{"nothing is left", day(1), []gate.Check{check("parity", gate.Inconclusive)}, gate.Inconclusive, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &Report{Pool: "p"}
			g := r.waive(c.checks, InForce(all, c.now))
			if g.Verdict != c.want || len(r.Waivers) != c.used || len(r.Unchecked) != c.used || len(g.Checks) != len(c.checks) {
				t.Errorf("%+v, waivers %q, unchecked %q", g, r.Waivers, r.Unchecked)
			}
		})
	}
}

// Where this machine cannot hold the reference that judges, nothing is tried and
// nothing passes.
func TestAMachineTooSmallToJudge(t *testing.T) {
	in := newInput(t)
	in.Device = device.Device{Vendor: device.NVIDIA, Model: "NVIDIA H100 80GB HBM3"}
	in.Trainer = &Trainer{Name: "x", Arithmetic: "bfloat16", Memory: 1 << 10}
	r, err := Run(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"parity", "convergence twin", "checkpoint", "speed"} {
		if c := verdict(t, r, name); c.Verdict != gate.Inconclusive || !strings.Contains(c.Detail, "this machine has 1.00 KiB; qualify a release of the same config.json with fewer layers") {
			t.Errorf("%+v", c)
		}
	}
	if r.Gate.Verdict != gate.Inconclusive || !strings.Contains(r.Text(), "checks: [parity, convergence twin, checkpoint, speed]") {
		t.Errorf("gate %+v\n%s", r.Gate, r.Text())
	}
}
