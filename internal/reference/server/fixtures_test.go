package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type recorded struct {
	File        string          `json:"file"`
	Method      string          `json:"method"`
	Path        string          `json:"path"`
	Request     json.RawMessage `json:"request"`
	Status      int             `json:"status"`
	ContentType *string         `json:"content_type"`
}

func recordings(t *testing.T) []recorded {
	t.Helper()
	b, err := os.ReadFile("testdata/vllm-0.32.0/INDEX.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []recorded
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	if len(all) < 40 {
		t.Fatalf("%d recordings", len(all))
	}
	return all
}

// answerOf replays a recorded request.
func answerOf(t *testing.T, url string, r recorded) (*http.Response, string) {
	t.Helper()
	body, kind := "", "application/json"
	if string(r.Request) != "null" {
		body = string(r.Request)
		var verbatim string
		if json.Unmarshal(r.Request, &verbatim) == nil {
			body = verbatim
		}
	}
	if r.File == "error_400_wrong_content_type.json" {
		kind = "text/plain"
	}
	req, err := http.NewRequestWithContext(t.Context(), r.Method, url+r.Path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", kind)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(b)
}

// TestAnswersLikeVLLM replays every recorded request. Errors must be equal byte
// for byte; answers must have the same members in the same order, the same
// types, and null in the same places.
func TestAnswersLikeVLLM(t *testing.T) {
	_, url := start(t, &fake{}, nil)
	for _, r := range recordings(t) {
		t.Run(r.File, func(t *testing.T) {
			b, err := os.ReadFile(filepath.Join("testdata/vllm-0.32.0", r.File))
			if err != nil {
				t.Fatal(err)
			}
			want := string(b)
			res, got := answerOf(t, url, r)
			if res.StatusCode != r.Status {
				t.Fatalf("status %d, want %d: %s", res.StatusCode, r.Status, got)
			}
			if r.ContentType != nil && !strings.HasPrefix(r.File, "metrics") && res.Header.Get("Content-Type") != *r.ContentType {
				t.Errorf("content type %q, want %q", res.Header.Get("Content-Type"), *r.ContentType)
			}
			switch {
			case strings.HasPrefix(r.File, "error_"), r.File == "version.json", r.File == "health.txt", r.File == "ping.txt", r.File == "load.json":
				if diff := cmp.Diff(want, got); diff != "" {
					t.Error(diff)
				}
			case strings.HasSuffix(r.File, ".sse"):
				if diff := cmp.Diff(streamShapes(t, want), streamShapes(t, got)); diff != "" {
					t.Error(diff)
				}
			case strings.HasSuffix(r.File, ".json"):
				if diff := cmp.Diff(shapeOf(t, want), shapeOf(t, got)); diff != "" {
					t.Errorf("%s\n%s", diff, got)
				}
			}
		})
	}
}

func streamShapes(t *testing.T, text string) []string {
	t.Helper()
	var out []string
	for _, line := range strings.Split(strings.TrimRight(text, "\n"), "\n\n") {
		data, ok := strings.CutPrefix(line, "data: ")
		if !ok {
			t.Fatalf("line %q", line)
		}
		if data == "[DONE]" {
			out = append(out, data)
			continue
		}
		out = append(out, shapeOf(t, data))
	}
	return out
}

// shapeOf prints a JSON value with its keys in order and its leaves' types.
// Runs of equal elements in a list are written once; objects keyed by tokens
// lose their keys.
func shapeOf(t *testing.T, text string) string {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader([]byte(text)))
	dec.UseNumber()
	s, err := shape(dec, "")
	if err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		t.Fatalf("more than one value in %s", text)
	}
	return s
}

func shape(dec *json.Decoder, key string) (string, error) {
	token, err := dec.Token()
	if err != nil {
		return "", err
	}
	switch x := token.(type) {
	case nil:
		return "null", nil
	case bool:
		return "bool", nil
	case string:
		if key == "object" || key == "role" || key == "type" {
			return x, nil
		}
		return "string", nil
	case json.Number:
		if key == "logprob" || key == "token_logprobs" {
			return "float", nil
		}
		return "number", nil
	case json.Delim:
		var parts []string
		for dec.More() {
			name := ""
			if x == '{' {
				k, err := dec.Token()
				if err != nil {
					return "", err
				}
				name = k.(string)
			}
			inner := name
			if x == '[' {
				inner = key
			}
			s, err := shape(dec, inner)
			if err != nil {
				return "", err
			}
			if x == '{' && (key == "prompt_logprobs" || key == "top_logprobs") && name != "token" && name != "logprob" && name != "bytes" {
				name = "*"
			}
			if x == '{' {
				s = name + ": " + s
			}
			if len(parts) == 0 || parts[len(parts)-1] != s {
				parts = append(parts, s)
			}
		}
		if _, err := dec.Token(); err != nil {
			return "", err
		}
		if x == '[' {
			if key == "bytes" || key == "token_ids" || key == "tokens" || key == "prompt_token_ids" {
				return "list", nil
			}
			return "[" + strings.Join(parts, ", ") + "]", nil
		}
		return "{\n" + strings.Join(parts, "\n") + "\n}", nil
	}
	return "", errors.New("not JSON")
}

func TestUnauthorized(t *testing.T) {
	_, url := start(t, &fake{}, func(o *Options) { o.APIKeys = []string{"one", "two"} })
	want, err := os.ReadFile("testdata/vllm-0.32.0/error_401_missing_api_key.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path, header string
		status       int
	}{
		{"/v1/models", "", http.StatusUnauthorized},
		{"/v1/models", "Bearer three", http.StatusUnauthorized},
		{"/v1/models", "Basic two", http.StatusUnauthorized},
		{"/v1/nope", "", http.StatusUnauthorized},
		{"/v1/models", "Bearer two", http.StatusOK},
		{"/health", "", http.StatusOK},
		{"/metrics", "", http.StatusOK},
		{"/version", "", http.StatusOK},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.header != "" {
			r.Header.Set("Authorization", c.header)
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != c.status {
			t.Errorf("%s with %q: %d, want %d", c.path, c.header, res.StatusCode, c.status)
		}
		if c.status == http.StatusUnauthorized && string(b) != string(want) {
			t.Errorf("%s with %q: %s, want %s", c.path, c.header, b, want)
		}
	}
}

// TestMetricsHaveVLLMsNames looks for the series that dashboards and gateways read.
func TestMetricsHaveVLLMsNames(t *testing.T) {
	_, url := start(t, &fake{}, nil)
	complete(t, url, map[string]any{"prompt": []int{1, 2, 3}, "max_tokens": 4, "temperature": 0})
	want := []string{
		`vllm:num_requests_running{engine="0",model_name="tiny"} 0`,
		`vllm:num_requests_waiting{engine="0",model_name="tiny"} 0`,
		`vllm:kv_cache_usage_perc{engine="0",model_name="tiny"} 0`,
		`vllm:prompt_tokens_total{engine="0",model_name="tiny"} 3`,
		`vllm:generation_tokens_total{engine="0",model_name="tiny"} 4`,
		`vllm:request_success_total{engine="0",finished_reason="length",model_name="tiny"} 1`,
		`vllm:num_preemptions_total{engine="0",model_name="tiny"} 0`,
		`vllm:prefix_cache_hits_total{engine="0",model_name="tiny"} 0`,
		`vllm:time_to_first_token_seconds_count{engine="0",model_name="tiny"} 1`,
		`vllm:inter_token_latency_seconds_count{engine="0",model_name="tiny"} 3`,
		`vllm:e2e_request_latency_seconds_count{engine="0",model_name="tiny"} 1`,
		`vllm:time_to_first_token_seconds_bucket{engine="0",model_name="tiny",le="0.001"}`,
		`tarbert_engine_steps_total{engine="0",model_name="tiny"} 4`,
		`http_requests_total{engine="0",handler="/v1/completions",method="POST",model_name="tiny",status="2xx"} 1`,
	}
	missing := ""
	defer func() {
		if missing != "" {
			t.Error("missing:\n" + missing)
		}
	}()
	// The last gauges and counters are set just after the answer has left.
	waitFor(t, func() bool {
		_, got := send(t, http.MethodGet, url+"/metrics", "", "application/json")
		left := slices.DeleteFunc(slices.Clone(want), func(w string) bool { return strings.Contains(got, w) })
		missing = strings.Join(left, "\n")
		return len(left) == 0
	})
}
