package verify

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"tarbert/internal/engine"
)

// WatchState is the outcome of a watch so far: a function of its journal.
//
// The test looks at every round and may be read at any of them. For each round
// j a stake of 6/(π²j²) is put on "the drift began at j", and bets from then on
// (betting.go) on the prompts drawn: their mean |Δ| beyond the allowed noise,
// and their mean ΔNLL beyond the margin either way. Every start's wealth is at
// most 1 on average if the endpoint is as certified, and so is their weighted
// sum at any time (Ville): in all the time it is watched, a false alarm has a
// chance of at most α. The start with the most wealth is when it began
// (Shin, Ramdas and Rinaldo 2024 call this an e-detector).
type WatchState struct {
	Evidence float64 // the weighted sum, against "as certified"
	Drift    *Drift

	baseline *Baseline
	began    time.Time
	last     time.Time // of the last round
	stack    *engine.Identity
	down     bool
	told     bool // the drift is in the journal
	rounds   int
	starts   []*watchStart
}

// Drift is what was found.
type Drift struct {
	// Since is the time of the round with which it began, After that of the
	// round before: it came between the two. Found is when it was certain.
	After, Since, Found time.Time
	Why                 string
}

type watchStart struct {
	at, before time.Time
	weight     float64
	bets       []*wealth // |Δ|, NLL up, NLL down
}

// mostStarts bounds memory; a start that is given up only weakens the test.
const mostStarts = 2000

func newWatchState(b *Baseline) *WatchState { return &WatchState{baseline: b} }

// apply folds one event in.
func (s *WatchState) apply(e WatchEvent) error {
	switch e.Kind {
	case "began":
		if e.Baseline != s.baseline.Digest {
			return errOtherBaseline
		}
		s.began = e.At
	case "stack":
		s.stack = e.Stack
	case "down":
		s.down = true
	case "up":
		s.down = false
	case "drift":
		s.told = true
	case "round":
		return s.round(e)
	default:
		return fmt.Errorf("journal: %q is no event", e.Kind)
	}
	return nil
}

func (s *WatchState) round(e WatchEvent) error {
	s.rounds++
	n := float64(s.rounds)
	s.starts = append(s.starts, &watchStart{e.At, s.last, 6 / (math.Pi * math.Pi * n * n), []*wealth{newWealth(1), newWealth(1), newWealth(1)}})
	if len(s.starts) > mostStarts {
		s.starts = s.starts[1:]
	}
	before := s.last
	s.last, s.down = e.At, false
	for _, m := range e.Moves {
		if m.Prompt < 0 || m.Prompt >= len(s.baseline.prompts) || math.IsNaN(m.Abs+m.NLL) || m.Abs < 0 || m.Abs > watchClip || math.Abs(m.NLL) > signedClip {
			return errors.New("journal: a move is out of range")
		}
		x := s.baseline.bets(m)
		for _, st := range s.starts {
			for i, b := range st.bets {
				b.add(x[i])
			}
		}
	}
	var best *watchStart
	most := 0.0
	s.Evidence = 0
	for _, st := range s.starts {
		e := st.e()
		if s.Evidence += st.weight * e; e > most {
			most, best = e, st
		}
	}
	switch {
	case s.Drift != nil:
	case e.Note != "":
		s.Drift = &Drift{before, e.At, e.At, e.Note}
	case s.Evidence >= 1/s.baseline.Alpha:
		s.Drift = &Drift{best.before, best.at, e.At, s.why(e.Moves)}
	}
	return nil
}

// e is the mean of the three bets' wealth.
func (st *watchStart) e() float64 {
	sum := 0.0
	for _, b := range st.bets {
		sum += b.e() / float64(len(st.bets))
	}
	return sum
}

// mostMoved is how many times the allowed noise one prompt counts at most.
const mostMoved = 5

// bets are bounded numbers, at most 0 on average while the endpoint is as
// certified, and never under −1.
func (b *Baseline) bets(m Move) [3]float64 {
	return [3]float64{
		min(m.Abs/b.prompts[m.Prompt].noise, mostMoved) - 1,
		(m.NLL - b.Margin) / (signedClip + b.Margin),
		(-m.NLL - b.Margin) / (signedClip + b.Margin),
	}
}

func (s *WatchState) why(moves []Move) string {
	abs, nll, noise := 0.0, 0.0, 0.0
	for _, m := range moves {
		abs, nll = abs+m.Abs/float64(len(moves)), nll+m.NLL/float64(len(moves))
		noise += s.baseline.prompts[m.Prompt].noise / float64(len(moves))
	}
	return fmt.Sprintf("log-probabilities moved by %.3g nats in the mean of the last round, %.3g are allowed; NLL by %+.3g (e-value %.3g)", abs, noise, nll, s.Evidence)
}

// watchJournal appends events; what a kill cut off is dropped.
type watchJournal struct {
	path   string
	file   *os.File
	events []WatchEvent
}

func openWatchJournal(path string) (*watchJournal, error) {
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	j, keep := &watchJournal{path: path}, 0
	for rest := old; ; {
		line, after, whole := bytes.Cut(rest, []byte("\n"))
		if !whole {
			break
		}
		var e WatchEvent
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", path, len(j.events)+1, err)
		}
		j.events, rest, keep = append(j.events, e), after, keep+len(line)+1
	}
	if j.file, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644); err != nil {
		return nil, err
	}
	if err := errors.Join(j.file.Truncate(int64(keep)), seekEnd(j.file)); err != nil {
		return nil, errors.Join(err, j.file.Close())
	}
	return j, nil
}

func (j *watchJournal) add(e WatchEvent) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if _, err := j.file.Write(append(b, '\n')); err != nil {
		return err
	}
	return j.file.Sync()
}

func (j *watchJournal) close() { j.file.Close() } // every line was synced
