package cli

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"tarbert/internal/engine/enginetest"
	"tarbert/internal/gate"
	"tarbert/internal/verify"
)

// letters is an endpoint that continues ASCII: a distribution from the last byte.
func letters() *enginetest.Server {
	const vocab = 128
	table := make([][]float64, vocab)
	for last := range table {
		r, sum := rand.New(rand.NewPCG(uint64(last), 1)), 0.0
		x := make([]float64, vocab)
		for i := range x {
			x[i] = 3 * r.NormFloat64()
			sum += math.Exp(x[i])
		}
		for i := range x {
			x[i] -= math.Log(sum)
		}
		table[last] = x
	}
	logits := func(prefix []int) []float64 { return table[prefix[len(prefix)-1]] }
	return &enginetest.Server{Logits: logits, Reply: func(_ string, tokens []int, sample int, seed int64) (string, []int) {
		r := rand.New(rand.NewPCG(uint64(seed), uint64(len(tokens))))
		ids := make([]int, 16)
		for i := range ids {
			ids[i] = r.IntN(vocab)
		}
		return "x", ids
	}}
}

// verification runs the command on two endpoints and returns its report.
func verification(t *testing.T, home string, reference, candidate string, flags ...string) (*verify.Report, int, string) {
	t.Helper()
	var out, errs bytes.Buffer
	args := append([]string{"--home", home, "--json", "verify", "--reference", reference, "--candidate", candidate, "--count", "17", "--max-tokens", "16", "--strata", "english,long context",
		"--long", "32", "--stages", "prefill", "--out", filepath.Join(t.TempDir(), "out"), "--patience", "20ms", "--timeout", "5s"}, flags...)
	code := Run(t.Context(), args, IO{Out: &out, Err: &errs})
	var r verify.Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("exit %d, no report: %v\n%s%s", code, err, out.String(), errs.String())
	}
	return &r, code, errs.String()
}

// Whatever an endpoint gets wrong, on either side, from the first request on or
// in the middle: inconclusive, with the reason, exit code 1. Never a pass,
// never a crash.
func TestVerifyMisbehavingEndpoints(t *testing.T) {
	home := filepath.Join(t.TempDir(), "home")
	good := enginetest.New(t, letters())
	if r, code, _ := verification(t, home, good.URL, enginetest.New(t, letters()).URL); r.Gate.Verdict != gate.Pass || code != exitDone {
		t.Fatalf("two equal endpoints: %s, exit %d: %s %s", r.Gate.Verdict, code, r.Gate.Reason, r.Failure)
	}
	for _, c := range []struct {
		fault enginetest.Fault
		says  string
	}{
		{enginetest.ServerError, "HTTP 500"},
		{enginetest.Unavailable, "HTTP 503"},
		{enginetest.RateLimited, "HTTP 429"},
		{enginetest.Cut, "unexpected EOF"},
		{enginetest.TruncatedJSON, "malformed answer"},
		{enginetest.NotJSON, "malformed answer"},
		{enginetest.NoPromptLogProbs, "ignored by the engine"},
		{enginetest.ShortLogProbs, "wrong number of entries"},
		{enginetest.FirstNotNull, "first entry is not null"},
		{enginetest.NullPosition, "log-probability is missing"},
		{enginetest.NaN, "not finite"},
		{enginetest.MinusInfinity, "not finite"},
		{enginetest.Positive, "above zero"},
		{enginetest.FewerThanK, "fewer entries than asked for"},
		{enginetest.ActualMissing, "of the prompt's own token"},
		{enginetest.TextKeys, "must be keyed by id"},
		{enginetest.Overfull, "sum to"},
		{enginetest.NullLogProb, "log-probability is missing"},
		{enginetest.ExtraBOS, "changed the prompt"},
	} {
		for _, after := range []int{0, 12} {
			broken := letters()
			broken.Fault, broken.After = c.fault, after
			r, code, _ := verification(t, home, good.URL, enginetest.New(t, broken).URL)
			says := c.says
			if after > 0 && c.fault == enginetest.NoPromptLogProbs {
				says = "no prompt_logprobs" // the path was open when it was tried
			}
			if r.Gate.Verdict != gate.Inconclusive || code != exitGate || !strings.Contains(r.Failure+r.Gate.Reason, says) {
				t.Errorf("candidate, %s after %d: %s, exit %d, %q; want inconclusive by %q", c.fault, after, r.Gate.Verdict, code, r.Failure, says)
			}
			if !strings.Contains(r.Failure, "candidate") {
				t.Errorf("candidate, %s after %d: the side is not named: %q", c.fault, after, r.Failure)
			}
		}
		broken := letters()
		broken.Fault, broken.After = c.fault, 19 // when it has written the prompts
		if r, code, _ := verification(t, home, enginetest.New(t, broken).URL, good.URL); r.Gate.Verdict != gate.Inconclusive || code != exitGate || r.Failure == "" {
			t.Errorf("reference, %s: %s, exit %d, %q", c.fault, r.Gate.Verdict, code, r.Failure)
		}
	}
}

func TestVerifyAbsentAndSlowEndpoints(t *testing.T) {
	home := filepath.Join(t.TempDir(), "home")
	good := enginetest.New(t, letters())
	gone := enginetest.New(t, letters())
	gone.Close()
	hanging := letters()
	never := make(chan struct{})
	hanging.Gate = never
	slow := enginetest.New(t, hanging)
	t.Cleanup(func() { close(never) }) // before the server is closed, which waits for its requests
	for _, c := range []struct{ name, reference, candidate, says string }{
		{"candidate away", good.URL, gone.URL, "connection refused"},
		{"reference away", gone.URL, good.URL, "connection refused"},
		{"candidate hangs", good.URL, slow.URL, "no answer within 300ms"},
		{"no such host", good.URL, "http://nowhere.invalid:1", "nowhere.invalid"},
	} {
		r, code, _ := verification(t, home, c.reference, c.candidate, "--timeout", "300ms")
		if r.Gate.Verdict != gate.Inconclusive || code != exitGate || !strings.Contains(r.Failure, c.says) {
			t.Errorf("%s: %s, exit %d: %q, want %q", c.name, r.Gate.Verdict, code, r.Failure, c.says)
		}
	}
}

// A context shorter than a stratum makes the scope smaller, and says so.
func TestVerifyShortContextIsAScope(t *testing.T) {
	home := filepath.Join(t.TempDir(), "home")
	short := letters()
	short.MaxModelLen = 80
	r, code, _ := verification(t, home, enginetest.New(t, letters()).URL, enginetest.New(t, short).URL, "--long", "2000")
	if r.Gate.Verdict != gate.Pass || code != exitDone || !strings.Contains(strings.Join(r.Scope, "\n"), "long context up to 79 tokens, not 2000") {
		t.Errorf("%s, exit %d: %q %q", r.Gate.Verdict, code, r.Scope, r.Failure)
	}
	tiny := letters()
	tiny.MaxModelLen = 16
	r, code, _ = verification(t, home, enginetest.New(t, letters()).URL, enginetest.New(t, tiny).URL)
	if r.Gate.Verdict != gate.Inconclusive || code != exitGate || !strings.Contains(r.Failure, "the context takes 15 tokens") {
		t.Errorf("a context of 16: %s, exit %d: %q", r.Gate.Verdict, code, r.Failure)
	}
}

func TestVerifyBadUsage(t *testing.T) {
	home := filepath.Join(t.TempDir(), "home")
	for _, c := range []struct {
		args []string
		says string
	}{
		{nil, "--reference and --candidate"},
		{[]string{"--reference", "http://a", "--candidate", "http://b", "--budget", "huge"}, "quick, standard or thorough"},
		{[]string{"--reference", "http://a", "--candidate", "http://b", "--stages", "decode"}, "must have prefill"},
		{[]string{"--reference", "http://a", "--candidate", "http://b", "--strata", "klingon"}, `--strata has "klingon"`},
		{[]string{"--reference", "http://a", "--candidate", "http://b", "--count", "-1"}, "at least 1"},
		{[]string{"--reference", "nothere", "--candidate", "http://b"}, "neither a URL"},
		{[]string{"--watch", "--candidate", "here"}, "--candidate URL"},
		{[]string{"--watch", "--candidate", "http://b"}, "--baseline EVIDENCE or --certificate"},
		{[]string{"--watch", "--candidate", "http://b", "--baseline", "nothere"}, "no such file"},
	} {
		var out, errs bytes.Buffer
		code := Run(t.Context(), append([]string{"--home", home, "verify"}, c.args...), IO{Out: &out, Err: &errs})
		if code != exitUsage || !strings.Contains(errs.String(), c.says) {
			t.Errorf("%v: exit %d, %q; want %d, %q", c.args, code, errs.String(), exitUsage, c.says)
		}
	}
}
