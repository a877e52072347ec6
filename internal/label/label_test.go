package label

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tarbert/internal/gate"
	"tarbert/internal/spec"
)

func labelSpec(path string) spec.Label {
	s := spec.New().Label
	s.Annotations = path
	return s
}

func write(t *testing.T, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "annotations.jsonl")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// item makes a line; votes are letters g, b, - (null) for the annotators x, y, z …
func item(id, votes string) string {
	m := map[string]*string{}
	for i, v := range votes {
		who := string(rune('x' + i))
		switch v {
		case 'g', 'b':
			word := map[rune]string{'g': "good", 'b': "bad"}[v]
			m[who] = &word
		case '-':
			m[who] = nil
		}
	}
	b, err := json.Marshal(Annotation{ID: id, Prompt: "<p>" + id, Completion: "c" + id, Votes: m})
	if err != nil {
		panic(err)
	}
	return string(b)
}

func run(t *testing.T, path string) *Report {
	t.Helper()
	r, err := Run(t.Context(), Input{Spec: labelSpec(path), Seed: 1, OutDir: filepath.Join(t.TempDir(), "out")})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAdjudication(t *testing.T) {
	r := run(t, write(t, item("1", "ggg"), item("2", "gbg"), item("3", "bbg"), item("4", "gb"), item("5", "g"), item("6", "---"), item("7", ""), item("8", "bg-")))
	if r.Items != 8 || r.Accepted != 3 || r.Rejected != 1 || r.Ties != 4 || r.Pairable != 5 {
		t.Errorf("%d items, %d accepted, %d rejected, %d ties, %d pairable; want 8, 3, 1, 4, 5", r.Items, r.Accepted, r.Rejected, r.Ties, r.Pairable)
	}
	if diff := cmp.Diff(map[string]int{"good": 3, "bad": 1}, r.Labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	b, err := os.ReadFile(r.Dataset.Path)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"id":"1","prompt":"<p>1","completion":"c1"}
{"id":"2","prompt":"<p>2","completion":"c2"}
{"id":"5","prompt":"<p>5","completion":"c5"}
`
	if diff := cmp.Diff(want, string(b)); diff != "" {
		t.Errorf("dataset (-want +got):\n%s", diff)
	}
	sum := sha256.Sum256(b)
	digest := hex.EncodeToString(sum[:])
	if r.Dataset.Digest != digest || filepath.Base(r.Dataset.Path) != "dataset-"+digest[:12]+".jsonl" || r.Dataset.Examples != 3 {
		t.Errorf("dataset %+v, digest %s", r.Dataset, digest)
	}
	list, err := os.ReadFile(r.Adjudication)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(list), "\n"); got != 4 || !strings.Contains(string(list), `"id":"4"`) {
		t.Errorf("adjudication list:\n%s", list)
	}
	// Annotator x voted ggbggb: on items 1, 2, 3 and 5 there is a decision, and x agrees each time.
	if x := r.Annotators[0]; x.Name != "x" || x.Votes != 6 || x.Majority == nil || *x.Majority != 1 {
		t.Errorf("annotator %+v", x)
	}
	if y := r.Annotators[1]; y.Majority == nil || *y.Majority != 2.0/3 {
		t.Errorf("annotator %+v, want 2/3 with the majority", y)
	}
}

// Two runs leave the same bytes under the same name; nothing else is in the folder.
func TestRunIsRepeatable(t *testing.T) {
	path := write(t, item("1", "ggg"), item("2", "bbg"), item("3", "bbb"), item("4", "ggb"))
	out := t.TempDir()
	in := Input{Spec: labelSpec(path), Seed: 9, OutDir: out}
	first, err := Run(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Run(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("(-first +second):\n%s", diff)
	}
	entries, err := os.ReadDir(out)
	if err != nil || len(entries) != 1 {
		t.Errorf("%d files in the folder, want the dataset alone (%v)", len(entries), err)
	}
	if info, err := os.Stat(first.Dataset.Path); err != nil || info.Mode().Perm()&0o222 != 0 {
		t.Errorf("the dataset can be written to: %v %v", info.Mode(), err)
	}
}

func TestGate(t *testing.T) {
	repeat := func(n int, votes ...string) []string {
		var lines []string
		for i := range n {
			lines = append(lines, item(fmt.Sprint(i), votes[i%len(votes)]))
		}
		return lines
	}
	for _, c := range []struct {
		name   string
		lines  []string
		want   gate.Verdict
		reason string
	}{
		{"they agree", repeat(200, "ggg", "bbb", "ggg", "bbb", "ggb"), gate.Pass, ""},
		{"they do not", repeat(200, "gbg", "bgb", "ggb", "bbg"), gate.Fail, "alpha itself is below"},
		{"too few to tell", repeat(12, "ggg", "bbb", "ggg", "bbb", "ggg", "bgg"), gate.Inconclusive, "more annotated items"},
		{"a constant column", repeat(200, "ggg"), gate.Inconclusive, "undefined"},
		{"one annotator", repeat(200, "g", "b"), gate.Inconclusive, "no item has two votes"},
		{"almost constant", append(repeat(40, "ggg"), item("x", "bbb")), gate.Inconclusive, "undefined in too many resamples"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := run(t, write(t, c.lines...))
			if r.Gate.Verdict != c.want || !strings.Contains(r.Gate.Checks[0].Detail, c.reason) {
				t.Errorf("%s: %s; want %s with %q", r.Gate.Verdict, r.Gate.Reason, c.want, c.reason)
			}
		})
	}
	t.Run("nothing accepted", func(t *testing.T) {
		r := run(t, write(t, repeat(100, "bbb", "bbb", "bbb", "gb")...))
		if r.Gate.Verdict != gate.Fail || r.Accepted != 0 {
			t.Errorf("%s with %d accepted", r.Gate.Verdict, r.Accepted)
		}
	})
}

// α does not know who voted, only how: swapping annotators changes nothing.
func TestAnnotatorsAreInterchangeable(t *testing.T) {
	votes := []string{"ggb", "gbg", "bbb", "g-g", "-bb", "ggg", "bgb", "b-g"}
	var a, b []string
	for i, v := range votes {
		a = append(a, item(fmt.Sprint(i), v))
		b = append(b, item(fmt.Sprint(i), string([]byte{v[2], v[0], v[1]})))
	}
	first, second := run(t, write(t, a...)), run(t, write(t, b...))
	if *first.Alpha != *second.Alpha || *first.Lower != *second.Lower || first.Dataset.Digest != second.Dataset.Digest {
		t.Errorf("alpha %v and %v, bound %v and %v", *first.Alpha, *second.Alpha, *first.Lower, *second.Lower)
	}
}

// The example's labels pass its gate, and what they accept is nearly all right.
func TestSumsExample(t *testing.T) {
	s, err := spec.Load("../../examples/sums")
	if err != nil {
		t.Fatal(err)
	}
	r, err := Run(t.Context(), Input{Spec: s.Label, Seed: s.Seed, OutDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if !r.Gate.Passed() {
		t.Errorf("%s: %s", r.Gate.Verdict, r.Gate.Reason)
	}
	if r.Accepted < 2200 || r.Accepted > 2500 || r.Ties == 0 {
		t.Errorf("%d accepted, %d ties", r.Accepted, r.Ties)
	}
	t.Logf("alpha %.4f, lower bound %.4f, %d accepted, %d rejected, %d ties", *r.Alpha, *r.Lower, r.Accepted, r.Rejected, r.Ties)
	for _, a := range r.Annotators {
		t.Logf("%s: %d votes, %.3f with the majority", a.Name, a.Votes, *a.Majority)
	}
	b, err := os.ReadFile(r.Dataset.Path)
	if err != nil {
		t.Fatal(err)
	}
	wrong := 0
	for line := range strings.Lines(string(b)) {
		var e example
		var x, y int
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscanf(e.Prompt, "%d+%d=", &x, &y); err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(e.Completion, fmt.Sprint(x+y)) {
			wrong++
		}
	}
	t.Logf("%d of the accepted are wrong", wrong)
	if wrong > 24 { // 1 %
		t.Errorf("%d of %d accepted solutions are wrong", wrong, r.Accepted)
	}
}

func TestBadAnnotations(t *testing.T) {
	ok := item("1", "gb")
	for _, c := range []struct{ name, file, want string }{
		{"empty", "", "no annotations"},
		{"blank line", ok + "\n\n" + item("2", "g"), ":2: the line is empty"},
		{"duplicate id", ok + "\n" + ok, `:2: id "1" is on line 1 already`},
		{"unknown field", `{"id":"1","prompt":"p","completion":"c","vote":{}}`, `:1: unknown field "vote"`},
		{"missing votes", `{"id":"1","prompt":"p","completion":"c"}`, `:1: field "votes" is missing`},
		{"voted twice", `{"id":"1","prompt":"p","completion":"c","votes":{"a":"good","a":"bad"}}`, `:1: "a" is there twice`},
		{"numeric vote", `{"id":"1","prompt":"p","completion":"c","votes":{"a":1}}`, `:1: the vote of "a" must be a label`},
		{"list of votes", `{"id":"1","prompt":"p","completion":"c","votes":["good"]}`, ":1: a JSON object is wanted"},
		{"nested vote", `{"id":"1","prompt":"p","completion":"c","votes":{"a":{"b":"c"}}}`, `:1: the vote of "a"`},
		{"nameless annotator", `{"id":"1","prompt":"p","completion":"c","votes":{"":"good"}}`, ":1: an annotator's name is empty"},
		{"cut short", ok + "\n" + ok[:20], ":2: not valid JSON"},
		{"two on a line", ok + ok, ":1: something follows"},
		{"empty id", `{"id":"","prompt":"p","completion":"c","votes":{}}`, ":1: id and prompt"},
		{"not UTF-8", "{\"id\":\"\xff\"}", ":1: not valid UTF-8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a.jsonl")
			if err := os.WriteFile(path, []byte(c.file), 0o644); err != nil {
				t.Fatal(err)
			}
			out := filepath.Join(t.TempDir(), "out")
			_, err := Run(t.Context(), Input{Spec: labelSpec(path), OutDir: out})
			if err == nil || !strings.HasPrefix(err.Error(), path) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v; want the path and %q", err, c.want)
			}
			if _, err := os.Stat(out); !os.IsNotExist(err) {
				t.Error("something was written")
			}
		})
	}
}

// What is accepted has an id, a prompt and votes that are labels; it survives
// being written as the adjudication list and read again.
func FuzzAnnotations(f *testing.F) {
	f.Add(item("1", "gb-") + "\n" + item("2", ""))
	f.Add(`{"id":"1","prompt":"p","completion":"","votes":{"a":null,"b":"\u00e9"}}`)
	f.Add("{}\n[]\n\"\"")
	f.Fuzz(func(t *testing.T, file string) {
		got, err := parseAnnotations(strings.NewReader(file))
		if err != nil {
			return
		}
		var again strings.Builder
		for _, a := range got {
			b, err := json.Marshal(a)
			if err != nil || a.ID == "" || a.Prompt == "" {
				t.Fatalf("accepted %+v (%v)", a, err)
			}
			again.Write(append(b, '\n'))
		}
		back, err := parseAnnotations(strings.NewReader(again.String()))
		if diff := cmp.Diff(got, back); err != nil || diff != "" {
			t.Fatalf("written and read again: %v\n%s", err, diff)
		}
	})
}
