package compare

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"tarbert/internal/gate"
	"tarbert/internal/progress"
	"tarbert/internal/reward"
	"tarbert/internal/spec"
)

// Sampling is how a candidate is to answer.
type Sampling struct {
	Temperature float64 // 0 = greedy
	MaxTokens   int
	Seed        int64 // of this problem's sample, at least 0; the same for every candidate
}

// Completion is a candidate's answer, without the prompt.
type Completion struct {
	Text      string
	Truncated bool // ended by MaxTokens, not by the model
}

// Candidate is a deployment that answers problems.
type Candidate struct {
	Name string
	// Complete answers one prompt. It is called from several goroutines. An
	// error is a transport failure: it says nothing about the answer.
	Complete func(ctx context.Context, prompt string, s Sampling) (Completion, error)
}

// Input of the stage.
type Input struct {
	Spec spec.Compare
	Seed uint64
	// Candidates: the first is the released model. Baseline names the one that
	// it must not be worse than, the f32 checkpoint; empty = the second.
	Candidates []Candidate
	Baseline   string
	OutDir     string // absolute; the outcomes go here
	Parallel   int    // questions in flight; default 16
	Progress   progress.Func
}

// Report of the stage.
type Report struct {
	Problems   int               `json:"problems"`
	Baseline   string            `json:"baseline"`
	Margin     float64           `json:"margin"`
	Candidates []CandidateReport `json:"candidates"`
	Pairs      []Pair            `json:"pairs"` // the first candidate against each other one
	// Outcomes is the JSON Lines file with every problem's answers.
	Outcomes string      `json:"outcomes"`
	Gate     gate.Result `json:"gate"`
}

// Rate is a share with its 95 % Wilson interval.
type Rate struct {
	Value float64 `json:"value"`
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
	Hits  int     `json:"hits"`
	Of    int     `json:"of"`
}

// CandidateReport is one candidate's scores. A rate over nothing is nil.
type CandidateReport struct {
	Name         string `json:"name"`
	Greedy       *Rate  `json:"greedy"`        // correct, greedy
	Pass1        *Rate  `json:"pass1"`         // correct, one sample at T = 1
	GreedyThinks *Rate  `json:"greedy_thinks"` // worked it out before answering
	Thinks       *Rate  `json:"thinks"`        // the same at T = 1
	Truncated    *Rate  `json:"truncated"`     // both kinds of answers together
	Failures     int    `json:"failures"`      // questions without an answer
	FirstFailure string `json:"first_failure,omitempty"`
}

// Pair is a paired comparison, over problems that both answered.
type Pair struct {
	A      string      `json:"a"`
	B      string      `json:"b"`
	Greedy *Difference `json:"greedy"` // nil if there is no such problem
	Pass1  *Difference `json:"pass1"`
}

// Difference is share(A correct) − share(B correct) over the same problems.
type Difference struct {
	Problems int     `json:"problems"`
	Both     int     `json:"both"`
	OnlyA    int     `json:"only_a"` // discordant: correct in A alone
	OnlyB    int     `json:"only_b"`
	Neither  int     `json:"neither"`
	Value    float64 `json:"value"`
	Low      float64 `json:"low"` // 95 %, Newcombe's paired score interval
	High     float64 `json:"high"`
	// Bound is the one-sided 95 % lower bound, by the same method.
	Bound float64 `json:"bound"`
	P     float64 `json:"p"` // McNemar, exact, two-sided
	// Detectable is the smallest true difference that these problems would have
	// shown with a probability of 0.8 at the 5 % level.
	Detectable float64 `json:"detectable"`
}

// Run asks every candidate every problem, greedily and once at T = 1.
func Run(ctx context.Context, in Input) (*Report, error) {
	problems, err := reward.ReadProblems(in.Spec.Problems)
	if err != nil {
		return nil, err
	}
	check, err := reward.NewChecker(in.Spec.Reward)
	if err != nil {
		return nil, err
	}
	if err := in.complete(); err != nil {
		return nil, err
	}
	answers, err := ask(ctx, in, problems, check)
	if err != nil {
		return nil, err
	}
	r := &Report{Problems: len(problems), Baseline: in.Baseline, Margin: in.Spec.NonInferiority}
	for i, c := range in.Candidates {
		r.Candidates = append(r.Candidates, score(c.Name, answers[i]))
		if i > 0 {
			r.Pairs = append(r.Pairs, pair(in.Candidates[0].Name, c.Name, answers[0], answers[i]))
		}
	}
	if r.Outcomes, err = writeOutcomes(in, problems, answers); err != nil {
		return nil, err
	}
	r.Gate = judge(r)
	return r, nil
}

// complete checks the input and sets its defaults.
func (in *Input) complete() error {
	if len(in.Candidates) < 2 {
		return errors.New("compare: at least two candidates are needed, the released model and the one it comes from")
	}
	var names []string
	for _, c := range in.Candidates {
		if c.Name == "" || slices.Contains(names, c.Name) {
			return fmt.Errorf("compare: candidates need different names, %q does not do", c.Name)
		}
		names = append(names, c.Name)
	}
	if in.Baseline == "" {
		in.Baseline = names[1]
	}
	if !slices.Contains(names[1:], in.Baseline) {
		return fmt.Errorf("compare: the baseline %q is not among the other candidates %v", in.Baseline, names[1:])
	}
	if in.Parallel <= 0 {
		in.Parallel = 16
	}
	return nil
}

func rate(hits, of int) *Rate {
	if of == 0 {
		return nil
	}
	low, high := wilson(hits, of, z975)
	return &Rate{Value: float64(hits) / float64(of), Low: low, High: high, Hits: hits, Of: of}
}

func score(name string, answers []answerPair) CandidateReport {
	r := CandidateReport{Name: name}
	var asked, correct, thinks [2]int
	truncated := 0
	for _, a := range answers {
		for kind, o := range a {
			if o.Failure != "" {
				r.Failures++
				if r.FirstFailure == "" {
					r.FirstFailure = o.Failure
				}
				continue
			}
			asked[kind]++
			correct[kind] += one(o.Correct)
			thinks[kind] += one(o.Thinks)
			truncated += one(o.Truncated)
		}
	}
	r.Greedy, r.Pass1 = rate(correct[greedy], asked[greedy]), rate(correct[sampled], asked[sampled])
	r.GreedyThinks, r.Thinks = rate(thinks[greedy], asked[greedy]), rate(thinks[sampled], asked[sampled])
	r.Truncated = rate(truncated, asked[greedy]+asked[sampled])
	return r
}

func one(b bool) int {
	if b {
		return 1
	}
	return 0
}

func pair(nameA, nameB string, a, b []answerPair) Pair {
	return Pair{A: nameA, B: nameB, Greedy: compared(a, b, greedy), Pass1: compared(a, b, sampled)}
}

func compared(a, b []answerPair, kind int) *Difference {
	var s split
	for i := range a {
		x, y := a[i][kind], b[i][kind]
		switch {
		case x.Failure != "" || y.Failure != "":
		case x.Correct && y.Correct:
			s.both++
		case x.Correct:
			s.onlyA++
		case y.Correct:
			s.onlyB++
		default:
			s.neither++
		}
	}
	if s.n() == 0 {
		return nil
	}
	d := &Difference{
		Problems: s.n(), Both: s.both, OnlyA: s.onlyA, OnlyB: s.onlyB, Neither: s.neither,
		Value: s.difference(), P: mcnemar(s.onlyA, s.onlyB), Detectable: s.detectable(),
	}
	d.Low, d.High = s.interval(z975)
	d.Bound, _ = s.interval(z95)
	return d
}

// judge is the gate: not worse than the baseline by more than the margin, with
// 95 % confidence. Questions without an answer leave it open.
func judge(r *Report) gate.Result {
	released := r.Candidates[0]
	answered := gate.Check{Name: "answers", Verdict: gate.Pass, Detail: fmt.Sprintf("all %d candidates answered all %d problems", len(r.Candidates), r.Problems)}
	for _, c := range r.Candidates {
		if c.Failures > 0 {
			answered.Verdict = gate.Inconclusive
			answered.Detail = fmt.Sprintf("%s left %d of %d questions without an answer (first: %s)", c.Name, c.Failures, 2*r.Problems, c.FirstFailure)
			break
		}
	}
	check := gate.Check{Name: "non-inferiority", Verdict: gate.Inconclusive}
	i := slices.IndexFunc(r.Pairs, func(p Pair) bool { return p.B == r.Baseline })
	d := r.Pairs[i].Greedy
	if d == nil {
		check.Detail = fmt.Sprintf("no problem was answered by both %s and %s", released.Name, r.Baseline)
		return gate.Of(check, answered)
	}
	check.Detail = fmt.Sprintf("greedy %s − %s = %+.3f (95 %% from %+.3f to %+.3f, %d to %d discordant of %d, McNemar p = %.3g); lower bound %+.3f against the margin −%g; a difference of %.3f would have shown",
		released.Name, r.Baseline, d.Value, d.Low, d.High, d.OnlyA, d.OnlyB, d.Problems, d.P, d.Bound, r.Margin, d.Detectable)
	switch {
	case answered.Verdict != gate.Pass:
		check.Detail += "; but answers are missing"
	case d.Bound >= -r.Margin:
		check.Verdict = gate.Pass
	case d.Value < -r.Margin:
		check.Verdict = gate.Fail
	default:
		check.Detail += "; more held-out problems would settle it"
	}
	return gate.Of(check, answered)
}
