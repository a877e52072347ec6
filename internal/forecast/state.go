package forecast

import (
	"time"

	"tarbert/internal/plan"
)

// state is what the evidence adds up to.
type state struct {
	began, ended  map[string]time.Time
	counts        map[string][]Event
	pool          string // of the run; empty = not begun
	step          int
	marks         []plan.Mark
	interruptions int
	stops         []time.Time
	blind         []plan.Span
	sections      map[string][]float64
	parity        plan.Checks
	spent         plan.Money
	switched      time.Time
}

// look adds events up, in order of time.
func look(events []Event, run string) state {
	s := state{began: map[string]time.Time{}, ended: map[string]time.Time{}, counts: map[string][]Event{}, sections: map[string][]float64{}}
	for _, e := range events {
		switch e.Kind {
		case Began:
			if _, twice := s.began[e.Stage]; !twice {
				s.began[e.Stage] = e.At
			}
			if e.Stage == run && e.Pool != "" {
				s.pool = e.Pool
			}
		case Ended:
			s.ended[e.Stage] = e.At
		case Count:
			s.counts[e.Stage] = append(s.counts[e.Stage], e)
		case Steps:
			s.step = e.Step
			s.marks = append(s.marks, plan.Mark{At: e.At, Step: e.Step})
		case Interruption:
			s.interruptions++
			s.stops = append(s.stops, e.At)
		case Section:
			s.sections[e.Name] = append(s.sections[e.Name], e.Seconds)
		case Unseen:
			s.blind = append(s.blind, plan.Span{From: e.At, To: e.Until})
		case Parity:
			s.check(e.OK)
		case Spent:
			s.spent = e.Money
		case Switched:
			// What was seen on the pool before says nothing of this one.
			s.pool, s.switched = e.Pool, e.At
			s.interruptions, s.sections = 0, map[string][]float64{}
			s.began[run] = e.At
			s.marks, s.stops, s.parity = []plan.Mark{{At: e.At, Step: s.step}}, nil, plan.Checks{}
		}
	}
	return s
}

func (s *state) check(ok *bool) {
	switch {
	case ok == nil:
		s.parity.Unknown++
	case *ok:
		s.parity.Done++
		s.parity.Breaches = 0
	default:
		s.parity.Done++
		s.parity.Breaches++
	}
}

// stepSeconds is how long a step takes, from sections or else from marks with
// no interruption between them; n looks, with the standard error of its logarithm.
func (s state) stepSeconds() (seconds float64, n int, dev float64) {
	if x := s.sections["step"]; len(x) > 0 {
		return mean(x), len(x), deviation(x, 0.02, 0.1)
	}
	var x []float64
	for i := 1; i < len(s.marks); i++ {
		a, b := s.marks[i-1], s.marks[i]
		stopped := false
		for _, at := range s.stops {
			stopped = stopped || !at.Before(a.At) && !at.After(b.At)
		}
		if !stopped && b.Step > a.Step && s.unseen(a.At, b.At) == 0 {
			x = append(x, b.At.Sub(a.At).Seconds()/float64(b.Step-a.Step))
		}
	}
	if len(x) == 0 {
		return 0, 0, 0
	}
	return mean(x), len(x), deviation(x, 0.05, 0.15)
}

// unseen is how much of a stretch nobody could see.
func (s state) unseen(from, to time.Time) time.Duration {
	return time.Duration(float64(plan.Unseen(s.blind, from, to)) * float64(time.Hour))
}
