package reward

import (
	"bufio"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAnswer(t *testing.T) {
	check, err := NewChecker("answer")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, completion, answer string
		want                     Result
	}{
		{"bare", "357", "357", Result{Correct: true}},
		{"bare with space around", " 357\n", "357", Result{Correct: true}},
		{"bare and wrong", "358", "357", Result{}},
		{"worked", "<think>2+5+0=7;</think>357", "357", Result{Correct: true, Thinks: true}},
		{"worked and wrong", "<think>2+5+0=8;</think>358", "357", Result{Thinks: true}},
		{"the answer only inside the block", "<think>357</think>", "357", Result{Thinks: true}},
		{"empty block", "<think></think>357", "357", Result{Correct: true}},
		{"blank block", "<think> \n</think>357", "357", Result{Correct: true}},
		{"never closed", "<think>2+5+0=7;357", "357", Result{}},
		{"closed but never opened", "2+5+0=7;</think>357", "357", Result{}},
		{"block not at the start", "so <think>x</think>357", "357", Result{}},
		{"closed twice: after the last", "<think>a</think>1</think>357", "357", Result{Correct: true, Thinks: true}},
		{"first block empty", "<think></think>1</think>357", "357", Result{Correct: true}},
		{"leading space before the tag", "\n<think>a</think> 357", "357", Result{Correct: true, Thinks: true}},
		{"no number reading: 0357 is not 357", "0357", "357", Result{}},
		{"nothing said to no answer", "", "", Result{}},
		{"more than the answer", "357 or 358", "357", Result{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, check(c.completion, c.answer)); diff != "" {
				t.Errorf("check(%q, %q) (-want +got):\n%s", c.completion, c.answer, diff)
			}
		})
	}
}

func TestUnknownCheckerIsNamed(t *testing.T) {
	_, err := NewChecker("vibes")
	if err == nil || !strings.Contains(err.Error(), `"vibes"`) || !strings.Contains(err.Error(), "answer") {
		t.Errorf("got %v; want the name and the known ones", err)
	}
}

func TestReadProblems(t *testing.T) {
	good := `{"id":"p1","prompt":"1+2=","answer":"3"}` + "\n"
	for _, c := range []struct{ name, file, want string }{
		{"fine", good + `{"answer":"7","prompt":"3+4=","id":"p2"}`, ""},
		{"empty file", "", "no problems in it"},
		{"empty line", good + "\n" + good, ":2: the line is empty"},
		{"duplicate id", good + good, `:2: id "p1" is on line 1 already`},
		{"unknown field", `{"id":"p1","prompt":"1+2=","anwser":"3"}`, `:1: unknown field "anwser"`},
		{"wrong case", `{"ID":"p1","prompt":"1+2=","answer":"3"}`, `:1: unknown field "ID"`},
		{"field twice", `{"id":"p1","id":"p2","prompt":"1+2=","answer":"3"}`, `:1: field "id" is there twice`},
		{"missing", good + `{"id":"p2","prompt":"1+2="}`, `:2: field "answer" is missing`},
		{"a number", `{"id":"p1","prompt":"1+2=","answer":3}`, `:1: field "answer" must be text`},
		{"an object", `{"id":"p1","prompt":{"a":"b"},"answer":"3"}`, `:1: field "prompt" must be text`},
		{"empty text", `{"id":"","prompt":"1+2=","answer":"3"}`, `:1: field "id" must be text`},
		{"an array", `["p1"]`, ":1: not a JSON object"},
		{"cut short", `{"id":"p1","prompt":"1+2=","answer":"3"`, ":1: not valid JSON"},
		{"two on a line", `{"id":"p1","prompt":"1+2=","answer":"3"} {}`, ":1: something follows"},
		{"not UTF-8", "{\"id\":\"p\xff\",\"prompt\":\"1+2=\",\"answer\":\"3\"}", ":1: not valid UTF-8"},
		{"endless line", good + strings.Repeat("x", maxLine+1), ":2: the line is longer than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "problems.jsonl")
			if err := os.WriteFile(path, []byte(c.file), 0o644); err != nil {
				t.Fatal(err)
			}
			got, err := ReadProblems(path)
			if c.want == "" {
				want := []Problem{{"p1", "1+2=", "3"}, {"p2", "3+4=", "7"}}
				if diff := cmp.Diff(want, got); err != nil || diff != "" {
					t.Errorf("err %v, (-want +got):\n%s", err, diff)
				}
				return
			}
			if err == nil || !strings.HasPrefix(err.Error(), path) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v; want the path and %q", err, c.want)
			}
		})
	}
	if _, err := ReadProblems(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

// Whatever is accepted is complete, unique, one problem a line, and survives
// being written and read again.
func FuzzReadProblems(f *testing.F) {
	f.Add(`{"id":"p1","prompt":"1+2=","answer":"3"}` + "\n" + `{"id":"p2","prompt":"é","answer":"\u00e9"}`)
	f.Add(`{"id":"p1","prompt":"1+2=","answer":"3","answer":"4"}`)
	f.Add("{\"id\":\"\\ud800\"}\n\n[]")
	f.Fuzz(func(t *testing.T, file string) {
		got, err := readProblems(strings.NewReader(file))
		if err != nil {
			return
		}
		var again strings.Builder
		w := bufio.NewWriter(&again)
		for _, p := range got {
			if p.ID == "" || p.Prompt == "" || p.Answer == "" {
				t.Fatalf("accepted an incomplete problem %+v", p)
			}
			b, err := json.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			w.Write(append(b, '\n'))
		}
		w.Flush()
		back, err := readProblems(strings.NewReader(again.String()))
		if diff := cmp.Diff(got, back); err != nil || diff != "" {
			t.Fatalf("written and read again: %v\n%s", err, diff)
		}
	})
}

// A completion that thinks starts with the tag and closes it; a final answer is
// trimmed and never holds a closing tag once the block was well formed.
func FuzzFinal(f *testing.F) {
	f.Add("<think>1+1=2;</think>2")
	f.Add(" <think></think></think> ")
	f.Add("</think><think>")
	f.Fuzz(func(t *testing.T, completion string) {
		final, thinks := Final(completion)
		if final != strings.TrimSpace(final) {
			t.Fatalf("final %q is not trimmed", final)
		}
		if thinks && (!strings.HasPrefix(strings.TrimSpace(completion), thinkOpen) || strings.Contains(final, thinkClose)) {
			t.Fatalf("Final(%q) = %q, thinks", completion, final)
		}
	})
}
