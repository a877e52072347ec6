package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"tarbert/internal/forecast"
	"tarbert/internal/plan"
	"tarbert/internal/qualify"
	"tarbert/internal/release"
	"tarbert/internal/spec"
	"tarbert/internal/store"
)

// forecastRelease forecasts a release from the journal: this run's stages and what earlier ones took.
func (a *app) forecastRelease(ctx context.Context, path string, o outlooking) error {
	s, err := spec.Load(path)
	if err != nil {
		return badUsage("%w", err)
	}
	if len(o.evidence) > 0 || o.history || o.at != "" {
		return badUsage("--evidence, --at and --history are for plan files: the evidence of a release is its journal")
	}
	deps, done, err := a.deps(ctx)
	if err != nil {
		return err
	}
	defer done()
	stages, err := stageHistories(ctx, deps.Store, s)
	if err != nil {
		return err
	}
	histories := o.histories
	if histories <= 0 {
		histories = 10_000
	}
	f, err := forecast.Release(stages, a.now().UTC(), histories, s.Seed)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(f)
	}
	fmt.Fprint(a.Out, f.Schedule.Text())
	for _, u := range f.Unknown {
		fmt.Fprintf(a.Out, "not known: %s\n", u)
	}
	return nil
}

// stageHistories reads every release of this home; the newest of this file is the one that is forecast.
func stageHistories(ctx context.Context, st *store.Store, s *spec.Release) ([]forecast.StageHistory, error) {
	id, _, err := st.FindRelease(ctx, s.Name, s.File)
	if err != nil {
		return nil, err
	}
	all, err := st.Releases(ctx)
	if err != nil {
		return nil, err
	}
	by := map[string]*forecast.StageHistory{}
	var names []string
	for _, name := range release.StageNames() {
		by[name] = &forecast.StageHistory{Name: name}
		names = append(names, name)
	}
	for _, r := range all {
		records, err := st.Records(ctx, r.ID)
		if err != nil {
			return nil, err
		}
		for _, rec := range records {
			if h := by[rec.Stage]; h != nil {
				take(h, rec, r.ID == id)
			}
		}
	}
	if h := by["train"]; h.Ended.IsZero() && len(h.Past) == 0 {
		h.Planned = plannedTraining(ctx, st, id)
	}
	var out []forecast.StageHistory
	for _, name := range names {
		out = append(out, *by[name])
	}
	return out, nil
}

// take adds a journal record to a stage's history.
func take(h *forecast.StageHistory, rec store.Record, own bool) {
	switch rec.Event {
	case "started":
		if own {
			h.Began, h.Ended = rec.At, time.Time{}
		}
	case "passed":
		var result release.StageResult
		if json.Unmarshal(rec.Data, &result) == nil && result.Seconds > 0 {
			h.Past = append(h.Past, result.Seconds)
		}
		if own {
			h.Ended = rec.At
		}
	case "failed", "inconclusive", "error": // it must be run again
		if own {
			h.Began, h.Ended = time.Time{}, time.Time{}
		}
	}
}

// plannedTraining is what qualify measured, else the plan stage's own forecast; nil if there is neither.
func plannedTraining(ctx context.Context, st *store.Store, id string) *plan.Range {
	records, err := st.Records(ctx, id)
	if err != nil {
		return nil
	}
	for _, stage := range []string{"qualify", "plan"} {
		for i := len(records) - 1; i >= 0; i-- {
			var result release.StageResult
			if r := records[i]; r.Stage != stage || r.Event != "passed" || json.Unmarshal(r.Data, &result) != nil {
				continue
			}
			if t := evidenceTime(result.Evidence); t != nil {
				return &plan.Range{Low: float64(t.P10), High: float64(t.P90), Source: "the " + stage + " stage"}
			}
			break
		}
	}
	return nil
}

// evidenceTime is the training's forecast in the evidence of a stage; nil if it has none.
func evidenceTime(path string) *plan.Time {
	var e struct {
		Seconds json.RawMessage `json:"seconds"` // of a plan; qualify's own duration is a number
		Speed   *qualify.Speed  `json:"speed"`
	}
	b, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(b, &e) != nil {
		return nil
	}
	if e.Speed != nil {
		return e.Speed.Time
	}
	var t *plan.Time
	if json.Unmarshal(e.Seconds, &t) != nil {
		return nil
	}
	return t
}
