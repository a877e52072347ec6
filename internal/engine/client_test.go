package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"tarbert/internal/engine"
	"tarbert/internal/engine/enginetest"
)

const vocab = 50

// logits is a fixed model: a distribution over the vocabulary that depends on
// the last two tokens.
func logits(prefix []int) []float64 {
	seed := uint64(prefix[len(prefix)-1])
	if len(prefix) > 1 {
		seed += 1000 * uint64(prefix[len(prefix)-2])
	}
	r := rand.New(rand.NewPCG(seed, 7))
	x, sum := make([]float64, vocab), 0.0
	for i := range x {
		x[i] = 3 * r.NormFloat64()
		sum += math.Exp(x[i])
	}
	for i := range x {
		x[i] -= math.Log(sum)
	}
	return x
}

func client(s *enginetest.Server) *engine.Client {
	return &engine.Client{URL: s.URL, Model: "fake", HTTP: s.Client(), Patience: 50 * time.Millisecond}
}

func TestScoreGivesWhatTheModelThinks(t *testing.T) {
	s := enginetest.New(t, &enginetest.Server{Logits: logits})
	prompts := [][]int{{3, 1, 4, 1, 5}, {9, 2, 6}, {7}}
	got, err := client(s).Score(t.Context(), prompts, 5)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range prompts {
		if len(got[i]) != len(p) {
			t.Fatalf("prompt %d: %d positions for %d tokens", i, len(got[i]), len(p))
		}
		if diff := cmp.Diff(engine.Position{}, got[i][0]); diff != "" {
			t.Errorf("prompt %d, entry 0 (-want +got):\n%s", i, diff)
		}
		for at := 1; at < len(p); at++ {
			lp, pos := logits(p[:at]), got[i][at]
			if pos.Token != p[at] || pos.LogProb != lp[p[at]] {
				t.Errorf("prompt %d, position %d: %d at %g, want %d at %g", i, at, pos.Token, pos.LogProb, p[at], lp[p[at]])
			}
			better := 0
			for _, x := range lp {
				if x > lp[p[at]] {
					better++
				}
			}
			if pos.Rank != better+1 {
				t.Errorf("prompt %d, position %d: rank %d, want %d", i, at, pos.Rank, better+1)
			}
			sorted := slices.Sorted(slices.Values(lp))
			slices.Reverse(sorted)
			for r, e := range pos.Top {
				if e.LogProb != sorted[r] || lp[e.Token] != e.LogProb {
					t.Errorf("prompt %d, position %d, top %d: %+v, want %g", i, at, r, e, sorted[r])
				}
			}
			if len(pos.Top) != 5 {
				t.Errorf("prompt %d, position %d: %d top entries", i, at, len(pos.Top))
			}
		}
	}
}

func TestScoreReadsVLLM(t *testing.T) {
	c := recorded(t, "vllm-0.32.0/completion_prompt_logprobs.json", 200)
	got, err := c.Score(t.Context(), [][]int{{10, 20, 30, 40, 300}}, 20)
	if err != nil {
		t.Fatal(err)
	}
	p := got[0][1]
	if p.Token != 20 || p.LogProb != -5.501424789428711 || p.Rank != 52 || len(p.Top) != 20 {
		t.Errorf("position 1 is token %d at %v, rank %d, %d top entries", p.Token, p.LogProb, p.Rank, len(p.Top))
	}
	if want := (engine.TokenLogProb{Token: 294, LogProb: -1.6918777227401733}); p.Top[0] != want {
		t.Errorf("likeliest is %+v, want %+v", p.Top[0], want)
	}
	if _, err := c.Score(t.Context(), [][]int{{10, 20, 30, 40, 301}}, 20); !errors.Is(err, engine.ErrMissing) {
		t.Errorf("another prompt's answer: %v, want ErrMissing", err)
	}
}

func TestScoreRefusesLlamaServer(t *testing.T) {
	c := recorded(t, "llama.cpp-11434/completion.json", 200)
	if _, err := c.Score(t.Context(), [][]int{{10, 20, 30, 40, 300}}, 20); !errors.Is(err, engine.ErrNoPromptLogProbs) {
		t.Errorf("got %v, want ErrNoPromptLogProbs", err)
	}
}

// recorded is a client of a server that gives one recorded answer.
func recorded(t *testing.T, file string, code int) *engine.Client {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = w.Write(b) // a client that went away is its own test's concern
	}))
	t.Cleanup(s.Close)
	return &engine.Client{URL: s.URL, Model: "tiny", Patience: 50 * time.Millisecond}
}

// A failure is never a number: each way to misbehave is its own error, at its place.
func TestScoreNamesWhatIsWrong(t *testing.T) {
	for _, tt := range []struct {
		fault    enginetest.Fault
		want     error
		position int // -1 = the prompt as a whole
	}{
		{enginetest.NoPromptLogProbs, engine.ErrNoPromptLogProbs, -1},
		{enginetest.ShortLogProbs, engine.ErrLength, -1},
		{enginetest.FirstNotNull, engine.ErrFirst, 0},
		{enginetest.NullPosition, engine.ErrMissing, 3},
		{enginetest.NullLogProb, engine.ErrMissing, 3},
		{enginetest.NaN, engine.ErrNotFinite, 3},
		{enginetest.MinusInfinity, engine.ErrNotFinite, 3},
		{enginetest.Positive, engine.ErrPositive, 3},
		{enginetest.FewerThanK, engine.ErrTooFew, 3},
		{enginetest.ActualMissing, engine.ErrMissing, 3},
		{enginetest.TextKeys, engine.ErrToken, 3},
		{enginetest.Overfull, engine.ErrNotDistribution, 3},
		{enginetest.ExtraBOS, engine.ErrPrompt, -1},
		{enginetest.TruncatedJSON, engine.ErrMalformed, -1},
		{enginetest.NotJSON, engine.ErrMalformed, -1},
		{enginetest.WrongChoiceNumber, engine.ErrMalformed, -1},
		{enginetest.Endless, engine.ErrTooLarge, -1},
		{enginetest.Cut, io.ErrUnexpectedEOF, -1},
	} {
		t.Run(string(tt.fault), func(t *testing.T) {
			s := enginetest.New(t, &enginetest.Server{Logits: logits, Fault: tt.fault, After: 1})
			c := client(s)
			c.MaxBody, c.Concurrency = 1<<16, 1
			got, err := c.Score(t.Context(), [][]int{{8, 8, 8}, {3, 1, 4, 47}}, 5)
			if !errors.Is(err, tt.want) || got != nil {
				t.Fatalf("got %v, %v; want %v and no result", got, err, tt.want)
			}
			var v *engine.Violation
			if !errors.As(err, &v) {
				t.Fatalf("%v is not a Violation", err)
			}
			if v.Prompt != 1 || v.Position != tt.position {
				t.Errorf("found at prompt %d, position %d: %v; want 1, %d", v.Prompt, v.Position, err, tt.position)
			}
		})
	}
}

func TestScoreOfAWholeVocabulary(t *testing.T) {
	s := enginetest.New(t, &enginetest.Server{Logits: func(p []int) []float64 { return logits(p) }})
	c := client(s)
	if _, err := c.Score(t.Context(), [][]int{{1, 2, 3}}, vocab+10); !errors.Is(err, engine.ErrTooFew) {
		t.Errorf("vocabulary not known: %v, want ErrTooFew", err)
	}
	c.Vocab = vocab
	got, err := c.Score(t.Context(), [][]int{{1, 2, 3}}, vocab+10)
	if err != nil || len(got[0][1].Top) != vocab {
		t.Errorf("vocabulary known: %v", err)
	}
	c.Vocab = vocab - 1
	if _, err := c.Score(t.Context(), [][]int{{1, 2, 3}}, vocab); !errors.Is(err, engine.ErrToken) {
		t.Errorf("id beyond the vocabulary: %v, want ErrToken", err)
	}
}

func TestScoreBoundsConcurrency(t *testing.T) {
	gate := make(chan struct{})
	s := enginetest.New(t, &enginetest.Server{Logits: logits, Gate: gate})
	c := client(s)
	c.Concurrency = 3
	done := make(chan error)
	go func() {
		_, err := c.Score(t.Context(), slices.Repeat([][]int{{1, 2}}, 20), 2)
		done <- err
	}()
	for range 20 {
		gate <- struct{}{}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := s.MostInFlight(); got > 3 {
		t.Errorf("%d requests at once, want at most 3", got)
	}
}

func TestStatusErrors(t *testing.T) {
	for _, tt := range []struct {
		file    string
		code    int
		message string
	}{
		{"vllm-0.32.0/error_400_prompt_logprobs_too_large.json", 400, "greater than max allowed: 20"},
		{"vllm-0.32.0/error_401_missing_api_key.json", 401, "Unauthorized"},
		{"vllm-0.32.0/error_404_unknown_route.json", 404, "Not Found"},
		{"vllm-0.32.0/error_404_unknown_model.json", 404, "does not exist"},
		{"vllm-0.32.0/error_400_token_negative.json", 400, "validation errors"},
		{"llama.cpp-11434/error_400_too_long.json", 400, "exceeds the available context size"},
	} {
		_, err := recorded(t, tt.file, tt.code).Score(t.Context(), [][]int{{1, 2}}, 21)
		if !engine.IsStatus(err, tt.code) || !strings.Contains(err.Error(), tt.message) {
			t.Errorf("%s: got %v, want HTTP %d with %q", tt.file, err, tt.code, tt.message)
		}
	}
}

// trip is a transport that answers from a function.
type trip func(*http.Request) (*http.Response, error)

func (f trip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func answer(code int, body string, headers ...string) *http.Response {
	h := http.Header{}
	for i := 0; i+1 < len(headers); i += 2 {
		h.Set(headers[i], headers[i+1])
	}
	return &http.Response{StatusCode: code, Header: h, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body))}
}

func TestRetries(t *testing.T) {
	refused := fmt.Errorf("dial: %w", syscall.ECONNREFUSED)
	for _, tt := range []struct {
		name  string
		fails int // requests that fare badly first; -1 = all
		reply func() (*http.Response, error)
		tries int
		waits time.Duration // at least
		ok    bool
	}{
		{"503 twice", 2, func() (*http.Response, error) { return answer(503, ""), nil }, 3, 150 * time.Millisecond, true},
		{"429 with a wish", 1, func() (*http.Response, error) { return answer(429, "", "Retry-After", "4"), nil }, 2, 4 * time.Second, true},
		{"502", 1, func() (*http.Response, error) { return answer(502, ""), nil }, 2, 0, true},
		{"connection refused", 3, func() (*http.Response, error) { return nil, refused }, 4, 350 * time.Millisecond, true},
		{"500 is final", -1, func() (*http.Response, error) { return answer(500, ""), nil }, 1, 0, false},
		{"400 is final", -1, func() (*http.Response, error) { return answer(400, ""), nil }, 1, 0, false},
		{"refused for good", -1, func() (*http.Response, error) { return nil, refused }, 0, 25 * time.Second, false},
		{"absurd wish", -1, func() (*http.Response, error) { return answer(429, "", "Retry-After", "99999999"), nil }, 0, 10 * time.Second, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tries, began := 0, time.Now()
				c := engine.Client{URL: "http://engine", HTTP: &http.Client{Transport: trip(func(*http.Request) (*http.Response, error) {
					tries++
					if tt.fails < 0 || tries <= tt.fails {
						return tt.reply()
					}
					return answer(200, `{"version":"1"}`), nil
				})}}
				_, err := c.Version(t.Context())
				took := time.Since(began)
				if (err == nil) != tt.ok || (tt.tries > 0 && tries != tt.tries) || took < tt.waits || took > 30*time.Second {
					t.Errorf("%d tries in %v: %v; want ok %v, %d tries, at least %v and at most 30 s", tries, took, err, tt.ok, tt.tries, tt.waits)
				}
			})
		})
	}
}

func TestRetryEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c := engine.Client{URL: "http://engine", HTTP: &http.Client{Transport: trip(func(*http.Request) (*http.Response, error) {
			return answer(503, "warming up"), nil
		})}}
		began := time.Now()
		_, err := c.Version(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !engine.IsStatus(err, 503) {
			t.Errorf("got %v, want the deadline and the last answer", err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("took %v after a deadline of 1 s", took)
		}
	})
}

func FuzzScoreAnswer(f *testing.F) {
	for _, file := range []string{
		"vllm-0.32.0/completion_prompt_logprobs.json", "vllm-0.32.0/completion_prompt_logprobs_0.json",
		"vllm-0.32.0/completion_batch_two_token_prompts.json", "llama.cpp-11434/completion.json",
	} {
		b, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"choices":[{"prompt_logprobs":[null,{"20":{"logprob":NaN}},{"30":{"logprob":1e999}}]}]}`))
	f.Add([]byte(`{"choices":[{"prompt_logprobs":[]}]}`))
	prompt := []int{10, 20, 30, 40, 300}
	f.Fuzz(func(t *testing.T, body []byte) {
		c := engine.Client{URL: "http://engine", HTTP: &http.Client{Transport: trip(func(*http.Request) (*http.Response, error) {
			return answer(200, string(body)), nil
		})}, Patience: time.Nanosecond}
		got, err := c.Score(t.Context(), [][]int{prompt}, 3)
		if err != nil {
			return
		}
		if err := engine.CheckPositions(0, prompt, got[0], 3, 0); err != nil {
			t.Errorf("accepted what its own check refuses: %v", err)
		}
	})
}
