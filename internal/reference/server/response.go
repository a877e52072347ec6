package server

import (
	"bytes"
	"encoding/json"
	"strconv"
	"unicode/utf8"
)

// usage counts tokens. The two details are null here, as in vLLM without prefix-cache reports.
type usage struct {
	Prompt     int       `json:"prompt_tokens"`
	Total      int       `json:"total_tokens"`
	Completion int       `json:"completion_tokens"`
	PromptMore *struct{} `json:"prompt_tokens_details"`
	OutputMore *struct{} `json:"completion_tokens_details"`
}

// streamUsage is usage in a stream, where null members are left out.
type streamUsage struct {
	Prompt     int `json:"prompt_tokens"`
	Total      int `json:"total_tokens"`
	Completion int `json:"completion_tokens"`
}

// completion is the answer of /v1/completions, members in vLLM's order.
type completion struct {
	ID          string             `json:"id"`
	Object      string             `json:"object"`
	Created     int64              `json:"created"`
	Model       string             `json:"model"`
	Choices     []completionChoice `json:"choices"`
	Tier        *string            `json:"service_tier"`
	Fingerprint string             `json:"system_fingerprint"`
	Usage       usage              `json:"usage"`
	KV          *struct{}          `json:"kv_transfer_params"`
	EC          *struct{}          `json:"ec_transfer_params"`
	Metrics     *struct{}          `json:"metrics"`
}

type completionChoice struct {
	Index          int             `json:"index"`
	Text           string          `json:"text"`
	Logprobs       *textLogprobs   `json:"logprobs"`
	Finish         *string         `json:"finish_reason"`
	Reason         any             `json:"stop_reason"`
	TokenIDs       []int           `json:"token_ids"`
	PromptLogprobs promptPositions `json:"prompt_logprobs"`
	PromptIDs      []int           `json:"prompt_token_ids"`
	Experts        *string         `json:"routed_experts"`
}

// completionChunk is one event of a completion's stream.
type completionChunk struct {
	ID          string                  `json:"id"`
	Object      string                  `json:"object"`
	Created     int64                   `json:"created"`
	Model       string                  `json:"model"`
	Choices     []completionChunkChoice `json:"choices"`
	Usage       *streamUsage            `json:"usage,omitempty"`
	Fingerprint string                  `json:"system_fingerprint,omitempty"`
}

type completionChunkChoice struct {
	Index     int           `json:"index"`
	Text      string        `json:"text"`
	Logprobs  *textLogprobs `json:"logprobs"`
	Finish    *string       `json:"finish_reason"`
	Reason    any           `json:"stop_reason"`
	PromptIDs []int         `json:"prompt_token_ids"`
	TokenIDs  []int         `json:"token_ids"`
}

// textLogprobs is OpenAI's older form: four lists side by side.
type textLogprobs struct {
	Offset []int        `json:"text_offset"`
	Values []*float64   `json:"token_logprobs"`
	Tokens []string     `json:"tokens"`
	Top    []*topByText `json:"top_logprobs"`
}

// topByText is an object keyed by token text. Tokens of equal text overwrite
// each other, keeping the first one's place, as Python's dictionaries do: what
// vLLM answers loses them, and so does this.
type topByText struct {
	keys   []string
	values map[string]float64
}

func (t *topByText) set(key string, v float64) {
	if t.values == nil {
		t.values = map[string]float64{}
	}
	if _, ok := t.values[key]; !ok {
		t.keys = append(t.keys, key)
	}
	t.values[key] = v
}

func (t *topByText) MarshalJSON() ([]byte, error) {
	return orderedObject(len(t.keys), func(i int) (string, any) { return t.keys[i], t.values[t.keys[i]] })
}

// encode is json.Marshal without the escapes for HTML, which nothing here is.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

func orderedObject(n int, member func(i int) (string, any)) ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		key, value := member(i)
		k, err := encode(key)
		if err != nil {
			return nil, err
		}
		v, err := encode(value)
		if err != nil {
			return nil, err
		}
		b.Write(k)
		b.WriteByte(':')
		b.Write(v)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// promptPositions is prompt_logprobs: null, or one object per prompt token
// keyed by token id, the actual token first; null for the first.
type promptPositions []position

func (p position) MarshalJSON() ([]byte, error) {
	if p == nil {
		return []byte("null"), nil
	}
	return orderedObject(len(p), func(i int) (string, any) {
		return strconv.Itoa(p[i].id), struct {
			Logprob float64 `json:"logprob"`
			Rank    int     `json:"rank"`
			Text    string  `json:"decoded_token"`
		}{atLeast(p[i].logprob), p[i].rank, p[i].text}
	})
}

// lowest stands for the logarithm of zero, which JSON cannot write.
const lowest = -9999

func atLeast(logprob float64) float64 { return max(logprob, lowest) }

// label is how a token is named in a list of log-probabilities.
func (e entry) label(asID bool) string {
	if asID {
		return "token_id:" + strconv.Itoa(e.id)
	}
	return e.text
}

// add appends one token. k is how many likely ones were asked for.
func (l *textLogprobs) add(p position, first entry, k int, asID bool, offset *int) {
	l.Offset = append(l.Offset, *offset)
	if p == nil {
		label := first.label(asID)
		l.Tokens = append(l.Tokens, label)
		l.Values = append(l.Values, nil)
		l.Top = append(l.Top, nil)
		*offset += utf8.RuneCountInString(label)
		return
	}
	label, value := p[0].label(asID), atLeast(p[0].logprob)
	l.Tokens = append(l.Tokens, label)
	l.Values = append(l.Values, &value)
	top := &topByText{}
	for _, e := range p[:min(len(p), k+1)] {
		top.set(e.label(asID), atLeast(e.logprob))
	}
	l.Top = append(l.Top, top)
	*offset += utf8.RuneCountInString(label)
}

// chatAnswer is the answer of /v1/chat/completions, members in vLLM's order.
type chatAnswer struct {
	ID             string          `json:"id"`
	Object         string          `json:"object"`
	Created        int64           `json:"created"`
	Model          string          `json:"model"`
	Choices        []chatChoice    `json:"choices"`
	Tier           *string         `json:"service_tier"`
	Fingerprint    string          `json:"system_fingerprint"`
	Usage          usage           `json:"usage"`
	PromptLogprobs promptPositions `json:"prompt_logprobs"`
	PromptIDs      []int           `json:"prompt_token_ids"`
	PromptText     *string         `json:"prompt_text"`
	KV             *struct{}       `json:"kv_transfer_params"`
	EC             *struct{}       `json:"ec_transfer_params"`
	Metrics        *struct{}       `json:"metrics"`
}

type chatChoice struct {
	Index    int           `json:"index"`
	Message  chatMessage   `json:"message"`
	Logprobs *chatLogprobs `json:"logprobs"`
	Finish   *string       `json:"finish_reason"`
	Reason   any           `json:"stop_reason"`
	TokenIDs []int         `json:"token_ids"`
	Experts  *string       `json:"routed_experts"`
}

type chatMessage struct {
	Role        string    `json:"role"`
	Content     string    `json:"content"`
	Refusal     *string   `json:"refusal"`
	Annotations *struct{} `json:"annotations"`
	Audio       *struct{} `json:"audio"`
	Function    *struct{} `json:"function_call"`
	Reasoning   *string   `json:"reasoning"`
}

// chatLogprobs is OpenAI's newer form: one object per token.
type chatLogprobs struct {
	Content []chatLogprob `json:"content"`
}

type chatLogprob struct {
	chatToken
	Top []chatToken `json:"top_logprobs"`
}

type chatToken struct {
	Token   string  `json:"token"`
	Logprob float64 `json:"logprob"`
	Bytes   byteSet `json:"bytes"`
}

// byteSet is written as a list of numbers; Go would write base64.
type byteSet []byte

func (b byteSet) MarshalJSON() ([]byte, error) {
	out := []byte{'['}
	for i, c := range b {
		if i > 0 {
			out = append(out, ',')
		}
		out = strconv.AppendInt(out, int64(c), 10)
	}
	return append(out, ']'), nil
}

// chatLogprobOf writes one position with the first k entries as the likeliest:
// in vLLM's lists the token that was drawn is one of the k, and the first.
func chatLogprobOf(p position, k int, asID bool) chatLogprob {
	token := func(e entry) chatToken {
		label := e.label(asID)
		return chatToken{label, atLeast(e.logprob), byteSet(label)}
	}
	out := chatLogprob{chatToken: token(p[0]), Top: []chatToken{}}
	for _, e := range p[:min(len(p), k)] {
		out.Top = append(out.Top, token(e))
	}
	return out
}

// chatChunk is one event of a chat's stream.
type chatChunk struct {
	ID          string       `json:"id"`
	Object      string       `json:"object"`
	Created     int64        `json:"created"`
	Model       string       `json:"model"`
	Choices     []any        `json:"choices"` // chatFirst or chatDelta
	Usage       *streamUsage `json:"usage,omitempty"`
	Fingerprint string       `json:"system_fingerprint,omitempty"`
}

// chatFirstChunk is the first event, which also tells about the prompt.
type chatFirstChunk struct {
	chatChunk
	PromptIDs  []int   `json:"prompt_token_ids"`
	PromptText *string `json:"prompt_text"`
}

type chatFirst struct {
	Index int `json:"index"`
	Delta struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	} `json:"delta"`
	Logprobs *chatLogprobs `json:"logprobs"`
	Finish   *string       `json:"finish_reason"`
}

// chatDelta is a piece of the answer; the last one has why it ended.
type chatDelta struct {
	Index    int           `json:"index"`
	Delta    contentDelta  `json:"delta"`
	Logprobs *chatLogprobs `json:"logprobs"`
	Finish   *string       `json:"finish_reason"`
	TokenIDs []int         `json:"token_ids"`
}

type contentDelta struct {
	Content string `json:"content"`
}

// chatLast is a chatDelta with the reason that only the last one has.
type chatLast struct {
	Index    int           `json:"index"`
	Delta    contentDelta  `json:"delta"`
	Logprobs *chatLogprobs `json:"logprobs"`
	Finish   *string       `json:"finish_reason"`
	Reason   any           `json:"stop_reason"`
	TokenIDs []int         `json:"token_ids"`
}
