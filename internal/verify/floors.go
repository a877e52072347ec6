package verify

import (
	"context"
	"fmt"

	"tarbert/internal/engine"
	"tarbert/internal/progress"
)

// RepeatOptions ask both sides once more under another batch composition:
// their own noise, measured before anything is judged.
type RepeatOptions struct {
	Prompts              int    // the first so many; 0 = none
	Reference, Candidate Scorer // nil = not repeated
}

// Names of floors: the reference in another arithmetic (or whatever Input.Floor
// is), and either side against itself.
const (
	FloorGiven     = "given"
	FloorReference = "reference"
	FloorCandidate = "candidate"
)

// FloorMeasure is one floor, as the first prompts measured it.
type FloorMeasure struct {
	Name string   `json:"name"`
	KL   Interval `json:"kl"` // mean clipped, nats a token
	Used bool     `json:"used"`
}

// collectFloors scores the first prompts twice on each side that has a repeat
// and keeps the numbers as parts, which are not judged.
func collectFloors(ctx context.Context, in Input, ev *Evidence) error {
	n := min(in.Repeat.Prompts, len(in.Prompts))
	for _, s := range []struct {
		name  string
		side  Side
		again Scorer
	}{{FloorReference, in.Reference, in.Repeat.Reference}, {FloorCandidate, in.Candidate, in.Repeat.Candidate}} {
		if s.again == nil || n == 0 {
			continue
		}
		first, err := in.positions(ctx, s.side.Scorer, in.Prompts[:n])
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		in.first.keep(s.name, in.Prompts[:n], first)
		second, err := in.positions(ctx, s.again, in.Prompts[:n])
		if err != nil {
			return fmt.Errorf("%s again: %w", s.name, err)
		}
		in.first.keep(s.name+" again", in.Prompts[:n], second)
		part := &Evidence{Version: ev.Version, Name: s.name, Reference: s.side.Stack, Candidate: s.side.Stack, Spec: ev.Spec, Seed: ev.Seed, Prompts: []Prompt{}}
		for i := range n {
			part.add(in.Prompts[i], in.from(i), [][]engine.Position{first[i], second[i]})
		}
		part.Asked, part.Digest = n, promptsDigest(part.tokens())
		ev.Floors = append(ev.Floors, part)
		in.report("floor", len(ev.Floors), 2, "sides", fmt.Sprintf("%s against itself: KL %.2e", s.name, part.klInterval().Value))
	}
	if in.Floor.Scorer == nil {
		ev.FloorFrom = ev.lowestFloor()
	} else {
		ev.FloorFrom = FloorGiven
	}
	return nil
}

// lowestFloor is the side whose own noise is the least of those that are
// above what float32 on the wire can show; none = "".
func (ev *Evidence) lowestFloor() string {
	best, least := "", 0.0
	for _, f := range ev.Floors {
		if kl := f.klInterval().Value; kl > floorResolution && (best == "" || kl < least) {
			best, least = f.Name, kl
		}
	}
	return best
}

func (ev *Evidence) klInterval() Interval {
	n := reduce(ev)
	if len(n.kl) == 0 {
		return Interval{}
	}
	return newBootstrap(len(n.kl), ev.Seed, alpha).mean(n.kl)
}

// floorMeasures are the floors for the report.
func (ev *Evidence) floorMeasures() []FloorMeasure {
	var out []FloorMeasure
	for _, f := range ev.Floors {
		out = append(out, FloorMeasure{Name: f.Name + " against itself", KL: f.klInterval(), Used: ev.FloorFrom == f.Name})
	}
	return out
}

// floorSide is the side that the floor comes from; ok is false where there is none.
func (in Input) floorSide(ev *Evidence) (side Side, name string, ok bool) {
	switch {
	case in.Floor.Scorer != nil:
		return in.Floor, "floor", true
	case ev.FloorFrom == FloorReference:
		return Side{Stack: in.Reference.Stack, Scorer: in.Repeat.Reference}, FloorReference + " again", true
	case ev.FloorFrom == FloorCandidate:
		return Side{Stack: in.Candidate.Stack, Scorer: in.Repeat.Candidate}, FloorCandidate + " again", true
	}
	return Side{}, "", false
}

// report is one sign of life from a part.
func (in Input) report(part string, done, total int, unit, note string) {
	in.Progress.Report(progress.Update{Stage: in.stage(part), Done: float64(done), Total: float64(total), Unit: unit, Note: note})
}

// stage is what a part is called on the screen.
func (in Input) stage(part string) string {
	if in.PerPart {
		return part
	}
	return "verify"
}

// scored remembers positions that were asked for before the main part.
type scored map[string]map[string][]engine.Position

func (s scored) keep(side string, prompts [][]int, got [][]engine.Position) {
	if s == nil {
		return
	}
	if s[side] == nil {
		s[side] = map[string][]engine.Position{}
	}
	for i, p := range prompts {
		s[side][fmt.Sprint(p)] = got[i]
	}
}

// take returns the positions of those prompts that are known, and the others' indices.
func (s scored) take(side string, prompts [][]int) (got [][]engine.Position, missing []int) {
	got = make([][]engine.Position, len(prompts))
	for i, p := range prompts {
		if known, ok := s[side][fmt.Sprint(p)]; ok {
			got[i] = known
		} else {
			missing = append(missing, i)
		}
	}
	return got, missing
}
