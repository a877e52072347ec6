package trainer

import (
	"math"
	"testing"

	"tarbert/internal/reference"
	"tarbert/internal/reference/kernel"
	"tarbert/internal/reference/tokenizer"
)

// TestOptionsAtWork runs every option and reads the meters: rollouts in other
// arithmetic are noticed, weighed and replayed.
func TestOptionsAtWork(t *testing.T) {
	f := newFixture(t)
	f.recipe.Options = everyOption
	f.recipe.Train.GRPO.Steps = 8
	if err := f.run("a", "", 0); err != nil {
		t.Fatal(err)
	}
	apart, steps := 0, 0
	for _, l := range f.lines("a") {
		switch l.Event {
		case "step":
			if l.Z <= 0 || l.RouterZ <= 0 || l.Stage == "sft" && l.Z+l.RouterZ >= l.Loss {
				t.Errorf("step %d: loss %g with %g and %g of z-losses", l.Step, l.Loss, l.Z, l.RouterZ)
			}
		case "mismatch":
			steps++
			if l.Weight == nil || l.Masked == nil || l.Rerouted == nil || *l.Weight <= 0 || *l.Masked < 0 || *l.Rerouted < 0 || *l.Rerouted > 1 {
				t.Fatalf("event %+v", l)
			}
			if *l.Gap > 1e-6 && *l.Most >= *l.Gap && *l.Weight != 1 {
				apart++
			}
		}
	}
	if steps != 8 || apart != steps {
		t.Errorf("%d of %d steps notice that rollouts are quantised", apart, steps)
	}
}

// TestReplayBringsTheTrainerNearer: with the rollout's experts the trainer's
// log-probabilities are nearer to the rollout's, if any token went elsewhere.
func TestReplayBringsTheTrainerNearer(t *testing.T) {
	f := newFixture(t)
	c, err := reference.ReadConfig(f.recipe.Train.Model)
	if err != nil {
		t.Fatal(err)
	}
	c.InitializerRange = 0.6 // large enough for rounding to move tokens between experts
	tok, err := tokenizer.Load(f.recipe.Train.Model)
	if err != nil {
		t.Fatal(err)
	}
	model := reference.NewTrainable(c, 3, 2)
	rounded, err := model.Rounded(reference.W8A8)
	if err != nil {
		t.Fatal(err)
	}
	s := sampling{seed: 9, samples: 16, maxTokens: 20, temperature: 1, eos: tok.EOS(), routing: true}
	rollouts, err := roll(t.Context(), rounded, s, 0, []problem{{prompt: tok.Encode("1=")}, {prompt: tok.Encode("12345=")}})
	if err != nil {
		t.Fatal(err)
	}
	var with, without []reference.Sample
	for _, r := range rollouts {
		sample := r.sample()
		with = append(with, sample)
		sample.Routing = nil
		without = append(without, sample)
	}
	measure := func(batch []reference.Sample) (gap, reference.StepStats) {
		var g gap
		stats, err := model.ForwardBackward(t.Context(), batch, func(logp [][]float32) (float64, [][]float32) {
			for i, l := range logp {
				g.add(l, rollouts[i].logp)
			}
			return 0, logp
		})
		if err != nil {
			t.Fatal(err)
		}
		return g, stats
	}
	replayed, stats := measure(with)
	chosen, _ := measure(without)
	t.Logf("mean |Δ log p| %.4f and at most %.3f with replay, %.4f and %.3f without; %d of %d choices replaced", replayed.mean(), replayed.most, chosen.mean(), chosen.most, stats.Rerouted, stats.Routed)
	if stats.Rerouted == 0 {
		t.Fatal("quantising moved no token to another expert")
	}
	if !(replayed.mean() < chosen.mean()) {
		t.Errorf("mean |Δ log p| is %g with replay and %g without", replayed.mean(), chosen.mean())
	}
}

func TestGap(t *testing.T) {
	var g gap
	if g.mean() != 0 || g.share() != 0 {
		t.Error("an empty meter does not read zero")
	}
	g.add([]float32{-1, -2, -3}, []float32{-1.5, -2, -2.9375})
	g.add([]float32{-4}, []float32{-3.75})
	if g.mean() != 0.203125 || g.most != 0.5 || g.share() != 0.5 {
		t.Errorf("mean %g, most %g, share %g; want 0.203125, 0.5, 0.5", g.mean(), g.most, g.share())
	}
}

// TestPenaltiesAreMeansOverTheBatch: however a batch is cut, the z-losses are
// their factor times the mean over its targets and over its tokens.
func TestPenaltiesAreMeansOverTheBatch(t *testing.T) {
	f := newFixture(t)
	c, err := reference.ReadConfig(f.recipe.Train.Model)
	if err != nil {
		t.Fatal(err)
	}
	model := reference.NewTrainable(c, 3, 2)
	var batch []reference.Sample
	var objectives []objective
	sum, n := 0.0, 0
	for i := range 90 {
		s := reference.Sample{Tokens: make([]int, 60), Mask: make([]bool, 60)}
		for at := range s.Tokens {
			s.Tokens[at] = (7*i + at*at) % 250
			s.Mask[at] = at > 5 && at < 58 && (i+at)%3 > 0
		}
		batch, objectives = append(batch, s), append(objectives, crossEntropy(1))
		logits, err := model.Inference().Forward(t.Context(), []reference.Input{{Seq: model.Inference().NewSequence(), Tokens: s.Tokens, All: true}})
		if err != nil {
			t.Fatal(err)
		}
		for at := 1; at < len(s.Mask); at++ {
			if s.Mask[at] {
				lse := float64(kernel.LogSumExp(logits[0][at-1]))
				sum, n = sum+lse*lse, n+1
			}
		}
	}
	if len(micro(batch)) < 2 {
		t.Fatal("the batch is too small to be cut")
	}
	cut, err := (&training{model: model}).backward(t.Context(), batch, objectives, penalties(0.5, 0.25, batch), nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := 0.5 * sum / float64(n); math.Abs(cut.z-want) > 1e-6*want {
		t.Errorf("z-loss %g, want %g", cut.z, want)
	}
	none := func(logp [][]float32) (float64, [][]float32) { return 0, logp }
	whole, err := model.ForwardBackwardWith(t.Context(), batch, none, penalties(0.5, 0.25, batch))
	if err != nil {
		t.Fatal(err)
	}
	if math.Abs(cut.routerZ-whole.RouterZ) > 1e-9 || math.Abs(cut.z-whole.Z) > 1e-9 {
		t.Errorf("z-losses %g and %g in parts, %g and %g in one piece", cut.z, cut.routerZ, whole.Z, whole.RouterZ)
	}
	// Router logits near zero: log-sum-exp is about the logarithm of four experts.
	if mean := math.Sqrt(whole.RouterZ / 0.25); math.Abs(mean-math.Log(4)) > 0.2 {
		t.Errorf("root mean square of the router's log-sum-exp is %g, want about %g", mean, math.Log(4))
	}
}
