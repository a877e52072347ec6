package plan

import (
	"strings"
	"testing"
	"time"
)

func playedAgain(t *testing.T, path string) *Replayed {
	t.Helper()
	p, err := ReadProject(path)
	if err != nil {
		t.Fatal(err)
	}
	p.Histories, p.Replay.Histories = 300, 600
	o, err := p.Plan(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.PlayAgain(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// R2: the FP8 recipe is refused before anything runs, the switch is advised
// within the first tenth of the schedule, and months before what was reported.
func TestR2PlayedAgain(t *testing.T) {
	r := playedAgain(t, "../../examples/r2")
	if len(r.Refused) != 1 || !strings.Contains(r.Refused[0], "no float8 products") {
		t.Errorf("refused %q", r.Refused)
	}
	if r.Switch.Share < 0.85 || r.Switch.Days[1] > 0.15*r.Terms.Planned.Days() {
		t.Errorf("a switch is advised in %.2f of histories, on day %.0f of %.0f planned", r.Switch.Share, r.Switch.Days[1], r.Terms.Planned.Days())
	}
	if r.Saved[1] < 2 || r.Saved[2] > 6.5 || r.Saved[0] > r.Saved[1] || r.Saved[1] > r.Saved[2] {
		t.Errorf("months saved %v", r.Saved)
	}
	for _, want := range []string{"months saved: P10", "assumed, since nobody has published it", "no stable run", "2025-01-20 to 2025-02-28"} {
		if !strings.Contains(r.Text(), want) {
			t.Errorf("the replay does not say %q\n%s", want, r.Text())
		}
	}
}

// The same tool on a good pool advises to stay.
func TestAGoodPoolIsKept(t *testing.T) {
	r := playedAgain(t, "../../examples/r2/good.yaml")
	if left := r.Switch.Share + r.Stop.Share; left > 0.05 {
		t.Errorf("a good pool is left in %.3f of histories\n%s", left, r.Text())
	}
}

// Days before the first kept step are bringing up, until what was agreed for it is spent.
func TestBringUp(t *testing.T) {
	standstill := []Window{{Wall: 24}, {Wall: 24, Interruptions: 3}, {Wall: 24}}
	working := append(standstill[:3:3], Window{Wall: 24, Progress: 20})
	for _, c := range []struct {
		windows []Window
		allowed Hours
		left    int
	}{{standstill, 72, 0}, {standstill, 48, 3}, {working, 72, 1}, {working, 24, 4}, {working[3:], 0, 1}} {
		if got := afterBringUp(c.windows, c.allowed); len(got) != c.left {
			t.Errorf("%d days, %v allowed: %d count, want %d", len(c.windows), c.allowed, len(got), c.left)
		}
	}
	terms := terms()
	terms.BringUp = 10 * 24
	e := Evidence{Began: attemptBegan, Target: 200_000}
	for day := 1; day <= 30; day++ {
		e.Now = attemptBegan.Add(time.Duration(day) * 24 * time.Hour)
		d, err := Consider(terms, e)
		if err != nil {
			t.Fatal(err)
		}
		e.Leaning = d.Leaning
		if day <= 10 && (d.Action != Stay || day > 2 && !strings.Contains(d.String(), "bringing up may take 10")) {
			t.Errorf("day %d of 10 allowed: %v", day, d)
		}
		if d.Action == Switch {
			return
		}
	}
	t.Error("a pool that never makes a step is not left within 30 days, 10 were allowed")
}
