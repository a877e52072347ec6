package engine_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"tarbert/internal/engine"
)

// sglang answers /generate, /v1/models and /get_server_info as SGLang's
// documentation shows, with fixed numbers; nothing here ran on a real SGLang.
func sglang(spoil func(meta map[string]any)) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"data":[{"id":"m","owned_by":"sglang","max_model_len":64}]}`))
	})
	mux.HandleFunc("GET /get_server_info", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"model_path":"/m","version":"0.5.6","disable_radix_cache":false,"kv_cache_dtype":"auto","speculative_algorithm":null}`))
	})
	mux.HandleFunc("POST /generate", func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			IDs []int `json:"input_ids"`
		}
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		tokens, tops := []any{[]any{nil, q.IDs[0], nil}}, []any{nil}
		for _, id := range q.IDs[1:] {
			tokens = append(tokens, []any{-0.5, id, nil})
			tops = append(tops, []any{[]any{-0.5, id, nil}, []any{-1.5, id + 1, nil}})
		}
		meta := map[string]any{"finish_reason": map[string]any{"type": "length"}, "prompt_tokens": len(q.IDs), "completion_tokens": 1,
			"input_token_logprobs": tokens, "input_top_logprobs": tops,
			"output_token_logprobs": []any{[]any{-0.25, 9, nil}}, "output_top_logprobs": []any{[]any{[]any{-0.25, 9, nil}, []any{-2, 3, nil}}}}
		if spoil != nil {
			spoil(meta)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"text": "x", "meta_info": meta})
	})
	return mux
}

func TestSGLangIsScoredOverGenerate(t *testing.T) {
	s := httptest.NewServer(sglang(nil))
	defer s.Close()
	c := &engine.Client{URL: s.URL, Model: "m"}
	a, err := c.Open(t.Context(), []int{5, 6, 7}, 2)
	if err != nil || a.Path != engine.SGLangGenerate {
		t.Fatal(a, err)
	}
	got, err := a.Score(t.Context(), [][]int{{5, 6, 7}}, 2)
	if err != nil || got[0][2].Token != 7 || got[0][2].LogProb != -0.5 || got[0][2].Top[1].Token != 8 {
		t.Errorf("%+v, %v", got, err)
	}
	wrote, err := a.Complete(t.Context(), engine.CompletionRequest{Tokens: []int{5, 6}, MaxTokens: 1, TokenIDs: true})
	if err != nil || len(wrote[0].TokenIDs) != 1 || wrote[0].TokenIDs[0] != 9 {
		t.Errorf("%+v, %v", wrote, err)
	}
	id, err := c.Identify(t.Context())
	if err != nil || id.Engine != "sglang" || id.Version != "0.5.6" || id.MaxModelLen != 64 || id.Flags[engine.FlagPrefixCaching] != "True" || id.Flags[engine.FlagSpeculative] != "" {
		t.Errorf("%+v, %v", id, err)
	}
	for name, spoil := range map[string]func(map[string]any){
		"no input logprobs":  func(m map[string]any) { delete(m, "input_token_logprobs") },
		"one too few":        func(m map[string]any) { m["input_top_logprobs"] = m["input_top_logprobs"].([]any)[1:] },
		"another token":      func(m map[string]any) { m["input_token_logprobs"].([]any)[1] = []any{-0.5, 60, nil} },
		"null in the middle": func(m map[string]any) { m["input_token_logprobs"].([]any)[1] = []any{nil, 6, nil} },
		"a BOS more":         func(m map[string]any) { m["prompt_tokens"] = 4 },
	} {
		bad := httptest.NewServer(sglang(spoil))
		if _, err := (&engine.Client{URL: bad.URL, Model: "m"}).Open(t.Context(), []int{5, 6, 7}, 2); err == nil || !strings.Contains(err.Error(), "no teacher-forced") {
			t.Errorf("%s: %v", name, err)
		}
		bad.Close()
	}
}
