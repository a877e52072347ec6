package reward

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"unicode/utf8"
)

// Limits on what is read: a problems file is text that people can look at.
const (
	maxLine     = 1 << 20   // bytes
	maxProblems = 4_000_000 // lines
)

// ReadProblems reads a problems file: JSON Lines of
// {"id":"…","prompt":"…","answer":"…"}, all three required and not empty, no other
// field, every id once. An error names the file and the line.
func ReadProblems(path string) ([]Problem, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read problems: %w", err)
	}
	defer f.Close()
	problems, err := readProblems(f)
	if err != nil {
		return nil, fmt.Errorf("%s:%w", path, err)
	}
	if len(problems) == 0 {
		return nil, fmt.Errorf("%s: no problems in it; a line is {\"id\":\"p1\",\"prompt\":\"12+34=\",\"answer\":\"46\"}", path)
	}
	return problems, nil
}

// readProblems gives errors that start with the line number.
func readProblems(r io.Reader) ([]Problem, error) {
	var problems []Problem
	seen := map[string]int{}
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, maxLine)
	n := 0
	for sc.Scan() {
		n++
		if n > maxProblems {
			return nil, fmt.Errorf("%d: more than %d lines", n, maxProblems)
		}
		p, err := parseProblem(sc.Bytes())
		if err != nil {
			return nil, fmt.Errorf("%d: %w", n, err)
		}
		if first, dup := seen[p.ID]; dup {
			return nil, fmt.Errorf("%d: id %q is on line %d already", n, p.ID, first)
		}
		seen[p.ID] = n
		problems = append(problems, p)
	}
	if err := sc.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, fmt.Errorf("%d: the line is longer than %d bytes", n+1, maxLine)
	} else if err != nil {
		return nil, fmt.Errorf("%d: %w", n+1, err)
	}
	return problems, nil
}

// parseProblem reads one line strictly. encoding/json alone would take "ID" for
// "id" and the last of two equal keys.
func parseProblem(line []byte) (Problem, error) {
	if !utf8.Valid(line) {
		return Problem{}, errors.New("not valid UTF-8")
	}
	if len(bytes.TrimSpace(line)) == 0 {
		return Problem{}, errors.New("the line is empty")
	}
	var p Problem
	fields := map[string]*string{"id": &p.ID, "prompt": &p.Prompt, "answer": &p.Answer}
	dec := json.NewDecoder(bytes.NewReader(line))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return Problem{}, errors.New(`not a JSON object such as {"id":"p1","prompt":"12+34=","answer":"46"}`)
	}
	seen := map[string]bool{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return Problem{}, fmt.Errorf("not valid JSON: %w", err)
		}
		key, _ := t.(string) // the decoder allows no other kind of key
		into, known := fields[key]
		switch {
		case !known:
			return Problem{}, fmt.Errorf("unknown field %q; a problem has id, prompt and answer", key)
		case seen[key]:
			return Problem{}, fmt.Errorf("field %q is there twice", key)
		}
		seen[key] = true
		if t, err = dec.Token(); err != nil {
			return Problem{}, fmt.Errorf("not valid JSON: %w", err)
		}
		s, ok := t.(string)
		if !ok || s == "" {
			return Problem{}, fmt.Errorf("field %q must be text that is not empty", key)
		}
		*into = s
	}
	if _, err := dec.Token(); err != nil {
		return Problem{}, fmt.Errorf("not valid JSON: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Problem{}, errors.New("something follows the JSON object")
	}
	for _, key := range []string{"id", "prompt", "answer"} {
		if !seen[key] {
			return Problem{}, fmt.Errorf("field %q is missing", key)
		}
	}
	return p, nil
}
