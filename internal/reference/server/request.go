package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"

	"tarbert/internal/reference/tokenizer"
)

// limitsOf is what a server holds requests against.
type limitsOf struct {
	context     int // tokens of prompt and answer together
	vocab       int
	maxLogprobs int // -1: the whole vocabulary
	maxChoices  int
}

// prompt is one prompt as it came: text, or token ids.
type prompt struct {
	text   string
	ids    []int
	isText bool
}

// asked is what completions and chat have in common, read and checked.
type asked struct {
	params
	model         string
	n             int
	seeded        bool
	maxTokens     int // math.MaxInt: as many as the context has room for
	stream        bool
	usage         bool // stream_options.include_usage
	running       bool // stream_options.continuous_usage_stats
	tokenIDs      bool // return_token_ids
	tokensAsIDs   bool // return_tokens_as_token_ids
	addSpecial    bool
	ignoreEOS     bool
	truncate      int // keep so many of the prompt's last tokens; 0: all, -1: what the context has room for
	requestID     string
	bannedMembers []string
}

// checkLogprobs are the checks that come before types are looked at.
func checkLogprobs(f *fields) *apiError {
	stream := truthy(f, "stream")
	if raw, ok := f.get("prompt_logprobs"); ok {
		k, w := toInt(raw)
		if w == nil && stream && (k > 0 || k == -1) {
			return refuseParam("prompt_logprobs", "`prompt_logprobs` are not available when `stream=True`.")
		}
		if w == nil && k < -1 {
			return refuseValue("prompt_logprobs", k, "`prompt_logprobs` must be a positive value or -1.")
		}
	}
	if _, ok := f.get("stream_options"); ok && !stream {
		return refuseParam("stream_options", "Stream options can only be defined when `stream=True`.")
	}
	return nil
}

func truthy(f *fields, name string) bool {
	raw, ok := f.get(name)
	if !ok {
		return false
	}
	b, w := toBool(raw)
	return w == nil && b
}

// unsupportedMembers are requests' members that change the answer and that
// this server cannot honour: silence would be a wrong answer.
var unsupportedMembers = []string{
	"structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar",
	"logprob_token_ids", "prompt_embeds", "suffix", "bad_words", "logits_processors",
}

// readAsked reads the members that completions and chat share. Faults stay in f.
func readAsked(f *fields, d Defaults) asked {
	a := asked{
		model: f.string("model", ""), n: f.int("n", 1), stream: f.bool("stream", false),
		tokenIDs: f.bool("return_token_ids", false), tokensAsIDs: f.bool("return_tokens_as_token_ids", false),
		truncate: f.int("truncate_prompt_tokens", 0), requestID: f.string("request_id", ""),
	}
	a.frequency = f.float("frequency_penalty", 0)
	a.presence = f.float("presence_penalty", 0)
	a.repetition = f.float("repetition_penalty", or(d.RepetitionPenalty, 1))
	a.temperature = f.float("temperature", or(d.Temperature, 1))
	a.topP = f.float("top_p", or(d.TopP, 1))
	a.minP = f.float("min_p", or(d.MinP, 0))
	a.topK = f.int("top_k", int(or(d.TopK, 0)))
	if raw, ok := f.get("seed"); ok {
		seed, w := toInt(raw)
		if w != nil {
			f.add(w.kind, "body.seed", w.msg, describe(raw))
		}
		a.seed, a.seeded = uint64(seed), seed != -1
	}
	a.stop = f.oneOrMore("stop")
	a.stopIDs = intList(f, "stop_token_ids")
	a.allowed = intList(f, "allowed_token_ids")
	a.minTokens = f.int("min_tokens", 0)
	a.ignoreEOS = f.bool("ignore_eos", false)
	a.includeStop = f.bool("include_stop_str_in_output", false)
	a.skipSpecial = f.bool("skip_special_tokens", true)
	a.promptLogprobs = f.int("prompt_logprobs", noLogprobs)
	a.bias = readBias(f)
	if o := f.object("stream_options"); o != nil {
		sub := &fields{raw: o}
		a.usage = sub.bool("include_usage", false)
		a.running = sub.bool("continuous_usage_stats", false)
		f.faults = append(f.faults, sub.faults...)
	}
	for _, name := range unsupportedMembers {
		if raw, ok := f.get(name); ok && string(raw) != "[]" && string(raw) != `""` && string(raw) != "{}" {
			a.bannedMembers = append(a.bannedMembers, name)
		}
	}
	if truthy(f, "use_beam_search") {
		a.bannedMembers = append(a.bannedMembers, "use_beam_search")
	}
	if o := f.object("response_format"); o != nil && string(o["type"]) != `"text"` {
		a.bannedMembers = append(a.bannedMembers, "response_format")
	}
	return a
}

// noLogprobs is a count that no request can ask for.
const noLogprobs = math.MinInt32

func or(v *float64, otherwise float64) float64 {
	if v != nil {
		return *v
	}
	return otherwise
}

func intList(f *fields, name string) []int {
	wide := list(f, name, toInt)
	if wide == nil {
		return nil
	}
	out := make([]int, len(wide))
	for i, n := range wide {
		out[i] = int(n)
	}
	return out
}

// readBias reads logit_bias: token id to a number that is clamped to ±100.
func readBias(f *fields) map[int]float64 {
	o := f.object("logit_bias")
	if len(o) == 0 {
		return nil
	}
	out := make(map[int]float64, len(o))
	for key, raw := range o {
		id, err := strconv.Atoi(key)
		if err != nil {
			f.add("int_parsing", "body.logit_bias", "logit_bias contains a key that cannot be converted to an integer token ID", key)
			continue
		}
		b, w := toFloat(raw)
		if w != nil {
			f.add(w.kind, "body.logit_bias."+key, w.msg, describe(raw))
			continue
		}
		out[id] = min(100, max(-100, b))
	}
	return out
}

// check holds the sampling parameters against their ranges, in vLLM's order and words.
func (a *asked) check(l limitsOf) *apiError {
	if len(a.bannedMembers) > 0 {
		name := a.bannedMembers[0]
		return refuseParam(name, fmt.Sprintf("`%s` is not supported by the reference server.", name))
	}
	if a.temperature > 0 && a.temperature < 0.01 {
		a.temperature = 0.01 // below, float32 logits divided by it overflow
	}
	switch {
	case a.n < 1:
		return refuse("n must be at least 1, got %d.", a.n)
	case a.n > l.maxChoices:
		return refuse("n must be at most %d, got %d.", l.maxChoices, a.n)
	case !(a.presence >= -2 && a.presence <= 2):
		return refuse("presence_penalty must be in [-2, 2], got %s.", pyFloat(a.presence))
	case !(a.frequency >= -2 && a.frequency <= 2):
		return refuse("frequency_penalty must be in [-2, 2], got %s.", pyFloat(a.frequency))
	case !(a.repetition > 0) || math.IsInf(a.repetition, 0):
		return refuse("repetition_penalty must be greater than zero, got %s.", pyFloat(a.repetition))
	case math.IsInf(a.temperature, 0) || math.IsNaN(a.temperature):
		return refuseValue("temperature", a.temperature, fmt.Sprintf("temperature must be a finite number, got %s.", pyFloat(a.temperature)))
	case a.temperature < 0:
		return refuseValue("temperature", a.temperature, fmt.Sprintf("temperature must be non-negative, got %s.", pyFloat(a.temperature)))
	case a.temperature > 2:
		return refuseValue("temperature", a.temperature, fmt.Sprintf("temperature must be in [0, 2], got %s.", pyFloat(a.temperature)))
	case !(a.topP > 0 && a.topP <= 1):
		return refuseValue("top_p", a.topP, fmt.Sprintf("top_p must be in (0, 1], got %s.", pyFloat(a.topP)))
	case a.topK < -1:
		return refuse("top_k must be 0 (disable), or at least 1, got %d.", a.topK)
	case !(a.minP >= 0 && a.minP <= 1):
		return refuse("min_p must be in [0, 1], got %s.", pyFloat(a.minP))
	case a.maxTokens < 1:
		return refuseValue("max_tokens", a.maxTokens, fmt.Sprintf("max_tokens must be at least 1, got %d.", a.maxTokens))
	case a.minTokens < 0:
		return refuse("min_tokens must be greater than or equal to 0, got %d.", a.minTokens)
	case a.minTokens > a.maxTokens:
		return refuse("min_tokens must be less than or equal to max_tokens=%d, got %d.", a.maxTokens, a.minTokens)
	case slices.Contains(a.stop, ""):
		return refuse("stop cannot contain an empty string.")
	case a.greedy() && a.n > 1:
		return refuse("n must be 1 when using greedy sampling, got %d.", a.n)
	}
	if e := a.checkCounts(l); e != nil {
		return e
	}
	return a.checkIDs(l.vocab)
}

// checkCounts holds the numbers of log-probabilities against the limit and
// resolves -1 to the vocabulary.
func (a *asked) checkCounts(l limitsOf) *apiError {
	most := l.maxLogprobs
	if most < 0 {
		most = l.vocab
	}
	for _, c := range []struct {
		count       *int
		kind, param string
	}{{&a.logprobs, "sample", "logprobs"}, {&a.promptLogprobs, "prompt", "prompt_logprobs"}} {
		if *c.count == noLogprobs {
			*c.count = -1 // from here on: none
			continue
		}
		if *c.count == -1 {
			*c.count = l.vocab
		}
		if *c.count > most {
			return refuseValue(c.param, *c.count, fmt.Sprintf(
				"Requested %s logprobs of %d, which is greater than max allowed: %d", c.kind, *c.count, most))
		}
		if *c.count < 0 {
			return refuseValue(c.param, *c.count, fmt.Sprintf("`%s` must be a positive value or -1.", c.param))
		}
	}
	return nil
}

func (a *asked) checkIDs(vocab int) *apiError {
	bad := func(ids []int) []int {
		return slices.DeleteFunc(slices.Clone(ids), func(id int) bool { return id >= 0 && id < vocab })
	}
	biased := make([]int, 0, len(a.bias))
	for id := range a.bias {
		biased = append(biased, id)
	}
	slices.Sort(biased)
	for _, c := range []struct {
		param string
		ids   []int
	}{{"logit_bias", biased}, {"stop_token_ids", a.stopIDs}} {
		if b := bad(c.ids); len(b) > 0 {
			return refuseValue(c.param, b, fmt.Sprintf(
				"token_id(s) %s in %s contain out-of-vocab token ids. Vocabulary size: %d", pyValue(b), c.param, vocab))
		}
	}
	if a.allowed != nil && len(a.allowed) == 0 {
		return refuseValue("allowed_token_ids", a.allowed, "allowed_token_ids is not None and empty!")
	}
	if b := bad(a.allowed); len(b) > 0 {
		return refuseValue("allowed_token_ids", b, "allowed_token_ids contains out-of-vocab token id!")
	}
	return nil
}

// readPrompts reads prompt: a string, strings, ids, or lists of ids. Where it
// is none of them, the faults of all four readings are reported, in that order.
func readPrompts(raw json.RawMessage) ([]prompt, []fault) {
	const loc = "body.prompt"
	var faults []fault
	if inner := bytes.TrimLeft(raw[1:], " \t\r\n"); raw[0] == '[' && len(inner) > 0 && inner[0] == '[' {
		if lists, f := idLists(raw, loc); len(f) == 0 { // what scoring sends: read once
			return lists, nil
		}
	}
	ids, f1 := items(raw, loc, toID)
	if len(f1) == 0 {
		return onePrompt(ids), nil
	}
	lists, f2 := idLists(raw, loc)
	if len(f2) == 0 {
		return lists, nil
	}
	text, w := toString(raw)
	if w == nil {
		return []prompt{{text: text, isText: true}}, nil
	}
	texts, f4 := items(raw, loc, toString)
	if len(f4) == 0 {
		out := make([]prompt, len(texts))
		for i, t := range texts {
			out[i] = prompt{text: t, isText: true}
		}
		return out, nil
	}
	faults = append(append(faults, f1...), f2...)
	faults = append(faults, fault{kind: w.kind, loc: loc, msg: w.msg, input: describe(raw)})
	if raw[0] == '[' {
		faults = append(faults, f4...)
	} else {
		faults = append(faults, fault{kind: "list_type", loc: loc, msg: "Input should be a valid list", input: describe(raw)})
	}
	return nil, faults
}

func onePrompt(ids []int) []prompt {
	if len(ids) == 0 {
		return nil
	}
	return []prompt{{ids: ids}}
}

// toID reads a token id: pydantic's integer that is not negative.
func toID(raw json.RawMessage) (int, *wrong) {
	n, w := toInt(raw)
	if w == nil && n < 0 {
		w = &wrong{"greater_than_equal", "Input should be greater than or equal to 0"}
	}
	return int(n), w
}

func idLists(raw json.RawMessage, loc string) ([]prompt, []fault) {
	var members []json.RawMessage
	if raw[0] != '[' || json.Unmarshal(raw, &members) != nil {
		return nil, []fault{{kind: "list_type", loc: loc, msg: "Input should be a valid list", input: describe(raw)}}
	}
	var out []prompt
	var faults []fault
	for i, m := range members {
		ids, f := items(bytes.TrimSpace(m), fmt.Sprintf("%s.%d", loc, i), toID)
		faults = append(faults, f...)
		out = append(out, prompt{ids: ids})
		if len(faults) > maxFaults {
			break
		}
	}
	return out, faults
}

// tokens resolves a prompt to ids and checks that it can be computed. most is
// how many tokens it may have: the context, less one where something is to be generated.
func (p prompt) tokens(tok *tokenizer.Tokenizer, a *asked, l limitsOf, most int) ([]int, *apiError) {
	ids := p.ids
	if p.isText && a.truncate == 0 && len(p.text)/(8*tok.Longest()) > l.context {
		// Normalization shortens a text by less than eight: it cannot fit, and need not be encoded to know.
		return nil, tooLong(l.context+1, true, l.context)
	}
	if p.isText {
		if a.addSpecial {
			ids = tok.EncodeSpecial(p.text)
		} else {
			ids = tok.Encode(p.text)
		}
	}
	for _, id := range ids {
		if id < 0 || id >= l.vocab {
			return nil, refuse("Token id %d is out of vocabulary", id)
		}
	}
	if a.truncate == -1 {
		ids = ids[max(0, len(ids)-most):]
	} else if a.truncate > 0 {
		ids = ids[max(0, len(ids)-a.truncate):]
	}
	if len(ids) == 0 {
		return nil, refuse("The decoder prompt cannot be empty")
	}
	if len(ids) > most {
		return nil, tooLong(len(ids), p.isText, l.context)
	}
	return ids, nil
}

// tooLong is vLLM's answer to a prompt that leaves no room: it stops counting
// a text's tokens one past the limit.
func tooLong(n int, text bool, context int) *apiError {
	atLeast := ""
	if text && n > context {
		atLeast, n = "at least ", context+1
	}
	e := refuse("This model's maximum context length is %d tokens. However, your prompt contains %s%d input tokens, "+
		"which exceeds this limit even without any output tokens. Please reduce the length of the input prompt. "+
		"(parameter=input_tokens, value=%d)", context, atLeast, n, n)
	param := "input_tokens"
	e.Param, e.Code = &param, http.StatusBadRequest
	return e
}
