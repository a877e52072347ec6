package engine_test

import (
	"slices"
	"strings"
	"testing"

	"tarbert/internal/device"
	"tarbert/internal/engine"
)

func TestSplitCommand(t *testing.T) {
	for _, c := range []struct {
		line string
		want []string
		says string
	}{
		{"vllm serve ./m --port {port}", []string{"vllm", "serve", "./m", "--port", "{port}"}, ""},
		{`vllm --x '{"custom_ops":["none"]}'  "a b"`, []string{"vllm", "--x", `{"custom_ops":["none"]}`, "a b"}, ""},
		{`a "" b\ c '\'`, []string{"a", "", "b c", `\`}, ""},
		{"  ", nil, "empty"},
		{`a "b`, nil, "left open"},
		{`a \`, nil, "left open"},
	} {
		got, err := engine.SplitCommand(c.line)
		if !slices.Equal(got, c.want) || (err != nil) != (c.says != "") || (err != nil && !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%q: %q, %v; want %q, %q", c.line, got, err, c.want, c.says)
		}
	}
}

func FuzzSplitCommand(f *testing.F) {
	f.Add(`a 'b c' "d"`)
	f.Fuzz(func(t *testing.T, line string) {
		words, err := engine.SplitCommand(line)
		if err != nil {
			return
		}
		var quoted []string
		for _, w := range words {
			quoted = append(quoted, "'"+strings.ReplaceAll(w, "'", `'\''`)+"'")
		}
		again, err := engine.SplitCommand(strings.Join(quoted, " "))
		if err != nil || !slices.Equal(words, again) {
			t.Errorf("%q: %q, quoted %q, %v", line, words, again, err)
		}
	})
}

func TestCommandTask(t *testing.T) {
	c := &engine.Command{Argv: []string{"vllm", "serve", "--port={port}"}}
	task, err := c.Task("n", engine.Model{}, device.Device{}, engine.Options{Port: 81})
	if err != nil || !slices.Equal(task.Argv, []string{"vllm", "serve", "--port=81"}) || task.Lease == 0 || c.Argv[2] != "--port={port}" {
		t.Errorf("%+v, %v", task, err)
	}
	if _, err := (&engine.Command{Argv: []string{"vllm"}}).Task("n", engine.Model{}, device.Device{}, engine.Options{Port: 81}); err == nil {
		t.Error("a command without {port}: no error")
	}
}
