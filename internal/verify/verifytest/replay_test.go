package verifytest_test

import (
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"tarbert/internal/convert"
	"tarbert/internal/gate"
	"tarbert/internal/reference"
	"tarbert/internal/spec"
	"tarbert/internal/verify"
	"tarbert/internal/verify/verifytest"
)

// w8a8 are the margins that a conversion to W8A8 declares here: a quarter more than
// the typical 2.9 and 3.6, and 1.6 times the held ratio of 4.8 and 5.1, that the
// development specimens have.
var w8a8 = struct {
	margin  spec.Margin
	typical float64
}{spec.Margin{Ratio: 8, KL: 0.005, DeltaNLL: 0.01, Top1: 0.95, Clip: 0.1}, 4.5}

// deployment is one way to serve the same weights honestly.
type deployment struct {
	name     string
	engine   *verifytest.Engine
	w8a8     bool
	sameBits bool // as the floor's, by the determinism of the reference
}

// honest are deployments of the same weights that must not fail.
func (b *bench) honest(t testing.TB, chips int) []deployment {
	t.Helper()
	one, err := reference.Load(b.dir, reference.Options{Precision: reference.BF16, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	int8 := filepath.Join(t.TempDir(), "w8a8")
	if _, err := convert.Convert(t.Context(), b.dir, int8, convert.W8A8Ascend, convert.Options{}); err != nil {
		t.Fatal(err)
	}
	out := []deployment{
		{name: "restarted", engine: load(t, b.dir, reference.BF16), sameBits: true},
		{name: "one thread", engine: &verifytest.Engine{Model: one, EOS: b.eos}, sameBits: true},
		{name: "w8a8, its own margins", engine: load(t, int8, reference.W8A8), w8a8: true},
	}
	var half verifytest.Fault
	for _, f := range verifytest.Catalogue(b.config) {
		if f.Name == "bf16 model served in fp16 weights" {
			half = f
		}
	}
	own := *b
	for i := range chips {
		own.chip = b.chip + 1000 + uint64(i)
		d := deployment{name: "bf16 on another chip", engine: own.candidate(t, b.dir, nil, nil)}
		if i%4 == 3 {
			d = deployment{name: "fp16 weights on another chip", engine: own.candidate(t, b.dir, half.Weights, nil)}
		}
		out = append(out, d)
	}
	return out
}

// measure scores a deployment on all prompts, and generates too where whole.
func (b *bench) measure(t testing.TB, d deployment, whole bool) *verify.Evidence {
	t.Helper()
	in := b.input(t, d.engine, nil, nil)
	if d.w8a8 {
		in.Spec.Margin, in.Typical = w8a8.margin, w8a8.typical
	}
	in.Sequential = false
	if whole {
		in.Decode = verify.DecodeOptions{Prompts: len(b.prompts), Cuts: 4, Tokens: 8}
	} else {
		in.Decode, in.Reverse = verify.DecodeOptions{}, verify.ReverseOptions{}
	}
	r, err := verify.Run(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%-30s %s: %s", d.name, r.Gate.Verdict, r.Signature)
	ev, err := verify.LoadEvidence(r.Evidence)
	if err != nil {
		t.Fatal(err)
	}
	return ev
}

// tally counts verdicts.
type tally struct{ fail, inconclusive, pass, early, all int }

func (x *tally) add(r *verify.Report) {
	x.all++
	switch r.Gate.Verdict {
	case gate.Fail:
		x.fail++
	case gate.Pass:
		x.pass++
		if r.Sequential.Verdict == gate.Pass {
			x.early++
		}
	default:
		x.inconclusive++
	}
}

func (x *tally) plus(y tally) {
	x.fail, x.inconclusive, x.pass, x.early, x.all = x.fail+y.fail, x.inconclusive+y.inconclusive, x.pass+y.pass, x.early+y.early, x.all+y.all
}

func (x tally) log(t testing.TB, name string) {
	low, high := verifytest.ClopperPearson(x.fail, x.all, 0.05)
	t.Logf("| %-44s | %4d runs | fail %d (%.2f %%, 95 %% %.2f to %.2f) | inconclusive %d | pass %d, by bets alone %d |",
		name, x.all, x.fail, 100*float64(x.fail)/float64(x.all), 100*low, 100*high, x.inconclusive, x.pass, x.early)
}

const (
	bankPrompts = 256
	runPrompts  = 64
	honestChips = 6
)

// Honest deployments fail in at most one run of a hundred.
func TestSoakHonestReplays(t *testing.T) {
	if os.Getenv("TARBERT_SOAK") == "" {
		t.Skip("set TARBERT_SOAK=1 to replay honest deployments")
	}
	var disjoint, resampled, same, quantised tally
	for _, s := range specimens() {
		t.Run(s.Name, func(t *testing.T) {
			b := specimenBench(t, s, 1200, bankPrompts)
			r := rand.New(rand.NewPCG(20261128, s.Seed))
			var chip *verify.Evidence
			for i, d := range b.honest(t, honestChips) {
				ev := b.measure(t, d, i == 3)
				into := &disjoint
				if d.sameBits {
					into = &same
				} else if d.w8a8 {
					into = &quantised
				} else {
					chip = ev
				}
				for from := 0; from+runPrompts <= len(ev.Prompts); from += runPrompts {
					into.add(ev.Subset(from, runPrompts))
				}
				if d.sameBits {
					continue
				}
				if into = &resampled; d.w8a8 {
					into = &quantised
				}
				for range 40 {
					into.add(ev.Replay(runPrompts, r))
				}
			}
			boundary(t, b, chip, r)
		})
	}
	disjoint.log(t, "other chips, disjoint prompts, all computed")
	resampled.log(t, "other chips, prompts drawn again")
	quantised.log(t, "W8A8 at its margins, both kinds")
	same.log(t, "restart, one thread: the floor's own bits")
	all := disjoint
	for _, x := range []tally{resampled, quantised, same} {
		all.plus(x)
	}
	all.log(t, "all")
	if _, high := verifytest.ClopperPearson(all.fail, all.all, 0.05); all.all < 500 || float64(all.fail) > 0.01*float64(all.all) {
		t.Errorf("%d of %d honest runs failed (95 %% upper bound %.2f %%)", all.fail, all.all, 100*high)
	}
}

// boundary puts a candidate exactly on a margin, by scaling or shifting what an
// honest chip really computed: neither a pass nor a fail may be frequent.
func boundary(t testing.TB, b *bench, chip *verify.Evidence, r *rand.Rand) {
	t.Helper()
	const runs = 300
	for _, c := range []struct {
		name   string
		margin spec.Margin
		// typical is the margin on it, out of the way where another is tested.
		typical float64
		move    func(p *verify.Prompt, by float64)
		by      float64
	}{
		{"ratio 3", spec.Margin{Ratio: 3, Clip: 0.1}, 1e9, scaleKL, scaleToRatio(chip, 3, 0.1)},
		{"typical 1.25", spec.Margin{Ratio: 1e9, Clip: 0.1}, 1.25, scaleKL, scaleToTypical(chip, 1.25)},
		{"kl 0.005", spec.Margin{KL: 0.005, Clip: 0.1}, 0, scaleKL, scaleToMean(chip, 0.005, 0.1)},
		{"delta_nll 0.01", spec.Margin{DeltaNLL: 0.01, Clip: 0.1}, 0, shiftNLL, 0.01 - shiftOf(chip)},
	} {
		ev := *chip
		ev.Parts, ev.Reverse, ev.Strata, ev.Families = nil, nil, false, 1
		ev.Spec.Margin, ev.Typical = c.margin, c.typical
		if c.typical == 0 { // no floor, so that nothing else can fail
			ev.Floor = nil
		}
		ev.Prompts = nil
		for _, p := range chip.Prompts {
			p.Candidate.KL, p.Candidate.LogProb = append([]float64{}, p.Candidate.KL...), append([]float64{}, p.Candidate.LogProb...)
			if ev.Floor == nil {
				p.Floor = nil
			}
			c.move(&p, c.by)
			ev.Prompts = append(ev.Prompts, p)
		}
		pass, fail := 0, 0
		name := c.name[:len(c.name)-len(c.name[indexSpace(c.name):])]
		for range runs {
			for _, x := range ev.Replay(runPrompts, r).Gate.Checks {
				if x.Name == checkNames[name] && x.Verdict == gate.Pass {
					pass++
				}
				if x.Name == checkNames[name] && x.Verdict == gate.Fail {
					fail++
				}
			}
		}
		_, highP := verifytest.ClopperPearson(pass, runs, 0.05)
		_, highF := verifytest.ClopperPearson(fail, runs, 0.05)
		t.Logf("| at the margin of %-15s | %d runs | fail %d (95 %% up to %.1f %%) | pass %d (up to %.1f %%) |", c.name, runs, fail, 100*highF, pass, 100*highP)
	}
}

var checkNames = map[string]string{"ratio": "ratio", "typical": "typical", "kl": "kl", "delta_nll": "delta-nll"}

func indexSpace(s string) int {
	for i := range s {
		if s[i] == ' ' {
			return i
		}
	}
	return len(s)
}

func scaleKL(p *verify.Prompt, by float64) {
	for i := range p.Candidate.KL {
		p.Candidate.KL[i] *= by
	}
}

func shiftNLL(p *verify.Prompt, by float64) {
	for i := range p.Candidate.LogProb {
		p.Candidate.LogProb[i] -= by
	}
}

// each calls f with the mean over a prompt's judged tokens.
func each(ev *verify.Evidence, of func(p verify.Prompt, i int) float64) float64 {
	sum, n := 0.0, 0.0
	for _, p := range ev.Prompts {
		if p.From >= len(p.Tokens) {
			continue
		}
		own := 0.0
		for i := p.From - 1; i < len(p.LogProb); i++ {
			own += of(p, i) / float64(len(p.LogProb)-p.From+1)
		}
		sum, n = sum+own, n+1
	}
	return sum / n
}

// scaleToTypical is the factor that brings the geometric mean of KL over the
// floor's, as the gate forms it, to a value.
func scaleToTypical(ev *verify.Evidence, value float64) float64 {
	return solve(func(by float64) bool {
		return each(ev, func(p verify.Prompt, i int) float64 {
			return math.Log((by*p.Candidate.KL[i] + 1e-6) / (p.Floor.KL[i] + 1e-6))
		}) < math.Log(value)
	})
}

// scaleToRatio is the factor that brings the ratio held to a margin to that margin:
// the floor counts up to its 90 % quantile, the candidate up to rho times that.
func scaleToRatio(ev *verify.Evidence, rho, clip float64) float64 {
	var floor []float64
	for _, p := range ev.Prompts {
		if p.From < len(p.Tokens) {
			floor = append(floor, p.Floor.KL[p.From-1:]...)
		}
	}
	slices.Sort(floor)
	top := min(floor[len(floor)*9/10], clip/rho)
	want := rho * each(ev, func(p verify.Prompt, i int) float64 { return min(p.Floor.KL[i], top) })
	return scaleToMean(ev, want, rho*top)
}

func shiftOf(ev *verify.Evidence) float64 {
	return each(ev, func(p verify.Prompt, i int) float64 { return p.LogProb[i] - p.Candidate.LogProb[i] })
}

// scaleToMean is the factor that brings the mean clipped KL to a value.
func scaleToMean(ev *verify.Evidence, value, clip float64) float64 {
	return solve(func(by float64) bool {
		return each(ev, func(p verify.Prompt, i int) float64 { return min(by*p.Candidate.KL[i], clip) }) < value
	})
}

// solve is the factor from which on below no longer holds, by bisection.
func solve(below func(by float64) bool) float64 {
	low, high := 1e-3, 1e6
	for range 60 {
		if mid := math.Sqrt(low * high); below(mid) {
			low = mid
		} else {
			high = mid
		}
	}
	return high
}
