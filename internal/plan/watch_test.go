package plan

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func terms() Terms {
	return Terms{
		Pool: "a", Fallback: "b", Step: 36, Planned: 100 * 24, Expected: Range{Low: 0.75, High: 0.95}, Price: 100,
		Other:  Side{Rate: Range{Low: 0.75, High: 0.95}, Queue: Range{Low: 24, High: 72}, Migration: Range{Low: 24, High: 48}, Price: 100},
		Budget: Budget{Breaches: 2}, PreAuthorized: true,
	}
}

var attemptBegan = time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)

func hour(h float64) time.Time { return attemptBegan.Add(time.Duration(h * float64(time.Hour))) }

// One step takes 36 s: a hundred of them are an hour.
func TestEvidenceBecomesWindows(t *testing.T) {
	e := Evidence{
		Began: attemptBegan, Now: hour(55), First: 1000, Target: 10000,
		Steps:         []Mark{{hour(12), 2200}, {hour(24), 2200}, {hour(48), 4000}, {hour(55), 4700}},
		Interruptions: []time.Time{hour(12), hour(30), hour(47.9)},
		Unseen:        []Span{{hour(20), hour(26)}, {hour(22), hour(25)}},
	}
	s, err := terms().Situation(e)
	if err != nil {
		t.Fatal(err)
	}
	want := []Window{
		{Wall: 24, Unknown: 4, Progress: 12, Interruptions: 1}, {Wall: 24, Unknown: 2, Progress: 18, Interruptions: 2}, {Wall: 7, Progress: 7},
	}
	if diff := cmp.Diff(want, s.Windows); diff != "" {
		t.Errorf("windows (-want +got)\n%s", diff)
	}
	if s.Remaining != 53 || s.At != 55 {
		t.Errorf("%v remain at %v", float64(s.Remaining), float64(s.At))
	}
}

// A supervisor's whole path: a pool that crawls is left after some days of
// evidence, a good one never, and one that nobody can see never either.
func TestConsider(t *testing.T) {
	for _, c := range []struct {
		name            string
		perDay          int // steps
		faults          int // a day
		seen            bool
		within, noneFor int // days until the switch; 0 = never
	}{
		{"crawls", 500, 6, true, 14, 1}, {"good", 2050, 1, true, 0, 60}, {"unseen", 0, 0, false, 0, 60},
	} {
		e := Evidence{Began: attemptBegan, Target: 200_000}
		switched := 0
		for day := 1; day <= 60 && switched == 0; day++ {
			e.Now = hour(24 * float64(day))
			if c.seen {
				e.Steps = append(e.Steps, Mark{e.Now, day * c.perDay})
				for i := range c.faults {
					e.Interruptions = append(e.Interruptions, hour(24*float64(day-1)+float64(i)*3))
				}
			} else {
				e.Unseen = []Span{{attemptBegan, e.Now}}
			}
			d, err := Consider(terms(), e)
			if err != nil {
				t.Fatal(err)
			}
			if e.Leaning = d.Leaning; d.Action == Switch {
				switched = day
			}
		}
		if c.within == 0 && switched != 0 || c.within > 0 && (switched == 0 || switched > c.within || switched <= c.noneFor) {
			t.Errorf("%s: switched on day %d, want within %d (0 = never)", c.name, switched, c.within)
		}
	}
}

func TestEvidenceThatCannotBe(t *testing.T) {
	for want, e := range map[string]Evidence{
		"before the attempt began": {Began: attemptBegan, Now: hour(-1)},
		"steps[1]: step 4":         {Began: attemptBegan, Now: hour(9), Steps: []Mark{{hour(1), 5}, {hour(2), 4}}},
		"lie ahead":                {Began: attemptBegan, Now: hour(9), Steps: []Mark{{hour(10), 5}}},
		"unseen[0]":                {Began: attemptBegan, Now: hour(9), Unseen: []Span{{hour(3), hour(2)}}},
	} {
		if _, err := Consider(terms(), e); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
	bad := terms()
	bad.Step = 0
	if _, err := Consider(bad, Evidence{Began: attemptBegan, Now: hour(1)}); err == nil || !strings.Contains(err.Error(), "step_seconds") {
		t.Errorf("no step time: %v", err)
	}
}

// A fallback at twice the price is not worth a small gain of time, unless time is worth more.
func TestPriceIsWeighed(t *testing.T) {
	s := Situation{Remaining: 1000, Price: 100, Other: Side{Price: 200}}
	free := s.breakEven(24, 1200)
	s.DayWorth = 1e9
	if rich := s.breakEven(24, 1200); rich > free || rich < 0.999*free {
		t.Errorf("a day is worth all the money: break-even %.4f, without prices %.4f", rich, free)
	}
	s.DayWorth = 2400
	if poor := s.breakEven(24, 1200); poor > 0.7*free {
		t.Errorf("a day is worth a day's rent: break-even %.3f, without prices %.3f", poor, free)
	}
}
