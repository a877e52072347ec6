package verify

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"tarbert/internal/gate"
)

// Stratum is one kind of prompts or positions. Ratio and Typical are as in
// Report, without intervals: Beyond is the evidence (an e-value) that this
// stratum is outside the margin.
type Stratum struct {
	Name    string  `json:"name"`
	Prompts int     `json:"prompts"`
	Tokens  int     `json:"tokens"`
	KL      float64 `json:"kl"`
	Floor   float64 `json:"floor,omitempty"`
	Ratio   float64 `json:"ratio,omitempty"`
	Typical float64 `json:"typical,omitempty"`
	Beyond  float64 `json:"beyond"`
	Outside bool    `json:"outside"` // found by e-BH over all strata
}

// modulus: blocks, vectors and compressors come in multiples of eight, so
// that each residue of the length is a stratum.
const modulus = 8

// strataOf names every stratum that a position of p belongs to. at is in the
// whole prompt, n its length.
func strataOf(p Prompt, at, n int) []string {
	out := []string{fmt.Sprintf("length mod %d = %d", modulus, n%modulus), positionBin(at)}
	if p.Stratum != "" {
		out = append(out, p.Stratum)
	}
	switch {
	case n&(n-1) == 0:
		out = append(out, "length 2^k")
	case (n-1)&(n-2) == 0:
		out = append(out, "length 2^k+1")
	case (n+1)&n == 0:
		out = append(out, "length 2^k-1")
	}
	return out
}

func positionBin(at int) string {
	low := 1
	for low*4 <= at {
		low *= 4
	}
	return fmt.Sprintf("positions %d to %d", low, low*4-1)
}

// strata gives every stratum's numbers, the worst first. A cluster is still a
// prompt: its positions in the stratum make one bet.
func strata(ev *Evidence) []Stratum {
	parts := map[string][]Prompt{}
	_, order := ev.canonical()
	for _, i := range order {
		whole := ev.Prompts[i]
		split := map[string]*Prompt{}
		for at := whole.From; at < len(whole.Tokens); at++ {
			for _, name := range strataOf(whole, at, len(whole.Tokens)) {
				p := split[name]
				if p == nil {
					p = &Prompt{}
					if whole.Floor != nil {
						p.Floor = &Series{}
					}
					split[name] = p
				}
				p.take(whole, at-1)
			}
		}
		for name, p := range split {
			parts[name] = append(parts[name], *p)
		}
	}
	var out []Stratum
	for name, prompts := range parts {
		out = append(out, ev.stratum(name, prompts))
	}
	slices.SortFunc(out, func(a, b Stratum) int { return cmp.Or(cmp.Compare(b.Beyond, a.Beyond), cmp.Compare(a.Name, b.Name)) })
	e := make([]float64, len(out))
	for i := range out {
		e[i] = out[i].Beyond
	}
	for i, rejected := range rejectedByEBH(e, ev.otherLevel()) {
		out[i].Outside = rejected
	}
	return out
}

// take appends entry i of whole's lists to p's.
func (p *Prompt) take(whole Prompt, i int) {
	p.LogProb = append(p.LogProb, whole.LogProb[i])
	p.Candidate.KL = append(p.Candidate.KL, whole.Candidate.KL[i])
	p.Candidate.LogProb = append(p.Candidate.LogProb, whole.Candidate.LogProb[i])
	p.Candidate.Same += whole.Candidate.Same[i : i+1]
	if whole.Floor != nil {
		p.Floor.KL = append(p.Floor.KL, whole.Floor.KL[i])
	}
}

// stratum sums one up.
func (ev *Evidence) stratum(name string, prompts []Prompt) Stratum {
	s := Stratum{Name: name, Prompts: len(prompts)}
	clip, logs := ev.Spec.Margin.Clip, 0.0
	pairs := ev.newPairs(ev.gates())
	h := &history{margin: ev.Spec.Margin}
	for _, p := range prompts {
		s.Tokens += len(p.LogProb)
		s.KL += mean(clipped(p.Candidate.KL, clip)) / float64(len(prompts))
		if p.Floor != nil {
			s.Floor += mean(clipped(p.Floor.KL, clip)) / float64(len(prompts))
			logs += meanLogRatio(p.Candidate.KL, p.Floor.KL) / float64(len(prompts))
		}
		for i := range pairs {
			pairs[i].add(p, h)
		}
		h.add(p)
	}
	for i := range pairs {
		s.Beyond += pairs[i].outside() / float64(len(pairs)) // a mean of e-values is one
	}
	if s.Floor > floorResolution {
		s.Ratio, s.Typical = s.KL/s.Floor, math.Exp(logs)
	}
	return s
}

// strataCheck is an alarm over all strata at once.
func strataCheck(all []Stratum) gate.Check {
	c := gate.Check{Name: "strata", Verdict: gate.Pass, Detail: fmt.Sprintf("none of %d strata is outside the margins for certain", len(all))}
	for _, s := range all {
		if s.Outside {
			c.Verdict = gate.Fail
			c.Detail = fmt.Sprintf("%s is outside the margins (e-value %.3g, KL %.3g nats, %.3g× the floor, %d prompts)", s.Name, s.Beyond, s.KL, s.Ratio, s.Prompts)
			break
		}
	}
	return c
}
