package server

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"tarbert/internal/reference/tokenizer"
)

// fake is a model whose logits are a hash of everything before them, so that a
// wrong cache, a lost token or a mixed-up batch shows at once.
type fake struct {
	vocab int
	// favour maps text so far (as bytes below 256) to the next byte; nil: no favourite.
	favour func(tokens []int) (int, bool)
	// gate, if set, is received from before every step.
	gate chan struct{}

	mu      sync.Mutex
	batches []int // inputs of every step
	fail    func(in []input) error
}

type fakeSequence struct{ tokens []int }

func (s *fakeSequence) Len() int { return len(s.tokens) }

func (f *fake) newSequence() sequence { return &fakeSequence{} }

func (f *fake) forward(ctx context.Context, in []input) ([][][]float32, error) {
	if f.gate != nil {
		select {
		case <-f.gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	f.mu.Lock()
	f.batches = append(f.batches, len(in))
	fail := f.fail
	f.mu.Unlock()
	if fail != nil {
		if err := fail(in); err != nil {
			return nil, err
		}
	}
	out := make([][][]float32, len(in))
	for i, x := range in {
		s := x.seq.(*fakeSequence)
		for k, t := range x.tokens {
			s.tokens = append(s.tokens, t)
			if x.all || k == len(x.tokens)-1 {
				out[i] = append(out[i], f.logits(s.tokens))
			}
		}
	}
	return out, nil
}

func (f *fake) logits(tokens []int) []float32 {
	h := uint64(len(tokens))
	for _, t := range tokens {
		h = mix(h ^ uint64(t+1)*0x9E3779B97F4A7C15)
	}
	row := make([]float32, f.vocab)
	for i := range row {
		row[i] = float32(mix(h+uint64(i)*0xD1B54A32D192ED03)>>40) / (1 << 21) // 0 … 8
	}
	for i := 256; i < min(f.vocab, 259); i++ {
		row[i] = -20 // ends of text only where they are asked for
	}
	if f.favour != nil {
		if id, ok := f.favour(tokens); ok {
			row[id] = 40
		}
	}
	return row
}

const (
	endOfText = 256
	imStart   = 257
	imEnd     = 258
)

// byteTokenizer is the tokenizer of the tests: bytes and three special tokens.
func byteTokenizer(t testing.TB) *tokenizer.Tokenizer {
	t.Helper()
	dir := t.TempDir()
	err := tokenizer.WriteByteLevel(dir, tokenizer.ByteLevelFiles{
		Added: []tokenizer.AddedToken{
			{Content: "<|endoftext|>", Special: true}, {Content: "<|im_start|>", Special: true}, {Content: "<|im_end|>", Special: true},
		},
		EOS: "<|im_end|>", PAD: "<|endoftext|>",
		ChatTemplate: "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}" +
			"{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
	})
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// start serves a fake the way the recorded vLLM was served.
func start(t testing.TB, f *fake, change func(*Options)) (*Server, string) {
	t.Helper()
	if f.vocab == 0 {
		f.vocab = 512
	}
	o := Options{Model: "tiny", Root: "/models/tiny", Version: "0.32.0", Context: 256, Drain: 5 * time.Second}
	if change != nil {
		change(&o)
	}
	s := newServer(f, f.vocab, 512, byteTokenizer(t), o)
	h := httptest.NewServer(s)
	t.Cleanup(func() {
		h.CloseClientConnections()
		h.Close()
		s.Close()
	})
	return s, h.URL
}

// post sends a body and returns status and answer.
func post(t testing.TB, url, path string, body any) (int, string) {
	t.Helper()
	text, ok := body.(string)
	if !ok {
		b, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		text = string(b)
	}
	return send(t, http.MethodPost, url+path, text, "application/json")
}

func send(t testing.TB, method, url, body, contentType string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", contentType)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// complete posts to /v1/completions and decodes a successful answer.
func complete(t testing.TB, url string, body map[string]any) completionAnswer {
	t.Helper()
	if _, ok := body["model"]; !ok {
		body["model"] = "tiny"
	}
	code, text := post(t, url, "/v1/completions", body)
	if code != http.StatusOK {
		t.Fatalf("status %d: %s", code, text)
	}
	var a completionAnswer
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return a
}

type completionAnswer struct {
	Choices []struct {
		Index    int    `json:"index"`
		Text     string `json:"text"`
		Finish   string `json:"finish_reason"`
		Reason   any    `json:"stop_reason"`
		TokenIDs []int  `json:"token_ids"`
		Logprobs *struct {
			Offset []int                 `json:"text_offset"`
			Values []*float64            `json:"token_logprobs"`
			Tokens []string              `json:"tokens"`
			Top    []*map[string]float64 `json:"top_logprobs"`
		} `json:"logprobs"`
		PromptLogprobs []map[string]struct {
			Logprob float64 `json:"logprob"`
			Rank    int     `json:"rank"`
		} `json:"prompt_logprobs"`
		PromptIDs []int `json:"prompt_token_ids"`
	} `json:"choices"`
	Usage struct {
		Prompt     int `json:"prompt_tokens"`
		Completion int `json:"completion_tokens"`
	} `json:"usage"`
}

// say makes a fake that continues any prompt with text and then ends it.
func say(prompt int, text string) func([]int) (int, bool) {
	return func(tokens []int) (int, bool) {
		at := len(tokens) - prompt
		switch {
		case at < 0:
			return 0, false
		case at < len(text):
			return int(text[at]), true
		}
		return imEnd, true
	}
}
