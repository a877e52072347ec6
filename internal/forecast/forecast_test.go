package forecast

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"tarbert/internal/plan"
)

func date(m time.Month, d int) time.Time { return time.Date(2027, m, d, 0, 0, 0, 0, time.UTC) }

func prepared(t *testing.T, name string, events []Event, now time.Time) (*plan.Project, *plan.Outlook) {
	t.Helper()
	p, err := plan.ReadProject("../../examples/plans/" + name)
	if err != nil {
		t.Fatal(err)
	}
	p.Histories = 150
	Qualify(p, events, now)
	o, err := p.Plan(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p, o
}

func update(t *testing.T, events []Event, now time.Time) *Forecast {
	t.Helper()
	p, o := prepared(t, "deepseek-v3", events, now)
	f, err := Update(p, o, events, now)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func read(t *testing.T, text string) []Event {
	t.Helper()
	events, err := ReadEvidence(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return events
}

const underWay = `
# a release under way
{"at":"2027-01-04","kind":"began","stage":"label"}
{"at":"2027-01-11","kind":"count","stage":"label","done":80000}
{"at":"2027-01-18","kind":"count","stage":"label","done":170000}
{"at":"2027-01-25","kind":"count","stage":"label","done":250000}
{"at":"2027-01-06","kind":"began","stage":"train","pool":"deepseek-h800"}
{"at":"2027-01-12","kind":"steps","step":24000}
{"at":"2027-01-15T03:00:00Z","kind":"interruption"}
{"at":"2027-01-16","kind":"steps","step":40000}
{"at":"2027-01-20","kind":"steps","step":57000}
{"at":"2027-01-24","kind":"steps","step":74000}
{"at":"2027-01-25","kind":"section","name":"checkpoint","seconds":9}
{"at":"2027-01-25","kind":"section","name":"restart","seconds":700}
`

func bar(t *testing.T, f *Forecast, name string) plan.Bar {
	t.Helper()
	for _, b := range f.Schedule.Bars {
		if b.Name == name {
			return b
		}
	}
	t.Fatalf("no bar %s", name)
	return plan.Bar{}
}

func width(b plan.Bar) time.Duration { return b.End[2].Sub(b.End[0]) }

// Evidence moves every stage that it is about, says by which numbers, and what has ended stays ended.
func TestEvidenceMovesTheForecast(t *testing.T) {
	before := update(t, nil, date(1, 1))
	after := update(t, read(t, underWay), date(1, 26))
	if got, was := width(bar(t, after, "label")), width(bar(t, before, "label")); got > was/2 {
		t.Errorf("three weeks of labelling narrow its end from %v to %v", was, got)
	}
	said := strings.Join(after.Learned, "\n")
	for _, want := range []string{"label: done an hour of work", "seconds a step", "interruptions per million", "seconds that a save blocks: 9", "seconds that a restart takes: 700"} {
		if !strings.Contains(said, want) {
			t.Errorf("the forecast does not say what it learnt of %q:\n%s", want, said)
		}
	}
	if b := bar(t, after, "train"); b.Begin != date(1, 6) || b.End[0].Before(date(1, 26)) {
		t.Errorf("the run began on the 6th and goes on: %+v", b)
	}
	ended := append(read(t, underWay), Event{At: date(2, 1), Kind: Ended, Stage: "label"})
	if b := bar(t, update(t, ended, date(2, 2)), "label"); b.End != [3]time.Time{date(2, 1), date(2, 1), date(2, 1)} {
		t.Errorf("labelling ended on 1 February: %+v", b.End)
	}
	// Nothing that is still to come is forecast for the past.
	late := update(t, read(t, underWay), date(8, 1))
	for _, b := range late.Schedule.Bars {
		if b.End[0].Before(date(8, 1)) {
			t.Errorf("%s: P10 %v lies before the day of the forecast", b.Name, b.End[0])
		}
	}
}

// What nobody saw is listed, and is not held against the pool.
func TestUnseenIsNotInterruption(t *testing.T) {
	blind := read(t, underWay+`{"at":"2027-01-16","kind":"unseen","until":"2027-01-20"}`)
	f := update(t, blind, date(1, 26))
	if !strings.Contains(strings.Join(f.Unknown, "\n"), "nobody could see") {
		t.Errorf("not listed: %q", f.Unknown)
	}
	if with, without := f.Run.P50, update(t, read(t, underWay), date(1, 26)).Run.P50; with > without*1.02 {
		t.Errorf("four days unseen lengthen the run from %v to %v", without, with)
	}
}

func TestQualificationNarrows(t *testing.T) {
	q := read(t, `{"at":"2027-01-02","kind":"qualified","pool":"ascend-910c","mfu":{"low":0.27,"high":0.29},"hazard":{"low":20,"high":25}}`)
	run := func(events []Event) plan.Choice {
		_, o := prepared(t, "deepseek-v3", events, date(1, 3))
		c := o.On("ascend-910c")
		if c == nil {
			t.Fatal("no option on ascend-910c")
		}
		return *c
	}
	if before, after := run(nil).Run, run(q).Run; after.P50-after.P10 > (before.P50-before.P10)*6/10 {
		t.Errorf("P10–P50 is %v qualified, %v before", after.P50-after.P10, before.P50-before.P10)
	}
}

func TestEvidenceErrors(t *testing.T) {
	for text, want := range map[string]string{
		`{"kind":"steps","step":1}`:                          "line 1: at is missing",
		"\n" + `{"at":"2027-02-30","kind":"steps","step":1}`: "line 2: \"2027-02-30\" is not a moment",
		`{"at":"2027-02-03","kind":"stepz","step":1}`:        `kind "stepz": known are`,
		`{"at":"2027-02-03","kind":"steps","step":-1}`:       "step is -1",
		`{"at":"2027-02-03","kind":"steps","stepp":1}`:       `unknown field "stepp"`,
		`{"at":"2027-02-03","kind":"count","done":5}`:        "count needs stage",
		`{"at":"2027-02-03","kind":"unseen"}`:                "unseen needs until",
		`{"at":"2027-02-03","kind":"steps"} {}`:              "something follows",
		`nonsense`:                                           "line 1",
	} {
		if _, err := ReadEvidence(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	p, o := prepared(t, "deepseek-v3", nil, date(1, 1))
	for text, want := range map[string]string{
		`{"at":"2027-01-05","kind":"began","stage":"labl"}`:                                                                                  `stage "labl" is not in the plan`,
		`{"at":"2027-01-05","kind":"switched","pool":"moon"}`:                                                                                `pool "moon"`,
		`{"at":"2027-01-05","kind":"steps","step":9}` + "\n" + `{"at":"2027-01-06","kind":"steps","step":8}`:                                 "step 8 after step 9",
		`{"at":"2027-01-05","kind":"count","stage":"label","done":9}` + "\n" + `{"at":"2027-01-06","kind":"count","stage":"label","done":8}`: "done is counted from the start",
	} {
		if _, err := Update(p, o, read(t, text), date(3, 1)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func FuzzReadEvidence(f *testing.F) {
	f.Add(underWay)
	f.Fuzz(func(t *testing.T, text string) {
		events, err := ReadEvidence(strings.NewReader(text))
		if err != nil {
			return
		}
		for i, e := range events {
			if e.At.IsZero() || i > 0 && e.At.Before(events[i-1].At) {
				t.Fatalf("event %d: %+v", i, e)
			}
		}
	})
}

// More evidence never widens the forecast on average: the truth is drawn from
// what the plan believes, and looked at for longer and longer.
func TestMoreEvidenceNarrows(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	prior := plan.Range{Low: 10, High: 110}
	widths := make([]float64, 5)
	for range 400 {
		truth := prior.At(rng.Float64())
		observed := 0.0
		for k := range widths {
			r := prior
			if k > 0 {
				observed = 40 * float64(int(1)<<k) / truth // so many faults are expected
				n := 0.0
				for range int(observed * truth) {
					if rng.Float64() < 0.95 {
						n++
					}
				}
				r, _ = prior.Narrow((n+0.5)/observed, 1/(1+n), "")
			}
			widths[k] += r.Spread()
		}
	}
	for k := 1; k < len(widths); k++ {
		if widths[k] > widths[k-1] {
			t.Errorf("the range is %.2f wide with more evidence, %.2f before", widths[k]/400, widths[k-1]/400)
		}
	}
	// And one that the plan did not expect is not held back by it.
	r, outside := prior.Narrow(1, 0.1, "")
	if !outside || r.High > 2 || r.Low < 0.5 {
		t.Errorf("1 seen where 10 to 110 was planned: %v, outside %v", r, outside)
	}
}

// The history is drawn, and scored only on what had not happened yet.
func TestHistory(t *testing.T) {
	first, second := update(t, nil, date(1, 1)), update(t, read(t, underWay), date(1, 26))
	end := bar(t, first, "label").End[1].Add(24 * time.Hour) // after P50, before P90
	events := append(read(t, underWay), Event{At: end, Kind: Ended, Stage: "label"})
	s := Judge([]*Forecast{first, second}, events)
	if s.Bars != 2 || s.WithinP90 < 0.5 || s.MeanMiss <= 0 {
		t.Errorf("score %+v", s)
	}
	later := update(t, events, end.Add(time.Hour))
	if again := Judge([]*Forecast{first, second, later}, events); again.Bars != 2 {
		t.Errorf("a forecast of what had happened is scored: %+v", again)
	}
	text := HistoryText([]*Forecast{first, second, later}, events)
	for _, want := range []string{"2027-01-01", "2027-01-26", "●", "2 ends of stages were forecast before they came"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

// The decision under way: a crawling pool is left, with the break-even and the reasons; nothing under way is an error.
func TestConsiderFromEvidence(t *testing.T) {
	events := read(t, `{"at":"2027-01-04","kind":"began","stage":"train","pool":"ascend-910c"}`)
	p, o := prepared(t, "deepseek-v3", events, date(1, 5))
	p.Fallback.Hedge = 1e7
	leaning, step := 0, 0
	var last *Considered
	for day := 1; day <= 40; day++ {
		now := date(1, 4).AddDate(0, 0, day)
		step += 150 // of the 2,700 or so that were planned
		events = append(events, Event{At: now, Kind: Steps, Step: step})
		for h := range 5 {
			events = append(events, Event{At: now.Add(time.Duration(h-20) * time.Hour), Kind: Interruption})
		}
		c, err := Consider(p, o, events, now, leaning)
		if err != nil {
			t.Fatal(err)
		}
		if leaning, last = c.Decision.Leaning, c; c.Decision.Action == plan.Switch {
			break
		}
	}
	if last.Decision.Action != plan.Switch || !last.Decision.NeedsHuman || last.Fallback != "deepseek-h800" {
		t.Errorf("a pool that crawls: %s", last.Text())
	}
	if !strings.Contains(last.Text(), "switching pays unless progress on this pool exceeds") {
		t.Errorf("no break-even:\n%s", last.Text())
	}
	if _, err := Consider(p, o, nil, date(2, 1), 0); err == nil || !strings.Contains(err.Error(), "nothing is under way") {
		t.Errorf("nothing under way: %v", err)
	}
}

// A plan without a possible option has no forecast, and says why.
func TestNoOption(t *testing.T) {
	p, err := plan.ReadProject("../../examples/plans/deepseek-v3")
	if err != nil {
		t.Fatal(err)
	}
	p.Histories, p.Deadline = 100, date(1, 10)
	o, err := p.Plan(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Update(p, o, nil, date(1, 1)); !errors.Is(err, plan.ErrNoRun) {
		t.Errorf("no option: %v", err)
	}
}

// A release's stages come from the journal: what is unknown is said to be.
func TestReleaseForecast(t *testing.T) {
	now := date(1, 1)
	stages := []StageHistory{
		{Name: "label", Began: now.Add(-time.Minute), Ended: now.Add(-50 * time.Second)},
		{Name: "train", Began: now.Add(-40 * time.Second), Past: []float64{60, 90, 70}},
		{Name: "serve"},
	}
	f, err := Release(stages, now, 1000, 1)
	if err != nil {
		t.Fatal(err)
	}
	if b := bar(t, f, "label"); b.End[2] != stages[0].Ended {
		t.Errorf("label has ended: %v", b.End)
	}
	if b := bar(t, f, "train"); b.End[0].Before(now) || b.End[2].After(now.Add(2*time.Minute)) {
		t.Errorf("train has 8 to 73 seconds to go: %v", b.End)
	}
	if len(f.Unknown) != 1 || !strings.Contains(f.Unknown[0], "serve") {
		t.Errorf("unknown %q", f.Unknown)
	}
}
