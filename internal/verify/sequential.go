package verify

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"math"
	"slices"

	"tarbert/internal/gate"
)

// Sequential is the outcome of the bets: prompts are taken one by one in a
// random order, and the decision may be made at any of them without losing its
// error rates. Only bets fail a candidate.
type Sequential struct {
	Verdict gate.Verdict `json:"verdict"` // inconclusive: never decided
	After   int          `json:"after"`   // prompts, when it decided; else all
	Tokens  int          `json:"tokens"`
	Planned int          `json:"planned"` // 0: the run was not to stop early
	// Level of a false fail, of all bets together: α over the families of the run.
	Level float64 `json:"level"`
	Bets  []Bet   `json:"bets"`
	// Ratio is a confidence sequence of the mean clipped KL over the floor's:
	// it holds at every prompt at once. Lower 0, Upper 0 = not bounded yet.
	Ratio *Bounds `json:"ratio,omitempty"`
}

// Bet is one statistic's evidence, as e-values: Within against "outside the
// margin", Beyond against "inside", both when the decision was made.
type Bet struct {
	Name   string  `json:"name"`
	Within float64 `json:"within,omitempty"` // of gates
	Beyond float64 `json:"beyond"`
	// Inside: Within was once large enough. Outside: e-BH rejects "inside".
	Inside  bool `json:"inside,omitempty"`
	Outside bool `json:"outside,omitempty"`
}

// Bounds of a confidence sequence.
type Bounds struct {
	Lower float64 `json:"lower"`
	Upper float64 `json:"upper"`
}

// passLevel is the chance of a false pass of one gate by its bets. Its interval
// has half of that as its level, because on real divergences it misses up to
// twice as often as it says: together they stay within β. All gates must be
// inside, so the weakest one's error is the whole error (Berger 1982).
func (ev *Evidence) passLevel() float64 {
	if b := ev.Spec.Beta; b > 0 {
		return b / 2
	}
	return alpha / 2
}

// alpha is the chance of a false fail in the whole run.
func (ev *Evidence) alpha() float64 {
	if a := ev.Spec.Alpha; a > 0 {
		return a
	}
	return alpha
}

// failLevel is the chance of a false fail in one family of hypotheses. Half of
// alpha is for the main part's statistics, which most faults show in; its strata,
// each other part and the reverse test share the rest.
func (ev *Evidence) failLevel() float64 {
	switch {
	case ev.Families <= 1:
		return ev.alpha()
	case ev.Name == "":
		return ev.alpha() / 2
	}
	return ev.otherLevel()
}

// otherLevel is that of each family but the main part's statistics.
func (ev *Evidence) otherLevel() float64 { return ev.alpha() / 2 / float64(max(ev.Families-1, 1)) }

// pair is a statistic with its bets: one each way per direction.
type pair struct {
	statistic
	level          float64 // of a false "inside"
	within, beyond []*wealth
}

func (ev *Evidence) newPairs(stats []statistic) []pair {
	out := make([]pair, len(stats))
	for i, s := range stats {
		out[i].statistic, out[i].level = s, ev.passLevel()
		for range s.directions {
			out[i].within, out[i].beyond = append(out[i].within, newWealth(s.high)), append(out[i].beyond, newWealth(s.low))
		}
	}
	return out
}

func (b *pair) add(p Prompt, h *history) {
	for d, x := range b.of(p, h) {
		b.within[d].add(-x)
		b.beyond[d].add(x)
	}
}

// outside is the evidence against "inside in every direction": a mean of e-values.
func (b *pair) outside() float64 {
	e := 0.0
	for _, w := range b.beyond {
		e += w.e() / float64(b.directions)
	}
	return e
}

// inside says that every direction was shown to be inside.
func (b *pair) inside() bool {
	return b.gate && !slices.ContainsFunc(b.within, func(w *wealth) bool { return !w.reached(b.level) })
}

// order is that in which bets take the prompts: as they were asked, where that
// was at random, else by a hash, so that the file's order changes nothing.
func (ev *Evidence) order() []Prompt {
	type keyed struct {
		key uint64
		at  int
	}
	_, index := ev.canonical()
	keys := make([]keyed, len(index))
	for i, at := range index {
		if keys[i] = (keyed{uint64(at), at}); ev.Planned == 0 {
			h, b := fnv.New64a(), binary.LittleEndian.AppendUint64(nil, ev.Seed)
			for _, id := range ev.Prompts[at].Tokens {
				b = binary.LittleEndian.AppendUint32(b, uint32(id))
			}
			h.Write(b) // a hash's Write does not fail
			keys[i].key = h.Sum64()
		}
	}
	slices.SortStableFunc(keys, func(a, b keyed) int { return cmp.Compare(a.key, b.key) })
	out := make([]Prompt, len(keys))
	for i, k := range keys {
		out[i] = ev.Prompts[k.at].judged()
	}
	return out
}

// decide walks over the prompts. It fails as soon as e-BH finds a statistic
// outside, and passes as soon as every gate was shown to be inside. Where the
// run was not to stop early it goes on to the end for the numbers; a fail on the
// way stays one, since the mean of the e-values is then at least 1/level, and
// the chance that it ever is is at most the level.
func decide(ev *Evidence) *Sequential {
	s := &Sequential{Verdict: gate.Inconclusive, Planned: ev.Planned, Level: ev.failLevel()}
	pairs := ev.newPairs(ev.statistics())
	h := &history{margin: ev.Spec.Margin}
	prompts := ev.order()
	var failedOnce []Bet // when a run that goes on to its end first failed
	for i, p := range prompts {
		s.After, s.Tokens = s.After+1, s.Tokens+len(p.LogProb)
		for j := range pairs {
			pairs[j].add(p, h)
		}
		h.add(p)
		if s.After < leastPrompts || s.Tokens < leastTokens {
			continue
		}
		if ev.Planned == 0 && i < len(prompts)-1 && failedOnce != nil {
			continue
		}
		s.Verdict = s.judge(pairs)
		if s.Verdict == gate.Fail && failedOnce == nil {
			failedOnce = s.Bets
		}
		if ev.Planned > 0 && s.Verdict != gate.Inconclusive {
			break
		}
	}
	if s.Bets == nil {
		s.judge(pairs)
	}
	if failedOnce != nil && s.Verdict != gate.Fail {
		s.Verdict, s.Bets = gate.Fail, failedOnce
	}
	if ev.Floor != nil {
		s.Ratio = ratioSequence(ev, prompts[:s.After])
	}
	return s
}

// judge states the bets as they are now, and what they decide.
func (s *Sequential) judge(pairs []pair) gate.Verdict {
	s.Bets = make([]Bet, len(pairs))
	e := make([]float64, len(pairs))
	gates, inside, outside := 0, 0, false
	for i := range pairs {
		b := &pairs[i]
		e[i] = b.outside()
		s.Bets[i] = Bet{Name: b.name, Beyond: e[i], Inside: b.inside()}
		if b.gate {
			gates++
			s.Bets[i].Within = b.within[0].e()
			for _, w := range b.within {
				s.Bets[i].Within = min(s.Bets[i].Within, w.e())
			}
			if s.Bets[i].Inside {
				inside++
			}
		}
	}
	for i, rejected := range rejectedByEBH(e, s.Level) {
		s.Bets[i].Outside = rejected
		outside = outside || rejected
	}
	return verdict(gates > 0 && inside == gates, outside)
}

// bet finds a statistic's.
func (s *Sequential) bet(name string) *Bet {
	for i := range s.Bets {
		if s.Bets[i].Name == name {
			return &s.Bets[i]
		}
	}
	return &Bet{Name: name}
}

// ratioSequence inverts the ratio's bets over a grid of ρ: those not rejected
// at any prompt so far are in it.
func ratioSequence(ev *Evidence, prompts []Prompt) *Bounds {
	const steps, level = 80, alpha
	b := &Bounds{}
	clips := make([]float64, len(prompts))
	h := &history{margin: ev.Spec.Margin}
	for i, p := range prompts {
		clips[i] = h.clip()
		h.coarse(p)
	}
	for i := range steps + 1 {
		rho := math.Exp(math.Log(0.05) + float64(i)/steps*math.Log(1000/0.05))
		above, below := newWealth(1), newWealth(1)
		for j, p := range prompts {
			x := ratioBet(p, rho, clips[j])
			above.add(x)  // evidence that the ratio is above rho
			below.add(-x) // … below
		}
		if above.reached(level) {
			b.Lower = rho
		}
		if below.reached(level) && b.Upper == 0 {
			b.Upper = rho
		}
	}
	return b
}
