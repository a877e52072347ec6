package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"tarbert/internal/engine"
	"tarbert/internal/gate"
)

// Baseline is what a passed verification said of the candidate: for each prompt
// the log-probabilities that it had then, and how far the floor was.
type Baseline struct {
	Digest    string // of the prompts
	Candidate Stack
	Templates []int // prompt tokens of TemplateCases; nil = not asked
	Margin    float64
	Alpha     float64 // chance of a false alarm in all the time it is watched
	prompts   []basePrompt
}

type basePrompt struct {
	tokens  []int
	from    int
	logProb []float64 // of tokens from…, then
	noise   float64   // mean |Δ| that is allowed
}

// watchClip is the most that one token's change counts, in nats, and signedClip
// where its sign counts.
const (
	watchClip  = 0.5
	signedClip = 0.1
)

// noiseMargin is how many times the floor's own mean |Δ log-probability| a live
// endpoint may be from its certified self; leastNoise is what float32 on the
// wire and another batch make where the floor is nothing.
const (
	noiseMargin = 1.5
	leastNoise  = 1e-3
)

// ReadBaseline takes the baseline from an evidence file, whose verdict it
// derives again: only what passed can be watched.
func ReadBaseline(evidence string) (*Baseline, error) {
	r, err := Recompute(evidence)
	if err != nil {
		return nil, err
	}
	if r.Gate.Verdict != gate.Pass {
		return nil, fmt.Errorf("baseline %s: its verdict is %s: watch what has passed", evidence, r.Gate.Verdict)
	}
	raw, err := os.ReadFile(evidence)
	if err != nil {
		return nil, fmt.Errorf("baseline: %w", err)
	}
	ev, err := parseEvidence(raw)
	if err != nil {
		return nil, fmt.Errorf("baseline %s: %w", evidence, err)
	}
	b := &Baseline{Digest: ev.Digest, Candidate: ev.Candidate, Margin: ev.Spec.Margin.DeltaNLL, Alpha: ev.alpha()}
	if b.Margin <= 0 {
		b.Margin = 0.01
	}
	if ev.Contract != nil {
		b.Templates = ev.Contract.Candidate.Templates
	}
	for _, whole := range ev.Prompts {
		if whole.From >= len(whole.Tokens) {
			continue
		}
		p := whole.judged()
		floor := p.Candidate.LogProb // without a floor: as far as it was from the reference
		if p.Floor != nil {
			floor = p.Floor.LogProb
		}
		b.prompts = append(b.prompts, basePrompt{whole.Tokens, whole.From, p.Candidate.LogProb, max(leastNoise, noiseMargin*meanMove(floor, p.LogProb))})
	}
	if len(b.prompts) < leastPrompts {
		return nil, fmt.Errorf("baseline %s: %d prompts are judged, at least %d are needed", evidence, len(b.prompts), leastPrompts)
	}
	return b, nil
}

// Probe is a short prompt that the endpoint can read.
func (b *Baseline) Probe() []int { return b.prompts[0].tokens[:min(8, len(b.prompts[0].tokens))] }

// meanMove is the mean clipped change of the log-probabilities.
func meanMove(a, b []float64) float64 {
	s := 0.0
	for i := range a {
		s += min(math.Abs(a[i]-b[i]), watchClip)
	}
	return s / float64(len(a))
}

// meanShift is the mean clipped rise from b to a.
func meanShift(a, b []float64) float64 {
	s := 0.0
	for i := range a {
		s += min(max(a[i]-b[i], -signedClip), signedClip)
	}
	return s / float64(len(a))
}

// Watched is the live endpoint; *engine.Access is one.
type Watched interface {
	Scorer
	Identify(ctx context.Context) (engine.Identity, error)
	ChatTokens(ctx context.Context, messages, tools json.RawMessage) (int, error)
}

// Watch re-runs a small budget of the baseline's prompts on a live endpoint, on
// a schedule and whenever its stack changes.
type Watch struct {
	Baseline *Baseline
	Endpoint Watched
	// Every is the time between rounds, Poll between looks at the stack.
	Every, Poll time.Duration
	// Budget is the prompts of a round; one after a change of the stack has
	// four times as many.
	Budget int
	Seed   uint64
	Dir    string // gets WatchFile
	// Once ends after the round that is due, if one is; Keep goes on after drift.
	Once, Keep bool
	Report     func(WatchEvent, *WatchState)
}

// WatchFile is the journal's name in Watch.Dir.
const WatchFile = "watch.jsonl"

// WatchEvent is one line of the journal.
type WatchEvent struct {
	At   time.Time `json:"at"`
	Kind string    `json:"kind"` // "began", "round", "stack", "down", "up", "drift"
	// Baseline is the prompts' digest, of "began".
	Baseline string `json:"baseline,omitempty"`
	// Moves of a round: one entry per prompt.
	Moves []Move `json:"moves,omitempty"`
	// Stack is the endpoint's, of "stack".
	Stack *engine.Identity `json:"stack,omitempty"`
	Note  string           `json:"note,omitempty"`
	// Evidence against "as certified" after it, of a round; Since is the time of
	// the round with which a drift began.
	Evidence float64    `json:"evidence,omitempty"`
	Since    *time.Time `json:"since,omitempty"`
}

// Move is how far one prompt's log-probabilities are from the certified ones.
type Move struct {
	Prompt int     `json:"prompt"`
	Abs    float64 `json:"abs"` // mean clipped |Δ|, nats
	NLL    float64 `json:"nll"` // mean clipped change of the NLL, nats
}

// Run watches until ctx ends, drift is found (unless Keep) or, with Once, after
// one look. A killed watch goes on from its journal. The state says whether
// there is drift; an endpoint that is away is neither drift nor an error.
func (w *Watch) Run(ctx context.Context) (*WatchState, error) {
	if w.Every <= 0 || w.Poll <= 0 || w.Budget < 1 {
		return nil, fmt.Errorf("watch: every %v, poll %v, %d prompts: all must be above zero", w.Every, w.Poll, w.Budget)
	}
	j, err := openWatchJournal(filepath.Join(w.Dir, WatchFile))
	if err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	defer j.close()
	s := newWatchState(w.Baseline)
	for _, e := range j.events {
		if err := s.apply(e); err != nil {
			return nil, fmt.Errorf("watch %s: %w", j.path, err)
		}
	}
	note := func(e WatchEvent) error {
		if e.Kind != "drift" {
			e.At = time.Now().UTC()
		}
		if err := s.apply(e); err != nil {
			return err
		}
		e.Evidence = 0
		if e.Kind == "round" {
			e.Evidence = s.Evidence
		}
		if err := j.add(e); err != nil {
			return err
		}
		if w.Report != nil {
			w.Report(e, s)
		}
		return nil
	}
	if s.began.IsZero() {
		if err := note(WatchEvent{Kind: "began", Baseline: w.Baseline.Digest}); err != nil {
			return s, fmt.Errorf("watch: %w", err)
		}
	}
	for s.Drift == nil || w.Keep {
		if err := w.look(ctx, s, note); err != nil {
			return s, fmt.Errorf("watch: %w", err)
		}
		if w.Once || ctx.Err() != nil || (s.Drift != nil && !w.Keep) {
			break
		}
		timer := time.NewTimer(min(w.Poll, max(time.Until(s.last.Add(w.Every)), time.Second)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return s, nil
		case <-timer.C:
		}
	}
	return s, nil
}

// look asks what the stack is, and runs a round if it changed or one is due.
func (w *Watch) look(ctx context.Context, s *WatchState, note func(WatchEvent) error) error {
	id, err := w.Endpoint.Identify(ctx)
	if err != nil {
		return w.away(ctx, s, note, err)
	}
	budget := 0
	if !s.last.Add(w.Every).After(time.Now()) {
		budget = w.Budget
	}
	changed := s.stack != nil && !sameStack(*s.stack, id)
	if s.stack == nil || changed {
		if err := note(WatchEvent{Kind: "stack", Stack: &id}); err != nil {
			return err
		}
	}
	if changed {
		budget = 4 * w.Budget
	}
	if budget == 0 {
		return nil
	}
	moves, said, err := w.round(ctx, s.rounds, min(budget, 4*len(w.Baseline.prompts)))
	if err != nil {
		return w.away(ctx, s, note, err)
	}
	if s.down {
		if err := note(WatchEvent{Kind: "up"}); err != nil {
			return err
		}
	}
	if err := note(WatchEvent{Kind: "round", Moves: moves, Note: said}); err != nil || s.Drift == nil || s.told {
		return err
	}
	return note(WatchEvent{Kind: "drift", At: time.Now().UTC(), Since: &s.Drift.Since, Note: s.Drift.Why})
}

// away notes an endpoint that does not answer, once.
func (w *Watch) away(ctx context.Context, s *WatchState, note func(WatchEvent) error, err error) error {
	if ctx.Err() != nil || s.down {
		return nil // looked again at the next poll
	}
	return note(WatchEvent{Kind: "down", Note: err.Error()})
}

// round scores a draw of the baseline's prompts. said is a difference that
// needs no statistics.
func (w *Watch) round(ctx context.Context, n, budget int) (moves []Move, said string, err error) {
	r := rand.New(rand.NewPCG(w.Seed, uint64(n)))
	for i := 0; i < budget; i += chunk {
		var at []int
		var prompts [][]int
		for range min(chunk, budget-i) {
			at = append(at, r.IntN(len(w.Baseline.prompts)))
			prompts = append(prompts, w.Baseline.prompts[at[len(at)-1]].tokens)
		}
		got, err := score(ctx, w.Endpoint, prompts, 1, 0, 0)
		if err != nil {
			return nil, "", err
		}
		for k, pos := range got {
			b, live := w.Baseline.prompts[at[k]], []float64{}
			for _, p := range pos[b.from:] {
				live = append(live, p.LogProb)
			}
			moves = append(moves, Move{at[k], meanMove(live, b.logProb), meanShift(b.logProb, live)})
		}
	}
	return moves, w.templates(ctx), nil
}

// templates compares conversations' lengths with the baseline's, where both
// could be asked: another template or tokenizer needs no statistics.
func (w *Watch) templates(ctx context.Context) string {
	for i, c := range TemplateCases() {
		if i >= len(w.Baseline.Templates) || w.Baseline.Templates[i] < 0 || i%6 != 0 {
			continue // a few a round
		}
		n, err := w.Endpoint.ChatTokens(ctx, json.RawMessage(c.Messages), orNull(json.RawMessage(c.Tools)))
		if err == nil && n != w.Baseline.Templates[i] {
			return fmt.Sprintf("the conversation %q is %d tokens, it was %d when certified: another template or tokenizer", c.Name, n, w.Baseline.Templates[i])
		}
	}
	return ""
}

func sameStack(a, b engine.Identity) bool {
	x, errA := json.Marshal(a)
	y, errB := json.Marshal(b)
	return errA == nil && errB == nil && slices.Equal(x, y)
}

// errOtherBaseline: the journal is of another certificate.
var errOtherBaseline = errors.New("the journal watches another baseline: give another directory")
