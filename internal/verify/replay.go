package verify

import (
	"fmt"
	"math/rand/v2"
	"os"

	"tarbert/internal/gate"
)

// LoadEvidence reads an evidence file.
func LoadEvidence(path string) (*Evidence, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read evidence: %w", err)
	}
	ev, err := parseEvidence(b)
	if err != nil {
		return nil, fmt.Errorf("read evidence %s: %w", path, err)
	}
	if len(ev.Prompts) == 0 {
		return nil, fmt.Errorf("read evidence %s: it has no prompts", path)
	}
	return ev, nil
}

// Replay judges a run that might have been: in every part, n prompts drawn with
// replacement from those measured, taken in that order by a sequential run. It
// is how error rates are measured from one measured run: per-token numbers are
// real, only which prompts came is chance.
func (ev *Evidence) Replay(n int, r *rand.Rand) *Report {
	run := *ev
	run.draw(n, r)
	run.Contract, run.Parts, run.Reverse, run.Floors, run.Report = nil, nil, nil, nil, nil
	if run.stop(); run.failed() {
		return judge(&run)
	}
	for _, p := range ev.Parts {
		part := *p
		part.draw(n, r)
		part.stop()
		run.Parts = append(run.Parts, &part)
	}
	if ev.Reverse != nil {
		rev := *ev.Reverse
		rev.Prompts = make([]ReversePrompt, n)
		for i := range rev.Prompts {
			rev.Prompts[i] = ev.Reverse.Prompts[r.IntN(len(ev.Reverse.Prompts))]
		}
		run.Reverse = &rev
	}
	return judge(&run)
}

// Subset judges the run of the prompts from, from+n of the evidence alone, the
// main part only.
func (ev *Evidence) Subset(from, n int) *Report {
	run := *ev
	run.Prompts = ev.Prompts[from : from+n]
	run.Planned, run.Seed = n, uint64(from)
	run.Contract, run.Parts, run.Reverse, run.Floors, run.Report = nil, nil, nil, nil, nil
	run.stop()
	return judge(&run)
}

func (ev *Evidence) draw(n int, r *rand.Rand) {
	drawn := make([]Prompt, n)
	for i := range drawn {
		drawn[i] = ev.Prompts[r.IntN(len(ev.Prompts))]
	}
	ev.Prompts, ev.Planned, ev.Seed = drawn, n, r.Uint64()
}

// stop ends a sequential run where it would have.
func (ev *Evidence) stop() {
	if s := decide(ev); s.Verdict == gate.Pass {
		ev.Prompts = ev.Prompts[:s.After]
	}
	ev.Asked, ev.Digest = len(ev.Prompts), promptsDigest(ev.tokens())
}
