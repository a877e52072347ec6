package train

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"tarbert/internal/plan"
)

// What a run has measured takes the place of what its plan assumed, and nothing else does.
func TestTermsTakeInWhatWasMeasured(t *testing.T) {
	assumed := plan.Terms{
		Pool: "a", Fallback: "b", Step: 2, Planned: 1, Expected: plan.Range{Low: 0.5, High: 1},
		Other: plan.Side{
			Rate: plan.Range{Low: 0.3, High: 1}, Queue: plan.Range{High: 24, Source: "assumed"}, Migration: plan.Range{Low: 0.1, High: 4, Source: "assumed"},
		},
	}
	limits := Limits{First: 30 * time.Minute}
	for _, tt := range []struct {
		name      string
		terms     func(*plan.Terms)
		costs     costs
		sameQueue bool
		want      func(*plan.Terms)
		queue     string // in the range's source
		migration string
	}{
		{"nothing was measured", nil, costs{target: 100}, true, nil, "assumed", "assumed"},
		{
			"all of it", nil, costs{step: 3, save: 10, loads: []float64{50, 70, 60}, waits: []float64{36, 72}, target: 100}, true,
			func(w *plan.Terms) {
				w.Other.Queue = plan.Range{Low: 0.01, High: 0.04}
				// A save, two replays of a load and four steps, and a load; at most the grace, the save and three limits.
				w.Other.Migration = plan.Range{Low: (10 + 2*(60+4*3) + 60) / 3600.0, High: (20 + 10 + 3*1800) / 3600.0}
			},
			"2 attempts waited 36 to 72 s", "a save 10 s, a load 60 s, a step 3 s",
		},
		{
			"another queue", nil, costs{waits: []float64{36}, target: 100}, false, nil, "assumed", "assumed",
		},
		{
			"a load longer than the limits allow elsewhere", nil, costs{step: 1, loads: []float64{7200}, target: 100}, false,
			func(w *plan.Terms) {
				w.Other.Migration = plan.Range{Low: (2*7204 + 7200) / 3600.0, High: (2*7204 + 7200) / 3600.0}
			},
			"assumed", "measured",
		},
		{
			"the plan had no rate", func(t *plan.Terms) { t.Step, t.Planned = 0, 0 }, costs{step: 36, target: 100}, false,
			func(w *plan.Terms) { w.Step, w.Planned = 36, 1 }, "assumed", "assumed",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := Fallback{Terms: assumed, SameQueue: tt.sameQueue}
			if tt.terms != nil {
				tt.terms(&f.Terms)
			}
			want := f.Terms
			if tt.want != nil {
				tt.want(&want)
			}
			got := f.terms(tt.costs, limits)
			if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(plan.Range{}, "Source"), cmpopts.EquateApprox(1e-12, 0)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if !strings.Contains(got.Other.Queue.Source, tt.queue) || !strings.Contains(got.Other.Migration.Source, tt.migration) {
				t.Errorf("queue from %q, migration from %q", got.Other.Queue.Source, got.Other.Migration.Source)
			}
			now := time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC)
			if _, err := plan.Consider(got, plan.Evidence{Began: now, Now: now, Target: 100}); err != nil {
				t.Errorf("the rule cannot use them: %v", err)
			}
		})
	}
}
