package engine_test

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tarbert/internal/engine"
	"tarbert/internal/engine/enginetest"
)

func TestCompleteReadsVLLM(t *testing.T) {
	two, err := recorded(t, "vllm-0.32.0/completion_n2_seed.json", 200).Complete(t.Context(), engine.CompletionRequest{Prompt: "x", N: 2})
	if err != nil {
		t.Fatal(err)
	}
	want := []engine.Completion{{Text: "\ufffd tiny", FinishReason: "length"}, {Text: "-\x05", FinishReason: "length"}}
	if diff := cmp.Diff(want, two); diff != "" {
		t.Errorf("n=2 (-want +got):\n%s", diff)
	}
	ids, err := recorded(t, "vllm-0.32.0/completion_return_token_ids.json", 200).Complete(t.Context(),
		engine.CompletionRequest{Tokens: []int{10, 20, 30, 40, 300}, TokenIDs: true})
	if err != nil || !slices.Equal(ids[0].TokenIDs, []int{133, 296, 341}) {
		t.Errorf("token ids: %+v, %v", ids, err)
	}
	chat, err := recorded(t, "vllm-0.32.0/chat.json", 200).Chat(t.Context(), []engine.Message{{Role: "user", Content: "hi"}}, 3)
	if err != nil || chat.FinishReason != "length" {
		t.Errorf("chat: %+v, %v", chat, err)
	}
	for file, tokens := range map[string]int{
		"vllm-0.32.0/completion_stream.sse": 3, "vllm-0.32.0/completion_stream_nousage.sse": -1, "llama.cpp-11434/completion_stream.sse": 2,
	} {
		got, err := recorded(t, file, 200).CompleteStream(t.Context(), engine.CompletionRequest{Prompt: "x"})
		if err != nil || got.FinishReason != "length" || got.CompletionTokens != tokens {
			t.Errorf("%s: %+v, %v; want %d tokens", file, got, err, tokens)
		}
	}
	if got, err := recorded(t, "vllm-0.32.0/chat_stream.sse", 200).ChatStream(t.Context(), nil, 3); err != nil || got.CompletionTokens != 3 {
		t.Errorf("chat stream: %+v, %v", got, err)
	}
}

func TestSmallCallsReadVLLM(t *testing.T) {
	models, err := recorded(t, "vllm-0.32.0/models.json", 200).Models(t.Context())
	if diff := cmp.Diff([]engine.ModelInfo{{ID: "tiny", Root: "/models/tiny", MaxModelLen: 256}}, models); diff != "" || err != nil {
		t.Errorf("models: %v\n%s", err, diff)
	}
	if v, err := recorded(t, "vllm-0.32.0/version.json", 200).Version(t.Context()); v != "0.32.0" {
		t.Errorf("version %q, %v", v, err)
	}
	if ids, err := recorded(t, "vllm-0.32.0/tokenize.json", 200).Tokenize(t.Context(), "Hello world"); !slices.Equal(ids, []int{349, 344}) {
		t.Errorf("tokens %v, %v", ids, err)
	}
	if text, err := recorded(t, "vllm-0.32.0/detokenize.json", 200).Detokenize(t.Context(), []int{1}); text != "(2<Fes" {
		t.Errorf("text %q, %v", text, err)
	}
	if _, err := recorded(t, "vllm-0.32.0/version.json", 200).Detokenize(t.Context(), []int{1}); !errors.Is(err, engine.ErrMalformed) {
		t.Errorf("no text: %v", err)
	}
}

func TestCompletePassesTheRequestOn(t *testing.T) {
	s := enginetest.New(t, &enginetest.Server{Reply: func(prompt string, tokens []int, sample int, seed int64) (string, []int) {
		return fmt.Sprint(prompt, tokens, sample, seed), []int{sample, 7}
	}})
	seed := int64(99)
	got, err := client(s).Complete(t.Context(), engine.CompletionRequest{Tokens: []int{1, 2}, N: 2, Seed: &seed, TokenIDs: true, MaxTokens: 4})
	if err != nil {
		t.Fatal(err)
	}
	want := []engine.Completion{
		{Text: "[1 2] 0 99", FinishReason: "stop", TokenIDs: []int{0, 7}},
		{Text: "[1 2] 1 99", FinishReason: "stop", TokenIDs: []int{1, 7}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCompleteNamesWhatIsWrong(t *testing.T) {
	for fault, want := range map[enginetest.Fault]error{
		enginetest.NoTokenIDs: engine.ErrNoTokenIDs, enginetest.NoFinishReason: engine.ErrUnfinished,
		enginetest.WrongChoiceNumber: engine.ErrMalformed, enginetest.TruncatedJSON: engine.ErrMalformed,
		enginetest.Cut: io.ErrUnexpectedEOF,
	} {
		s := enginetest.New(t, &enginetest.Server{Fault: fault})
		if got, err := client(s).Complete(t.Context(), engine.CompletionRequest{Prompt: "x", TokenIDs: true}); !errors.Is(err, want) {
			t.Errorf("%s: %v, %v; want %v", fault, got, err, want)
		}
	}
	s := enginetest.New(t, &enginetest.Server{Fault: enginetest.StreamEndsEarly})
	if got, err := client(s).CompleteStream(t.Context(), engine.CompletionRequest{Prompt: "x"}); !errors.Is(err, engine.ErrMalformed) {
		t.Errorf("half a stream: %+v, %v", got, err)
	}
}

func TestStreamAddsUp(t *testing.T) {
	s := enginetest.New(t, &enginetest.Server{Reply: func(string, []int, int, int64) (string, []int) { return "357!", []int{3, 5, 7, 9} }})
	for name, call := range map[string]func() (engine.Streamed, error){
		"completions": func() (engine.Streamed, error) {
			return client(s).CompleteStream(t.Context(), engine.CompletionRequest{Prompt: "x"})
		},
		"chat": func() (engine.Streamed, error) {
			return client(s).ChatStream(t.Context(), []engine.Message{{Role: "user", Content: "x"}}, 9)
		},
	} {
		got, err := call()
		want := engine.Streamed{Completion: engine.Completion{Text: "357!", FinishReason: "stop"}, Chunks: 4, CompletionTokens: 4}
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

func TestStreamLongerThanTheCapIsRefused(t *testing.T) {
	s := enginetest.New(t, &enginetest.Server{Reply: func(string, []int, int, int64) (string, []int) { return strings.Repeat("x", 100), nil }})
	c := client(s)
	c.MaxBody = 1000 // the stream is longer: it is cut, and half a stream is an error
	if got, err := c.CompleteStream(t.Context(), engine.CompletionRequest{Prompt: "x"}); !errors.Is(err, engine.ErrMalformed) {
		t.Errorf("got %+v, %v", got, err)
	}
}
