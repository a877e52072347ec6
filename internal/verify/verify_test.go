package verify

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"tarbert/internal/engine"
	"tarbert/internal/engine/enginetest"
	"tarbert/internal/gate"
	"tarbert/internal/progress"
)

func exp(x float64) float64 { return math.Exp(x) }

func run(t *testing.T, in Input) *Report {
	t.Helper()
	r, err := Run(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestHonestPassesAndFaultsFail(t *testing.T) {
	prompts := toy{}.write(64, 40, 1)
	for _, tt := range []struct {
		name      string
		candidate toy
		want      gate.Verdict
		check     string // that decides
		cause     string // in the likeliest one
	}{
		{"the same weights in int8", honest, gate.Pass, "", ""},
		{"nothing changed at all", toy{}, gate.Pass, "", ""},
		{"one expert doubled", toy{noise: 0.01, seed: 2, hot: 3, hotNoise: 2}, gate.Fail, "tail", "few tokens"},
		{"wrong positions", toy{noise: 0.005, seed: 2, late: 0.02}, gate.Fail, "ratio", "positions"},
		{"temperature 0.9", toy{noise: 0.01, seed: 2, scale: 1 / 0.9}, gate.Fail, "ratio", "logits are scaled"},
		{"a norm zeroed", toy{noise: 3, seed: 2}, gate.Fail, "top-1", "wrong weights as a whole"},
		{"a token banned", toy{noise: 0.01, seed: 2, biased: 9}, gate.Fail, "surprise", ""},
		{"4-bit noise", toy{noise: 0.15, seed: 2}, gate.Fail, "kl", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := run(t, verification(t.TempDir(), tt.candidate, prompts))
			if r.Gate.Verdict != tt.want {
				t.Fatalf("%s: %s\n%s", r.Gate.Verdict, r.Gate.Reason, r.Signature)
			}
			t.Logf("%s; smallest: %s; causes %v", r.Signature, r.Smallest.Text, r.Causes)
			if tt.want == gate.Pass {
				if len(r.Causes) > 0 {
					t.Errorf("a pass with causes: %v", r.Causes)
				}
				return
			}
			i := slices.IndexFunc(r.Gate.Checks, func(c gate.Check) bool { return c.Name == tt.check && c.Verdict == gate.Fail })
			if i < 0 {
				t.Errorf("check %s did not fail: %+v", tt.check, r.Gate.Checks)
			}
			if tt.cause != "" && (len(r.Causes) == 0 || !strings.Contains(r.Causes[0].Name, tt.cause)) {
				t.Errorf("causes %v, want %q first; signature %s", r.Causes, tt.cause, r.Signature)
			}
			if len(r.Worst) != 5 || r.Worst[0].KL < r.Worst[4].KL {
				t.Errorf("worst: %+v", r.Worst)
			}
		})
	}
}

// Near ties of a router give floor and candidate the same heavy tail. It drowns
// a small fault in the means, and not in the typical token.
func TestTypicalSeesWhatTheTailHides(t *testing.T) {
	prompts := toy{}.write(64, 40, 1)
	for _, tt := range []struct {
		noise float64
		want  gate.Verdict
	}{{0.011, gate.Pass}, {0.02, gate.Fail}} {
		in := verification(t.TempDir(), toy{noise: tt.noise, seed: 2, flips: 0.02}, prompts)
		in.Floor.Scorer = toy{noise: 0.01, seed: 1, flips: 0.02}
		in.Typical = 2
		in.Spec.Margin.Ratio, in.Spec.Margin.KL, in.Spec.Margin.DeltaNLL = 3, 0.01, 0.1
		r := run(t, in)
		if r.Gate.Verdict != tt.want {
			t.Errorf("noise %g: %s: %s; ratio %+v, typical %+v", tt.noise, r.Gate.Verdict, r.Gate.Reason, *r.Ratio, *r.Typical)
		}
		for _, c := range r.Gate.Checks {
			if c.Name != "typical" && c.Name != "ratio" && c.Verdict != gate.Pass {
				t.Errorf("noise %g: %s says %s too: %s", tt.noise, c.Name, c.Verdict, c.Detail)
			}
		}
	}
}

func TestOnlyWrittenTextIsJudged(t *testing.T) {
	prompts := toy{}.write(64, 40, 1)
	in := verification(t.TempDir(), toy{noise: 0.02, seed: 2, early: 1}, prompts)
	if r := run(t, in); r.Gate.Verdict != gate.Fail || r.First == nil || r.First.Position > 9 {
		t.Errorf("all positions: %s, first divergence %+v", r.Gate.Verdict, r.First)
	}
	in.From = slices.Repeat([]int{10}, len(prompts))
	r := run(t, in)
	if !r.Gate.Passed() || r.First != nil || r.Tokens != 64*30 || r.Worst[0].Position < 10 {
		t.Errorf("from position 10: %s: %s; first %+v, worst %+v, %d tokens", r.Gate.Verdict, r.Gate.Reason, r.First, r.Worst[0], r.Tokens)
	}
	again, err := Recompute(r.Evidence)
	if diff := gocmp.Diff(r, again); diff != "" || err != nil {
		t.Errorf("%v (-run +recomputed):\n%s", err, diff)
	}
	in.From[3] = 40 // the reference wrote nothing there
	if r := run(t, in); !r.Gate.Passed() || r.Prompts != 63 {
		t.Errorf("one empty continuation: %s: %s, %d prompts", r.Gate.Verdict, r.Gate.Reason, r.Prompts)
	}
	in.From = slices.Repeat([]int{40}, len(prompts))
	if r := run(t, in); r.Gate.Verdict != gate.Inconclusive || r.Prompts != 0 {
		t.Errorf("nothing written anywhere: %s: %s", r.Gate.Verdict, r.Gate.Reason)
	}
}

func TestNumbersAreThoseOfTheModels(t *testing.T) {
	prompts := toy{}.write(40, 30, 3)
	in := verification(t.TempDir(), honest, prompts)
	in.Spec.Top, in.Spec.Margin.Clip = 64, 100 // all of the vocabulary, nothing clipped: everything is exact
	r := run(t, in)
	var kl, dNLL, agree, nll float64
	for _, p := range prompts {
		for at := 1; at < len(p); at++ {
			a, b := toy{}.logits(p[:at]), honest.logits(p[:at])
			n := float64(len(prompts) * (len(p) - 1))
			kl += fullKL(a, b) / n
			dNLL += (a[p[at]] - b[p[at]]) / n
			nll -= a[p[at]] / n
			if slices.Index(a, slices.Max(a)) == slices.Index(b, slices.Max(b)) {
				agree += 1 / n
			}
		}
	}
	for _, c := range []struct {
		name      string
		got, want float64
	}{{"KL", r.KL.Value, kl}, {"ΔNLL", r.DeltaNLL.Value, dNLL}, {"top-1", r.Top1.Value, agree}, {"NLL", r.NLL.Reference, nll},
		{"ratio", r.Ratio.Value, r.KL.Value / r.FloorKL.Value}} {
		if math.Abs(c.got-c.want) > 1e-6+1e-6*math.Abs(c.want) {
			t.Errorf("%s is %.9g, want %.9g", c.name, c.got, c.want)
		}
	}
	// Independent noise of size s on the logits costs about s²/2 nats times one
	// minus the chance that two samples agree; the ratio of two sizes is exact.
	if r.Ratio.Value < 7 || r.Ratio.Value > 11 {
		t.Errorf("noise three times the floor's gives a ratio of %.2f, want about 9", r.Ratio.Value)
	}
	if r.Tokens != 40*29 || r.Prompts != 40 {
		t.Errorf("%d tokens in %d prompts", r.Tokens, r.Prompts)
	}
}

func TestTooLittleIsInconclusive(t *testing.T) {
	for _, tt := range []struct{ n, length int }{{4, 200}, {20, 5}, {1, 2}} {
		r := run(t, verification(t.TempDir(), honest, toy{}.write(tt.n, tt.length, 1)))
		if r.Gate.Verdict != gate.Inconclusive || !strings.Contains(r.Gate.Reason, "sample") {
			t.Errorf("%d prompts of %d: %s: %s", tt.n, tt.length, r.Gate.Verdict, r.Gate.Reason)
		}
	}
	// At the margin itself no sample of this size can tell.
	in := verification(t.TempDir(), honest, toy{}.write(20, 20, 1))
	full := run(t, in)
	in.Spec.Margin.Ratio = full.Ratio.Value
	if r := run(t, in); r.Gate.Verdict != gate.Inconclusive {
		t.Errorf("at the margin: %s: %s", r.Gate.Verdict, r.Gate.Reason)
	}
}

func TestZeroFloor(t *testing.T) {
	prompts := toy{}.write(32, 20, 1)
	for _, tt := range []struct {
		name      string
		candidate toy
		kl        float64 // margin
		floor     bool
		want      gate.Verdict
		says      string
	}{
		{"absolute margin met", honest, 2e-3, true, gate.Pass, ""},
		{"absolute margin broken", toy{noise: 0.3}, 2e-3, true, gate.Fail, "floor is zero"},
		{"no absolute margin", honest, 0, true, gate.Inconclusive, "set verify.margin.kl"},
		{"no absolute margin, equal", toy{}, 0, true, gate.Pass, ""},
		{"no floor at all", honest, 2e-3, false, gate.Pass, ""},
		{"no floor and no margin", honest, 0, false, gate.Inconclusive, "there is no floor"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := verification(t.TempDir(), tt.candidate, prompts)
			in.Spec.Margin.KL = tt.kl
			in.Floor.Scorer = toy{}
			if !tt.floor {
				in.Floor = Side{}
			}
			r := run(t, in)
			if r.Gate.Verdict != tt.want || !strings.Contains(r.Gate.Reason, tt.says) {
				t.Errorf("%s: %s, want %s: %s", r.Gate.Verdict, r.Gate.Reason, tt.want, tt.says)
			}
			if r.Ratio != nil {
				t.Errorf("a ratio to nothing: %+v", r.Ratio)
			}
		})
	}
	in := verification(t.TempDir(), honest, prompts)
	in.Spec.Margin.Ratio, in.Spec.Margin.KL, in.Spec.Margin.DeltaNLL, in.Spec.Margin.Top1 = 0, 0, 0, 0
	if r := run(t, in); r.Gate.Verdict != gate.Inconclusive {
		t.Errorf("no margin at all: %s: %s", r.Gate.Verdict, r.Gate.Reason)
	}
}

func TestRecomputeGivesTheSameReport(t *testing.T) {
	for name, candidate := range map[string]Scorer{"pass": honest, "fail": toy{noise: 1}, "endpoint fails": failing{toy{}, 20}} {
		want := run(t, verification(t.TempDir(), candidate, toy{}.write(32, 20, 1)))
		got, err := Recompute(want.Evidence)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-run +recomputed):\n%s", name, diff)
		}
		if _, err := json.Marshal(got); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRecomputeRefusesWhatDoesNotBelongTogether(t *testing.T) {
	r := run(t, verification(t.TempDir(), honest, toy{}.write(32, 20, 1)))
	b, err := os.ReadFile(r.Evidence)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(ev *Evidence){
		"another prompt":   func(ev *Evidence) { ev.Prompts[3].Tokens[2]++ },
		"a prompt left":    func(ev *Evidence) { ev.Prompts = ev.Prompts[1:] },
		"fewer claimed":    func(ev *Evidence) { ev.Prompts, ev.Asked = ev.Prompts[1:], 31 },
		"short series":     func(ev *Evidence) { ev.Prompts[0].Candidate.KL = ev.Prompts[0].Candidate.KL[1:] },
		"negative KL":      func(ev *Evidence) { ev.Prompts[0].Candidate.KL[0] = -1 },
		"positive logprob": func(ev *Evidence) { ev.Prompts[0].Candidate.LogProb[0] = 1 },
		"no clip":          func(ev *Evidence) { ev.Spec.Margin.Clip = 0 },
		"floor missing":    func(ev *Evidence) { ev.Prompts[5].Floor = nil },
		"a late start":     func(ev *Evidence) { ev.Prompts[0].From = 99 },
		"no start":         func(ev *Evidence) { ev.Prompts[0].From = 0 },
		"another version":  func(ev *Evidence) { ev.Version = 99 },
	} {
		var ev Evidence
		if err := json.Unmarshal(b, &ev); err != nil {
			t.Fatal(err)
		}
		change(&ev)
		path := filepath.Join(t.TempDir(), "e.json")
		if err := ev.write(path); err != nil {
			t.Fatal(err)
		}
		if got, err := Recompute(path); err == nil {
			t.Errorf("%s: accepted: %s", name, got.Gate.Verdict)
		}
	}
}

func FuzzEvidence(f *testing.F) {
	in := verification(f.TempDir(), honest, toy{}.write(2, 4, 1))
	r, err := Run(context.Background(), in)
	if err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(r.Evidence)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"version":1,"failure":"x","spec":{"margin":{"clip":1}},"prompts":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if ev, err := parseEvidence(b); err == nil {
			if _, err := json.Marshal(judge(ev)); err != nil {
				t.Errorf("report does not marshal: %v", err)
			}
		}
	})
}

func TestOrderOfPromptsChangesNothing(t *testing.T) {
	prompts := toy{}.write(40, 20, 1)
	want := run(t, verification(t.TempDir(), honest, prompts))
	shuffled := slices.Clone(prompts)
	rand.New(rand.NewPCG(5, 5)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	got := run(t, verification(t.TempDir(), honest, shuffled))
	same := func(r *Report) Report {
		c := *r
		c.Evidence, c.Seconds, c.Worst, c.First = "", 0, nil, nil
		return c
	}
	if diff := gocmp.Diff(same(want), same(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if prompts[want.Worst[0].Prompt][0] != shuffled[got.Worst[0].Prompt][0] {
		t.Errorf("worst prompt is another one: %v, %v", want.Worst[0], got.Worst[0])
	}
}

// failing answers well up to a number of prompts, then with an error.
type failing struct {
	Scorer
	after int
}

func (f failing) Score(ctx context.Context, prompts [][]int, k int) ([][]engine.Position, error) {
	got, err := f.Scorer.Score(ctx, prompts, k)
	for _, p := range prompts {
		if p[0] == f.after || f.after <= 20 {
			return nil, &engine.Violation{Prompt: 2, Position: 5, Kind: engine.ErrNotFinite}
		}
	}
	return got, err
}

// Whatever an endpoint does wrong, on whichever side, the verdict is
// inconclusive and says why.
func TestMisbehavingEndpointsAreInconclusive(t *testing.T) {
	prompts := toy{}.write(24, 20, 1)
	faults := []enginetest.Fault{
		enginetest.ServerError, enginetest.Unavailable, enginetest.Cut, enginetest.TruncatedJSON, enginetest.NotJSON,
		enginetest.NoPromptLogProbs, enginetest.ShortLogProbs, enginetest.FirstNotNull, enginetest.NullPosition, enginetest.NaN,
		enginetest.MinusInfinity, enginetest.Positive, enginetest.FewerThanK, enginetest.ActualMissing, enginetest.TextKeys,
		enginetest.Overfull, enginetest.NullLogProb, enginetest.ExtraBOS,
	}
	for i, fault := range faults {
		after := 12 // so that it answers well at first
		if i%2 == 0 {
			after = 0
		}
		s := enginetest.New(t, &enginetest.Server{Logits: honest.logits, Fault: fault, After: after})
		bad := &engine.Client{URL: s.URL, Model: "fake", Patience: 20 * time.Millisecond}
		for _, side := range []string{"candidate", "floor", "reference"} {
			in := verification(t.TempDir(), honest, prompts)
			switch side {
			case "candidate":
				in.Candidate.Scorer = bad
			case "floor":
				in.Floor.Scorer = bad
			case "reference":
				in.Reference.Scorer = bad
			}
			r := run(t, in)
			if r.Gate.Verdict != gate.Inconclusive || !strings.HasPrefix(r.Failure, side+": ") || len(r.Gate.Checks) != 1 {
				t.Errorf("%s on the %s side: %s: %s", fault, side, r.Gate.Verdict, r.Gate.Reason)
			}
		}
	}
}

func TestPromptsAreNumberedThroughout(t *testing.T) {
	prompts := toy{}.write(40, 20, 1)
	prompts[17][0] = 63
	in := verification(t.TempDir(), honest, prompts)
	in.Candidate.Scorer = failing{honest, 63}
	r := run(t, in)
	if !strings.Contains(r.Failure, "candidate: prompt 18, position 5: log-probability is not finite") {
		t.Errorf("failure %q", r.Failure)
	}
	if r.Prompts != 16 || r.Tokens == 0 {
		t.Errorf("%d prompts were compared before", r.Prompts)
	}
}

// lying is a Scorer that breaks the contract without an error.
type lying struct {
	f func([][]engine.Position) [][]engine.Position
}

func (l lying) Score(ctx context.Context, prompts [][]int, k int) ([][]engine.Position, error) {
	got, err := honest.Score(ctx, prompts, k)
	return l.f(got), err
}

func TestScorersAreNotTrusted(t *testing.T) {
	for name, f := range map[string]func([][]engine.Position) [][]engine.Position{
		"too few prompts": func(g [][]engine.Position) [][]engine.Position { return g[1:] },
		"short":           func(g [][]engine.Position) [][]engine.Position { g[0] = g[0][1:]; return g },
		"nil":             func(g [][]engine.Position) [][]engine.Position { return nil },
		"NaN":             func(g [][]engine.Position) [][]engine.Position { g[0][3].LogProb = math.NaN(); return g },
		"zero position":   func(g [][]engine.Position) [][]engine.Position { g[0][3] = engine.Position{}; return g },
	} {
		if r := run(t, verification(t.TempDir(), lying{f}, toy{}.write(24, 20, 1))); r.Gate.Verdict != gate.Inconclusive {
			t.Errorf("%s: %s: %s", name, r.Gate.Verdict, r.Gate.Reason)
		}
	}
}

func TestBadInput(t *testing.T) {
	for name, change := range map[string]func(*Input){
		"no prompts":   func(in *Input) { in.Prompts = nil },
		"short prompt": func(in *Input) { in.Prompts[3] = []int{1} },
		"no candidate": func(in *Input) { in.Candidate.Scorer = nil },
		"no k":         func(in *Input) { in.Spec.Top = 0 },
		"no clip":      func(in *Input) { in.Spec.Margin.Clip = 0 },
		"starts":       func(in *Input) { in.From = []int{1} },
		"late start":   func(in *Input) { in.From = []int{1, 1, 1, 5} },
		"early start":  func(in *Input) { in.From = []int{1, 1, 0, 1} },
		"no folder":    func(in *Input) { in.OutDir = filepath.Join(in.OutDir, "missing") },
	} {
		in := verification(t.TempDir(), honest, toy{}.write(4, 4, 1))
		change(&in)
		if r, err := Run(t.Context(), in); err == nil {
			t.Errorf("%s: no error, %s", name, r.Gate.Verdict)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := enginetest.New(t, &enginetest.Server{Logits: honest.logits})
	in := verification(t.TempDir(), &engine.Client{URL: s.URL, Model: "fake"}, toy{}.write(4, 4, 1))
	if _, err := Run(ctx, in); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

func TestProgress(t *testing.T) {
	var last progress.Update
	in := verification(t.TempDir(), honest, toy{}.write(20, 20, 1))
	in.Progress = func(u progress.Update) { last = u }
	r := run(t, in)
	if last.Done != 20 || last.Total != 20 || math.Abs(last.Values["kl"]-r.KL.Value) > 1e-12 || math.Abs(last.Values["floor"]-r.FloorKL.Value) > 1e-12 {
		t.Errorf("last update %+v; KL %g, floor %g", last, r.KL.Value, r.FloorKL.Value)
	}
}

func TestBuildPrompts(t *testing.T) {
	s := enginetest.New(t, &enginetest.Server{Reply: func(_ string, tokens []int, _ int, seed int64) (string, []int) {
		return "x", []int{int(seed % 50), len(tokens)}
	}})
	c := &engine.Client{URL: s.URL, Model: "fake"}
	ask := [][]int{{1, 2, 3}, {4, 5}, {1, 2, 3}}
	got, err := BuildPrompts(t.Context(), c, ask, PromptOptions{Seed: 9, MaxTokens: 8})
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range got {
		if !slices.Equal(p[:len(ask[i])], ask[i]) || len(p) != len(ask[i])+2 || p[len(p)-1] != len(ask[i]) {
			t.Errorf("prompt %d: %v", i, p)
		}
	}
	again, err := BuildPrompts(t.Context(), c, ask, PromptOptions{Seed: 9, MaxTokens: 8, Concurrency: 1})
	if diff := gocmp.Diff(got, again); diff != "" || err != nil {
		t.Errorf("same seed, other text: %v\n%s", err, diff)
	}
	other, err := BuildPrompts(t.Context(), c, ask, PromptOptions{Seed: 10, MaxTokens: 8})
	if err != nil || gocmp.Equal(got, other) {
		t.Errorf("other seed, same text: %v", err)
	}
	if gocmp.Equal(got[0], got[2]) {
		t.Error("the same prompt twice got the same seed")
	}
	bad := enginetest.New(t, &enginetest.Server{Fault: enginetest.NoTokenIDs})
	if _, err := BuildPrompts(t.Context(), &engine.Client{URL: bad.URL, Model: "fake"}, ask, PromptOptions{MaxTokens: 8}); !errors.Is(err, engine.ErrNoTokenIDs) {
		t.Errorf("no token ids: %v", err)
	}
}
