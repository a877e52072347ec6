package trainer

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"tarbert/internal/reference"
	"tarbert/internal/reference/kernel"
	"tarbert/internal/reference/tokenizer"
	"tarbert/internal/reward"
	"tarbert/internal/spec"
)

// slopeError is the largest difference between an objective's derivative and
// central differences of its loss, over all tokens, relative to the largest.
func slopeError(f objective, logp []float32) float64 {
	const h = 1.0 / 1024 // exact in float32 beside numbers of order one
	_, d := f(logp)
	worst, largest := 0.0, 0.0
	for i := range logp {
		at := func(x float32) float64 {
			moved := slices.Clone(logp)
			moved[i] += x
			loss, _ := f(moved)
			return loss
		}
		want := (at(h) - at(-h)) / (2 * h)
		worst = max(worst, math.Abs(want-float64(d[i])))
		largest = max(largest, math.Abs(want))
	}
	return worst / max(largest, 1e-9)
}

func TestObjectiveGradients(t *testing.T) {
	old := []float32{-0.5, -2, -0.25, -1}
	near := []float32{-0.4375, -2.0625, -0.3125, -1}  // ratios 0.94–1.06: inside the clip
	mixed := []float32{-0.125, -2.0625, -0.75, -1.75} // token ratios 1.45, 0.94, 0.61, 0.47
	clip := clipping{low: 0.2, high: 0.28}
	for _, c := range []struct {
		name string
		f    objective
		at   []float32
	}{
		{"cross-entropy", crossEntropy(9), mixed},
		{"grpo inside the clip", grpo(old, nil, 1.5, clip, 9), near},
		{"grpo, good sample, some clipped", grpo(old, nil, 1.5, clip, 9), mixed},
		{"grpo, bad sample, some clipped", grpo(old, nil, -0.7, clip, 9), mixed},
		{"gspo inside the clip", gspo(old, nil, 1.5, clip, 5), near},
		{"gspo, bad sample", gspo(old, nil, -0.7, clip, 5), near},
	} {
		if e := slopeError(c.f, c.at); !(e < 2e-3) {
			t.Errorf("%s: derivative off by %.2g of the largest", c.name, e)
		}
	}
}

// TestClipping holds the objectives to the papers' min(w·A, clip(w)·A).
func TestClipping(t *testing.T) {
	clip := clipping{low: 0.2, high: 0.28}
	for _, c := range []struct {
		w, a, value, slope float64
		clipped            bool
	}{
		{1, 2, 2, 2, false},
		{1.2, 2, 2.4, 2.4, false},
		{1.5, 2, 2.56, 0, true},      // a good token is pushed up no further
		{0.5, 2, 1, 1, false},        // but is pulled back up
		{0.5, -2, -1.6, 0, true},     // a bad token is pushed down no further
		{1.5, -2, -3, -3, false},     // but is pulled back down
		{1.28, 1, 1.28, 1.28, false}, // the border itself is inside
	} {
		value, slope, clipped := clip.surrogate(c.w, c.a)
		if math.Abs(value-c.value) > 1e-12 || math.Abs(slope-c.slope) > 1e-12 || clipped != c.clipped {
			t.Errorf("w %g, A %g: %g, %g, %t; want %g, %g, %t", c.w, c.a, value, slope, clipped, c.value, c.slope, c.clipped)
		}
	}
	// A GSPO sample whose mean ratio is outside teaches nothing, however its tokens lie.
	old := []float32{-1, -1}
	if _, d := gspo(old, nil, 1, clip, 1)([]float32{0, -1.25}); d[0] != 0 || d[1] != 0 {
		t.Errorf("gspo beyond the clip: gradient %v", d)
	}
	// On policy both are the plain policy gradient.
	if _, d := grpo(old, nil, 3, clip, 6)(old); d[0] != -0.5 || d[1] != -0.5 {
		t.Errorf("grpo on policy: gradient %v, want −A/targets", d)
	}
	if _, d := gspo(old, nil, 3, clip, 2)(old); d[0] != -0.75 || d[1] != -0.75 {
		t.Errorf("gspo on policy: gradient %v, want −A/|y|/samples", d)
	}
}

func TestAdvantages(t *testing.T) {
	a, ok := advantages([]float64{1, 0, 0, 0})
	want := []float64{math.Sqrt(3), -1 / math.Sqrt(3), -1 / math.Sqrt(3), -1 / math.Sqrt(3)}
	if !ok {
		t.Fatal("rewards that differ give no advantages")
	}
	for i := range a {
		if math.Abs(a[i]-want[i]) > 1e-12 {
			t.Errorf("advantages %v, want %v", a, want)
		}
	}
	for _, equal := range [][]float64{{0, 0, 0}, {1, 1}} {
		if _, ok := advantages(equal); ok {
			t.Errorf("rewards %v are a signal", equal)
		}
	}
}

func TestRate(t *testing.T) {
	cosine := spec.Optimizer{LearningRate: 1, Warmup: 4, Floor: 0.2}
	flat := spec.Optimizer{LearningRate: 2, Warmup: 2, Floor: 1}
	for _, c := range []struct {
		name        string
		o           spec.Optimizer
		step, total int
		want        float64
	}{
		{"first", cosine, 0, 13, 0.25}, {"warming up", cosine, 2, 13, 0.75}, {"warm", cosine, 3, 13, 1},
		{"top of the cosine", cosine, 4, 13, 1}, {"half-way down", cosine, 8, 13, 0.6}, {"last", cosine, 12, 13, 0.2},
		{"constant, first", flat, 0, 10, 1}, {"constant", flat, 5, 10, 2}, {"constant, last", flat, 9, 10, 2},
		{"no warm-up", spec.Optimizer{LearningRate: 1, Floor: 0}, 0, 3, 1}, {"no warm-up, last", spec.Optimizer{LearningRate: 1, Floor: 0}, 2, 3, 0},
		{"all warm-up", spec.Optimizer{LearningRate: 1, Warmup: 10}, 4, 5, 0.5}, {"one step", spec.Optimizer{LearningRate: 1}, 0, 1, 1},
	} {
		if got := rate(c.o, c.step, c.total); math.Abs(got-c.want) > 1e-12 {
			t.Errorf("%s: rate %g, want %g", c.name, got, c.want)
		}
	}
}

// TestAdamW compares five clipped steps with the update rule written out in
// float64.
func TestAdamW(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	h := spec.Optimizer{Betas: [2]float64{0.9, 0.98}, Epsilon: 1e-8, WeightDecay: 0.1, Clip: 1.5}
	params := []reference.Param{
		{Name: "matrix", Shape: []int64{5, 7}, Data: make([]float32, 35), Grad: make([]float32, 35), Decay: true},
		{Name: "norm", Shape: []int64{7}, Data: make([]float32, 7), Grad: make([]float32, 7)},
	}
	type state struct{ p, m, v []float64 }
	var want []state
	for _, p := range params {
		s := state{m: make([]float64, len(p.Data)), v: make([]float64, len(p.Data))}
		for i := range p.Data {
			p.Data[i] = float32(r.NormFloat64())
			s.p = append(s.p, float64(p.Data[i]))
		}
		want = append(want, s)
	}
	o := newOptimizer(params, kernel.NewPool(2))
	for step := 1; step <= 5; step++ {
		lr, squares := 0.01*float64(step), 0.0
		for _, p := range params {
			for i := range p.Grad {
				p.Grad[i] = float32(r.NormFloat64())
				squares += float64(p.Grad[i]) * float64(p.Grad[i])
			}
		}
		norm := o.norm()
		if math.Abs(norm-math.Sqrt(squares)) > 1e-5 {
			t.Fatalf("norm %g, want %g", norm, math.Sqrt(squares))
		}
		o.step(h, lr, norm)
		for k, p := range params {
			for i, g32 := range p.Grad {
				s, g := want[k], float64(g32)*h.Clip/norm // five standard normals of 42: always above the clip
				if p.Decay {
					s.p[i] -= lr * h.WeightDecay * s.p[i]
				}
				s.m[i] = h.Betas[0]*s.m[i] + (1-h.Betas[0])*g
				s.v[i] = h.Betas[1]*s.v[i] + (1-h.Betas[1])*g*g
				mean := s.m[i] / (1 - math.Pow(h.Betas[0], float64(step)))
				square := s.v[i] / (1 - math.Pow(h.Betas[1], float64(step)))
				s.p[i] -= lr * mean / (math.Sqrt(square) + h.Epsilon)
				if math.Abs(s.p[i]-float64(p.Data[i])) > 2e-5 {
					t.Fatalf("step %d: %s[%d] is %g, want %g", step, p.Name, i, p.Data[i], s.p[i])
				}
			}
		}
	}
}

func TestOrderTakesEveryExampleOncePerEpoch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		n := rapid.IntRange(1, 40).Draw(t, "examples")
		batch := rapid.IntRange(1, 60).Draw(t, "batch")
		steps := rapid.IntRange(1, 20).Draw(t, "steps")
		o := order{seed: seed, n: n, batch: batch}
		var all []int
		for s := range steps {
			all = append(all, o.step(s)...)
		}
		for first := 0; first+n <= len(all); first += n {
			epoch := slices.Sorted(slices.Values(all[first : first+n]))
			for i, e := range epoch {
				if e != i {
					t.Fatalf("epoch at %d takes %v", first, all[first:first+n])
				}
			}
		}
		// A step's examples depend on its number alone: what a resume relies on.
		s := rapid.IntRange(0, steps-1).Draw(t, "step")
		later := order{seed: seed, n: n, batch: batch}
		if got := later.step(s); !slices.Equal(got, all[s*batch:(s+1)*batch]) {
			t.Fatalf("step %d alone takes %v, in turn %v", s, got, all[s*batch:(s+1)*batch])
		}
	})
}

func TestPermutationIsFair(t *testing.T) {
	const n, rounds = 6, 6000
	var count [n][n]int
	for e := range rounds {
		for at, v := range permutation(5, uint64(e), n) {
			count[at][v]++
		}
	}
	for at := range count {
		for v, c := range count[at] {
			if math.Abs(float64(c)-rounds/n) > 6*math.Sqrt(rounds/n) {
				t.Errorf("%d came to place %d %d times of %d, want about %d", v, at, c, rounds, rounds/n)
			}
		}
	}
}

func TestUniformIsUniformAndKeyed(t *testing.T) {
	const n = 20000
	sum, square := 0.0, 0.0
	seen := map[float64]bool{}
	for i := range uint64(n) {
		u := uniform(1, streamSample, i/100, i%100, 0)
		sum, square = sum+u, square+u*u
		seen[u] = true
		if u < 0 || u >= 1 {
			t.Fatalf("uniform gave %g", u)
		}
	}
	if mean := sum / n; math.Abs(mean-0.5) > 0.01 {
		t.Errorf("mean %g", mean)
	}
	if second := square / n; math.Abs(second-1.0/3) > 0.01 {
		t.Errorf("mean square %g", second)
	}
	if len(seen) < n-1 {
		t.Errorf("%d different values for %d keys", len(seen), n)
	}
	if uniform(1, 2) == uniform(2, 1) || uniform(1) == uniform(1, 0) {
		t.Error("different keys give the same draw")
	}
}

func TestBalance(t *testing.T) {
	bias := []float32{0, 0.5, 0, 0}
	balance(bias, []int{1, 3, 2, 2}, 0.125)
	if want := []float32{0.125, 0.375, 0, 0}; !slices.Equal(bias, want) {
		t.Errorf("bias %v, want %v: up below the mean load of 2, down above", bias, want)
	}
}

func TestMicroBatchesCoverTheBatch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lengths := rapid.SliceOfN(rapid.IntRange(1, microTokens+10), 1, 30).Draw(t, "lengths")
		var batch []reference.Sample
		for _, n := range lengths {
			batch = append(batch, reference.Sample{Tokens: make([]int, n)})
		}
		next := 0
		for _, cut := range micro(batch) {
			tokens := 0
			for _, n := range lengths[cut[0]:cut[1]] {
				tokens += n
			}
			if cut[0] != next || cut[1] <= cut[0] || tokens > microTokens && cut[1]-cut[0] > 1 {
				t.Fatalf("cut %v with %d tokens after %d", cut, tokens, next)
			}
			next = cut[1]
		}
		if next != len(batch) {
			t.Fatalf("cuts end at %d of %d", next, len(batch))
		}
	})
}

func tinyModel(t *testing.T, f *fixture) (*reference.Model, *tokenizer.Tokenizer) {
	t.Helper()
	c, err := reference.ReadConfig(f.recipe.Train.Model)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Load(f.recipe.Train.Model)
	if err != nil {
		t.Fatal(err)
	}
	return reference.NewTrainable(c, 1, 2).Inference(), tok
}

// TestRolloutsDoNotDependOnTheBatch: a problem asked alone gets the completions
// that it gets beside others.
func TestRolloutsDoNotDependOnTheBatch(t *testing.T) {
	m, tok := tinyModel(t, newFixture(t))
	problems := []problem{{prompt: tok.Encode("1=")}, {prompt: tok.Encode("12345=")}, {prompt: tok.Encode("7=")}}
	s := sampling{seed: 9, samples: 3, maxTokens: 12, temperature: 1, eos: tok.EOS()}
	all, err := roll(t.Context(), m, s, 4, problems)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 9 {
		t.Fatalf("%d rollouts, want 9", len(all))
	}
	s.pool = kernel.NewPool(3)
	alone, err := roll(t.Context(), m, s, 4, problems[:1])
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(all[:3], alone, cmp.AllowUnexported(rollout{})); diff != "" {
		t.Errorf("alone the first problem gets other completions (-beside +alone):\n%s", diff)
	}
	s.window = 2
	few, err := roll(t.Context(), m, s, 4, problems)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(all, few, cmp.AllowUnexported(rollout{})); diff != "" {
		t.Errorf("two at a time other completions (-all +few):\n%s", diff)
	}
	s.routing = true
	recorded, err := roll(t.Context(), m, s, 4, problems)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range recorded {
		if want := (len(r.tokens) - 1) * m.Config().NumExpertsPerTok; len(r.routing) != 1 || len(r.routing[0]) != want {
			t.Errorf("rollout %d: routing of %d layers, want 1 with %d choices", i, len(r.routing), want)
		}
		if !slices.Equal(r.tokens, all[i].tokens) || !slices.Equal(r.logp, all[i].logp) {
			t.Errorf("rollout %d: recording its routing changes it", i)
		}
	}
	other, err := roll(t.Context(), m, s, 5, problems[:1])
	if err != nil {
		t.Fatal(err)
	}
	if slices.Equal(other[0].tokens, alone[0].tokens) && slices.Equal(other[1].tokens, alone[1].tokens) {
		t.Error("another step draws the same completions")
	}
	for _, r := range all {
		if n := len(r.tokens) - r.prompt; n != len(r.logp) || n > 12 || !r.ended && n != 12 {
			t.Errorf("rollout with %d sampled tokens, %d log-probabilities, ended %t", n, len(r.logp), r.ended)
		}
	}
}

func TestJudge(t *testing.T) {
	_, tok := tinyModel(t, newFixture(t))
	check, err := reward.NewChecker("answer")
	if err != nil {
		t.Fatal(err)
	}
	eos := tok.EOS()[0]
	say := func(problem int, text string, ended bool) rollout {
		r := rollout{problem: problem, prompt: 2, tokens: append(tok.Encode("1="), tok.Encode(text)...), ended: ended, entropy: 1}
		if ended {
			r.tokens = append(r.tokens, eos)
		}
		r.logp = make([]float32, len(r.tokens)-2)
		return r
	}
	j := judge([]rollout{
		say(0, "42", true), say(0, "42", false), // cut off: it might have gone on
		say(1, "7", true), say(1, "<think>x</think>7", true),
	}, []problem{{answer: "42"}, {answer: "7"}}, 2, check, tok)
	if want := []bool{true, true, false, false}; !slices.Equal(j.kept, want) {
		t.Errorf("kept %v, want %v: the second group is all right", j.kept, want)
	}
	if want := []float64{1, -1, 0, 0}; !slices.Equal(j.advantages, want) {
		t.Errorf("advantages %v, want %v", j.advantages, want)
	}
	if m := j.meters; m.Reward != 0.75 || m.Thinks != 0.25 || m.Cut != 0.25 || m.Kept != 0.5 || m.Length != float64(3+2+2+18)/4 {
		t.Errorf("meters %+v", m)
	}
}
