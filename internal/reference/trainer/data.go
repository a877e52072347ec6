package trainer

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"tarbert/internal/reference"
	"tarbert/internal/reference/tokenizer"
	"tarbert/internal/reward"
)

// example is one line of the label stage's dataset.
type example struct {
	ID         string `json:"id"`
	Prompt     string `json:"prompt"`
	Completion string `json:"completion"`
}

// maxLine bounds a line of a dataset.
const maxLine = 16 << 20

// readExamples reads a dataset and makes training samples of it: the prompt is
// given, the completion and the end-of-text token are targets.
func readExamples(path string, tok *tokenizer.Tokenizer, limit int) ([]reference.Sample, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the dataset: %w", err)
	}
	return parseExamples(path, b, tok, limit)
}

func parseExamples(path string, b []byte, tok *tokenizer.Tokenizer, limit int) ([]reference.Sample, error) {
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, maxLine)
	var samples []reference.Sample
	n := 0
	for lines.Scan() {
		n++
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		var e example
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n, err)
		}
		s, err := e.sample(tok)
		if err == nil && len(s.Tokens) > limit {
			err = fmt.Errorf("%d tokens, more than the model's %d positions", len(s.Tokens), limit)
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: example %q: %w", path, n, e.ID, err)
		}
		samples = append(samples, s)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s:%d: %w", path, n+1, err)
	}
	if len(samples) == 0 {
		return nil, fmt.Errorf("%s: no examples", path)
	}
	return samples, nil
}

func (e example) sample(tok *tokenizer.Tokenizer) (reference.Sample, error) {
	prompt, completion := tok.Encode(e.Prompt), tok.Encode(e.Completion)
	if len(prompt) == 0 || len(completion) == 0 {
		return reference.Sample{}, errors.New("prompt or completion is empty")
	}
	s := reference.Sample{Tokens: append(append(prompt, completion...), tok.EOS()[0])}
	s.Mask = make([]bool, len(s.Tokens))
	for t := len(prompt); t < len(s.Mask); t++ {
		s.Mask[t] = true
	}
	return s, nil
}

// problem is a prompt with its checkable answer.
type problem struct {
	prompt []int
	answer string
}

// readProblems reads the first n problems: those that the run will need.
func readProblems(path string, tok *tokenizer.Tokenizer, n, limit int) ([]problem, error) {
	all, err := reward.ReadProblems(path)
	if err != nil {
		return nil, err
	}
	if len(all) < n {
		return nil, fmt.Errorf("%s holds %d problems and grpo needs %d (steps × prompts): it never asks one twice; add problems or take fewer steps", path, len(all), n)
	}
	out := make([]problem, n)
	for i, p := range all[:n] {
		out[i] = problem{prompt: tok.Encode(p.Prompt), answer: p.Answer}
		if len(out[i].prompt) == 0 || len(out[i].prompt) > limit {
			return nil, fmt.Errorf("%s: problem %q: prompt of %d tokens; want 1 to %d, so that max_tokens fits behind it", path, p.ID, len(out[i].prompt), limit)
		}
	}
	return out, nil
}

// fileDigest is sha256 of a file in hex.
func fileDigest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

// targets counts the tokens of a batch that are predicted.
func targets(batch []reference.Sample) int {
	n := 0
	for _, s := range batch {
		for t := 1; t < len(s.Mask); t++ {
			if s.Mask[t] {
				n++
			}
		}
	}
	return n
}
