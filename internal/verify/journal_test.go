package verify

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"tarbert/internal/engine"
	"tarbert/internal/gate"
)

// counted is a full endpoint on a toy that counts what it is asked and can be
// cut off after a number of requests.
type counted struct {
	toy
	asked atomic.Int64 // answered
	tried atomic.Int64
	most  int64
	cut   func()
}

func (c *counted) hit() error {
	if n := c.tried.Add(1); c.most > 0 && n > c.most {
		c.cut()
		return context.Canceled
	}
	c.asked.Add(1)
	return nil
}

func (c *counted) Score(ctx context.Context, prompts [][]int, k int) ([][]engine.Position, error) {
	if err := c.hit(); err != nil {
		return nil, err
	}
	return c.toy.Score(ctx, prompts, k)
}

func (c *counted) Generate(ctx context.Context, r engine.GenerateRequest) ([]engine.Generated, error) {
	if err := c.hit(); err != nil {
		return nil, err
	}
	g := engine.Generated{FinishReason: "length", Keys: engine.KeysID, PromptTokens: len(r.Tokens), CompletionTokens: r.MaxTokens}
	text := append([]int{}, r.Tokens...)
	for range r.MaxTokens {
		lp := c.logits(text)
		best := 0
		for i, v := range lp {
			if v > lp[best] {
				best = i
			}
		}
		g.Positions, text = append(g.Positions, position(lp, best, r.Top)), append(text, best)
	}
	return []engine.Generated{g}, nil
}

func (c *counted) Complete(ctx context.Context, r engine.CompletionRequest) ([]engine.Completion, error) {
	g, err := c.Generate(ctx, engine.GenerateRequest{Tokens: r.Tokens, MaxTokens: r.MaxTokens, Top: 1})
	if err != nil {
		return nil, err
	}
	out := engine.Completion{FinishReason: "length"}
	for _, p := range g[0].Positions {
		out.TokenIDs = append(out.TokenIDs, p.Token)
	}
	return []engine.Completion{out}, nil
}

func (c *counted) ChatTokens(context.Context, json.RawMessage, json.RawMessage) (int, error) {
	return 0, errors.New("no chat")
}
func (c *counted) Identify(context.Context) (engine.Identity, error) { return engine.Identity{}, nil }
func (c *counted) Tokenize(context.Context, string) ([]int, error) {
	return nil, errors.New("no route")
}

// A run that is cut off anywhere goes on from its journal, comes to the same
// report as one that was not, and asks nothing twice.
func TestInterruptedRunAsksNothingTwice(t *testing.T) {
	prompts := toy{}.write(24, 30, 3)
	attempt := func(t *testing.T, dir string, most int64) (*Report, int64) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ref, cand, floor := &counted{}, &counted{toy: honest, most: most, cut: cancel}, &counted{toy: toy{noise: 0.01, seed: 1}}
		j, err := OpenJournal(filepath.Join(dir, JournalFile), "run", time.Now)
		if err != nil {
			t.Fatal(err)
		}
		in := verification(dir, nil, prompts)
		in.Journal = j
		in.Reference.Scorer = &Recorded{Journal: j, Name: "reference", Endpoint: ref, Concurrency: 1}
		in.Candidate.Scorer = &Recorded{Journal: j, Name: "candidate", Endpoint: cand, Concurrency: 1}
		in.Floor.Scorer = &Recorded{Journal: j, Name: "floor", Endpoint: floor, Concurrency: 1}
		in.Decode, in.Reverse = DecodeOptions{Prompts: 4}, ReverseOptions{Prompts: 16, MaxTokens: 4}
		r, err := Run(ctx, in)
		asked := ref.asked.Load() + cand.asked.Load() + floor.asked.Load()
		if ctx.Err() != nil {
			if err == nil {
				t.Error("cut off, and no error")
			}
			return nil, asked
		}
		if err != nil {
			t.Fatal(err)
		}
		return r, asked
	}
	whole, n := attempt(t, t.TempDir(), 0)
	for _, most := range []int64{1, 9, 25, 40, 47} {
		dir := t.TempDir()
		cut, before := attempt(t, dir, most)
		if cut != nil {
			t.Fatalf("%d requests of the candidate were enough", most)
		}
		r, after := attempt(t, dir, 0)
		if before+after != n {
			t.Errorf("cut off after %d: %d requests and then %d, %d without", most, before, after, n)
		}
		if diff := gocmp.Diff(whole, r, cmpopts.IgnoreFields(Report{}, "Evidence", "Seconds", "Cost")); diff != "" {
			t.Errorf("cut off after %d: another report\n%s", most, diff)
		}
	}
}

func TestJournalRefusesAnotherRun(t *testing.T) {
	path := filepath.Join(t.TempDir(), JournalFile)
	j, err := OpenJournal(path, "one", time.Now)
	if err != nil || j.Close() != nil {
		t.Fatal(err)
	}
	if _, err := OpenJournal(path, "two", time.Now); !errors.Is(err, ErrOtherRun) {
		t.Errorf("another run: %v", err)
	}
	if j, err = OpenJournal(path, "one", time.Now); err != nil || j.Known() != 0 {
		t.Errorf("the same run: %v", err)
	}
	if err := j.Remove(); err != nil {
		t.Error(err)
	}
}

func FuzzJournal(f *testing.F) {
	f.Add([]byte("{\"run\":\"x\"}\n{\"key\":\"a#0\",\"answer\":[[1,2"))
	f.Add([]byte("\n\n{}"))
	f.Fuzz(func(t *testing.T, old []byte) {
		path := filepath.Join(t.TempDir(), JournalFile)
		if err := os.WriteFile(path, old, 0o600); err != nil {
			t.Fatal(err)
		}
		if j, err := OpenJournal(path, "run", time.Now); err == nil {
			j.Close()
		}
	})
}

// Every number of an evidence file is recomputed: a change of any of them, of
// the verdict or of the settings is found.
func TestTamperedEvidenceIsFound(t *testing.T) {
	in := verification(t.TempDir(), toy{noise: 0.2, seed: 2}, toy{}.write(32, 24, 3))
	in.Repeat = RepeatOptions{Prompts: 16, Reference: toy{noise: 0.002, seed: 9}, Candidate: toy{noise: 0.2, seed: 3}}
	r := run(t, in)
	if r.Gate.Verdict != gate.Fail || len(r.Floors) != 2 {
		t.Fatal(r.Gate.Reason)
	}
	raw, err := os.ReadFile(r.Evidence)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), EvidenceFile)
	recompute := func(b []byte) error {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Recompute(path)
		return err
	}
	if err := recompute(raw); err != nil {
		t.Fatal("untouched:", err)
	}
	for name, tamper := range map[string]func(m map[string]any){
		"verdict": func(m map[string]any) { dig(m, "report", "gate")["verdict"] = "pass" },
		"check": func(m map[string]any) {
			dig(m, "report", "gate")["checks"].([]any)[0].(map[string]any)["verdict"] = "fail"
		},
		"kl":      func(m map[string]any) { first(dig(m, "prompts", 0, "candidate"), "kl", 0.0) },
		"logprob": func(m map[string]any) { first(dig(m, "prompts", 3, "candidate"), "logprob", -0.001) },
		"floor":   func(m map[string]any) { first(dig(m, "prompts", 3, "floor"), "kl", 0.9) },
		"margin":  func(m map[string]any) { dig(m, "spec", "margin")["ratio"] = 1e9 },
		"clip":    func(m map[string]any) { dig(m, "spec", "margin")["clip"] = 1e-4 },
		"tokens":  func(m map[string]any) { first(dig(m, "prompts", 1), "tokens", 1.0) },
		"prompt taken away": func(m map[string]any) {
			m["prompts"] = m["prompts"].([]any)[1:]
			m["asked"] = m["asked"].(float64) - 1
		},
		"floor measured": func(m map[string]any) { first(dig(m, "floors", 0, "prompts", 2, "candidate"), "kl", 0.7) },
		"floor chosen":   func(m map[string]any) { m["floor_from"] = "candidate" },
		"stack":          func(m map[string]any) { dig(m, "candidate")["name"] = "another" },
		"smallest fault": func(m map[string]any) { dig(m, "report", "smallest_fault")["share"] = 0.001 },
	} {
		var m map[string]any
		if err := json.Unmarshal(raw, &m); err != nil {
			t.Fatal(err)
		}
		tamper(m)
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := recompute(b); err == nil {
			t.Errorf("%s: not found", name)
		} else if name == "verdict" && !strings.Contains(err.Error(), ".gate.verdict") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// dig follows names and indices into JSON.
func dig(m map[string]any, path ...any) map[string]any {
	var at any = m
	for _, p := range path {
		switch p := p.(type) {
		case string:
			at = at.(map[string]any)[p]
		case int:
			at = at.([]any)[p]
		}
	}
	return at.(map[string]any)
}

func first(m map[string]any, list string, v float64) { m[list].([]any)[0] = v }
