package server

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tarbert/internal/reference"
)

// serveReference serves one of the golden models of package reference.
func serveReference(t *testing.T, name string, o Options) (*reference.Model, string) {
	t.Helper()
	m, err := reference.Load(filepath.Join("../testdata/golden", name), reference.Options{})
	if err != nil {
		t.Fatal(err)
	}
	o.Model = "tiny"
	s := New(m, byteTokenizer(t), o)
	h := httptest.NewServer(s)
	t.Cleanup(func() { h.Close(); s.Close() })
	return m, h.URL
}

// TestReferenceModelOverHTTP asks for what transformers computed from the same
// weights, and for what the model itself says when it is asked directly.
func TestReferenceModelOverHTTP(t *testing.T) {
	for _, name := range []string{"qwen3", "deepseek-v3"} {
		t.Run(name, func(t *testing.T) {
			m, url := serveReference(t, name, Options{MaxBatch: 7, MaxRunning: 4}) // chunked prefill
			b, err := os.ReadFile(filepath.Join("../testdata/golden", name, "golden.json"))
			if err != nil {
				t.Fatal(err)
			}
			var golden struct {
				Cases []struct{ Tokens, Greedy []int }
			}
			if err := json.Unmarshal(b, &golden); err != nil {
				t.Fatal(err)
			}
			if len(golden.Cases) == 0 {
				t.Fatal("no cases")
			}
			for i, c := range golden.Cases {
				a := complete(t, url, map[string]any{
					"prompt": c.Tokens, "max_tokens": len(c.Greedy), "temperature": 0, "ignore_eos": true,
					"return_token_ids": true, "prompt_logprobs": 3,
				}).Choices[0]
				if diff := cmp.Diff(c.Greedy, a.TokenIDs); diff != "" {
					t.Errorf("case %d: %s", i, diff)
				}
				scores, err := m.Score(t.Context(), c.Tokens, 3)
				if err != nil {
					t.Fatal(err)
				}
				for at := 1; at < len(c.Tokens); at++ {
					got := a.PromptLogprobs[at]
					actual := got[strconv.Itoa(c.Tokens[at])]
					if actual.Logprob != scores[at].LogProb || actual.Rank != scores[at].Rank {
						t.Errorf("case %d, position %d: %+v, want %+v", i, at, actual, scores[at])
					}
					for rank, top := range scores[at].Top {
						if g := got[strconv.Itoa(top.Token)]; g.Logprob != top.LogProb || g.Rank != rank+1 {
							t.Errorf("case %d, position %d, rank %d: %+v, want %+v", i, at, rank+1, g, top)
						}
					}
				}
			}
		})
	}
}

// TestReferenceModelIsBatchInvariant asks 32 sampled questions one by one and
// all at once: texts and every log-probability must be equal to the last bit.
func TestReferenceModelIsBatchInvariant(t *testing.T) {
	_, url := serveReference(t, "qwen3", Options{})
	ask := func(i int) completionAnswer {
		prompt := make([]int, 2+i%9)
		for k := range prompt {
			prompt[k] = (i*13 + k*7) % 256
		}
		return complete(t, url, map[string]any{
			"prompt": prompt, "max_tokens": 12, "seed": i, "logprobs": 2, "prompt_logprobs": 1,
			"return_token_ids": true, "return_tokens_as_token_ids": true, "ignore_eos": true,
		})
	}
	const n = 32
	alone, together := make([]completionAnswer, n), make([]completionAnswer, n)
	for i := range n {
		alone[i] = ask(i)
	}
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { together[i] = ask(i) })
	}
	wg.Wait()
	if diff := cmp.Diff(alone, together); diff != "" {
		t.Error(diff)
	}
	if slices.Equal(alone[0].Choices[0].TokenIDs, alone[9].Choices[0].TokenIDs) {
		t.Error("two questions have one answer: the case does not test what it should")
	}
}
