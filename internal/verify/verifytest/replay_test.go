package verifytest_test

import (
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"tarbert/internal/convert"
	"tarbert/internal/gate"
	"tarbert/internal/reference"
	"tarbert/internal/verify"
	"tarbert/internal/verify/verifytest"
)

// honest are deployments of the same weights that must not fail: the same
// arithmetic again, with other threads, asked in another order, in half
// precision, in float32, and with the router's weights rounded.
func honest(t testing.TB, b *bench) map[string]*verifytest.Engine {
	t.Helper()
	half := t.TempDir()
	for _, f := range verifytest.Catalogue() {
		if f.Name == "bf16 model served in fp16 weights" {
			if err := verifytest.Copy(b.dir, half, f.Weights, f.Config); err != nil {
				t.Fatal(err)
			}
		}
	}
	one, err := reference.Load(b.dir, reference.Options{Precision: reference.BF16, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	noisy := load(t, b.dir, reference.BF16)
	noisy.Logits = func(p []int, _ int, x []float32) { verifytest.Noise(p, x, 0.002, 77) }
	int8 := t.TempDir() + "/w8a8"
	if _, err := convert.Convert(t.Context(), b.dir, int8, convert.W8A8Ascend, convert.Options{}); err != nil {
		t.Fatal(err)
	}
	return map[string]*verifytest.Engine{
		"w8a8, typical 1.5": load(t, int8, reference.W8A8),
		"restarted":         load(t, b.dir, reference.BF16), "one thread": {Model: one, EOS: b.eos},
		"f32": load(t, b.dir, reference.F32), "fp16 weights": load(t, half, reference.BF16),
		"fp16 weights in f32": load(t, half, reference.F32), "bf16 with another kernel's rounding": noisy,
	}
}

// measure scores a candidate on all prompts and returns the evidence's path.
func (b *bench) measure(t testing.TB, candidate *verifytest.Engine) *verify.Report {
	t.Helper()
	in := b.input(t, candidate, nil)
	if candidate.Model.Precision() == reference.W8A8 {
		in.Typical = 1.5 // what the example declares for W8A8
	}
	in.Sequential, in.Decode, in.Reverse = false, verify.DecodeOptions{}, verify.ReverseOptions{}
	r, err := verify.Run(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Honest deployments, each replayed a hundred times on prompts drawn anew from
// what was measured, fail in at most one of a hundred.
func TestSoakHonestReplays(t *testing.T) {
	if os.Getenv("TARBERT_SOAK") == "" {
		t.Skip("set TARBERT_SOAK=1 to replay honest deployments")
	}
	b := newBench(t, 200)
	r := rand.New(rand.NewPCG(20261123, 1))
	fails, inconclusive, passes, early, all := 0, 0, 0, 0, 0
	for name, e := range honest(t, b) {
		path := b.measure(t, e).Evidence
		f, p, in, ea := 0, 0, 0, 0
		for range 100 {
			got, err := verify.Replay(path, 200, r)
			if err != nil {
				t.Fatal(err)
			}
			switch got.Gate.Verdict {
			case gate.Fail:
				f++
			case gate.Pass:
				p++
			default:
				in++
			}
			if got.Sequential.Verdict == gate.Pass {
				ea++
			}
		}
		t.Logf("%-36s fail %d, inconclusive %d, pass %d (%d of them early) of 100", name, f, in, p, ea)
		fails, passes, inconclusive, early, all = fails+f, passes+p, inconclusive+in, early+ea, all+100
	}
	upper := 1 - math.Pow(0.05, 1/float64(all)) // exact 95 % bound when none failed
	t.Logf("%d honest replays: %d failed (95 %% upper bound with none: %.2f %%), %d inconclusive, %d passed, %d of them early",
		all, fails, 100*upper, inconclusive, passes, early)
	if float64(fails) > 0.01*float64(all) {
		t.Errorf("%d of %d honest replays failed", fails, all)
	}
}
