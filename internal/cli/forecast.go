package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"tarbert/internal/forecast"
	"tarbert/internal/plan"
	"tarbert/internal/store"
)

// Stages of the journal's notes about plan files.
const (
	noteForecast = "forecast"
	noteEvidence = "evidence"
	noteDecision = "decide"
)

// outlooking is what forecast and decide are asked for.
type outlooking struct {
	evidence  []string
	at        string
	histories int
	history   bool
}

func (o *outlooking) flags(c *cobra.Command) {
	c.Flags().StringSliceVar(&o.evidence, "evidence", nil, "JSON Lines of what has happened; kept in the journal, where each line counts once (repeatable)")
	c.Flags().StringVar(&o.at, "at", "", "day or moment to look from (2027-03-31); default now")
	c.Flags().IntVar(&o.histories, "histories", 0, "simulated histories; 0 = the plan file's")
}

func (a *app) forecastCommand() *cobra.Command {
	var o outlooking
	c := &cobra.Command{
		Use: "forecast SPEC|DIR", Short: "Say when the whole release is launched, and what is holding the date",
		Long: `Forecast every stage of a release, from labelling to serving, on its calendar: P10, P50 and P90 of each stage's end, the
launch, and what is holding it. Given a plan file, the stages, calendars and ranges are the file's; evidence (steps,
interruptions, annotations, qualification, …) brings them up to date. Given a release file, they are the journal's.
Every update is kept: --history draws how the launch was seen over time and scores it against what has happened.`,
		Args: exactArgs(1, needsSpec),
		RunE: func(c *cobra.Command, args []string) error { return a.forecast(c.Context(), args[0], o) },
	}
	o.flags(c)
	c.Flags().BoolVar(&o.history, "history", false, "draw the forecasts made so far, and score them")
	return c
}

func (a *app) decideCommand() *cobra.Command {
	var o outlooking
	var again bool
	c := &cobra.Command{
		Use: "decide SPEC|DIR", Short: "Weigh a run under way: stay, switch, hedge or stop, with the arithmetic",
		Long: `Weigh the run under way against the plan's best option on another pool, on the evidence so far: stay, hedge (prepare the
other pool while the attempt goes on), switch, or stop; with reasons, confidence, the break-even and what would change it.
It never decides on one failure nor on what nobody saw. A human confirms, unless fallback.pre_authorized says otherwise.`,
		Args: exactArgs(1, "a plan file, or the folder that holds plan.yaml"),
		RunE: func(c *cobra.Command, args []string) error {
			if again {
				return a.replay(c.Context(), args[0], o)
			}
			return a.decide(c.Context(), args[0], o)
		},
	}
	o.flags(c)
	c.Flags().BoolVar(&again, "replay", false, "play the plan file's past attempt again: the day of each advice, and the months saved")
	return c
}

// dossier is a plan file with what the journal knows of it.
type dossier struct {
	project *plan.Project
	store   *store.Store
	id      string
	events  []forecast.Event
	notes   []store.Record
	now     time.Time
}

// open reads a plan file and its evidence, from the journal, the file that the
// plan names, and the command line; new lines are put into the journal.
func (a *app) dossier(ctx context.Context, path string, o outlooking) (*dossier, func(), error) {
	p, err := plan.ReadProject(path)
	if err != nil {
		return nil, nil, badUsage("%w", err)
	}
	if o.histories > 0 {
		p.Histories = o.histories
	}
	d := &dossier{project: p, now: a.now().UTC()}
	if o.at != "" {
		if d.now, err = parseDay(o.at); err != nil {
			return nil, nil, badUsage("--at %w", err)
		}
	}
	deps, done, err := a.deps(ctx)
	if err != nil {
		return nil, nil, err
	}
	d.store = deps.Store
	if err := d.load(ctx, a, p, o); err != nil {
		done()
		return nil, nil, err
	}
	return d, done, nil
}

func (d *dossier) load(ctx context.Context, a *app, p *plan.Project, o outlooking) (err error) {
	digest, err := store.FileDigest(p.File)
	if err != nil {
		return err
	}
	var found bool
	if d.id, found, err = d.store.FindRelease(ctx, p.Name, p.File); err == nil && !found {
		d.id, err = d.store.CreateRelease(ctx, p.Name, p.File, digest, a.now())
	}
	if err != nil {
		return err
	}
	unlock, err := d.store.Lock(ctx, "plan-"+d.id)
	if err != nil {
		return err
	}
	defer unlock()
	if d.notes, err = d.store.Records(ctx, d.id); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, r := range d.notes {
		if r.Stage != noteEvidence {
			continue
		}
		var e forecast.Event
		if err := json.Unmarshal(r.Data, &e); err != nil {
			return fmt.Errorf("journal record %d: %w", r.Seq, err)
		}
		seen[r.Digest] = true
		d.events = append(d.events, e)
	}
	files := o.evidence
	if p.Evidence != "" {
		files = append([]string{p.Evidence}, files...)
	}
	var fresh []forecast.Event
	for _, file := range files {
		events, err := readEvidence(file)
		if err != nil {
			return err
		}
		for _, e := range events {
			if key := eventDigest(e); !seen[key] {
				seen[key] = true
				fresh = append(fresh, e)
			}
		}
	}
	d.events = append(d.events, fresh...)
	slices.SortStableFunc(d.events, func(x, y forecast.Event) int { return x.At.Compare(y.At) })
	if err := forecast.Known(d.events, p); err != nil { // before any of it is kept
		return badUsage("%w", err)
	}
	for _, e := range fresh {
		data, err := json.Marshal(e)
		if err != nil {
			return err
		}
		if _, err := d.store.Append(ctx, store.Record{Release: d.id, Stage: noteEvidence, Event: "note", Digest: eventDigest(e), At: a.now(), Data: data}); err != nil {
			return err
		}
	}
	return nil
}

func readEvidence(file string) ([]forecast.Event, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, badUsage("no evidence at %s: give a file of JSON lines", file)
	}
	if err != nil {
		return nil, environment(err)
	}
	defer f.Close()
	events, err := forecast.ReadEvidence(f)
	if err != nil {
		return nil, badUsage("%s: %w", file, err)
	}
	return events, nil
}

func eventDigest(e forecast.Event) string {
	b, err := json.Marshal(e)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func parseDay(s string) (time.Time, error) {
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a moment that exists: write 2027-03-31 or 2027-03-31T09:00:00Z", s)
}

// basis is the digest of plan file, evidence and moment: the same basis gives the same forecast.
func (d *dossier) basis() (string, error) {
	file, err := store.FileDigest(d.project.File)
	if err != nil {
		return "", err
	}
	return digestOf(file, d.project.Histories, d.events, d.now)
}

func digestOf(values ...any) (string, error) {
	b, err := json.Marshal(values)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// note appends to the plan's journal.
func (d *dossier) note(ctx context.Context, a *app, stage, basis string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = d.store.Append(ctx, store.Record{Release: d.id, Stage: stage, Event: "note", Digest: basis, At: a.now(), Data: data})
	return err
}

// kept reads the journal's notes of a stage.
func kept[T any](d *dossier, stage string) ([]*T, error) {
	var out []*T
	for _, r := range d.notes {
		if r.Stage != stage {
			continue
		}
		v := new(T)
		if err := json.Unmarshal(r.Data, v); err != nil {
			return nil, fmt.Errorf("journal record %d: %w", r.Seq, err)
		}
		out = append(out, v)
	}
	return out, nil
}

func (a *app) forecast(ctx context.Context, path string, o outlooking) error {
	if !plan.IsProject(path) {
		return a.forecastRelease(ctx, path, o)
	}
	d, done, err := a.dossier(ctx, path, o)
	if err != nil {
		return err
	}
	defer done()
	updates, err := kept[forecast.Forecast](d, noteForecast)
	if err != nil {
		return err
	}
	slices.SortStableFunc(updates, func(x, y *forecast.Forecast) int { return x.At.Compare(y.At) })
	if o.history {
		if a.json {
			return a.printJSON(struct {
				Updates []*forecast.Forecast `json:"updates"`
				Score   forecast.Score       `json:"score"`
			}{updates, forecast.Judge(updates, d.events)})
		}
		fmt.Fprint(a.Out, forecast.HistoryText(updates, d.events))
		return nil
	}
	basis, err := d.basis()
	if err != nil {
		return err
	}
	outlook, err := a.planOf(ctx, d)
	if err != nil {
		return err
	}
	f, err := forecast.Update(d.project, outlook, d.events, d.now)
	if errors.Is(err, plan.ErrNoRun) {
		fmt.Fprintln(a.Out, err)
		return gateSaidNo()
	}
	if err != nil {
		return err
	}
	f.Basis = basis
	if !slices.ContainsFunc(updates, f.Same) {
		if err := d.note(ctx, a, noteForecast, basis, f); err != nil {
			return err
		}
	}
	if a.json {
		return a.printJSON(f)
	}
	fmt.Fprint(a.Out, f.Text())
	return nil
}

// planOf makes the plan with what was measured since.
func (a *app) planOf(ctx context.Context, d *dossier) (*plan.Outlook, error) {
	forecast.Qualify(d.project, d.events, d.now)
	return a.makePlan(ctx, d.project)
}

func (a *app) decide(ctx context.Context, path string, o outlooking) error {
	d, done, err := a.dossier(ctx, path, o)
	if err != nil {
		return err
	}
	defer done()
	before, err := kept[forecast.Considered](d, noteDecision)
	if err != nil {
		return err
	}
	basis, err := digestOf(d.events)
	if err != nil {
		return err
	}
	leaning := 0
	for _, c := range before {
		// The same evidence looked at again is no second look that agrees.
		if leaning = c.Decision.Leaning; c.Basis == basis {
			leaning = c.Before
		}
	}
	outlook, err := a.planOf(ctx, d)
	if err != nil {
		return err
	}
	c, err := forecast.Consider(d.project, outlook, d.events, d.now, leaning)
	if errors.Is(err, plan.ErrNoRun) {
		fmt.Fprintln(a.Out, err)
		return gateSaidNo()
	}
	if err != nil {
		return badUsage("%w", err)
	}
	c.Basis = basis
	if err := d.note(ctx, a, noteDecision, basis, c); err != nil {
		return err
	}
	return a.showDecision(c)
}

func (a *app) showDecision(c *forecast.Considered) error {
	if a.json {
		return a.printJSON(c)
	}
	fmt.Fprint(a.Out, c.Text())
	return nil
}

// replay plays a past attempt again.
func (a *app) replay(ctx context.Context, path string, o outlooking) error {
	p, err := plan.ReadProject(path)
	if err != nil {
		return badUsage("%w", err)
	}
	if o.histories > 0 {
		p.Histories = o.histories
	}
	outlook, err := a.makePlan(ctx, p)
	if err != nil {
		return err
	}
	r, err := p.PlayAgain(outlook)
	if err != nil {
		return badUsage("%w", err)
	}
	if a.json {
		return a.printJSON(r)
	}
	fmt.Fprint(a.Out, r.Text())
	return nil
}
