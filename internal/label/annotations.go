package label

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

// Limits on what is read. Labels are kinds of judgement and annotators are
// people: more than this is a column mix-up.
const (
	maxLine       = 1 << 20 // bytes
	maxItems      = 4_000_000
	maxLabels     = 256
	maxAnnotators = 10_000
)

// Annotation is one line of the annotations file.
type Annotation struct {
	ID         string `json:"id"`
	Prompt     string `json:"prompt"`
	Completion string `json:"completion"`
	// Votes by annotator; nil is a missing vote.
	Votes map[string]*string `json:"votes"`
}

// readAnnotations reads an annotations file strictly; an error names the file and the line.
func readAnnotations(path string) ([]Annotation, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read annotations: %w", err)
	}
	defer f.Close()
	all, err := parseAnnotations(f)
	if err != nil {
		return nil, fmt.Errorf("%s:%w", path, err)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: no annotations in it; a line is %s", path, exampleLine)
	}
	return all, nil
}

const exampleLine = `{"id":"s1","prompt":"1+2=","completion":"3","votes":{"ana":"good","ben":null}}`

// parseAnnotations gives errors that start with the line number.
func parseAnnotations(r io.Reader) ([]Annotation, error) {
	var all []Annotation
	seen := map[string]int{}
	labels, annotators := map[string]bool{}, map[string]bool{}
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, maxLine)
	n := 0
	for sc.Scan() {
		n++
		a, err := parseAnnotation(sc.Bytes())
		if err != nil {
			return nil, fmt.Errorf("%d: %w", n, err)
		}
		for who, vote := range a.Votes {
			annotators[who] = true
			if vote != nil {
				labels[*vote] = true
			}
		}
		first, dup := seen[a.ID]
		switch {
		case dup:
			return nil, fmt.Errorf("%d: id %q is on line %d already", n, a.ID, first)
		case n > maxItems:
			return nil, fmt.Errorf("%d: more than %d items", n, maxItems)
		case len(labels) > maxLabels:
			return nil, fmt.Errorf("%d: more than %d different labels: votes are labels such as \"good\", not free text", n, maxLabels)
		case len(annotators) > maxAnnotators:
			return nil, fmt.Errorf("%d: more than %d annotators", n, maxAnnotators)
		}
		seen[a.ID] = n
		all = append(all, a)
	}
	if err := sc.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, fmt.Errorf("%d: the line is longer than %d bytes", n+1, maxLine)
	} else if err != nil {
		return nil, fmt.Errorf("%d: %w", n+1, err)
	}
	return all, nil
}

// parseAnnotation reads one line. encoding/json alone would take "ID" for "id"
// and the last of two votes by the same annotator.
func parseAnnotation(line []byte) (Annotation, error) {
	var a Annotation
	if !utf8.Valid(line) {
		return a, errors.New("not valid UTF-8")
	}
	if len(bytes.TrimSpace(line)) == 0 {
		return a, errors.New("the line is empty")
	}
	dec := json.NewDecoder(bytes.NewReader(line))
	seen := map[string]bool{}
	err := object(dec, func(key string) error {
		seen[key] = true
		switch key {
		case "id":
			return text(dec, key, &a.ID)
		case "prompt":
			return text(dec, key, &a.Prompt)
		case "completion":
			return text(dec, key, &a.Completion)
		case "votes":
			a.Votes = map[string]*string{}
			return object(dec, func(who string) error { return vote(dec, who, a.Votes) })
		}
		return fmt.Errorf("unknown field %q; an annotation has id, prompt, completion and votes", key)
	})
	if err != nil {
		return Annotation{}, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Annotation{}, errors.New("something follows the JSON object")
	}
	for _, key := range []string{"id", "prompt", "completion", "votes"} {
		if !seen[key] {
			return Annotation{}, fmt.Errorf("field %q is missing; a line is %s", key, exampleLine)
		}
	}
	if a.ID == "" || a.Prompt == "" {
		return Annotation{}, errors.New("id and prompt must not be empty")
	}
	return a, nil
}

// object reads {, calls field after each key, and reads }.
func object(dec *json.Decoder, field func(key string) error) error {
	t, err := dec.Token()
	if err != nil {
		return fmt.Errorf("not valid JSON: %w", err)
	}
	if t != json.Delim('{') {
		return fmt.Errorf("a JSON object is wanted where %v is", t)
	}
	seen := map[string]bool{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return fmt.Errorf("not valid JSON: %w", err)
		}
		key, _ := t.(string) // the decoder allows no other kind of key
		if seen[key] {
			return fmt.Errorf("%q is there twice", key)
		}
		seen[key] = true
		if err := field(key); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil {
		return fmt.Errorf("not valid JSON: %w", err)
	}
	return nil
}

func text(dec *json.Decoder, key string, into *string) error {
	t, err := dec.Token()
	if err != nil {
		return fmt.Errorf("not valid JSON: %w", err)
	}
	s, ok := t.(string)
	if !ok {
		return fmt.Errorf("field %q must be text, not %v", key, t)
	}
	*into = s
	return nil
}

func vote(dec *json.Decoder, who string, votes map[string]*string) error {
	t, err := dec.Token()
	if err != nil {
		return fmt.Errorf("not valid JSON: %w", err)
	}
	if who == "" {
		return errors.New("an annotator's name is empty")
	}
	switch v := t.(type) {
	case nil:
		votes[who] = nil
		return nil
	case string:
		if v != "" {
			votes[who] = &v
			return nil
		}
	}
	return fmt.Errorf("the vote of %q must be a label such as \"good\", or null, not %v", who, t)
}
