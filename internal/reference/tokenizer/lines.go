package tokenizer

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxLine bounds one line of input.
const maxLine = 64 << 20

// line is one line of what TokenizeLines reads.
type line struct {
	ID       json.RawMessage `json:"id"`
	Text     *string         `json:"text"`
	Messages json.RawMessage `json:"messages"`
	Options  json.RawMessage `json:"options"`
}

// TokenizeLines reads JSON Lines, {"id", "text"} or {"id", "messages",
// "options"}, and writes {"id", "tokens", "text"} for each: text as it is
// encoded, after the chat template where there are messages. No special tokens
// are added to plain text. Errors say name:line.
func (t *Tokenizer) TokenizeLines(ctx context.Context, name string, in io.Reader, out io.Writer) error {
	scanner := bufio.NewScanner(in)
	scanner.Buffer(make([]byte, 0, 64<<10), maxLine)
	w := bufio.NewWriter(out)
	for n := 1; scanner.Scan(); n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		if len(bytes.TrimSpace(scanner.Bytes())) == 0 {
			continue
		}
		answer, err := t.tokenizeLine(scanner.Bytes())
		if err != nil {
			// What was done before the bad line is worth having.
			return errors.Join(fmt.Errorf("%s:%d: %w", name, n, err), w.Flush())
		}
		if _, err := w.Write(answer); err != nil {
			return fmt.Errorf("write tokens: %w", err)
		}
	}
	if err := scanner.Err(); err != nil {
		return errors.Join(fmt.Errorf("read %s: %w", name, err), w.Flush())
	}
	return w.Flush()
}

func (t *Tokenizer) tokenizeLine(raw []byte) ([]byte, error) {
	var l line
	if err := strict("line", raw, &l); err != nil {
		return nil, err
	}
	if absent(l.ID) {
		return nil, errors.New(`no "id"`)
	}
	var text string
	switch {
	case l.Text != nil && !absent(l.Messages):
		return nil, errors.New(`both "text" and "messages": want one of them`)
	case l.Text != nil && !absent(l.Options):
		return nil, errors.New(`"options" are for "messages"`)
	case l.Text != nil:
		text = *l.Text
	case !absent(l.Messages):
		var err error
		if text, err = t.Chat(l.Messages, l.Options); err != nil {
			return nil, err
		}
	default:
		return nil, errors.New(`neither "text" nor "messages"`)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(struct {
		ID     json.RawMessage `json:"id"`
		Tokens []int           `json:"tokens"`
		Text   string          `json:"text"`
	}{l.ID, t.Encode(text), text})
	return b.Bytes(), err
}
