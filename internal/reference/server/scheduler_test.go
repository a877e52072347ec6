package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"math"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestAnswersDoNotDependOnTheBatch asks the same questions one by one and all
// at once, also where caches are too small for all of them.
func TestAnswersDoNotDependOnTheBatch(t *testing.T) {
	bodies := make([]map[string]any, 32)
	for i := range bodies {
		prompt := make([]int, 1+i*7%90)
		for k := range prompt {
			prompt[k] = (i*31 + k*k) % 256
		}
		bodies[i] = map[string]any{
			"model": "tiny", "prompt": prompt, "max_tokens": 5 + i, "seed": i, "temperature": float64(i%4) / 2, "logprobs": 2,
			"prompt_logprobs": i % 3, "repetition_penalty": 1 + float64(i%2)/5, "top_p": 1 - float64(i%3)/10,
		}
		if i%4 == 0 {
			delete(bodies[i], "temperature")
			bodies[i]["n"] = 3
		}
	}
	ask := func(url string, at int) string {
		_, text := post(t, url, "/v1/completions", bodies[at])
		var a map[string]any
		if err := json.Unmarshal([]byte(text), &a); err != nil {
			t.Error(err)
			return ""
		}
		delete(a, "id")
		delete(a, "created")
		b, err := json.Marshal(a)
		if err != nil {
			t.Error(err)
		}
		return string(b)
	}
	_, url := start(t, &fake{}, nil)
	want := make([]string, len(bodies))
	for i := range bodies {
		want[i] = ask(url, i)
		if again := ask(url, i); again != want[i] {
			t.Errorf("request %d is answered differently the second time", i)
		}
	}
	for _, c := range []struct {
		name   string
		change func(*Options)
	}{
		{"room for all", nil},
		{"small steps", func(o *Options) { o.MaxRunning, o.MaxBatch = 5, 7 }},
		{"caches too small", func(o *Options) { o.KVTokens = 300 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &fake{}
			_, url := start(t, f, c.change)
			var wg sync.WaitGroup
			for i := range bodies {
				wg.Go(func() {
					if got := ask(url, i); got != want[i] {
						t.Errorf("request %d: %s", i, cmp.Diff(want[i], got))
					}
				})
			}
			wg.Wait()
			f.mu.Lock()
			defer f.mu.Unlock()
			if slices.Max(f.batches) < 2 {
				t.Error("nothing was batched")
			}
			if c.name == "caches too small" {
				_, text := send(t, http.MethodGet, url+"/metrics", "", "application/json")
				if strings.Contains(text, `vllm:num_preemptions_total{engine="0",model_name="tiny"} 0`) {
					t.Error("no cache was taken away: the case does not test what it should")
				}
			}
		})
	}
}

func TestDisconnectEndsTheSequence(t *testing.T) {
	f := &fake{gate: make(chan struct{})}
	s, url := start(t, f, nil)
	ctx, cancel := context.WithCancel(t.Context())
	body := `{"model":"tiny","prompt":[1],"max_tokens":200,"stream":true}`
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/completions", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	go func() { f.gate <- struct{}{}; f.gate <- struct{}{} }()
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := bufio.NewReader(res.Body).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	cancel()
	waitFor(t, func() bool { return s.load.Load() == 0 }) // without another step
	// The handler has left. At most the step under way remains; then the
	// scheduler is idle and a new request is alone in its batch.
	done := make(chan struct{})
	go func() {
		defer close(done)
		complete(t, url, map[string]any{"prompt": []int{2}, "max_tokens": 1})
	}()
	for finished := false; !finished; {
		select {
		case f.gate <- struct{}{}:
		case <-done:
			finished = true
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	// At most two steps before, the one under way, and the new request's own.
	if len(f.batches) > 4 || f.batches[len(f.batches)-1] != 1 {
		t.Errorf("steps with %v sequences: the abandoned one went on", f.batches)
	}
}

func TestOverloadIsRefused(t *testing.T) {
	f := &fake{gate: make(chan struct{})}
	s, url := start(t, f, func(o *Options) { o.MaxRunning, o.MaxWaiting = 1, 2 })
	var wg sync.WaitGroup
	first := func() { complete(t, url, map[string]any{"prompt": []int{1}, "max_tokens": 1}) }
	wg.Go(first)
	waitFor(t, func() bool { return s.metricValue(t, "vllm:num_requests_running") == 1 })
	wg.Go(first)
	wg.Go(first)
	waitFor(t, func() bool {
		s.scheduler.mu.Lock()
		defer s.scheduler.mu.Unlock()
		return len(s.scheduler.waiting) == 2
	})
	code, text := post(t, url, "/v1/completions", map[string]any{"prompt": []int{1}})
	if code != http.StatusServiceUnavailable || !strings.Contains(text, "too many requests are waiting") {
		t.Errorf("%d %s", code, text)
	}
	close(f.gate)
	wg.Wait()
	if code, text := post(t, url, "/v1/completions", map[string]any{"prompt": []int{1}}); code != http.StatusOK {
		t.Errorf("after the queue emptied: %d %s", code, text)
	}
}

func TestModelFailureIsOneRequestsError(t *testing.T) {
	f := &fake{fail: func(in []input) error {
		if in[0].seq.Len() > 0 {
			return nil
		}
		switch in[0].tokens[0] {
		case 200:
			return errors.New("no such cache")
		case 201:
			panic("index out of range")
		}
		return nil
	}}
	_, url := start(t, f, nil)
	for token, want := range map[int]string{200: "no such cache", 201: "the model panicked: index out of range"} {
		code, text := post(t, url, "/v1/completions", map[string]any{"prompt": []int{token}})
		if code != http.StatusInternalServerError || !strings.Contains(text, want) || !strings.Contains(text, `"type":"InternalServerError"`) {
			t.Errorf("%d %s, want %q", code, text, want)
		}
	}
	complete(t, url, map[string]any{"prompt": []int{1}})
}

func TestLogitsThatAreNotNumbersAreAnError(t *testing.T) {
	for name, bad := range map[string]float32{"NaN": float32(math.NaN()), "Inf": float32(math.Inf(1))} {
		f := &fake{vocab: 512}
		m := &spoiled{fake: f, bad: bad}
		s := newServer(m, 512, 256, byteTokenizer(t), Options{})
		j := newJob(t.Context(), s.tok, []int{1}, params{sampling: sampling{repetition: 1}, maxTokens: 3, eos: -1, logprobs: 1, promptLogprobs: -1}, newMailbox())
		if e := s.submit([]*job{j}); e != nil {
			t.Fatal(e)
		}
		_, err := collect(t.Context(), j.out, 1)
		if !errors.Is(err, errNotFinite) {
			t.Errorf("%s: %v", name, err)
		}
		s.Close()
	}
}

// spoiled gives logits that no healthy model gives.
type spoiled struct {
	*fake
	bad float32
}

func (s *spoiled) forward(ctx context.Context, in []input) ([][][]float32, error) {
	rows, err := s.fake.forward(ctx, in)
	for _, r := range rows {
		r[len(r)-1][77] = s.bad
	}
	return rows, err
}

func TestCloseLetsRunningRequestsFinish(t *testing.T) {
	f := &fake{gate: make(chan struct{})}
	s, url := start(t, f, nil)
	answered := make(chan completionAnswer, 1)
	go func() {
		answered <- complete(t, url, map[string]any{"prompt": []int{1}, "max_tokens": 3, "temperature": 0})
	}()
	waitFor(t, func() bool { return s.metricValue(t, "vllm:num_requests_running") == 1 })
	closed := make(chan struct{})
	go func() { s.Close(); close(closed) }()
	waitFor(t, s.closing.Load)
	waitFor(t, func() bool {
		s.scheduler.mu.Lock()
		defer s.scheduler.mu.Unlock()
		return s.scheduler.closed
	})
	if code, text := post(t, url, "/v1/completions", map[string]any{"prompt": []int{1}}); code != http.StatusServiceUnavailable {
		t.Errorf("while closing: %d %s", code, text)
	}
	if code, _ := send(t, http.MethodGet, url+"/health", "", ""); code != http.StatusServiceUnavailable {
		t.Errorf("health while closing: %d", code)
	}
	close(f.gate)
	<-closed
	if a := <-answered; a.Usage.Completion != 3 {
		t.Errorf("the running request got %d tokens of 3", a.Usage.Completion)
	}
}

// waitFor polls a condition that another goroutine will make true, for a minute at most.
func waitFor(t *testing.T, what func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !what(); {
		if time.Now().After(deadline) {
			t.Fatal("it never happened")
		}
		runtime.Gosched()
	}
}

// metricValue reads one series without labels of its own.
func (s *Server) metricValue(t *testing.T, name string) float64 {
	t.Helper()
	families, err := s.metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// TestServeEndsWithItsContext: a request that runs when the context ends is
// answered, the listener is closed and Serve returns nil.
func TestServeEndsWithItsContext(t *testing.T) {
	f := &fake{vocab: 300, gate: make(chan struct{})}
	s := newServer(f, 300, 256, byteTokenizer(t), Options{Model: "tiny", Drain: 5 * time.Second})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + ln.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, ln, s) }()
	answered := make(chan completionAnswer, 1)
	go func() { answered <- complete(t, url, map[string]any{"prompt": []int{1}, "max_tokens": 2}) }()
	waitFor(t, func() bool { return s.metricValue(t, "vllm:num_requests_running") == 1 })
	cancel()
	waitFor(t, s.closing.Load)
	close(f.gate)
	if a := <-answered; a.Usage.Completion != 2 {
		t.Errorf("%d tokens of 2", a.Usage.Completion)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		c.Close()
		t.Error("the port still answers")
	}
}

// TestServeCutsOffWhatDoesNotEnd: a model that hangs does not hold up the end.
func TestServeCutsOffWhatDoesNotEnd(t *testing.T) {
	f := &fake{vocab: 300, gate: make(chan struct{})} // never opened
	s := newServer(f, 300, 256, byteTokenizer(t), Options{Model: "tiny", Drain: 50 * time.Millisecond})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, ln, s) }()
	status := make(chan int, 1)
	go func() {
		code, _ := post(t, "http://"+ln.Addr().String(), "/v1/completions", map[string]any{"prompt": []int{1}})
		status <- code
	}()
	waitFor(t, func() bool { return s.metricValue(t, "vllm:num_requests_running") == 1 })
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if code := <-status; code != http.StatusServiceUnavailable {
		t.Errorf("status %d", code)
	}
}

func TestTooMuchIsRefused(t *testing.T) {
	_, url := start(t, &fake{}, func(o *Options) { o.MaxBody, o.MaxWaiting = 2000, 8 })
	for _, c := range []struct {
		body   any
		status int
		want   string
	}{
		{map[string]any{"prompt": strings.Repeat("x", 3000)}, http.StatusRequestEntityTooLarge, "larger than"},
		{map[string]any{"prompt": make([]string, 9)}, http.StatusBadRequest, "prompt list length 9 exceeds the maximum allowed count of 8"},
		{map[string]any{"prompt": []string{"a", "b", "c"}, "n": 3}, http.StatusBadRequest, "prompt list length 3 exceeds the maximum allowed count of 2"},
		{map[string]any{"prompt": "a", "n": 9}, http.StatusBadRequest, ""},
		{map[string]any{"prompt": "a", "max_tokens": 1 << 40}, http.StatusOK, ""},
	} {
		code, text := post(t, url, "/v1/completions", c.body)
		if code != c.status || !strings.Contains(text, c.want) {
			t.Errorf("%d %s, want %d %q", code, text, c.status, c.want)
		}
	}
}
