package reference_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tarbert/internal/reference"
)

var sparse = []string{"deepseek-v3", "deepseek-v3-groups-yarn", "qwen3-moe", "qwen3-moe-published"}

// routed runs a sequence's tokens through the sampler, some at a time, and
// returns where they went.
func routed(t *testing.T, m *reference.Model, tokens []int, step int) reference.Routing {
	t.Helper()
	seq := m.NewSequence()
	seq.RecordRouting()
	for part := range slices.Chunk(tokens, step) {
		if _, err := m.Forward(context.Background(), []reference.Input{{Seq: seq, Tokens: part}}); err != nil {
			t.Fatal(err)
		}
	}
	return seq.Routing()
}

// TestReplayOfOwnChoicesChangesNoBit trains with the routing that the sampler
// recorded for the same weights.
func TestReplayOfOwnChoicesChangesNoBit(t *testing.T) {
	ctx := context.Background()
	for _, name := range sparse {
		t.Run(name, func(t *testing.T) {
			m, err := reference.LoadTrainable(goldenDir(name), 2)
			if err != nil {
				t.Fatal(err)
			}
			batch := someSamples(3, m.Config().VocabSize, 70, 3, 21)
			extra := reference.Penalties{Z: 1e-3, RouterZ: 1e-3}
			plain, err := m.ForwardBackwardWith(ctx, batch, meanNLL, extra)
			if err != nil {
				t.Fatal(err)
			}
			var want [][]float32
			for _, p := range m.Params() {
				want = append(want, slices.Clone(p.Grad))
			}
			for i := range batch {
				batch[i].Routing = routed(t, m.Inference(), batch[i].Tokens, 1+7*i)
			}
			m.ZeroGrad()
			replayed, err := m.ForwardBackwardWith(ctx, batch, meanNLL, extra)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(plain, replayed); diff != "" {
				t.Errorf("the step's statistics differ:\n%s", diff)
			}
			if plain.Routed == 0 {
				t.Error("nothing was routed")
			}
			for i, p := range m.Params() {
				if !sameBits(p.Grad, want[i]) {
					t.Errorf("%s: other bits with the own routing replayed", p.Name)
				}
			}
		})
	}
}

// TestReplayDecidesTheExperts sends every token to the experts given.
func TestReplayDecidesTheExperts(t *testing.T) {
	c := sumsConfig()
	m := reference.NewTrainable(c, 1, 2)
	batch := someSamples(2, c.VocabSize, 25, 9, 31)
	r, want := rand.New(rand.NewPCG(1, 1)), make([][]int, 2)
	for i := range batch {
		batch[i].Routing = someRouting(c, r, len(batch[i].Tokens))
		last := 0
		for at, on := range batch[i].Mask {
			if on {
				last = at
			}
		}
		for l, ids := range batch[i].Routing {
			want[l] = append(want[l], make([]int, c.NumExperts-len(want[l]))...)
			for _, e := range ids[:last*c.NumExpertsPerTok] {
				want[l][e]++
			}
		}
	}
	stats, err := m.ForwardBackward(context.Background(), batch, meanNLL)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, stats.ExpertLoad); diff != "" {
		t.Errorf("load of the experts (-given +taken):\n%s", diff)
	}
	if stats.Rerouted == 0 || stats.Rerouted > stats.Routed {
		t.Errorf("%d of %d choices rerouted", stats.Rerouted, stats.Routed)
	}
}

func TestRoutingOfAnotherShapeIsRefused(t *testing.T) {
	c := sumsConfig()
	m := reference.NewTrainable(c, 1, 1)
	good := someRouting(c, rand.New(rand.NewPCG(2, 2)), 5)
	for name, bad := range map[string]reference.Routing{
		"layers":    good[:1],
		"choices":   {good[0][:4], good[1]},
		"ascending": {append([]int32{3, 3}, good[0][2:]...), good[1]},
		"below":     {append([]int32{3, int32(c.NumExperts)}, good[0][2:]...), good[1]},
		"-1":        {append([]int32{-1, 3}, good[0][2:]...), good[1]},
	} {
		s := reference.Sample{Tokens: []int{1, 2, 3, 4, 5}, Mask: []bool{false, true, true, true, true}, Routing: bad}
		if _, err := m.LogProbs(context.Background(), []reference.Sample{s}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestRecordedRoutingFollowsTheSequence takes random steps forward, back and
// aside and compares what is recorded with a sequence that only went forward.
// Reserving room on the way changes nothing.
func TestRecordedRoutingFollowsTheSequence(t *testing.T) {
	m, err := reference.Load(goldenDir("deepseek-v3"), reference.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		seq, tokens := m.NewSequence(), []int{}
		seq.RecordRouting()
		var left []*reference.Sequence
		for range rapid.IntRange(1, 6).Draw(rt, "steps") {
			switch rapid.IntRange(0, 3).Draw(rt, "what") {
			case 0:
				n := rapid.IntRange(0, len(tokens)).Draw(rt, "keep")
				seq.Truncate(n)
				tokens = tokens[:n]
			case 1:
				left = append(left, seq)
				seq = seq.Clone()
			case 2:
				seq.Reserve(rapid.IntRange(0, 90).Draw(rt, "room"))
			default:
				more := rapid.SliceOfN(rapid.IntRange(0, 200), 1, 9).Draw(rt, "tokens")
				tokens = append(tokens, more...)
				_, err := m.Forward(context.Background(), []reference.Input{{Seq: seq, Tokens: more}})
				if err != nil {
					rt.Fatal(err)
				}
			}
		}
		if len(tokens) == 0 {
			return
		}
		for _, origin := range left { // that the others go on is not to be seen
			if _, err := m.Forward(context.Background(), []reference.Input{{Seq: origin, Tokens: []int{7, 77, 3, 9}}}); err != nil {
				rt.Fatal(err)
			}
		}
		if diff := cmp.Diff(routed(t, m, tokens, 100), seq.Routing()); diff != "" {
			rt.Fatalf("routing (-straight +roundabout):\n%s", diff)
		}
		if seq.Len() != len(tokens) {
			rt.Fatalf("%d tokens of %d", seq.Len(), len(tokens))
		}
		last := tokens[len(tokens)-1]
		seq.Truncate(len(tokens) - 1)
		again, err := m.Forward(context.Background(), []reference.Input{{Seq: seq, Tokens: []int{last}}})
		if err != nil {
			rt.Fatal(err)
		}
		straight, err := m.Forward(context.Background(), []reference.Input{{Seq: m.NewSequence(), Tokens: tokens}})
		if err != nil {
			rt.Fatal(err)
		}
		if !sameBits(again[0][0], straight[0][0]) {
			rt.Fatal("the roundabout sequence predicts other bits")
		}
	})
}
