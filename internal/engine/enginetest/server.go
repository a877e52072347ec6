package enginetest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// Fault is a way to misbehave.
type Fault string

// The faults. Those of prompt_logprobs change one position of every answer.
const (
	None              Fault = ""
	ServerError       Fault = "500"            // every request
	Unavailable       Fault = "503"            // the first Times requests
	RateLimited       Fault = "429"            // the first Times requests
	Cut               Fault = "cut"            // the connection drops in the middle of the answer
	TruncatedJSON     Fault = "truncated json" // half a body, well-formed HTTP
	NotJSON           Fault = "not json"
	NoPromptLogProbs  Fault = "no prompt_logprobs" // as llama-server and some gateways
	ShortLogProbs     Fault = "short"              // one position too few
	FirstNotNull      Fault = "first not null"
	NullPosition      Fault = "null position"
	NaN               Fault = "NaN"
	MinusInfinity     Fault = "-Infinity"
	Positive          Fault = "positive"
	FewerThanK        Fault = "fewer than k"
	ActualMissing     Fault = "actual token missing"
	TextKeys          Fault = "text keys"
	Overfull          Fault = "sums over one"
	NullLogProb       Fault = "null logprob"
	ExtraBOS          Fault = "extra BOS" // reads one token more than it was sent
	Endless           Fault = "endless"   // far more bytes than anybody asked for
	NoTokenIDs        Fault = "no token ids"
	NoFinishReason    Fault = "no finish_reason"
	StreamEndsEarly   Fault = "stream ends early"
	EmptyText         Fault = "empty text"
	ChatNotFound      Fault = "no chat"
	WrongChoiceNumber Fault = "wrong number of choices"
)

// Server answers as an engine would. Set its fields before the first request.
type Server struct {
	*httptest.Server
	Model string // default "fake"
	// MaxModelLen is what /v1/models says; default 4096.
	MaxModelLen int
	// Logits gives the natural-log probabilities of the whole vocabulary after
	// the prefix. Required for prompt_logprobs.
	Logits func(prefix []int) []float64
	// Reply gives a continuation's text and token ids; sample counts from 0.
	Reply func(prompt string, tokens []int, sample int, seed int64) (string, []int)
	Fault Fault
	// After is how many requests to /v1 are answered well before Fault begins;
	// Times is how many then fare badly (0 = all).
	After, Times int
	// Gate, if set, holds every /v1 POST until it yields or is closed.
	Gate <-chan struct{}

	requests atomic.Int64
	faulty   atomic.Int64
	mu       sync.Mutex
	inFlight int
	most     int
}

// New starts a server; it is closed when the test ends.
func New(t testing.TB, s *Server) *Server {
	t.Helper()
	s.Server = httptest.NewServer(s.handler())
	t.Cleanup(s.Close)
	return s
}

func (s *Server) handler() http.Handler {
	if s.Model == "" {
		s.Model = "fake"
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) { write(w, map[string]any{"version": "0.0-fake"}) })
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) {
		write(w, map[string]any{"object": "list", "data": []any{map[string]any{"id": s.Model, "root": "/fake", "max_model_len": cmp.Or(s.MaxModelLen, 4096)}}})
	})
	mux.HandleFunc("POST /tokenize", s.tokenize)
	mux.HandleFunc("POST /detokenize", s.detokenize)
	mux.HandleFunc("POST /v1/completions", s.guard(s.complete))
	mux.HandleFunc("POST /v1/chat/completions", s.guard(s.chat))
	return mux
}

// Requests is how many POSTs to /v1 came, and MostInFlight how many at once.
func (s *Server) Requests() int { return int(s.requests.Load()) }

// MostInFlight is the largest number of requests that were open at once.
func (s *Server) MostInFlight() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.most
}

func (s *Server) enter(by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight += by
	s.most = max(s.most, s.inFlight)
}

// guard applies the faults that need no look at the request.
func (s *Server) guard(h func(http.ResponseWriter, *http.Request, Fault)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.enter(1)
		defer s.enter(-1)
		if s.Gate != nil {
			select {
			case <-s.Gate:
			case <-r.Context().Done():
				return
			}
		}
		fault := s.Fault
		if int(s.requests.Add(1)) <= s.After {
			fault = None
		} else if fault != None && s.Times > 0 && int(s.faulty.Add(1)) > s.Times {
			fault = None
		}
		switch fault {
		case ServerError:
			problem(w, 500, "InternalServerError", "EngineCore encountered an issue")
		case Unavailable:
			problem(w, 503, "ServiceUnavailable", "warming up")
		case RateLimited:
			problem(w, 429, "TooManyRequests", "slow down")
		case NotJSON:
			fmt.Fprint(w, "<html>Bad Gateway</html>")
		case Endless:
			fmt.Fprint(w, `{"choices":"`, strings.Repeat("x", 1<<20), `"}`)
		case Cut:
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, `{"choices":[`)
		default:
			h(w, r, fault)
		}
	}
}

type request struct {
	Model          string          `json:"model"`
	Prompt         json.RawMessage `json:"prompt"`
	Messages       json.RawMessage `json:"messages"`
	N              int             `json:"n"`
	MaxTokens      int             `json:"max_tokens"`
	Seed           int64           `json:"seed"`
	PromptLogProbs *int            `json:"prompt_logprobs"`
	ReturnTokenIDs bool            `json:"return_token_ids"`
	Stream         bool            `json:"stream"`
}

func (s *Server) decode(w http.ResponseWriter, r *http.Request) (request, bool) {
	var q request
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		problem(w, 400, "Bad Request", err.Error())
		return q, false
	}
	if q.Model != s.Model {
		problem(w, 404, "NotFoundError", fmt.Sprintf("The model `%s` does not exist.", q.Model))
		return q, false
	}
	return q, true
}

func (s *Server) complete(w http.ResponseWriter, r *http.Request, fault Fault) {
	q, ok := s.decode(w, r)
	if !ok {
		return
	}
	var text string
	var tokens []int
	if json.Unmarshal(q.Prompt, &text) != nil {
		if err := json.Unmarshal(q.Prompt, &tokens); err != nil {
			problem(w, 400, "Bad Request", "prompt is neither text nor token ids")
			return
		}
	}
	if q.Stream {
		s.stream(w, "text", text, tokens, q, fault)
		return
	}
	n := max(q.N, 1)
	if fault == WrongChoiceNumber {
		n++
	}
	var choices []any
	generated := 0
	for i := range n {
		choice, ids := s.choice(i, text, tokens, q, fault)
		choices, generated = append(choices, choice), generated+len(ids)
	}
	read := len(tokens)
	if fault == ExtraBOS {
		read++
	}
	body := map[string]any{
		"id": "cmpl-1", "object": "text_completion", "model": s.Model, "choices": choices,
		"usage": map[string]any{"prompt_tokens": read, "completion_tokens": generated, "total_tokens": read + generated},
	}
	if len(tokens) == 0 {
		delete(body, "usage")
	}
	writeFaulty(w, body, fault)
}

func (s *Server) choice(i int, text string, tokens []int, q request, fault Fault) (map[string]any, []int) {
	reply, ids := s.reply(text, tokens, i, q)
	choice := map[string]any{"index": i, "text": reply, "finish_reason": "stop", "logprobs": nil}
	if fault == EmptyText {
		choice["text"] = ""
	}
	if fault == NoFinishReason {
		choice["finish_reason"] = nil
	}
	if q.ReturnTokenIDs && fault != NoTokenIDs {
		choice["token_ids"] = append([]int{}, ids...)
		choice["prompt_token_ids"] = tokens
		if fault == ExtraBOS {
			choice["prompt_token_ids"] = append([]int{1}, tokens...)
		}
	}
	if q.PromptLogProbs != nil && fault != NoPromptLogProbs {
		choice["prompt_logprobs"] = s.promptLogProbs(tokens, *q.PromptLogProbs, fault)
	}
	return choice, ids
}

func (s *Server) reply(text string, tokens []int, sample int, q request) (string, []int) {
	if s.Reply == nil {
		return "42", []int{4, 2}
	}
	return s.Reply(text, tokens, sample, q.Seed)
}

// promptLogProbs writes what vLLM writes: null, then maps keyed by id, the
// actual token in them even when it is not among the k likeliest.
func (s *Server) promptLogProbs(tokens []int, k int, fault Fault) []any {
	out := []any{nil}
	for t := 1; t < len(tokens); t++ {
		lp := s.Logits(tokens[:t])
		order := make([]int, len(lp))
		for i := range order {
			order[i] = i
		}
		slices.SortStableFunc(order, func(a, b int) int {
			switch {
			case lp[a] > lp[b]:
				return -1
			case lp[a] < lp[b]:
				return 1
			}
			return 0
		})
		rank := slices.Index(order, tokens[t]) + 1
		entry := map[string]any{}
		for r, id := range order[:min(k, len(order))] {
			entry[strconv.Itoa(id)] = map[string]any{"logprob": lp[id], "rank": r + 1, "decoded_token": "x"}
		}
		entry[strconv.Itoa(tokens[t])] = map[string]any{"logprob": lp[tokens[t]], "rank": rank, "decoded_token": "x"}
		out = append(out, entry)
	}
	return spoil(out, tokens, fault)
}

// spoil plants the fault in the last position (the first, for FirstNotNull).
func spoil(out []any, tokens []int, fault Fault) []any {
	last := len(out) - 1
	if last < 1 {
		return out
	}
	entry := out[last].(map[string]any)
	actual := strconv.Itoa(tokens[last])
	set := func(v any) { entry[actual] = map[string]any{"logprob": v, "rank": 1} }
	switch fault {
	case ShortLogProbs:
		return out[:last]
	case FirstNotNull:
		out[0] = out[last]
	case NullPosition:
		out[last] = nil
	case NaN:
		set(bare("NaN"))
	case MinusInfinity:
		set(bare("-Infinity"))
	case Positive:
		set(0.5)
	case NullLogProb:
		set(nil)
	case ActualMissing:
		delete(entry, actual)
	case FewerThanK:
		out[last] = map[string]any{actual: entry[actual]}
	case TextKeys:
		out[last] = map[string]any{"the": entry[actual]}
	case Overfull:
		for key := range entry {
			entry[key] = map[string]any{"logprob": math.Log(0.9), "rank": 1}
		}
	}
	return out
}

// bare marks a word that JSON does not have; write takes its quotes off.
func bare(word string) string { return "bare:" + word }

func (s *Server) chat(w http.ResponseWriter, r *http.Request, fault Fault) {
	q, ok := s.decode(w, r)
	if !ok {
		return
	}
	if fault == ChatNotFound {
		problem(w, 400, "BadRequestError", "no chat template")
		return
	}
	if q.Stream {
		s.stream(w, "delta", string(q.Messages), nil, q, fault)
		return
	}
	text, ids := s.reply(string(q.Messages), nil, 0, q)
	if fault == EmptyText {
		text = ""
	}
	writeFaulty(w, map[string]any{
		"object": "chat.completion", "model": s.Model,
		"choices": []any{map[string]any{
			"index": 0, "finish_reason": "stop", "message": map[string]any{"role": "assistant", "content": text},
		}},
		"usage": map[string]any{"completion_tokens": len(ids)},
	}, fault)
}

func (s *Server) stream(w http.ResponseWriter, shape, text string, tokens []int, q request, fault Fault) {
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	reply, ids := s.reply(text, tokens, 0, q)
	if fault == EmptyText {
		reply = ""
	}
	event := func(piece string, finish any) {
		choice := map[string]any{"index": 0, "finish_reason": finish}
		if shape == "text" {
			choice["text"] = piece
		} else {
			choice["delta"] = map[string]any{"content": piece}
		}
		b, err := json.Marshal(map[string]any{"choices": []any{choice}})
		if err != nil {
			panic(err) // maps of strings marshal
		}
		fmt.Fprintf(w, "data: %s\n\n", b)
	}
	for _, r := range reply {
		event(string(r), nil)
	}
	if fault == StreamEndsEarly {
		return
	}
	event("", "stop")
	fmt.Fprintf(w, "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":%d}}\n\ndata: [DONE]\n\n", len(ids))
}

func (s *Server) tokenize(w http.ResponseWriter, r *http.Request) {
	var q struct{ Prompt string }
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		problem(w, 400, "Bad Request", err.Error())
		return
	}
	ids := []int{}
	for _, b := range []byte(q.Prompt) {
		ids = append(ids, int(b))
	}
	write(w, map[string]any{"count": len(ids), "max_model_len": 4096, "tokens": ids, "token_strs": nil})
}

func (s *Server) detokenize(w http.ResponseWriter, r *http.Request) {
	var q struct{ Tokens []int }
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		problem(w, 400, "Bad Request", err.Error())
		return
	}
	var b []byte
	for _, id := range q.Tokens {
		b = append(b, byte(id))
	}
	write(w, map[string]any{"prompt": string(b)})
}

func problem(w http.ResponseWriter, code int, kind, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	write(w, map[string]any{"error": map[string]any{"message": message, "type": kind, "param": nil, "code": code}})
}

func write(w http.ResponseWriter, v any) { writeFaulty(w, v, None) }

func writeFaulty(w http.ResponseWriter, v any, fault Fault) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // what we put in marshals
	}
	body := string(b)
	for _, word := range []string{"NaN", "-Infinity"} {
		body = strings.ReplaceAll(body, `"`+bare(word)+`"`, word)
	}
	if fault == TruncatedJSON {
		body = body[:len(body)/2]
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprint(w, body)
}
