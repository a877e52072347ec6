package verify

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"

	"tarbert/internal/gate"
)

// Replay judges a run that might have been: n prompts drawn with replacement
// from those of an evidence file, taken in that order by the sequential
// decision. It is how error rates are measured from one measured run: per-token
// numbers are real, only which prompts came is chance.
func Replay(evidencePath string, n int, r *rand.Rand) (*Report, error) {
	b, err := os.ReadFile(evidencePath)
	if err != nil {
		return nil, fmt.Errorf("replay: %w", err)
	}
	ev, err := parseEvidence(b)
	if err != nil {
		return nil, fmt.Errorf("replay %s: %w", evidencePath, err)
	}
	if len(ev.Prompts) == 0 {
		return nil, fmt.Errorf("replay %s: it has no prompts", evidencePath)
	}
	drawn := make([]Prompt, n)
	for i := range drawn {
		drawn[i] = ev.Prompts[r.IntN(len(ev.Prompts))]
	}
	ev.Prompts, ev.Parts, ev.Reverse, ev.Contract = drawn, nil, nil, nil
	ev.Planned, ev.Seed = n, r.Uint64()
	if s := decide(ev); s.Verdict != gate.Inconclusive {
		ev.Prompts = slices.Clip(drawn[:min(n, s.After)])
	}
	ev.Asked, ev.Digest = len(ev.Prompts), promptsDigest(ev.tokens())
	return judge(ev), nil
}
