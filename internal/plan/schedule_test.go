package plan

import (
	"strings"
	"testing"
	"time"
)

func releaseActivities(t *testing.T) []Activity {
	t.Helper()
	m := llamaModel()
	m.Nodes = 256
	f, err := SimulateRun(m, stepfun(t), Simulation{Histories: 1000, Seed: 2})
	if err != nil {
		t.Fatal(err)
	}
	people := Calendar{HoursPerDay: 8, Weekend: []time.Weekday{time.Saturday, time.Sunday}}
	return []Activity{
		{Name: "label", Amount: 60000, Rate: Range{Low: 40, High: 120}, Calendar: people},
		{Name: "train", Samples: f.Wall},
		{Name: "post-train", After: []string{"train", "label"}, Duration: Range{Low: 100, High: 300}},
		{Name: "convert", After: []string{"post-train"}, Duration: Range{Low: 4, High: 12}},
		{Name: "verify", After: []string{"convert"}, Duration: Range{Low: 8, High: 40}, Calendar: people},
	}
}

func TestSchedule(t *testing.T) {
	start := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	s, err := Forecast(releaseActivities(t), start, 1000, 1)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "forecast.golden", s.Text())
	if !strings.HasPrefix(s.Holding, "label") {
		t.Errorf("60,000 labels at 40 to 120 an hour take half a year, but the date is held by %s", s.Holding)
	}
	quick := releaseActivities(t)
	quick[0].Amount = 3000
	s2, err := Forecast(quick, start, 1000, 1)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(s2.Holding, "train") || !s2.Launch[1].Before(s.Launch[1]) {
		t.Errorf("with 3,000 labels: %s, launch %v", s2.Holding, s2.Launch[1])
	}
}

func TestCalendar(t *testing.T) {
	people := Calendar{HoursPerDay: 8, Weekend: []time.Weekday{time.Saturday, time.Sunday}, Holidays: []time.Time{time.Date(2026, 12, 25, 0, 0, 0, 0, time.UTC)}}
	thursday := time.Date(2026, 12, 24, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		work Hours
		want time.Time
	}{
		{4, time.Date(2026, 12, 24, 12, 0, 0, 0, time.UTC)},
		{12, time.Date(2026, 12, 28, 12, 0, 0, 0, time.UTC)}, // Friday is a holiday, then a weekend
	} {
		if got := people.after(thursday, c.work); !got.Equal(c.want) {
			t.Errorf("%v of work from Thursday ends %v, want %v", c.work, got, c.want)
		}
	}
	if got := (Calendar{}).after(thursday, 48); !got.Equal(thursday.Add(48 * time.Hour)) {
		t.Errorf("machines: %v", got)
	}
}

func TestScheduleErrors(t *testing.T) {
	for want, a := range map[string][]Activity{
		"waits for itself":     {{Name: "a", After: []string{"b"}}, {Name: "b", After: []string{"a"}}},
		"which is not there":   {{Name: "a", After: []string{"x"}}},
		"used twice":           {{Name: "a"}, {Name: "a"}},
		"duration_hours: low":  {{Name: "a", Duration: Range{Low: 2, High: 1}}},
		"rate: must be":        {{Name: "a", Amount: 5}},
		"hours a day: cannot":  {{Name: "a", Calendar: Calendar{HoursPerDay: 25}}},
		"0 activities":         nil,
		"-1 is negative":       {{Name: "a", Duration: Range{Low: -1, High: 1}}},
		"activities[0]: name ": {{Name: ""}},
	} {
		if _, err := Forecast(a, time.Unix(0, 0), 10, 1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
}
