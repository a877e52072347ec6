package train

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseEvent(t *testing.T) {
	tests := []struct {
		line   string
		bad    string
		values map[string]float64
		fails  bool
	}{
		{line: `{"event":"step","step":3,"loss":0.5,"grad_norm":1,"tokens":64}`, values: map[string]float64{"loss": 0.5, "grad_norm": 1, "tokens": 64}},
		{line: `{"event":"step","step":3,"loss":null}`, bad: "loss", values: map[string]float64{}},
		{line: `{"event":"step","step":3,"loss":NaN,"tokens":1}`, bad: "loss", values: map[string]float64{"tokens": 1}},
		{line: `{"event":"step","step":3,"grad_norm": -Infinity}`, bad: "grad_norm", values: map[string]float64{}},
		{line: `{"event":"step","step":3,"loss":"nan"}`, bad: "loss", values: map[string]float64{}},
		{line: `{"event":"section","name":"rollout"}`, values: map[string]float64{}},
		{line: `{"event":"step","step":3,"host":"a","loss":1}`, values: map[string]float64{"loss": 1}},
		{line: `{"step":3}`, fails: true},
		{line: `{"event":"step","step":-1}`, fails: true},
		{line: `not json`, fails: true},
	}
	for _, tt := range tests {
		e, err := parseEvent([]byte(tt.line))
		if (err != nil) != tt.fails {
			t.Errorf("%s: error %v", tt.line, err)
			continue
		}
		if tt.fails {
			continue
		}
		if e.bad != tt.bad {
			t.Errorf("%s: bad = %q, want %q", tt.line, e.bad, tt.bad)
		}
		if diff := cmp.Diff(tt.values, e.values); diff != "" {
			t.Errorf("%s: values (-want +got)\n%s", tt.line, diff)
		}
	}
}

// A reader sees every whole line once, however the writer's bytes arrive.
func TestTailSeesWholeLinesOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.jsonl")
	tl := &tail{path: path}
	if got, err := tl.read(); err != nil || len(got) != 0 {
		t.Fatalf("before the file is there: %v, %v", got, err)
	}
	text := `{"event":"step","step":1}` + "\n" + "garbage\n\n" + `{"event":"step","step":2}` + "\n" + `{"event":"done","step":2}` + "\n"
	var steps []int
	for i := range len(text) {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(text[i : i+1]); err != nil {
			t.Fatal(err)
		}
		f.Close()
		events, err := tl.read()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			steps = append(steps, e.Step)
		}
	}
	if diff := cmp.Diff([]int{1, 2, 2}, steps); diff != "" {
		t.Errorf("steps (-want +got)\n%s", diff)
	}
	if tl.malformed != 1 || !strings.Contains(tl.firstBad, "garbage") {
		t.Errorf("malformed = %d, first %q", tl.malformed, tl.firstBad)
	}
}

func FuzzParseEvent(f *testing.F) {
	f.Add([]byte(`{"event":"step","step":3,"loss":NaN}`))
	f.Add([]byte(`{"event":"checkpoint","step":1,"dir":"x"}`))
	f.Add([]byte(`{"event":1}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := parseEvent(line)
		if err == nil && (e.Event == "" || e.Step < 0) {
			t.Errorf("accepted %q as %+v", line, e)
		}
	})
}
