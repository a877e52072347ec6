package compare

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"

	"tarbert/internal/progress"
	"tarbert/internal/reward"
	"tarbert/internal/store"
)

// The two questions about a problem.
const (
	greedy  = 0
	sampled = 1
)

// outcome is one answer, judged; or why there is none.
type outcome struct {
	Text      string `json:"text"`
	Correct   bool   `json:"correct"`
	Thinks    bool   `json:"thinks"`
	Truncated bool   `json:"truncated"`
	Failure   string `json:"failure,omitempty"`
}

type answerPair [2]outcome // by greedy, sampled

// giveUp is how many questions may fail before a candidate is asked no more: an
// engine that is gone would cost a timeout each.
const giveUp = 20

// seedOf is the seed of a problem's sample: from the release's seed and the
// problem, not from its place in the file, and the same for every candidate, so
// that candidates that agree draw the same answer.
func seedOf(seed uint64, id string) int64 {
	h := sha256.New()
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], seed)
	h.Write(b[:])
	h.Write([]byte(id))
	return int64(binary.LittleEndian.Uint64(h.Sum(nil)) >> 1)
}

// ask returns the answers by candidate and problem. Its error is only ever the
// context's: what goes wrong with a candidate is an outcome.
func ask(ctx context.Context, in Input, problems []reward.Problem, check reward.Checker) ([][]answerPair, error) {
	watch := &watcher{in: in, total: 2 * len(problems) * len(in.Candidates)}
	all := make([][]answerPair, len(in.Candidates))
	for i, c := range in.Candidates {
		all[i] = make([]answerPair, len(problems))
		failures := &counter{}
		for kind := range 2 {
			g, gctx := errgroup.WithContext(ctx)
			g.SetLimit(in.Parallel)
			tally := &counter{}
			for j, p := range problems {
				g.Go(func() error {
					o := outcome{Failure: fmt.Sprintf("not asked: %d questions failed before", giveUp)}
					if failures.value() < giveUp {
						o = answerOf(gctx, in, c, p, kind, check)
					}
					if err := gctx.Err(); err != nil {
						return err
					}
					if o.Failure != "" {
						failures.add(1)
					}
					all[i][j][kind] = o
					watch.saw(c.Name, kind, tally.add(one(o.Correct)))
					return nil
				})
			}
			if err := g.Wait(); err != nil {
				return nil, fmt.Errorf("ask %s: %w", c.Name, err)
			}
		}
	}
	return all, nil
}

func answerOf(ctx context.Context, in Input, c Candidate, p reward.Problem, kind int, check reward.Checker) outcome {
	s := Sampling{MaxTokens: in.Spec.MaxTokens, Seed: seedOf(in.Seed, p.ID)}
	if kind == sampled {
		s.Temperature = 1
	}
	got, err := c.Complete(ctx, p.Prompt, s)
	if err != nil {
		return outcome{Failure: err.Error()}
	}
	r := check(got.Text, p.Answer)
	return outcome{Text: got.Text, Correct: r.Correct, Thinks: r.Thinks, Truncated: got.Truncated}
}

type counter struct {
	mu sync.Mutex
	n  int
	of int
}

// add counts one more call, n of it hits, and returns hits and calls so far.
func (c *counter) add(n int) [2]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n += n
	c.of++
	return [2]int{c.n, c.of}
}

func (c *counter) value() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// watcher tells the progress in questions.
type watcher struct {
	in    Input
	total int
	done  counter
}

func (w *watcher) saw(name string, kind int, tally [2]int) {
	accuracy := float64(tally[0]) / float64(tally[1])
	how := [2]string{"greedy", "sampled"}[kind]
	w.in.Progress.Report(progress.Update{
		Stage: "compare", Done: float64(w.done.add(1)[0]), Total: float64(w.total), Unit: "answers",
		Note:   fmt.Sprintf("%s, %s: %d of %d right", name, how, tally[0], tally[1]),
		Values: map[string]float64{"accuracy": accuracy},
	})
}

// writeOutcomes leaves every answer: one line per problem.
func writeOutcomes(in Input, problems []reward.Problem, answers [][]answerPair) (string, error) {
	type line struct {
		Candidate string  `json:"candidate"`
		Greedy    outcome `json:"greedy"`
		Sampled   outcome `json:"sampled"`
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	for j, p := range problems {
		record := struct {
			reward.Problem
			Outcomes []line `json:"outcomes"`
		}{Problem: p}
		for i, c := range in.Candidates {
			record.Outcomes = append(record.Outcomes, line{c.Name, answers[i][j][greedy], answers[i][j][sampled]})
		}
		if err := enc.Encode(record); err != nil {
			return "", fmt.Errorf("problem %s: %w", p.ID, err)
		}
	}
	if err := os.MkdirAll(in.OutDir, 0o755); err != nil {
		return "", fmt.Errorf("write outcomes: %w", err)
	}
	path := filepath.Join(in.OutDir, "outcomes.jsonl")
	if err := store.WriteFile(path, b.Bytes(), 0o644); err != nil {
		return "", fmt.Errorf("write outcomes: %w", err)
	}
	return path, nil
}
