package reference_test

import (
	"context"
	"math"
	"math/rand/v2"
	"testing"

	"tarbert/internal/reference"
	"tarbert/internal/reference/oracle"
)

// TestPenaltiesAndReplayAgreeWithFloat64 compares gradients of the loss with
// both z-losses and foreign routing with float64 differences. The penalties are
// so large that most of the gradient is theirs.
func TestPenaltiesAndReplayAgreeWithFloat64(t *testing.T) {
	const z, routerZ = 0.3, 0.7
	for _, c := range []struct {
		model  string
		replay bool
	}{{"deepseek-v3", false}, {"deepseek-v3-groups-yarn", true}, {"qwen3", false}, {"qwen3-moe", true}, {"qwen3-moe-published", true}, {"new", true}} {
		t.Run(c.model, func(t *testing.T) {
			m := gradientModel(t, c.model)
			batch := someSamples(17, m.Config().VocabSize, 9, 4, 12)
			targets, rows := 0, 0
			r := rand.New(rand.NewPCG(5, 6))
			var examples []oracle.Example
			for i := range batch {
				s := &batch[i]
				last := 0
				for at := 1; at < len(s.Mask); at++ {
					if s.Mask[at] {
						targets, last = targets+1, at
					}
				}
				rows += last
				if c.replay {
					s.Routing = someRouting(m.Config(), r, len(s.Tokens))
				}
				examples = append(examples, oracle.Example{Tokens: s.Tokens, Mask: s.Mask, Routing: s.Routing})
			}
			extra := reference.Penalties{Z: z / float64(targets), RouterZ: routerZ / float64(rows)}
			stats, err := m.ForwardBackwardWith(context.Background(), batch, meanNLL, extra)
			if err != nil {
				t.Fatal(err)
			}
			o := oracleOf(t, m).With(oracle.Penalties{Z: z, RouterZ: routerZ})
			if want, err := o.Loss(examples); err != nil || math.Abs(want-stats.Loss) > 1e-4*want {
				t.Fatalf("loss %v, float64 has %v (%v)", stats.Loss, want, err)
			}
			if stats.Z <= 0 || (stats.RouterZ > 0) != (stats.Routed > 0) || c.replay && stats.Rerouted == 0 || !c.replay && stats.Rerouted != 0 {
				t.Errorf("stats %+v", stats)
			}
			seen := map[string]int{}
			for _, p := range m.Params() {
				kind := numbers.ReplaceAllString(numbers.ReplaceAllString(p.Name, ".N."), ".N.")
				norm := length(p.Grad)
				if norm == 0 || seen[kind] == 2 {
					continue
				}
				seen[kind]++
				checkSlope(t, o, examples, p, norm, r)
			}
		})
	}
}

// someRouting draws experts for so many tokens.
func someRouting(c *reference.Config, r *rand.Rand, tokens int) reference.Routing {
	var out reference.Routing
	for l := range c.NumHiddenLayers {
		if !c.MoELayer(l) {
			continue
		}
		var ids []int32
		for range tokens {
			left := c.NumExpertsPerTok
			for e := range c.NumExperts { // ascending, every set as likely
				if r.IntN(c.NumExperts-e) < left {
					ids, left = append(ids, int32(e)), left-1
				}
			}
		}
		out = append(out, ids)
	}
	return out
}
