package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Message is one turn of a chat.
type Message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type chatWire struct {
	Model         string         `json:"model"`
	Messages      []Message      `json:"messages"`
	MaxTokens     int            `json:"max_tokens"`
	Temperature   float64        `json:"temperature"`
	Stream        bool           `json:"stream,omitempty"`
	StreamOptions *streamOptions `json:"stream_options,omitempty"`
}

// Chat asks for one greedy answer through the model's chat template.
func (c *Client) Chat(ctx context.Context, messages []Message, maxTokens int) (Completion, error) {
	body, err := c.do(ctx, "POST", "/v1/chat/completions", chatWire{Model: c.Model, Messages: messages, MaxTokens: maxTokens})
	if err != nil {
		return Completion{}, fmt.Errorf("chat: %w", err)
	}
	var a struct {
		Choices []struct {
			Message      *Message `json:"message"`
			FinishReason string   `json:"finish_reason"`
		} `json:"choices"`
	}
	if err := decode("chat", body, &a); err != nil {
		return Completion{}, err
	}
	if len(a.Choices) != 1 || a.Choices[0].Message == nil {
		return Completion{}, fmt.Errorf("chat: %w: no message", ErrMalformed)
	}
	if a.Choices[0].FinishReason == "" {
		return Completion{}, fmt.Errorf("chat: %w", ErrUnfinished)
	}
	return Completion{Text: a.Choices[0].Message.Content, FinishReason: a.Choices[0].FinishReason}, nil
}

// Streamed is what a streamed answer added up to.
type Streamed struct {
	Completion
	Chunks int // with text in them
	// CompletionTokens is the usage chunk's count; -1 if there was none.
	CompletionTokens int
}

// CompleteStream is Complete of one continuation as server-sent events.
func (c *Client) CompleteStream(ctx context.Context, r CompletionRequest) (Streamed, error) {
	w := c.wire(r)
	w.Stream, w.StreamOptions = true, &streamOptions{true}
	return c.stream(ctx, "/v1/completions", w)
}

// ChatStream is Chat as server-sent events.
func (c *Client) ChatStream(ctx context.Context, messages []Message, maxTokens int) (Streamed, error) {
	return c.stream(ctx, "/v1/chat/completions", chatWire{
		Model: c.Model, Messages: messages, MaxTokens: maxTokens, Stream: true, StreamOptions: &streamOptions{true},
	})
}

func (c *Client) stream(ctx context.Context, path string, body any) (Streamed, error) {
	payload, err := json.Marshal(body)
	if err != nil {
		return Streamed{}, err
	}
	var out Streamed
	err = c.retry(ctx, func() (time.Duration, error) {
		resp, err := c.send(ctx, "POST", path, payload)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			b, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // its words are a courtesy
			return retryAfter(resp.Header), statusError("POST", c.URL+path, resp.StatusCode, b)
		}
		out, err = readStream(io.LimitReader(resp.Body, c.maxBody()))
		return 0, err
	})
	if err != nil {
		return Streamed{}, fmt.Errorf("stream %s: %w", path, err)
	}
	return out, nil
}

type streamChunk struct {
	Choices []struct {
		Text  string `json:"text"`
		Delta struct {
			Content string `json:"content"`
		} `json:"delta"`
		FinishReason *string `json:"finish_reason"`
	} `json:"choices"`
	Usage *usage          `json:"usage"`
	Error json.RawMessage `json:"error"`
}

// readStream reads server-sent events up to [DONE]. A stream that ends before
// it, or without a finish reason, is an error: half an answer is none.
func readStream(r io.Reader) (Streamed, error) {
	out, text := Streamed{CompletionTokens: -1}, strings.Builder{}
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), 4<<20)
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data:"))
		if !ok {
			continue // comments, event names and the blank lines between events
		}
		data = bytes.TrimSpace(data)
		if bytes.Equal(data, []byte("[DONE]")) {
			out.Text = text.String()
			if out.FinishReason == "" {
				return Streamed{}, ErrUnfinished
			}
			return out, nil
		}
		var chunk streamChunk
		if err := decode("event", data, &chunk); err != nil {
			return Streamed{}, err
		}
		if chunk.Error != nil {
			return Streamed{}, fmt.Errorf("%w: error event %s", ErrMalformed, clip(chunk.Error, 300))
		}
		if chunk.Usage != nil && chunk.Usage.CompletionTokens != nil {
			out.CompletionTokens = *chunk.Usage.CompletionTokens
		}
		for _, ch := range chunk.Choices {
			if s := ch.Text + ch.Delta.Content; s != "" {
				text.WriteString(s)
				out.Chunks++
			}
			if ch.FinishReason != nil {
				out.FinishReason = *ch.FinishReason
			}
		}
	}
	if err := lines.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			return Streamed{}, fmt.Errorf("%w: one event is over 4 MiB", ErrTooLarge)
		}
		return Streamed{}, err
	}
	return Streamed{}, fmt.Errorf("%w: stream ended before [DONE]", ErrMalformed)
}
