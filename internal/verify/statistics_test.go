package verify

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"tarbert/internal/gate"
)

// A candidate that is as far off as the floor, judged with margins of exactly
// that, lies on the boundary of ratio and typical at once, and every alarm is
// quiet: neither verdict may be frequent.
func TestAtTheBoundaryNothingIsDecided(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	const trials = 200
	pass, fail := 0, 0
	for range trials {
		ev := &Evidence{Floor: &Stack{}, Spec: margins, Planned: 100, Typical: 1}
		ev.Spec.Margin.Ratio, ev.Spec.Margin.KL, ev.Spec.Margin.Top1 = 1, 0, 0
		for range 100 {
			p := scaledPrompt(r, 1)
			for _, s := range []*Series{&p.Candidate, p.Floor} {
				s.SlopeXX, s.SlopeXY = 1, 1+0.003*r.NormFloat64()
				s.Seen, s.SeenN = 0.01*r.NormFloat64(), 1
			}
			ev.Prompts = append(ev.Prompts, p)
		}
		switch decide(ev).Verdict {
		case gate.Pass:
			pass++
		case gate.Fail:
			fail++
		}
	}
	t.Logf("of %d runs at the margin %d passed and %d failed", trials, pass, fail)
	if pass > 6 || fail > 6 { // 1 % each, and three standard errors
		t.Errorf("of %d runs at the margin %d passed and %d failed", trials, pass, fail)
	}
}

// Each statistic sees its own fault in honest prompts that are otherwise alike.
func TestEveryStatisticSeesItsFault(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(p *Prompt, r *rand.Rand)
	}{
		{"ratio", func(p *Prompt, _ *rand.Rand) { p.Candidate.KL = scaled(p.Candidate.KL, 8) }},
		{"typical", func(p *Prompt, _ *rand.Rand) { p.Candidate.KL = scaled(p.Candidate.KL, 4) }},
		{"kl", func(p *Prompt, _ *rand.Rand) { p.Candidate.KL = scaled(p.Candidate.KL, 50) }},
		{"delta-nll", func(p *Prompt, _ *rand.Rand) { p.Candidate.LogProb = shifted(p.Candidate.LogProb, 0.05) }},
		{"top-1", func(p *Prompt, r *rand.Rand) {
			for i := range 8 {
				p.Candidate.Same = p.Candidate.Same[:4*i] + "0" + p.Candidate.Same[4*i+1:]
			}
		}},
		{"tail", func(p *Prompt, r *rand.Rand) { p.Candidate.KL[r.IntN(32)] = 0.9 }},
		{"surprise", func(p *Prompt, r *rand.Rand) {
			if r.IntN(8) == 0 {
				p.Candidate.KL[3] = 5
			}
		}},
		{"contrast", func(p *Prompt, _ *rand.Rand) {
			for i := range p.Candidate.KL {
				p.Candidate.KL[i] *= math.Exp(float64(i-16) / 8)
			}
		}},
		{"slope", func(p *Prompt, _ *rand.Rand) { p.Candidate.SlopeXY *= 0.95 }},
		{"seen", func(p *Prompt, _ *rand.Rand) { p.Candidate.Seen -= 0.05 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(7, 8))
			ev := &Evidence{Floor: &Stack{}, Spec: margins, Typical: 2}
			ev.Spec.Margin.Ratio, ev.Spec.Margin.KL = 3, 0.005
			for i := range 64 {
				p := scaledPrompt(r, 1)
				p.Tokens[0] = i // so that each is another prompt
				for _, s := range []*Series{&p.Candidate, p.Floor} {
					s.SlopeXX, s.SlopeXY = 1, 1+0.003*r.NormFloat64()
					s.Seen, s.SeenN, s.LogProb = 0.01*r.NormFloat64(), 1, slices.Repeat([]float64{-1}, 32)
				}
				ev.Prompts = append(ev.Prompts, p)
			}
			if s := decide(ev); s.Verdict == gate.Fail {
				t.Fatalf("honest: %+v", s.Bets)
			}
			for i := range ev.Prompts {
				c.change(&ev.Prompts[i], r)
			}
			if s := decide(ev); !s.bet(c.name).Outside {
				t.Errorf("not seen: %+v", s.Bets)
			}
		})
	}
}
