package verify

import (
	"context"
	"fmt"
	"time"

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
	// Saturate doubles the last level until the tokens answered a second no
	// longer rise by a tenth, or every prompt is in flight at once.
	Saturate bool
	// Replicas of the candidate, each scored on its own against the reference.
	Replicas []Side
}

func (o LoadOptions) levels() []int {
	if len(o.Concurrency) == 0 {
		return []int{32}
	}
	return o.Concurrency
}

// collectLoad compares the candidate with itself under load, and each replica
// with the reference. Floors are those of the main part: same prompts.
func collectLoad(ctx context.Context, in Input, main *Evidence) ([]*Evidence, error) {
	n := min(in.Load.Prompts, len(main.Prompts))
	prompts := main.tokens()[:n]
	var out []*Evidence
	if in.Load.At != nil {
		alone, _, err := in.timed(ctx, in.Load.At(1), prompts)
		if err != nil {
			return nil, fmt.Errorf("candidate alone: %w", err)
		}
		levels := in.Load.levels()
		last := 0.0 // tokens a second at the level before
		for i := 0; i < len(levels); i++ {
			c := levels[i]
			in.report("load", c, 0, "in flight", "")
			busy, rate, err := in.timed(ctx, in.Load.At(c), prompts)
			if err != nil {
				return nil, fmt.Errorf("candidate at concurrency %d: %w", c, err)
			}
			ev := main.part(fmt.Sprintf("load %d", c), main.Candidate, main.Candidate)
			ev.fill(main, n, alone, busy)
			out = append(out, ev)
			if in.Load.Saturate && i == len(levels)-1 && c < n && rate > stillRising*last {
				levels = append(levels, 2*c)
			}
			last = rate
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
		in.report("load", i, len(in.Load.Replicas), "replicas", "")
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

// stillRising is the growth of throughput, from one level to twice that, under
// which an endpoint is saturated.
const stillRising = 1.1

// timed scores and says how many tokens a second came back.
func (in Input) timed(ctx context.Context, s Scorer, prompts [][]int) (got [][]engine.Position, rate float64, err error) {
	now := in.Now
	if now == nil {
		now = time.Now
	}
	began, tokens := now(), 0
	got, err = in.positions(ctx, s, prompts)
	for _, p := range prompts {
		tokens += len(p)
	}
	return got, float64(tokens) / max(now().Sub(began).Seconds(), 1e-6), err
}

func (in Input) positions(ctx context.Context, s Scorer, prompts [][]int) ([][]engine.Position, error) {
	return score(ctx, s, prompts, in.Spec.Top, in.Vocab, 0)
}

// part is empty evidence with the settings of ev.
func (ev *Evidence) part(name string, ref, cand Stack) *Evidence {
	return &Evidence{
		Version: ev.Version, Name: name, Reference: ref, Candidate: cand, Floor: ev.Floor, FloorFrom: ev.FloorFrom,
		Spec: ev.Spec, Typical: ev.Typical, Seed: ev.Seed, Families: ev.Families, Prompts: []Prompt{},
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
