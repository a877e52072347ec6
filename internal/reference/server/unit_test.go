package server

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestUniformIsUniformAndItsStreamsDiffer(t *testing.T) {
	const n, bins = 20000, 20
	for _, c := range []struct {
		name string
		at   func(i int) float64
	}{
		{"positions", func(i int) float64 { return uniform(1, 0, i) }},
		{"samples", func(i int) float64 { return uniform(1, i, 0) }},
		{"seeds", func(i int) float64 { return uniform(uint64(i), 0, 0) }},
	} {
		var counts [bins]int
		var lag float64
		for i := range n {
			u := c.at(i)
			if u < 0 || u >= 1 {
				t.Fatalf("%s: %v", c.name, u)
			}
			counts[int(u*bins)]++
			lag += (u - .5) * (c.at(i+1) - .5)
		}
		chi := 0.0
		for _, k := range counts {
			d := float64(k) - n/bins
			chi += d * d / (n / bins)
		}
		if chi > 45 { // 19 degrees of freedom: p < 0.001
			t.Errorf("%s: chi-square %.1f", c.name, chi)
		}
		if r := lag / n * 12; math.Abs(r) > 0.03 {
			t.Errorf("%s: neighbours correlate, %.3f", c.name, r)
		}
	}
}

func TestPick(t *testing.T) {
	logits := []float32{1, 3, 3, 0, float32(math.Inf(-1))}
	p := func(l float64) float64 { return math.Exp(l - 3) }
	total := p(1) + 2 + p(0)
	for _, c := range []struct {
		name string
		s    sampling
		want []float64 // share of each token
	}{
		{"greedy takes the lower of equals", sampling{topP: 1}, []float64{0, 1, 0, 0, 0}},
		{"plain", sampling{temperature: 1, topP: 1}, []float64{p(1) / total, 1 / total, 1 / total, p(0) / total, 0}},
		{"top_k 1", sampling{temperature: 1, topP: 1, topK: 1}, []float64{0, 1, 0, 0, 0}},
		{"top_k 2", sampling{temperature: 1, topP: 1, topK: 2}, []float64{0, .5, .5, 0, 0}},
		{"top_p drops the tail", sampling{temperature: 1, topP: .9}, []float64{0, .5, .5, 0, 0}},
		{"top_p keeps at least one", sampling{temperature: 1, topP: 1e-9}, []float64{0, 1, 0, 0, 0}},
		{"min_p", sampling{temperature: 1, topP: 1, minP: .1}, []float64{p(1) / (2 + p(1)), 1 / (2 + p(1)), 1 / (2 + p(1)), 0, 0}},
		{"hot", sampling{temperature: 2, topP: 1, topK: 3}, []float64{math.Exp(-1) / (2 + math.Exp(-1)), 1 / (2 + math.Exp(-1)), 1 / (2 + math.Exp(-1)), 0, 0}},
	} {
		const n = 4000
		got := make([]float64, len(logits))
		for i := range n {
			got[c.s.pick(logits, (float64(i)+.5)/n)] += 1. / n
		}
		for i := range got {
			if math.Abs(got[i]-c.want[i]) > 2./n {
				t.Errorf("%s: token %d drawn %.4f, want %.4f", c.name, i, got[i], c.want[i])
			}
		}
	}
}

func TestAdjusted(t *testing.T) {
	inf := float32(math.Inf(-1))
	logits := []float32{2, -2, 4, 1}
	for _, c := range []struct {
		name   string
		s      sampling
		banned []int
		want   []float32
	}{
		{"nothing", sampling{repetition: 1}, nil, logits},
		{"repetition looks at prompt and answer, once", sampling{repetition: 2}, nil, []float32{1, -4, 2, 1}},
		{"presence looks at the answer", sampling{repetition: 1, presence: .5}, nil, []float32{2, -2.5, 3.5, 1}},
		{"frequency counts", sampling{repetition: 1, frequency: .5}, nil, []float32{2, -2.5, 2.5, 1}},
		{"bias", sampling{repetition: 1, bias: map[int]float64{3: 100}}, nil, []float32{2, -2, 4, 101}},
		{"allowed", sampling{repetition: 1, allowed: []int{0, 3}}, nil, []float32{2, inf, inf, 1}},
		{"banned", sampling{repetition: 1}, []int{2}, []float32{2, -2, inf, 1}},
	} {
		before := slices.Clone(logits)
		got := c.s.adjusted(logits, c.banned, map[int]bool{0: true, 1: true}, map[int]int{1: 1, 2: 3})
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
		if diff := cmp.Diff(before, logits); diff != "" {
			t.Errorf("%s changed the model's logits: %s", c.name, diff)
		}
	}
}

// TestPlan checks what the scheduler relies on: nothing exceeds a limit, the
// first sequence always goes on, and those that generate do not wait.
func TestPlan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		longest := rapid.IntRange(1, 60).Draw(t, "longest")
		l := limits{kv: rapid.IntRange(longest, 200).Draw(t, "kv")}
		n := rapid.IntRange(1, 12).Draw(t, "n")
		l.batch = rapid.IntRange(n, 40).Draw(t, "batch")
		running := make([]load, n)
		total := 0
		for i := range running {
			all := rapid.IntRange(1, longest).Draw(t, "tokens")
			running[i].pending = rapid.IntRange(1, all).Draw(t, "pending")
			running[i].cached = all - running[i].pending
			if total+running[i].cached > l.kv { // cannot be: caches never hold more than there is room
				running[i] = load{0, all}
			}
			total += running[i].cached
		}
		chunks, keep := plan(running, l)
		if keep < 1 || len(chunks) != keep || chunks[0] < 1 {
			t.Fatalf("keep %d, chunks %v: the first one does not go on", keep, chunks)
		}
		tokens, cached := 0, 0
		for i, c := range chunks {
			if c < 0 || c > running[i].pending {
				t.Fatalf("chunk %d is %d of %d", i, c, running[i].pending)
			}
			if running[i].pending == 1 && c != 1 {
				t.Fatalf("sequence %d generates and waits", i)
			}
			tokens += c
			cached += running[i].cached + c
		}
		if tokens > l.batch || cached > l.kv {
			t.Fatalf("%d tokens of %d, %d cached of %d", tokens, l.batch, cached, l.kv)
		}
		if total+n <= l.kv && keep != n {
			t.Fatalf("there was room for all, but only %d were kept", keep)
		}
	})
}

func TestAdmit(t *testing.T) {
	l := limits{batch: 100, kv: 50}
	for _, c := range []struct {
		name    string
		running []load
		waiting []int
		places  int
		want    int
	}{
		{"empty server takes even what fills it", nil, []int{49}, 4, 1},
		{"in order, while they fit", nil, []int{10, 20, 30, 1}, 4, 2},
		{"places", nil, []int{1, 1, 1, 1}, 3, 3},
		{"beside running ones", []load{{20, 10}}, []int{15, 10}, 4, 1},
		{"no overtaking", []load{{20, 10}}, []int{25, 1}, 4, 0},
		{"full", []load{{1, 1}, {1, 1}}, []int{1}, 2, 0},
	} {
		if got := admit(c.running, c.waiting, c.places, l); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// TestTextStreamReleasesWhatIsSafe holds any stream of bytes against the text
// of all of them: pieces concatenate to a prefix, nothing is released twice, and
// no piece ends inside a character.
func TestTextStreamReleasesWhatIsSafe(t *testing.T) {
	tok := byteTokenizer(t)
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOfN(rapid.OneOf(rapid.IntRange(0, 258), rapid.SampledFrom([]int{0xE4, 0xB8, 0x96, 'a', 0xC3, 0xA9})), 0, 30).Draw(t, "ids")
		stops := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "ab", "世", "éa"}), 0, 2).Draw(t, "stops")
		s := newTextStream(tok, nil, params{stop: stops, skipSpecial: true})
		var text string
		var used []int
		stopped := ""
		for _, id := range ids {
			used = append(used, id)
			if stop, ok := s.add(id, true); ok {
				stopped = stop
				break
			}
			text += s.next(false)
		}
		text += s.next(true)
		all := tok.DecodePlain(used)
		if !strings.HasPrefix(all, text) {
			t.Fatalf("%q is no prefix of %q", text, all)
		}
		if stopped != "" && !strings.HasPrefix(all[len(text):], stopped) {
			t.Fatalf("stopped at %q, but %q continues %q", stopped, all[len(text):], text)
		}
		for _, stop := range stops {
			if strings.Contains(text, stop) {
				t.Fatalf("%q holds the stop string %q", text, stop)
			}
		}
		if stopped == "" && !strings.HasSuffix(all, "\ufffd") && text != all {
			t.Fatalf("%q, want all of %q", text, all)
		}
	})
}

func TestPromptEndingInsideACharacter(t *testing.T) {
	tok := byteTokenizer(t)
	for _, c := range []struct {
		prompt string
		want   string
	}{{"", ""}, {"a", ""}, {"é", ""}, {"\xe4", "\xe4"}, {"x\xe4\xb8", "\xe4\xb8"}, {"\xf0\x9f\x98", "\xf0\x9f\x98"}, {"\x80", ""}, {"\xff", ""}} {
		if got := string(openEnd(tok, tok.Encode(c.prompt))); got != c.want {
			t.Errorf("%q: %q, want %q", c.prompt, got, c.want)
		}
	}
}

func TestTokenText(t *testing.T) {
	tok := byteTokenizer(t)
	for _, c := range []struct {
		before string
		id     int
		want   string
	}{
		{"", 'a', "a"},
		{"x", 0xE4, ""},
		{"x\xe4", 0xB8, ""},
		{"x\xe4\xb8", 0x96, "世"},
		{"世", 0x80, ""},
		{"x", imEnd, "<|im_end|>"},
		{"x", 300, ""},
	} {
		if got := tokenText(tok, tok.Encode(c.before), c.id); got != c.want {
			t.Errorf("%q then %d: %q, want %q", c.before, c.id, got, c.want)
		}
	}
}

// TestPromptTextsAreVLLMs: a character that begins in the prompt's first token
// is nobody's, since vLLM reads the bytes before a token from the entries
// before it, and the first token has none.
func TestPromptTextsAreVLLMs(t *testing.T) {
	tok := byteTokenizer(t)
	for prompt, want := range map[string]string{"\xc3\xa9": "", "x\xc3\xa9": "é"} {
		ids := tok.Encode(prompt)
		rows := make([][]float32, len(ids))
		for i := range rows {
			rows[i] = make([]float32, tok.Size())
		}
		j := &job{tok: tok, prompt: ids, scored: 1, params: params{promptLogprobs: 0}}
		j.score(0, rows)
		if got := j.scores[len(j.scores)-1][0].text; got != want {
			t.Errorf("last token of %q: %q, want %q", prompt, got, want)
		}
	}
}

func TestPythonsJSONErrors(t *testing.T) {
	for _, c := range []struct {
		body    string
		at      int
		message string
	}{ // from Python 3.11's json.loads
		{`{"model": "tiny", `, 18, "Expecting property name enclosed in double quotes"},
		{``, 0, "Expecting value"},
		{`{`, 1, "Expecting property name enclosed in double quotes"},
		{`{"a"}`, 4, "Expecting ':' delimiter"},
		{`{"a":}`, 5, "Expecting value"},
		{`{"a":1 "b"}`, 7, "Expecting ',' delimiter"},
		{`{"a":1}x`, 7, "Extra data"},
		{`[1,]`, 3, "Expecting value"},
		{`{"a":"b`, 5, "Unterminated string starting at"},
		{"{\"a\":\"b\n\"}", 7, "Invalid control character at"},
		{`{"a":"\x"}`, 6, `Invalid \escape`},
		{`{"é":tru}`, 5, "Expecting value"},
	} {
		at, message := jsonErrorAt(c.body)
		if at != c.at || message != c.message {
			t.Errorf("%q: %d %q, want %d %q", c.body, at, message, c.at, c.message)
		}
	}
}

func TestPythonsNumbersAndStrings(t *testing.T) {
	for in, want := range map[float64]string{-1: "-1.0", 0.5: "0.5", 1e16: "1e+16", 1e-5: "1e-05", 123456: "123456.0", 2.0000000000000004: "2.0000000000000004"} {
		if got := pyFloat(in); got != want {
			t.Errorf("%v: %s, want %s", in, got, want)
		}
	}
	for in, want := range map[string]string{"a": "'a'", "it's": `"it's"`, `'"`: `'\'"'`, "a\nb\\": `'a\nb\\'`, "\x00": `'\x00'`} {
		if got := pyRepr(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func FuzzCompletionRequest(f *testing.F) {
	for _, seed := range []string{
		`{"prompt":"a"}`, `{"prompt":[1,2],"max_tokens":0,"echo":true,"logprobs":3}`, `{"prompt":[[1],[2]],"n":2,"stop":["a"]}`,
		`{"prompt":["a"],"stream":true,"stream_options":{"include_usage":true}}`, `{"prompt":[10,-1]}`, `{"prompt":{}}`, `[]`, `null`, `{"prompt":`,
		`{"prompt":[1],"logit_bias":{"5":1,"x":2},"seed":"7","temperature":"0.5","prompt_logprobs":-1}`,
		`{"prompt":[1],"truncate_prompt_tokens":-1,"min_tokens":3,"stop_token_ids":[1,"2"],"allowed_token_ids":[]}`,
	} {
		f.Add(seed)
	}
	s := newServer(&fake{vocab: 300}, 300, 64, byteTokenizer(f), Options{Context: 64})
	f.Cleanup(s.Close)
	f.Fuzz(func(t *testing.T, body string) {
		fields, e := readFields([]byte(body))
		if e != nil {
			checkError(t, e)
			return
		}
		q, e := s.readText(fields)
		if e != nil {
			checkError(t, e)
			return
		}
		if len(q.ids) == 0 || q.n < 1 || q.maxTokens < 1 {
			t.Fatalf("accepted %q with %d prompts, n %d, %d tokens", body, len(q.ids), q.n, q.maxTokens)
		}
		for _, ids := range q.ids {
			if len(ids) == 0 || len(ids) > 64 {
				t.Fatalf("accepted a prompt of %d tokens", len(ids))
			}
		}
	})
}

func FuzzChatRequest(f *testing.F) {
	for _, seed := range []string{
		`{"messages":[{"role":"user","content":"a"}]}`, `{"messages":[{"role":"user","content":[{"type":"text","text":"a"}]}],"tools":[]}`,
		`{"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}]}`, `{"messages":[]}`, `{"messages":3}`,
		`{"messages":[{"role":"user","content":"a"}],"continue_final_message":true,"add_generation_prompt":false,"chat_template_kwargs":{"x":1}}`,
	} {
		f.Add(seed)
	}
	s := newServer(&fake{vocab: 300}, 300, 64, byteTokenizer(f), Options{Context: 64})
	f.Cleanup(s.Close)
	f.Fuzz(func(t *testing.T, body string) {
		fields, e := readFields([]byte(body))
		if e != nil {
			checkError(t, e)
			return
		}
		if _, e := s.readChat(fields); e != nil {
			checkError(t, e)
		}
	})
}

func checkError(t *testing.T, e *apiError) {
	t.Helper()
	if e.Message == "" || e.Type == "" || e.Code < 400 || e.Code > 499 {
		t.Fatalf("%+v", e)
	}
	if _, err := encode(e); err != nil {
		t.Fatal(err)
	}
}
