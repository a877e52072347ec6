package train

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestCompareReplays(t *testing.T) {
	base := func() []Replay {
		return []Replay{{Batch: 1, Loss: 2, GradNorm: 5, Tokens: 10, Layers: map[string]float64{"model.layers.0": 3, "model.layers.1": 4, "model.norm": 1e-9}}}
	}
	for _, tt := range []struct {
		name           string
		change         func(*Replay)
		passed, failed bool
		says           string
	}{
		{"the same", func(*Replay) {}, true, false, "1 batches"},
		{"noise", func(r *Replay) { r.Loss *= 1.01; r.Layers["model.layers.0"] *= 1.05; r.Layers["model.norm"] = 0 }, true, false, ""},
		{"the loss", func(r *Replay) { r.Loss *= 1.03 }, false, true, "losses differ"},
		{"one layer's gradient, the loss as it was", func(r *Replay) { r.Layers["model.layers.0"] *= 1.5 }, false, true, "model.layers.0 is farthest"},
		{"a gradient of nothing", func(r *Replay) { r.Layers["model.layers.1"] = 0 }, false, true, "model.layers.1"},
		{"not a number", func(r *Replay) { r.Loss = math.NaN() }, false, true, "losses"},
		{"a layer missing", func(r *Replay) { delete(r.Layers, "model.layers.1") }, false, true, "no gradient of model.layers.1"},
		{"other tokens", func(r *Replay) { r.Tokens = 11 }, false, false, "not the same batch"},
	} {
		other := base()
		tt.change(&other[0])
		p := CompareReplays(base(), other, "")
		if p.Passed != tt.passed || p.Failed != tt.failed || !strings.Contains(strings.Join(p.Reasons, " "), tt.says) {
			t.Errorf("%s: %+v", tt.name, p)
		}
	}
	for _, tt := range []struct { // float32 is given less
		loss, gradient float64
		passed         bool
	}{{1.0005, 1.005, true}, {1.002, 1, false}, {1, 1.02, false}, {1, 0.98, false}} {
		other := base()
		other[0].Loss *= tt.loss
		other[0].Layers["model.layers.0"] *= tt.gradient
		if p := CompareReplays(base(), other, "float32"); p.Passed != tt.passed || p.Failed == tt.passed {
			t.Errorf("float32, loss × %g, gradient × %g: %+v", tt.loss, tt.gradient, p)
		}
	}
	if p := CompareReplays(nil, nil, ""); p.Passed || p.Failed {
		t.Errorf("nothing against nothing: %+v, want inconclusive", p)
	}
}

func TestBudgets(t *testing.T) {
	b := Budgets{CleanWithin: 48 * time.Hour, Hangs: 3, Breaches: 2, Floor: 0.5, Window: 24 * time.Hour}
	fine := facts{on: 100 * time.Hour, clean: 1500, hangs: 2, breaches: 1, target: 1e6, ratio: 0.8, watched: 30 * time.Hour}
	for _, tt := range []struct {
		name   string
		change func(*facts)
		says   string
	}{
		{"nothing", func(*facts) {}, ""},
		{"never a thousand steps", func(f *facts) { f.clean = 999 }, "999 steps in a row at most; 1000 within 48h0m0s"},
		{"not yet a thousand steps", func(f *facts) { f.clean, f.on = 10, 47*time.Hour }, ""},
		{"a run of a hundred", func(f *facts) { f.clean, f.target = 100, 100 }, ""},
		{"hangs", func(f *facts) { f.hangs = 3 }, "3 hangs"},
		{"breaches", func(f *facts) { f.breaches = 2 }, "2 parity breaches"},
		{"below the floor", func(f *facts) { f.ratio = 0.49 }, "ETTR 0.490 over the last 24h0m0s"},
		{"below the floor, but for hours only", func(f *facts) { f.ratio, f.watched = 0.1, 5*time.Hour }, ""},
	} {
		f := fine
		tt.change(&f)
		if got := strings.Join(b.spent(f), "; "); (got == "") != (tt.says == "") || !strings.Contains(got, tt.says) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.says)
		}
	}
	if got := (Budgets{}).spent(facts{on: 1e6 * time.Hour, hangs: 99, breaches: 99}); len(got) > 0 {
		t.Errorf("no budget, yet spent: %v", got)
	}
}

func TestRollingRatio(t *testing.T) {
	at := time.Unix(1e9, 0)
	var marks []usefulMark
	for h := range 200 { // 80 % useful for 100 hours, then 20 %
		useful := time.Duration(min(h, 100)*48+max(h-100, 0)*12) * time.Minute
		marks = append(marks, usefulMark{At: at.Add(time.Duration(h) * time.Hour), Useful: useful})
	}
	now, last := at.Add(199*time.Hour), marks[199].Useful
	if got, watched := rolling(marks, 72*time.Hour, now, last); math.Abs(got-0.2) > 1e-9 || watched != 72*time.Hour {
		t.Errorf("rolling = %v over %v, want 0.2 over 72 h", got, watched)
	}
	if got, _ := rolling(marks[:101], 72*time.Hour, at.Add(100*time.Hour), marks[100].Useful); math.Abs(got-0.8) > 1e-9 {
		t.Errorf("rolling = %v, want 0.8", got)
	}
}
