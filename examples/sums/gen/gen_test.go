package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarbert/internal/reference/tokenizer"
	"tarbert/internal/reward"
)

// The checked-in files are what seed 1 gives: nobody edited them by hand.
func TestCheckedInFilesComeFromTheSeed(t *testing.T) {
	out, model := t.TempDir(), t.TempDir()
	if err := run(1, out, model); err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct{ made, kept string }{
		{filepath.Join(out, "annotations.jsonl"), "../data/annotations.jsonl"},
		{filepath.Join(out, "problems.jsonl"), "../data/problems.jsonl"},
		{filepath.Join(out, "held-out.jsonl"), "../data/held-out.jsonl"},
		{filepath.Join(model, "tokenizer.json"), "../model/tokenizer.json"},
		{filepath.Join(model, "tokenizer_config.json"), "../model/tokenizer_config.json"},
		{filepath.Join(model, "chat_template.jinja"), "../model/chat_template.jinja"},
	} {
		made, err := os.ReadFile(f.made)
		if err != nil {
			t.Fatal(err)
		}
		kept, err := os.ReadFile(f.kept)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(made, kept) {
			t.Errorf("%s is not what the generator writes: run go run ./examples/sums/gen -seed 1", f.kept)
		}
	}
}

func TestAnotherSeedGivesOtherData(t *testing.T) {
	if a, b := generate(1), generate(2); a.heldOut[0] == b.heldOut[0] && a.problems[0] == b.problems[0] {
		t.Error("seeds 1 and 2 start alike")
	}
}

// Held-out problems are in nothing that is trained on, also not swapped.
func TestSetsAreDisjoint(t *testing.T) {
	d := generate(1)
	seen := map[string]string{}
	add := func(set, prompt string) {
		a, b, ok := strings.Cut(strings.TrimSuffix(prompt, "="), "+")
		if !ok {
			t.Fatalf("prompt %q", prompt)
		}
		for _, key := range []string{a + "+" + b, b + "+" + a} {
			if other, dup := seen[key]; dup {
				t.Errorf("%s is in %s and in %s", prompt, other, set)
			}
		}
		seen[a+"+"+b] = set
	}
	for _, p := range d.heldOut {
		add("held-out", p.Prompt)
	}
	for _, p := range d.problems {
		add("problems", p.Prompt)
	}
	for _, a := range d.annotations {
		add("annotations", a.Prompt)
	}
	if len(seen) != solutions+problems+heldOut {
		t.Errorf("%d sums, want %d", len(seen), solutions+problems+heldOut)
	}
}

// The shares are what the README says, and good and bad are so by the same
// checker that rewards and scores the model.
func TestShares(t *testing.T) {
	check, err := reward.NewChecker("answer")
	if err != nil {
		t.Fatal(err)
	}
	d := generate(1)
	var right, worked, misjudged, votes, absent int
	for _, a := range d.annotations {
		r := check(a.Completion, sum(t, a.Prompt))
		if r.Correct {
			right++
		}
		if r.Thinks {
			worked++
		}
		for _, v := range a.Votes {
			switch {
			case v == nil:
				absent++
			default:
				votes++
				if (*v == "good") != r.Correct {
					misjudged++
				}
			}
		}
	}
	for _, c := range []struct {
		name      string
		got, want float64
	}{
		{"right", float64(right) / solutions, 1 - wrongShare},
		{"worked", float64(worked) / solutions, workedShare},
		{"misjudged", float64(misjudged) / float64(votes), (0.03 + 0.05 + 0.07) / 3},
		{"absent", float64(absent) / float64(3*solutions), (0.01 + 0.02 + 0.04) / 3},
	} {
		if c.got < c.want-0.025 || c.got > c.want+0.025 {
			t.Errorf("share %s is %.3f, want about %.3f", c.name, c.got, c.want)
		}
	}
}

func TestSolutions(t *testing.T) {
	for _, c := range []struct {
		s    solution
		want string
	}{
		{solution{57, 48, true}, "<think>7+8+0=15;5+4+1=10;</think>105"},
		{solution{12, 345, true}, "<think>2+5+0=7;1+4+0=5;0+3+0=3;</think>357"},
		{solution{999, 999, true}, "<think>9+9+0=18;9+9+1=19;9+9+1=19;</think>1998"},
		{solution{999, 999, false}, "1998"},
	} {
		if got := c.s.text(); got != c.want {
			t.Errorf("%d+%d: %s, want %s", c.s.a, c.s.b, got, c.want)
		}
	}
}

func sum(t *testing.T, prompt string) string {
	t.Helper()
	var a, b int
	if _, err := fmt.Sscanf(prompt, "%d+%d=", &a, &b); err != nil {
		t.Fatalf("prompt %q: %v", prompt, err)
	}
	return fmt.Sprint(a + b)
}

// The longest answer with its prompt fits the model and the recipe's max_tokens,
// and every id fits the vocabulary that config.json declares.
func TestTextsFitTheModel(t *testing.T) {
	tok, err := tokenizer.Load("../model")
	if err != nil {
		t.Fatal(err)
	}
	longest := 0
	for _, a := range generate(1).annotations {
		ids := tok.Encode(a.Completion)
		longest = max(longest, len(ids)+1) // and the end of text
		if got := tok.Decode(ids); got != a.Completion {
			t.Fatalf("%q comes back as %q", a.Completion, got)
		}
		for _, id := range ids {
			if id < 0 || id >= 264 {
				t.Fatalf("token %d is outside the vocabulary", id)
			}
		}
		if strings.HasPrefix(a.Completion, "<think>") && ids[0] != 256 {
			t.Fatalf("<think> is token %d, want 256", ids[0])
		}
	}
	if longest > 48 {
		t.Errorf("the longest answer has %d tokens, more than the recipe's 48", longest)
	}
}
