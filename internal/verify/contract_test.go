package verify

import (
	"bytes"
	"encoding/json"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"tarbert/internal/engine"
	"tarbert/internal/gate"
	"tarbert/internal/reference"
	"tarbert/internal/reference/server"
	"tarbert/internal/reference/tokenizer"
)

const trained = "../cli/testdata/trained"

// endpoint is the reference server on the trained model with requests and
// answers passed through change; nil = none.
func endpoint(t *testing.T, request, answer func(path string, m map[string]any)) *engine.Client {
	t.Helper()
	m, err := reference.Load(trained, reference.Options{Precision: reference.F32, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Load(trained)
	if err != nil {
		t.Fatal(err)
	}
	inner := server.New(m, tok, server.Options{Model: "m"})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		edit := func(b []byte, f func(string, map[string]any)) []byte {
			var v map[string]any
			if f == nil || json.Unmarshal(b, &v) != nil {
				return b
			}
			f(r.URL.Path, v)
			out, err := json.Marshal(v)
			if err != nil {
				panic(err) // it was JSON
			}
			return out
		}
		b, _ := io.ReadAll(r.Body)
		b = edit(b, request)
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
		rec := httptest.NewRecorder()
		inner.ServeHTTP(rec, r)
		w.WriteHeader(rec.Code)
		_, _ = w.Write(edit(rec.Body.Bytes(), answer))
	}))
	t.Cleanup(func() { s.Close(); inner.Close() })
	return &engine.Client{URL: s.URL, Model: "m", Vocab: 264}
}

var probe = ProbeOptions{Prompt: []int{'2', '1', '7', '+', '9', '0', '4', '='}, Text: "217+904=", Top: 20, Vocab: 264, EOS: []int{258}}

func observe(t *testing.T, c *engine.Client) Observed {
	t.Helper()
	o, err := Observe(t.Context(), c, probe)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func addPromptTokens(m map[string]any, n float64) {
	if u, ok := m["usage"].(map[string]any); ok {
		u["prompt_tokens"] = u["prompt_tokens"].(float64) + n
	}
}

func choicesOf(m map[string]any) []map[string]any {
	var out []map[string]any
	list, _ := m["choices"].([]any)
	for _, ch := range list {
		if c, ok := ch.(map[string]any); ok {
			out = append(out, c)
		}
	}
	return out
}

// eachLogProb changes the log-probabilities of an answer's first token.
func eachLogProb(m map[string]any, f func(float64) float64) {
	for _, ch := range m["choices"].([]any) {
		lp, ok := ch.(map[string]any)["logprobs"].(map[string]any)
		if !ok || lp["top_logprobs"] == nil {
			continue
		}
		for i, top := range lp["top_logprobs"].([]any) {
			for name, v := range top.(map[string]any) {
				top.(map[string]any)[name] = f(v.(float64))
			}
			if v, ok := lp["token_logprobs"].([]any)[i].(float64); ok {
				lp["token_logprobs"].([]any)[i] = f(v)
			}
		}
	}
}

func TestContractOfRealAndBrokenEndpoints(t *testing.T) {
	ref := observe(t, endpoint(t, nil, nil))
	if len(ref.Errors) > 0 {
		t.Fatalf("a good endpoint: %v", ref.Errors)
	}
	for name, problem := range ref.Parameters {
		if problem != "" {
			t.Errorf("the reference server does not honour %s: %s", name, problem)
		}
	}
	drop := func(names ...string) func(string, map[string]any) {
		return func(_ string, m map[string]any) {
			for _, n := range names {
				delete(m, n)
			}
		}
	}
	var half bool // whether the request in flight is at temperature 0.5
	calls := 0
	for _, c := range []struct {
		name            string
		request, answer func(string, map[string]any)
		want            gate.Verdict
		check, says     string
	}{
		{"the same", nil, nil, gate.Pass, "", ""},
		{"a BOS in the template", nil, func(p string, m map[string]any) {
			if strings.Contains(p, "chat") {
				addPromptTokens(m, 1)
			}
		}, gate.Fail, "template", "always the same: a BOS"},
		{"add_bos_token on text", nil, func(p string, m map[string]any) {
			if !strings.Contains(p, "chat") {
				addPromptTokens(m, 1)
			}
		}, gate.Fail, "prompt", "adds or cuts"},
		{"logit_bias dropped", drop("logit_bias"), nil, gate.Fail, "parameters", "logit_bias: a bias of 100"},
		{"seed dropped", drop("seed"), nil, gate.Fail, "parameters", "seed"},
		{"stop dropped", drop("stop"), nil, gate.Fail, "parameters", "stop"},
		{"max_tokens dropped", drop("max_tokens"), nil, gate.Fail, "parameters", "max_tokens"},
		{"processed log-probabilities", func(_ string, m map[string]any) { half = m["temperature"] == 0.5 }, func(_ string, m map[string]any) {
			if half && m["choices"] != nil {
				eachLogProb(m, func(v float64) float64 { return 1.8 * v })
			}
		}, gate.Inconclusive, "meaning", "--logprobs-mode raw_logprobs"},
		{"filtered to the top", nil, func(_ string, m map[string]any) {
			if m["choices"] != nil {
				eachLogProb(m, func(v float64) float64 {
					if v < -0.7 {
						return -1e9
					}
					return v
				})
			}
		}, gate.Inconclusive, "meaning", "enable_reduce_sample"},
		{"a reduced sampler", nil, func(_ string, m map[string]any) {
			for _, ch := range choicesOf(m) {
				if ch["prompt_logprobs"] == nil && ch["logprobs"] != nil { // only what is generated is normalised anew
					eachLogProb(m, func(v float64) float64 { return min(v+0.12, -1e-9) })
				}
			}
		}, gate.Inconclusive, "meaning", "enable_reduce_sample"},
		{"another vocabulary", nil, func(p string, m map[string]any) {
			if ids, ok := m["tokens"].([]any); ok && strings.HasSuffix(p, "tokenize") {
				ids[0] = ids[0].(float64) + 1
			}
		}, gate.Inconclusive, "vocabulary", "token ids mean different texts"},
		{"end of text ignored", func(_ string, m map[string]any) { m["ignore_eos"] = true }, nil, gate.Fail, "parameters", "end of text"},
		{"keys by text", drop("return_tokens_as_token_ids"), nil, gate.Inconclusive, "meaning", "return_tokens_as_token_ids"},
		{"another answer each time", nil, func(_ string, m map[string]any) {
			if calls++; m["choices"] != nil {
				eachLogProb(m, func(v float64) float64 { return v - float64(calls%2) })
			}
		}, gate.Inconclusive, "meaning", "two equal requests differ"},
		{"a shorter context", nil, func(p string, m map[string]any) {
			if data, ok := m["data"].([]any); ok && strings.HasSuffix(p, "models") {
				data[0].(map[string]any)["max_model_len"] = 64
			}
		}, gate.Fail, "context", "--max-model-len"},
	} {
		t.Run(c.name, func(t *testing.T) {
			checks := CheckContract(ref, observe(t, endpoint(t, c.request, c.answer)))
			got := gate.Of(checks...)
			if got.Verdict != c.want || !strings.Contains(got.Reason, c.says) || !strings.Contains(got.Reason, c.check) {
				t.Errorf("%s: %s; want %s by %q saying %q", got.Verdict, got.Reason, c.want, c.check, c.says)
			}
		})
	}
	cachedSide := ref
	cachedSide.Flags = map[string]string{engine.FlagPrefixCaching: "True"}
	for _, c := range []struct {
		name   string
		shift  float64
		strict bool
		want   gate.Verdict
		says   string
	}{
		{"a cache that changes nothing", 0.01, false, gate.Pass, "prefix caching is on"},
		{"a cache that changes numbers", 0.9, false, gate.Inconclusive, "--no-enable-prefix-caching"},
		{"any cache, strictly", 0, true, gate.Inconclusive, "--no-enable-prefix-caching"},
	} {
		o := cachedSide
		o.CacheShift, o.Strict = c.shift, c.strict
		checks := meaningChecks("candidate", o)
		if checks[0].Verdict != c.want || !strings.Contains(checks[0].Detail, c.says) {
			t.Errorf("%s: %+v", c.name, checks[0])
		}
	}
	speculative := ref
	speculative.Speculative = true
	if got := gate.Of(CheckContract(ref, speculative)...); got.Verdict != gate.Inconclusive || !strings.Contains(got.Reason, "--speculative-config") {
		t.Errorf("speculative: %s: %s", got.Verdict, got.Reason)
	}
	cached := ref
	cached.RepeatShift, cached.Cached = 1, 16
	if got := gate.Of(CheckContract(ref, cached)...); got.Verdict != gate.Inconclusive || !strings.Contains(got.Reason, "--no-enable-prefix-caching") {
		t.Errorf("prefix cache: %s: %s", got.Verdict, got.Reason)
	}
}

// The whole run over HTTP, with every part, and the verdict again from its file.
func TestEveryPartOverHTTP(t *testing.T) {
	c := endpoint(t, nil, nil)
	var prompts [][]int
	var from []int
	for a := range 24 {
		p := []int{'1' + a%9, '1', '7', '+', '9', '0' + a%10, '4', '='}
		prompts, from = append(prompts, p), append(from, len(p))
	}
	prompts, err := BuildPrompts(t.Context(), c, prompts, PromptOptions{Seed: 1, MaxTokens: 24})
	if err != nil {
		t.Fatal(err)
	}
	in := verification(t.TempDir(), c, prompts)
	in.From, in.Vocab, in.Sequential = from, 264, true
	in.Reference.Scorer, in.Floor.Scorer = c, c
	in.Spec.Margin.KL, in.Spec.Margin.Ratio = 0.005, 0
	in.Probe = probe
	in.Decode = DecodeOptions{Prompts: 20, Cuts: 4, Tokens: 6}
	in.Reverse = ReverseOptions{Prompts: 20, MaxTokens: 24}
	in.Load = LoadOptions{Prompts: 20, At: func(n int) Scorer { b := *c; b.Concurrency = n; return &b }, Replicas: []Side{{Scorer: c}}}
	r := run(t, in)
	for _, ch := range r.Gate.Checks {
		if ch.Verdict == gate.Fail {
			t.Errorf("%s: %s", ch.Name, ch.Detail)
		}
	}
	if len(r.Parts) != 3 || r.Parts[0].Name != "decode" || r.Parts[1].Name != "load 32" || r.Parts[2].Name != "replica 0" {
		t.Fatalf("parts %d; %s", len(r.Parts), r.Failure)
	}
	if r.Contract == nil || r.Reverse == nil || r.Reverse.Tokens == 0 || r.Parts[0].Tokens < 256 || r.Parts[0].KL.Value != 0 {
		t.Errorf("contract %v, reverse %+v, decode %d tokens at %g", r.Contract != nil, r.Reverse, r.Parts[0].Tokens, r.Parts[0].KL.Value)
	}
	again, err := Recompute(r.Evidence)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(r)
	b, _ := json.Marshal(again)
	if !bytes.Equal(a, b) {
		t.Error("recomputed differently")
	}
	raw, err := os.ReadFile(r.Evidence)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseEvidence(bytes.Replace(raw, []byte(`"name":"decode"`), []byte(`"name":"decode","parts":[{}]`), 1)); err == nil {
		t.Error("a part with parts is accepted")
	}
}

// Numbers that mean nothing are not collected, and the run says why.
func TestMeaninglessEndpointIsNotScored(t *testing.T) {
	c := endpoint(t, func(_ string, m map[string]any) { delete(m, "return_tokens_as_token_ids") }, nil)
	in := verification(t.TempDir(), c, toy{}.write(20, 20, 1))
	in.Reference.Scorer, in.Probe = c, probe
	r := run(t, in)
	if r.Gate.Verdict != gate.Inconclusive || r.Prompts != 0 || !strings.Contains(r.Gate.Reason, "return_tokens_as_token_ids") {
		t.Errorf("%s: %s", r.Gate.Verdict, r.Gate.Reason)
	}
	if again, err := Recompute(r.Evidence); err != nil || again.Gate.Verdict != gate.Inconclusive {
		t.Errorf("recomputed: %v", err)
	}
}

func TestSurpriseEvidence(t *testing.T) {
	for _, c := range []struct {
		count    int
		expected float64
		alarm    bool
	}{{0, 0.1, false}, {1, 0.1, false}, {5, 0.1, true}, {5, 5, false}, {40, 5, true}} {
		if e := poissonE(c.count, c.expected); (e >= 1/alpha) != c.alarm || math.IsInf(e, 0) {
			t.Errorf("%d of %g expected: e-value %g", c.count, c.expected, e)
		}
	}
}
