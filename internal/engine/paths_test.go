package engine_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"tarbert/internal/engine"
	"tarbert/internal/reference"
	"tarbert/internal/reference/server"
	"tarbert/internal/reference/tokenizer"
)

const trained = "../cli/testdata/trained"

// gateway stands between a client and the reference server and changes what
// passes: a real engine behind a misbehaving middle.
type gateway struct {
	http.Handler
	drop    []string // members of requests that do not arrive
	refuse  string   // answer to a token-id prompt
	missing string   // a route that is not there
}

func (g gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if g.missing != "" && strings.HasPrefix(r.URL.Path, g.missing) {
		http.NotFound(w, r)
		return
	}
	if r.Method == http.MethodPost {
		b, _ := io.ReadAll(r.Body)
		var q map[string]json.RawMessage
		if err := json.Unmarshal(b, &q); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if p := bytes.TrimSpace(q["prompt"]); g.refuse != "" && len(p) > 0 && p[0] == '[' {
			w.WriteHeader(http.StatusUnprocessableEntity)
			_, _ = io.WriteString(w, g.refuse)
			return
		}
		for _, name := range g.drop {
			delete(q, name)
		}
		b, _ = json.Marshal(q)
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
	}
	g.Handler.ServeHTTP(w, r)
}

func trainedServer(t *testing.T) (http.Handler, *reference.Model) {
	t.Helper()
	m, err := reference.Load(trained, reference.Options{Precision: reference.F32, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Load(trained)
	if err != nil {
		t.Fatal(err)
	}
	s := server.New(m, tok, server.Options{Model: "m"})
	t.Cleanup(s.Close)
	return s, m
}

// native answers /completion as llama-server 11434 does, from the model itself,
// and nothing else of use. hidden are tokens that it writes without probabilities,
// as it does parts of a character.
func native(m *reference.Model, hidden func(token int, forced bool) bool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /completion", func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			Prompt []int        `json:"prompt"`
			NProbs int          `json:"n_probs"`
			Bias   [][2]float64 `json:"logit_bias"`
		}
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		got, err := m.Forward(r.Context(), []reference.Input{{Seq: m.NewSequence(), Tokens: q.Prompt}})
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		logits := got[0][0]
		token := reference.Sampler{}.Pick(logits, 0)
		if len(q.Bias) > 0 {
			token = int(q.Bias[0][0])
		}
		p := reference.LogProbs(logits, token, q.NProbs)
		var top []any
		for _, e := range p.Top {
			top = append(top, map[string]any{"id": e.Token, "logprob": e.LogProb})
		}
		probs := []any{map[string]any{"id": token, "logprob": p.LogProb, "top_logprobs": top}}
		content := "x"
		if hidden(token, len(q.Bias) > 0) {
			probs, content = nil, ""
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"content": content, "tokens_evaluated": len(q.Prompt), "completion_probabilities": probs})
	})
	return mux
}

func TestOpenTakesThePathThatIsOpen(t *testing.T) {
	whole, m := trainedServer(t)
	prompt := []int{'2', '1', '7', '+', '9', '0', '4', '='}
	want, err := m.Score(t.Context(), prompt, 5)
	if err != nil {
		t.Fatal(err)
	}
	end := func(token int, forced bool) bool { return token == 258 && !forced } // the end of text carries none
	parts := func(token int, forced bool) bool { return !forced || token == '1' }
	for _, c := range []struct {
		name   string
		h      http.Handler
		vocab  int
		path   engine.Path
		closed int
		says   string // in the reasons
	}{
		{"an engine", whole, 0, engine.PromptLogProbs, 0, ""},
		{"a gateway that drops prompt_logprobs", gateway{Handler: whole, drop: []string{"prompt_logprobs"}}, 0, engine.EchoLogProbs, 1, "dropped by a gateway"},
		{"one that drops echo too", gateway{Handler: whole, drop: []string{"prompt_logprobs", "echo"}}, 0, engine.ForcedPrefixes, 4, "the field is ignored"},
		{"llama-server, vocabulary known", native(m, end), 264, engine.NativePrefixes, 3, "no such route"},
		{"llama-server, its choices and the first token are parts of characters", native(m, parts), 264, engine.NativePrefixes, 3, "no such route"},
		{"llama-server, vocabulary not known", native(m, end), 0, engine.NativePrefixes, 3, "no such route"},
		{"a gateway that refuses token ids", gateway{Handler: whole, refuse: "prompt: data did not match any variant of untagged enum StringOrArray"}, 0, "", 5, "refuses token-id prompts"},
		{"one that drops all", gateway{Handler: whole, drop: []string{"prompt_logprobs", "echo", "logit_bias"}}, 0, "", 5, "logit_bias is not honoured"},
		{"no token ids as keys", gateway{Handler: whole, drop: []string{"prompt_logprobs", "return_tokens_as_token_ids"}}, 0, "", 5, "named by text"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := httptest.NewServer(c.h)
			defer s.Close()
			got, err := (&engine.Client{URL: s.URL, Model: "m", Vocab: c.vocab}).Open(t.Context(), prompt, 5)
			if c.path == "" {
				if !errors.Is(err, engine.ErrNoPath) || !strings.Contains(err.Error(), c.says) {
					t.Errorf("error %v, want one with %q", err, c.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var reasons []string
			for _, r := range got.Closed {
				reasons = append(reasons, r.Reason)
			}
			if got.Path != c.path || len(got.Closed) != c.closed || !strings.Contains(strings.Join(reasons, "\n"), c.says) {
				t.Fatalf("path %q, %d closed: %q; want %q, %d, %q", got.Path, len(got.Closed), reasons, c.path, c.closed, c.says)
			}
			scored, err := got.Score(t.Context(), [][]int{prompt, prompt[:3]}, 5)
			if err != nil {
				t.Fatal(err)
			}
			for at := 1; at < len(prompt); at++ {
				p := scored[0][at]
				if math.Abs(p.LogProb-want[at].LogProb) > 1e-5 || p.Top[0].Token != want[at].Top[0].Token || len(p.Top) != 5 {
					t.Errorf("position %d: %+v, want %+v", at, p, want[at])
				}
			}
		})
	}
}

func TestGenerateReadsWhatLlamaServerWrites(t *testing.T) {
	body, err := os.ReadFile("testdata/llama.cpp-11434/completion.json")
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }))
	defer s.Close()
	got, err := (&engine.Client{URL: s.URL, Model: "m"}).Generate(t.Context(), engine.GenerateRequest{Tokens: []int{1, 2, 3, 4, 5}, MaxTokens: 2, Top: 3})
	if err != nil {
		t.Fatal(err)
	}
	p := got[0].Positions
	if len(p) != 1 || p[0].Token != 296 || p[0].Top[2].Token != 130 || p[0].Rank != 1 || got[0].PromptTokens != 5 || got[0].Keys != engine.KeysID {
		t.Errorf("%+v", got[0])
	}
}

func TestNativeScorerReadsTheRecordedAnswer(t *testing.T) {
	body, err := os.ReadFile("testdata/llama.cpp-11434/completion_native_n_probs.json")
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }))
	defer s.Close()
	n := &engine.NativeScorer{Client: &engine.Client{URL: s.URL}}
	// It was recorded for a prompt of four tokens: another length is a prompt that changed.
	if _, err := n.Score(t.Context(), [][]int{{7, 312}}, 3); err == nil || !strings.Contains(err.Error(), "changed the prompt") {
		t.Errorf("one token sent, four read: %v", err)
	}
}

func FuzzGenerate(f *testing.F) {
	f.Add([]byte(`{"choices":[{"text":"a","logprobs":{"tokens":["token_id:1"],"token_logprobs":[-0.5],"top_logprobs":[{"token_id:1":-0.5}]}}],"usage":{"prompt_tokens":1}}`))
	f.Add([]byte(`{"choices":[{"logprobs":{"content":[{"id":1,"logprob":NaN,"top_logprobs":[{}]}]}}]}`))
	f.Add([]byte(`{"choices":[{"logprobs":{"tokens":["a"],"token_logprobs":[null],"top_logprobs":[null]}}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }))
		defer s.Close()
		got, err := (&engine.Client{URL: s.URL}).Generate(t.Context(), engine.GenerateRequest{Tokens: []int{1}, MaxTokens: 1, Top: 2, Echo: true})
		if err != nil {
			return
		}
		for _, p := range got[0].Positions {
			if p.LogProb > 0 || math.IsNaN(p.LogProb) || len(p.Top) > 2 {
				t.Errorf("accepted %+v", p)
			}
		}
	})
}
