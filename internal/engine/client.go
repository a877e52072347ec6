package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Defaults of Client.
const (
	defaultConcurrency = 4
	defaultPatience    = 30 * time.Second
	defaultTimeout     = 10 * time.Minute
	defaultMaxBody     = 256 << 20
	firstBackoff       = 50 * time.Millisecond
	longestBackoff     = 2 * time.Second
)

// Client speaks vLLM's dialect of OpenAI's protocol to one endpoint. Its zero
// values are usable; URL and Model must be set. It is safe for concurrent use.
type Client struct {
	URL   string // "http://127.0.0.1:8000", without /v1
	Model string // what requests name
	HTTP  *http.Client

	// Key, if set, is sent as the bearer token.
	Key string
	// Concurrency bounds the requests of one Score call in flight; default 4.
	Concurrency int
	// Patience is how long one request is retried while the endpoint is busy
	// or away (429, 502, 503, 504, connection refused or cut); default 30 s.
	Patience time.Duration
	// Timeout is how long one try may take to its last byte; default 10 minutes.
	Timeout time.Duration
	// Header is sent with every request: what a gateway wants to be told.
	Header http.Header
	// MaxBody caps one answer in bytes; default 256 MiB.
	MaxBody int64
	// Vocab, if known, lets an answer hold fewer than k entries when it holds
	// the whole vocabulary, and bounds token ids.
	Vocab int
}

func (c *Client) http() *http.Client {
	if c.HTTP != nil {
		return c.HTTP
	}
	return http.DefaultClient
}

func (c *Client) timeout() time.Duration {
	if c.Timeout > 0 {
		return c.Timeout
	}
	return defaultTimeout
}

// slow says that an error came because the try's time was over.
func slow(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), ErrSlow) {
		return context.Cause(ctx)
	}
	return err
}

func (c *Client) maxBody() int64 {
	if c.MaxBody > 0 {
		return c.MaxBody
	}
	return defaultMaxBody
}

func (c *Client) concurrency() int {
	if c.Concurrency > 0 {
		return c.Concurrency
	}
	return defaultConcurrency
}

// do sends one request, again and again while the endpoint says "not now",
// and returns the body of a 200.
func (c *Client) do(ctx context.Context, method, path string, body any) ([]byte, error) {
	return c.exchange(ctx, method, path, body, nil)
}

// exchange is do with a look at the answer that counted.
func (c *Client) exchange(ctx context.Context, method, path string, body any, look func(*http.Response)) ([]byte, error) {
	var payload []byte
	if body != nil {
		var err error
		if payload, err = json.Marshal(body); err != nil {
			return nil, fmt.Errorf("%s %s: %w", method, path, err)
		}
	}
	var answer []byte
	err := c.retry(ctx, func() (time.Duration, error) {
		ctx, cancel := context.WithTimeoutCause(ctx, c.timeout(), fmt.Errorf("%w within %v", ErrSlow, c.timeout()))
		defer cancel()
		resp, err := c.send(ctx, method, path, payload)
		if err != nil {
			return 0, slow(ctx, err)
		}
		defer resp.Body.Close()
		if look != nil {
			look(resp)
		}
		answer, err = c.read(resp)
		if err = slow(ctx, err); err != nil {
			return 0, fmt.Errorf("%s %s: %w", method, c.URL+path, err)
		}
		if resp.StatusCode != http.StatusOK {
			return retryAfter(resp.Header), statusError(method, c.URL+path, resp.StatusCode, answer)
		}
		return 0, nil
	})
	return answer, err
}

// send sends the request once.
func (c *Client) send(ctx context.Context, method, path string, payload []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(c.URL, "/")+path, bytes.NewReader(payload))
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	for name, values := range c.Header {
		req.Header[name] = values
	}
	if payload != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.Key != "" {
		req.Header.Set("Authorization", "Bearer "+c.Key)
	}
	return c.http().Do(req)
}

// read reads the body up to the cap. An answer cut off before its
// Content-Length ends in io.ErrUnexpectedEOF.
func (c *Client) read(resp *http.Response) ([]byte, error) {
	limit := c.maxBody()
	if resp.ContentLength > limit {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, resp.ContentLength, limit)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit)
	}
	return b, nil
}

// retry calls f until it succeeds, fails for good, or patience runs out. f may
// ask for a pause of its own before the next try.
func (c *Client) retry(ctx context.Context, f func() (time.Duration, error)) error {
	patience := c.Patience
	if patience == 0 {
		patience = defaultPatience
	}
	began, pause := time.Now(), firstBackoff
	for try := 1; ; try++ {
		wanted, err := f()
		if err == nil || !transient(err) {
			return err
		}
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		}
		wait := min(max(pause, wanted), 10*time.Second)
		if time.Since(began)+wait > patience {
			return fmt.Errorf("gave up after %d tries in %.1f s: %w", try, time.Since(began).Seconds(), err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return errors.Join(ctx.Err(), err)
		case <-timer.C:
		}
		pause = min(2*pause, longestBackoff)
	}
}

// transient reports whether trying again may help. A 500 is not: vLLM's engine
// is dead after one.
func transient(err error) bool {
	var status *StatusError
	if errors.As(err, &status) {
		switch status.Code {
		case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return true
		}
		return false
	}
	for _, e := range []error{syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func retryAfter(h http.Header) time.Duration {
	s, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || s < 0 {
		return 0
	}
	return time.Duration(min(s, 60)) * time.Second
}

// statusError reads the error shapes of vLLM, OpenAI, FastAPI and llama-server.
func statusError(method, url string, code int, body []byte) *StatusError {
	e := &StatusError{Method: method, URL: url, Code: code}
	var shape struct {
		Error  json.RawMessage `json:"error"`
		Detail json.RawMessage `json:"detail"`
	}
	if json.Unmarshal(body, &shape) == nil {
		var object struct {
			Message, Type string
			Param         *string
		}
		switch {
		case json.Unmarshal(shape.Error, &e.Message) == nil:
		case json.Unmarshal(shape.Error, &object) == nil:
			e.Message, e.Type = object.Message, object.Type
			if object.Param != nil {
				e.Param = *object.Param
			}
		case len(shape.Detail) > 0 && json.Unmarshal(shape.Detail, &e.Message) != nil:
			e.Message = string(shape.Detail)
		}
	}
	if e.Message == "" {
		e.Message = string(body)
	}
	if len(e.Message) > 500 {
		e.Message = strings.ToValidUTF8(e.Message[:500], "") + "…"
	}
	return e
}

// decode reads a JSON answer into v.
func decode(what string, body []byte, v any) error {
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%s: %w: %v (%d bytes beginning %q)", what, ErrMalformed, err, len(body), clip(body, 80))
	}
	return nil
}

func clip(b []byte, n int) string { return strings.ToValidUTF8(string(b[:min(len(b), n)]), "?") }
