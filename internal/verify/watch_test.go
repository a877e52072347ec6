package verify

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tarbert/internal/engine"
	"tarbert/internal/gate"
)

// live is an endpoint with a life: what it serves depends on the time.
type live struct {
	now     func() time.Time
	model   func(at time.Time) toy
	down    func(at time.Time) bool
	version func(at time.Time) string
	chat    func(at time.Time) int
	scored  int
}

func (l *live) Score(ctx context.Context, prompts [][]int, k int) ([][]engine.Position, error) {
	at := l.now()
	if l.down != nil && l.down(at) {
		return nil, errors.New("connection refused")
	}
	l.scored += len(prompts)
	m := l.model(at)
	m.seed += uint64(at.Unix()) // another batch each time
	return m.Score(ctx, prompts, k)
}

func (l *live) Identify(context.Context) (engine.Identity, error) {
	at := l.now()
	if l.down != nil && l.down(at) {
		return engine.Identity{}, errors.New("connection refused")
	}
	id := engine.Identity{Engine: "vllm", Version: "1", Model: "m"}
	if l.version != nil {
		id.Version = l.version(at)
	}
	return id, nil
}

func (l *live) ChatTokens(context.Context, json.RawMessage, json.RawMessage) (int, error) {
	if l.chat == nil {
		return 0, errors.New("no chat")
	}
	return l.chat(l.now()), nil
}

// certified is a passed verification of the honest toy, as a baseline.
func certified(t *testing.T) *Baseline {
	t.Helper()
	in := verification(t.TempDir(), honest, toy{}.write(40, 24, 3))
	r := run(t, in)
	if r.Gate.Verdict != gate.Pass {
		t.Fatal(r.Gate.Reason)
	}
	b, err := ReadBaseline(r.Evidence)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b.prompts { // the toy's honest noise, drawn anew each time, is √2 of the certified run's own
		b.prompts[i].noise = 0.08
	}
	return b
}

func hours(n float64) time.Duration { return time.Duration(n * float64(time.Hour)) }

func watching(b *Baseline, l *live, dir string) *Watch {
	return &Watch{Baseline: b, Endpoint: l, Every: time.Hour, Poll: 5 * time.Minute, Budget: 16, Seed: 1, Dir: dir}
}

// honestModel answers as certified, whatever the time.
func honestModel(time.Time) toy { return honest }

func TestWatchFindsTheHourOfADrift(t *testing.T) {
	b := certified(t)
	for _, c := range []struct {
		name  string
		after func(toy) toy
		most  float64 // hours until it is certain
	}{
		{"another quantisation", func(m toy) toy { m.noise = 0.2; return m }, 4},
		{"another temperature", func(m toy) toy { m.scale = 0.9; return m }, 24},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				changed := began.Add(hours(20.5))
				l := &live{now: time.Now, model: func(at time.Time) toy {
					if at.After(changed) {
						return c.after(honest)
					}
					return honest
				}}
				ctx, cancel := context.WithTimeout(t.Context(), hours(24*3))
				defer cancel()
				s, err := watching(b, l, t.TempDir()).Run(ctx)
				if err != nil || s.Drift == nil {
					t.Fatalf("no drift found: %v, evidence %.3g", err, s.Evidence)
				}
				if since := s.Drift.Since.Sub(began).Hours(); since < 19.9 || since > 24 {
					t.Errorf("began at hour %.1f, it was 20.5", since)
				}
				if found := s.Drift.Found.Sub(changed).Hours(); found < 0 || found > c.most {
					t.Errorf("found %.1f hours after it began, %g are allowed: %s", found, c.most, s.Drift.Why)
				}
			})
		})
	}
}

func TestWatchIsQuietWhereNothingChanged(t *testing.T) {
	b := certified(t)
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		l := &live{now: time.Now, model: honestModel, down: func(at time.Time) bool { h := at.Sub(began).Hours(); return h > 10 && h < 15 }}
		ctx, cancel := context.WithTimeout(t.Context(), hours(24*5))
		defer cancel()
		var kinds []string
		w := watching(b, l, t.TempDir())
		w.Report = func(e WatchEvent, _ *WatchState) {
			if e.Kind != "round" {
				kinds = append(kinds, e.Kind)
			}
		}
		s, err := w.Run(ctx)
		if err != nil || s.Drift != nil || s.Evidence > 1 {
			t.Errorf("%v, drift %+v, evidence %.3g", err, s.Drift, s.Evidence)
		}
		if got := strings.Join(kinds, " "); got != "began stack down up" {
			t.Errorf("events %q: five hours away are told once, and are no drift", got)
		}
		if l.scored < 16*24*4 {
			t.Errorf("%d prompts in five days", l.scored)
		}
	})
}

func TestWatchLooksAtOnceWhenTheStackChanges(t *testing.T) {
	b := certified(t)
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		change := began.Add(hours(2.2))
		l := &live{now: time.Now, version: func(at time.Time) string {
			if at.After(change) {
				return "2"
			}
			return "1"
		}, model: func(at time.Time) toy {
			m := honest
			if at.After(change) {
				m.noise = 0.3
			}
			return m
		}}
		w := watching(b, l, t.TempDir())
		w.Every = hours(6)
		s, err := w.Run(t.Context())
		if err != nil || s.Drift == nil {
			t.Fatal(err)
		}
		if found := s.Drift.Found.Sub(change); found > 10*time.Minute {
			t.Errorf("found %v after the upgrade, with six hours between rounds", found)
		}
	})
}

func TestWatchNeedsNoStatisticsForATemplate(t *testing.T) {
	b := certified(t)
	b.Templates = make([]int, len(TemplateCases()))
	for i := range b.Templates {
		b.Templates[i] = 9
	}
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		l := &live{now: time.Now, model: honestModel, chat: func(at time.Time) int {
			if at.Sub(began).Hours() > 3.5 {
				return 10
			}
			return 9
		}}
		s, err := watching(b, l, t.TempDir()).Run(t.Context())
		if err != nil || s.Drift == nil || !strings.Contains(s.Drift.Why, "another template") || s.Drift.Since.Sub(began).Round(time.Hour) != 4*time.Hour {
			t.Errorf("%v: %+v", err, s.Drift)
		}
	})
}

// A watch that is killed goes on: what it had seen still counts, nothing is
// asked twice, and a journal cut off in the middle of a line is no harm.
func TestWatchGoesOnAfterAKill(t *testing.T) {
	b := certified(t)
	evidence := func(t *testing.T, stops ...float64) (float64, int) {
		var e float64
		var asked int
		synctest.Test(t, func(t *testing.T) {
			began, dir := time.Now(), t.TempDir()
			l := &live{now: time.Now, model: func(time.Time) toy { m := honest; m.noise = 0.08; return m }}
			for _, at := range stops {
				ctx, cancel := context.WithDeadline(t.Context(), began.Add(hours(at)))
				s, err := watching(b, l, dir).Run(ctx)
				cancel()
				if err != nil {
					t.Fatal(err)
				}
				e = s.Evidence
				f, err := os.OpenFile(filepath.Join(dir, WatchFile), os.O_APPEND|os.O_WRONLY, 0)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := f.WriteString(`{"at":"2026-`); err != nil {
					t.Fatal(err)
				}
				f.Close()
			}
			asked = l.scored
		})
		return e, asked
	}
	want, n := evidence(t, 10.5)
	got, m := evidence(t, 2.5, 6.7, 10.5)
	if want != got || n != m || n != 16*11 {
		t.Errorf("evidence %g after %d prompts, %g after %d with two kills", want, n, got, m)
	}
	other := *b
	other.Digest = "another"
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l := &live{now: time.Now, model: honestModel}
	if _, err := watching(b, l, dir).Run(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := watching(&other, l, dir).Run(ctx); !errors.Is(err, errOtherBaseline) {
		t.Errorf("another baseline: %v", err)
	}
}

func TestReadBaselineRefusesWhatDidNotPass(t *testing.T) {
	r := run(t, verification(t.TempDir(), toy{noise: 1, seed: 2}, toy{}.write(64, 40, 3)))
	if _, err := ReadBaseline(r.Evidence); err == nil || !strings.Contains(err.Error(), "watch what has passed") {
		t.Errorf("a failed verification: %v", err)
	}
}
