package release

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"tarbert/internal/plan"
	"tarbert/internal/spec"
)

// The decision's terms hold what the plan knows, and say of the rest that it is assumed.
func TestTerms(t *testing.T) {
	release := spec.New()
	release.Pools = []spec.Pool{{Name: "a", Price: 2}, {Name: "b", Price: 5}}
	release.Train.Fallback = spec.Budgets{Authorized: true, Breaches: 3, ETTR: 0.4, Preference: spec.Duration(36 * time.Hour), DayWorth: 100}
	forecast := plan.Time{P10: 1800, P50: 3600, P90: 7200}
	common := plan.Terms{
		Pool: "a", Fallback: "b", PreAuthorized: true, Price: 2, Preference: 36, DayWorth: 100,
		Expected: plan.Range{Low: 0.5, High: 1},
		Budget:   plan.Budget{Floor: 0.4, Breaches: 3},
		Other:    plan.Side{Rate: plan.Range{Low: 0.3, High: 1}, Queue: plan.Range{High: 24}, Migration: plan.Range{Low: 0.1, High: 4}, Price: 5},
	}
	for _, tt := range []struct {
		name  string
		plan  plan.Plan
		other *plan.Time
		want  func(*plan.Terms)
		said  []string // in the sources of Expected and Other.Rate
	}{
		{"no rate was measured", plan.Plan{Steps: 100}, nil, func(*plan.Terms) {}, []string{"assumed", "assumed"}},
		{
			"a rate here, none there", plan.Plan{Steps: 100, Seconds: &forecast}, nil,
			func(w *plan.Terms) { w.Step, w.Planned, w.Expected = 36, 1, plan.Range{Low: 0.25, High: 2} },
			[]string{"the plan's forecast for a (1 h", "assumed"},
		},
		{
			"both, and there it is twice as slow", plan.Plan{Steps: 100, Seconds: &forecast}, &plan.Time{P10: 3600, P50: 7200, P90: 14400},
			func(w *plan.Terms) {
				w.Step, w.Planned, w.Expected, w.Other.Rate = 36, 1, plan.Range{Low: 0.25, High: 2}, plan.Range{Low: 0.125, High: 1}
			},
			[]string{"forecast for a", "the plan's forecast for b (2 h"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.plan.Train = &plan.Placement{Pool: "a"}
			got := terms(&tt.plan, release, plan.Option{Pool: "b", Time: tt.other})
			want := common
			tt.want(&want)
			if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(plan.Range{}, "Source")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for i, source := range []string{got.Expected.Source, got.Other.Rate.Source} {
				if !strings.Contains(source, tt.said[i]) {
					t.Errorf("source %q, want %q", source, tt.said[i])
				}
			}
			for _, r := range []plan.Range{got.Other.Queue, got.Other.Migration} {
				if !strings.HasPrefix(r.Source, "assumed") {
					t.Errorf("%v comes from %q", r, r.Source)
				}
			}
			now := time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC)
			if _, err := plan.Consider(got, plan.Evidence{Began: now, Now: now, Target: 100}); (err == nil) != (got.Step > 0) {
				t.Errorf("Consider says %v", err)
			}
		})
	}
}
