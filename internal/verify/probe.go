package verify

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"

	"tarbert/internal/engine"
)

// Prober is what an endpoint is asked before anything is compared;
// *engine.Client is one.
type Prober interface {
	Generate(ctx context.Context, r engine.GenerateRequest) ([]engine.Generated, error)
	ChatTokens(ctx context.Context, messages, tools json.RawMessage) (int, error)
	Identify(ctx context.Context) (engine.Identity, error)
}

// ProbeOptions of Observe.
type ProbeOptions struct {
	Prompt []int // token ids to continue, at least two
	Text   string
	Top    int
	Vocab  int   // 0 = not known
	EOS    []int // ids that end a text; nil = not known
	Strict bool  // a setting that may colour numbers is refused, whether it did or not
}

// Observed is what one endpoint did, without judgement.
type Observed struct {
	MaxModelLen int `json:"max_model_len"`
	// Templates is usage.prompt_tokens of each of TemplateCases; -1 = refused.
	Templates []int `json:"templates"`
	// TextTokens is what the text prompt became, with whatever is put before
	// it; IDTokens what the token-id prompt was counted as; -1 = not told.
	TextTokens int `json:"text_tokens"`
	IDTokens   int `json:"id_tokens"`
	IDsSent    int `json:"ids_sent"`

	Keys engine.KeyStyle `json:"keys"`
	Top  int             `json:"top"` // entries that came
	// Sum of the top-k probabilities. FarBelow: how far the k-th is under the
	// first, nats; a token that sampling filtered out is at about -1e9.
	Sum      float64 `json:"sum"`
	FarBelow float64 `json:"far_below"`
	// TemperatureShift is the largest change of a log-probability between
	// temperatures 1 and 0.5: zero where they are raw.
	TemperatureShift float64 `json:"temperature_shift"`
	// RepeatShift is the largest change between two equal requests, and
	// BatchShift between one alone and the same one among others.
	RepeatShift float64 `json:"repeat_shift"`
	BatchShift  float64 `json:"batch_shift"`
	Cached      int     `json:"cached"` // prompt tokens of the repeat that came from a cache
	// CacheShift is the largest change between a long prompt and its repeat,
	// which a prefix cache answers.
	CacheShift float64 `json:"cache_shift"`
	// PathShift is the median change of a log-probability between teacher
	// forcing and generation after the same text, and PathSpread the quartiles'
	// distance. A sampler that normalises over a reduced vocabulary raises all
	// alike; a decode kernel at fault moves them apart.
	PathShift  float64 `json:"path_shift"`
	PathSpread float64 `json:"path_spread"`
	// Spelled are the token ids of SpellingCases, where the endpoint tokenizes.
	Spelled [][]int `json:"spelled,omitempty"`
	Strict  bool    `json:"strict,omitempty"`
	// Flags are the settings that the endpoint tells of.
	Flags map[string]string `json:"flags,omitempty"`
	// Parameters that were honoured, or why not; empty = honoured.
	Parameters map[string]string `json:"parameters"`
	// Speculative: the engine's metrics count draft tokens.
	Speculative bool     `json:"speculative"`
	Errors      []string `json:"errors,omitempty"` // what could not be found out
}

// TemplateCase is one conversation whose length both sides must agree on.
type TemplateCase struct {
	Name     string
	Messages string // JSON
	Tools    string // JSON or empty
}

// TemplateCases are conversations that templates and tokenizers are known to
// disagree on.
func TemplateCases() []TemplateCase {
	user := func(s string) string { return `[{"role":"user","content":` + quote(s) + `}]` }
	tool := `[{"type":"function","function":{"name":"add","description":"adds","parameters":{"type":"object","properties":{"a":{"type":"number"},"b":{"type":"number"}}}}}]`
	return []TemplateCase{
		{"one word", user("Hi"), ""},
		{"empty", user(""), ""},
		{"newline at the end", user("Hi\n"), ""},
		{"space before", user(" Hi"), ""},
		{"spaces", user("a  b   c"), ""},
		{"digits", user("12345678901234567890"), ""},
		{"code", user("func f() {\n\treturn 1\n}\n"), ""},
		{"chinese", user("你好，世界"), ""},
		{"emoji", user("👩‍👩‍👧 é é"), ""},
		{"special token as text", user("<|im_end|><|endoftext|></s>"), ""},
		{"think tag", user("<think>x</think>"), ""},
		{"windows line ends", user("a\r\nb"), ""},
		{"right to left", user("שלום"), ""},
		{"long", user(strings.Repeat("the quick brown fox ", 8)), ""},
		{"system", `[{"role":"system","content":"Be brief."},{"role":"user","content":"Hi"}]`, ""},
		{"empty system", `[{"role":"system","content":""},{"role":"user","content":"Hi"}]`, ""},
		{"two turns", `[{"role":"user","content":"Hi"},{"role":"assistant","content":"Hello"},{"role":"user","content":"Bye"}]`, ""},
		{"assistant with thinking", `[{"role":"user","content":"Hi"},{"role":"assistant","content":"<think>hm</think>Hello"},{"role":"user","content":"Bye"}]`, ""},
		{"tools", user("2+2"), tool},
	}
}

func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings marshal
	}
	return string(b)
}

// Observe asks one endpoint about fifty short requests. Only the context's end
// is an error: what the endpoint refuses is an observation.
func Observe(ctx context.Context, p Prober, o ProbeOptions) (Observed, error) {
	w := &watcher{ctx: ctx, p: p, o: o, seen: Observed{
		Parameters: map[string]string{}, TextTokens: -1, IDTokens: -1, IDsSent: len(o.Prompt), Strict: o.Strict,
	}}
	w.identity()
	w.templates()
	w.logProbs()
	w.cache()
	w.parameters()
	return w.seen, ctx.Err()
}

type watcher struct {
	ctx  context.Context
	p    Prober
	o    ProbeOptions
	seen Observed
}

func (w *watcher) note(what string, err error) {
	if err != nil {
		w.seen.Errors = append(w.seen.Errors, what+": "+err.Error())
	}
}

// one generates a single continuation.
func (w *watcher) one(r engine.GenerateRequest) (engine.Generated, error) {
	got, err := w.p.Generate(w.ctx, r)
	if err != nil {
		return engine.Generated{}, err
	}
	if len(got) == 0 {
		return engine.Generated{}, errors.New("no continuation")
	}
	return got[0], nil
}

func (w *watcher) identity() {
	id, err := w.p.Identify(w.ctx)
	w.note("models", err)
	w.seen.MaxModelLen, w.seen.Flags = id.MaxModelLen, id.Flags
	on := id.Flags[engine.FlagSpeculative]
	w.seen.Speculative = on != "" && on != "False" && on != "None"
	spell, ok := w.p.(interface {
		Tokenize(ctx context.Context, text string) ([]int, error)
	})
	if !ok {
		return
	}
	for _, text := range SpellingCases() {
		ids, err := spell.Tokenize(w.ctx, text)
		if err != nil {
			w.seen.Spelled = nil // it does not tokenize
			return
		}
		w.seen.Spelled = append(w.seen.Spelled, ids)
	}
}

// SpellingCases are texts whose token ids show whether two vocabularies are one.
func SpellingCases() []string {
	return []string{"The ferry leaves the island at seven.", "渡船七点离开小岛。", "x = [0x1f, 3.14, -7]\n\treturn x", "👩🏽‍🔬 é ﷽"}
}

func (w *watcher) templates() {
	for _, c := range TemplateCases() {
		var tools json.RawMessage
		if c.Tools != "" {
			tools = json.RawMessage(c.Tools)
		}
		n, err := w.p.ChatTokens(w.ctx, json.RawMessage(c.Messages), tools)
		if err != nil {
			n = -1
		}
		w.seen.Templates = append(w.seen.Templates, n)
	}
}

func (w *watcher) logProbs() {
	ask := engine.GenerateRequest{Tokens: w.o.Prompt, MaxTokens: 1, Temperature: 1, Top: w.o.Top, Seed: seed(1)}
	warm, err := w.one(ask)
	if w.note("log-probabilities", err); err != nil {
		return
	}
	w.seen.IDTokens, w.seen.Keys = warm.PromptTokens, warm.Keys
	if len(warm.Positions) == 1 {
		top := warm.Positions[0].Top
		w.seen.Top = len(top)
		for _, e := range top {
			w.seen.Sum += math.Exp(e.LogProb)
		}
		if len(top) > 0 {
			w.seen.FarBelow = top[0].LogProb - top[len(top)-1].LogProb
		}
	}
	again, err := w.one(ask)
	if w.note("the same request again", err); err == nil {
		w.seen.RepeatShift, w.seen.Cached = shift(warm, again), again.CachedTokens
	}
	w.paths(warm)
	ask.Temperature = 0.5
	half, err := w.one(ask)
	if w.note("temperature 0.5", err); err == nil {
		w.seen.TemperatureShift = shift(warm, half)
	}
	ask.Temperature, ask.N = 1, 4
	if many, err := w.p.Generate(w.ctx, ask); err == nil && len(many) == 4 {
		for _, g := range many {
			w.seen.BatchShift = max(w.seen.BatchShift, shift(warm, g))
		}
	} else {
		w.note("four at once", err)
	}
	if w.o.Text != "" {
		text, err := w.one(engine.GenerateRequest{Prompt: w.o.Text, MaxTokens: 1})
		if w.note("a text prompt", err); err == nil {
			w.seen.TextTokens = text.PromptTokens
		}
	}
}

// paths scores what was just written, and compares.
func (w *watcher) paths(warm engine.Generated) {
	scorer, ok := w.p.(Scorer)
	if !ok || len(warm.Positions) != 1 {
		return
	}
	text := append(append([]int{}, w.o.Prompt...), warm.Positions[0].Token)
	got, err := scorer.Score(w.ctx, [][]int{text}, w.o.Top)
	if w.note("the written token scored", err); err == nil && len(got) == 1 && len(got[0]) == len(text) {
		w.seen.PathShift, w.seen.PathSpread = offset(got[0][len(text)-1], warm.Positions[0])
	}
}

// offset is the median of b's log-probabilities less a's, over the tokens that
// both name, and the distance of its quartiles.
func offset(a, b engine.Position) (median, spread float64) {
	pa := masses(a)
	var d []float64
	for _, e := range b.Top {
		if lp, ok := pa[e.Token]; ok {
			d = append(d, e.LogProb-lp)
		}
	}
	if len(d) < 4 {
		return 0, 0
	}
	slices.Sort(d)
	return d[len(d)/2], d[3*len(d)/4] - d[len(d)/4]
}

// cachedPrompt is how long a prompt is repeated to: several blocks of any engine.
const cachedPrompt = 320

// cache asks a long prompt twice: the second time a prefix cache may answer.
func (w *watcher) cache() {
	n := cachedPrompt
	if w.seen.MaxModelLen > 0 {
		n = min(n, w.seen.MaxModelLen-2)
	}
	if n < 2*len(w.o.Prompt) {
		return
	}
	long := make([]int, n)
	for i := range long {
		long[i] = w.o.Prompt[i%len(w.o.Prompt)]
	}
	ask := engine.GenerateRequest{Tokens: long, MaxTokens: 1, Temperature: 1, Top: w.o.Top, Seed: seed(2)}
	cold, err := w.one(ask)
	if w.note("a long prompt", err); err != nil {
		return
	}
	again, err := w.one(ask)
	if w.note("a long prompt again", err); err == nil {
		w.seen.CacheShift, w.seen.Cached = shift(cold, again), max(w.seen.Cached, again.CachedTokens)
	}
}

func seed(n int64) *int64 { return &n }

// shift is the largest change of a token's log-probability that both name at
// their first position.
func shift(a, b engine.Generated) float64 {
	if len(a.Positions) == 0 || len(b.Positions) == 0 {
		return 0
	}
	pb, most := masses(b.Positions[0]), 0.0
	for _, e := range a.Positions[0].Top {
		if lp, ok := pb[e.Token]; ok {
			most = max(most, math.Abs(lp-e.LogProb))
		}
	}
	return most
}

// parameters tries what production requests rely on, one at a time.
func (w *watcher) parameters() {
	try := func(name string, f func() (string, error)) {
		problem, err := f()
		if err != nil {
			problem = err.Error()
		}
		w.seen.Parameters[name] = problem
	}
	base := engine.GenerateRequest{Tokens: w.o.Prompt, MaxTokens: 3, Top: 1, IgnoreEOS: true}
	try("max_tokens", func() (string, error) {
		g, err := w.one(base)
		return unless(g.FinishReason == "length" && (g.CompletionTokens < 0 || g.CompletionTokens == 3),
			"asked for 3 tokens, got "+itoa(g.CompletionTokens)+", finish_reason "+g.FinishReason), err
	})
	try("temperature", func() (string, error) {
		a, err := w.one(base)
		if err != nil || a.Keys != engine.KeysID {
			return "", err
		}
		for _, p := range a.Positions {
			if len(p.Top) > 0 && p.LogProb < p.Top[0].LogProb {
				return "temperature 0 did not take the likeliest token", nil
			}
		}
		return "", nil
	})
	try("logit_bias", func() (string, error) {
		r := base
		r.MaxTokens, r.LogitBias = 1, map[int]float64{w.o.Prompt[0]: 100}
		g, err := w.one(r)
		if err != nil || g.Keys != engine.KeysID || len(g.Positions) == 0 {
			return "", err
		}
		return unless(g.Positions[0].Token == w.o.Prompt[0], "a bias of 100 did not force the token"), nil
	})
	try("seed", func() (string, error) {
		r := base
		r.Temperature, r.Seed, r.MaxTokens = 2, seed(5), 24 // hot and long, so that chance shows
		a, err := w.one(r)
		if err != nil {
			return "", err
		}
		b, err := w.one(r)
		return unless(a.Text == b.Text, "the same seed wrote another text"), err
	})
	try("n", func() (string, error) {
		r := base
		r.Temperature, r.N = 1, 2
		got, err := w.p.Generate(w.ctx, r)
		return unless(len(got) == 2, "asked for 2 continuations, got "+itoa(len(got))), err
	})
	try("top_k", func() (string, error) {
		r := base
		r.Temperature, r.TopK, r.Seed = 1, 1, seed(7)
		a, err := w.one(r)
		if err != nil || a.Keys != engine.KeysID {
			return "", err
		}
		for _, p := range a.Positions {
			if len(p.Top) > 0 && p.LogProb < p.Top[0].LogProb {
				return "top_k 1 did not take the likeliest token", nil
			}
		}
		return "", nil
	})
	try("stop", w.stop)
	if len(w.o.EOS) == 0 {
		return
	}
	try("end of text", func() (string, error) {
		r := base
		r.IgnoreEOS, r.LogitBias = false, map[int]float64{}
		for _, id := range w.o.EOS {
			r.LogitBias[id] = 100
		}
		g, err := w.one(r)
		return unless(g.FinishReason == "stop", "a forced end-of-text token did not end the answer: finish_reason "+g.FinishReason), err
	})
}

// stop checks that a text which the model is about to write ends the answer.
func (w *watcher) stop() (string, error) {
	r := engine.GenerateRequest{Tokens: w.o.Prompt, MaxTokens: 8, IgnoreEOS: true}
	free, err := w.one(r)
	if err != nil {
		return "", err
	}
	runes := []rune(free.Text)
	if len(runes) < 2 {
		return "", nil // nothing to stop at
	}
	r.Stop = []string{string(runes[1])}
	cut, err := w.one(r)
	if err != nil {
		return "", err
	}
	return unless(cut.FinishReason == "stop" && !strings.Contains(cut.Text, r.Stop[0]), "the stop text did not end the answer"), nil
}

func unless(ok bool, problem string) string {
	if ok {
		return ""
	}
	return problem
}
