package verify

import (
	"context"
	"fmt"

	"tarbert/internal/engine"
)

// LoadOptions repeat prompts under load and on every replica.
type LoadOptions struct {
	Prompts int // the first so many; 0 = none
	// At makes the candidate's scorer that has so many requests in flight;
	// without it, load is not tested.
	At func(concurrency int) Scorer
	// Concurrency to compare with one request at a time; default 32.
	Concurrency []int
	// Replicas of the candidate, each scored on its own against the reference.
	Replicas []Side
}

// collectLoad compares the candidate with itself under load, and each replica
// with the reference. Floors are those of the main part: same prompts.
func collectLoad(ctx context.Context, in Input, main *Evidence) ([]*Evidence, error) {
	n := min(in.Load.Prompts, len(main.Prompts))
	prompts := main.tokens()[:n]
	var out []*Evidence
	if in.Load.At != nil {
		alone, err := in.positions(ctx, in.Load.At(1), prompts)
		if err != nil {
			return nil, fmt.Errorf("candidate alone: %w", err)
		}
		levels := in.Load.Concurrency
		if len(levels) == 0 {
			levels = []int{32}
		}
		for _, c := range levels {
			busy, err := in.positions(ctx, in.Load.At(c), prompts)
			if err != nil {
				return nil, fmt.Errorf("candidate at concurrency %d: %w", c, err)
			}
			ev := main.part(fmt.Sprintf("load %d", c), main.Candidate, main.Candidate)
			ev.fill(main, n, alone, busy)
			out = append(out, ev)
		}
	}
	if len(in.Load.Replicas) == 0 {
		return out, nil
	}
	ref, err := in.positions(ctx, in.Reference.Scorer, prompts)
	if err != nil {
		return nil, fmt.Errorf("reference: %w", err)
	}
	for i, r := range in.Load.Replicas {
		got, err := in.positions(ctx, r.Scorer, prompts)
		if err != nil {
			return nil, fmt.Errorf("replica %d: %w", i, err)
		}
		ev := main.part(fmt.Sprintf("replica %d", i), main.Reference, r.Stack)
		ev.fill(main, n, ref, got)
		out = append(out, ev)
	}
	return out, nil
}

func (in Input) positions(ctx context.Context, s Scorer, prompts [][]int) ([][]engine.Position, error) {
	return score(ctx, s, prompts, in.Spec.Top, in.Vocab, 0)
}

// part is empty evidence with the settings of ev.
func (ev *Evidence) part(name string, ref, cand Stack) *Evidence {
	return &Evidence{
		Version: ev.Version, Name: name, Reference: ref, Candidate: cand, Floor: ev.Floor,
		Spec: ev.Spec, Typical: ev.Typical, Seed: ev.Seed, Prompts: []Prompt{},
	}
}

// fill takes prompts, starts and floors from main.
func (ev *Evidence) fill(main *Evidence, n int, ref, cand [][]engine.Position) {
	for i, p := range main.Prompts[:n] {
		ev.add(p.Tokens, p.From, [][]engine.Position{ref[i], cand[i]})
		ev.Prompts[i].Floor = p.Floor
	}
	ev.Asked, ev.Digest = n, promptsDigest(ev.tokens())
	if main.Planned > 0 {
		ev.Planned = n
	}
}
