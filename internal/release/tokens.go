package release

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	"tarbert/internal/plan"
	"tarbert/internal/reference/tokenizer"
	"tarbert/internal/reward"
)

// tokenStatistics measures the data with the model's tokenizer, for the plan's arithmetic.
func (r *run) tokenStatistics() (plan.Tokens, error) {
	var t plan.Tokens
	tok, err := tokenizer.Load(r.spec.Train.Model)
	if err != nil {
		return t, err
	}
	f, err := os.Open(r.label.Dataset.Path)
	if err != nil {
		return t, err
	}
	defer f.Close()
	examples, completions := 0.0, 0.0
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 16<<20)
	n := 0
	for lines.Scan() {
		var e struct{ Prompt, Completion string }
		n++
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return t, fmt.Errorf("%s:%d: %w", r.label.Dataset.Path, n, err)
		}
		answer := float64(len(tok.Encode(e.Completion)) + 1) // and the end of text
		completions += answer
		examples += answer + float64(len(tok.Encode(e.Prompt)))
	}
	if err := lines.Err(); err != nil {
		return t, fmt.Errorf("%s:%d: %w", r.label.Dataset.Path, n+1, err)
	}
	if n > 0 {
		t.Example, t.Completion = examples/float64(n), completions/float64(n)
	}
	if r.spec.Train.GRPO.Steps == 0 {
		return t, nil
	}
	problems, err := reward.ReadProblems(r.spec.Train.GRPO.Problems)
	if err != nil {
		return t, err
	}
	for _, p := range problems {
		t.Prompt += float64(len(tok.Encode(p.Prompt))) / float64(len(problems))
	}
	return t, nil
}
